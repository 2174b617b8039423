"""Files over the memory: read where they are looked at, and not open meanwhile."""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import weakref
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def over_memory(file: Path, size: int) -> NDArray[np.uint8]:
    """The bytes of a file, (size,) uint8, read-only, which the system reads when they are looked at.

    The file does not stay open, as it does with numpy's memmap: a program may have some thousand files open,
    on Linux 1,024 at first, and a study has more slides. OSError where it cannot be mapped.
    """
    if sys.platform == "win32" or not size:
        return np.asarray(np.memmap(file, np.uint8, "r", shape=(size,)) if size else np.empty(0, np.uint8))
    system = ctypes.CDLL(None, use_errno=True)
    system.mmap.restype = ctypes.c_void_p
    system.mmap.argtypes = (*(ctypes.c_void_p, ctypes.c_size_t), *(ctypes.c_int,) * 3, ctypes.c_long)
    system.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    with file.open("rb") as stream:
        at = system.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, stream.fileno(), 0)
    if at == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(file))
    held = (ctypes.c_ubyte * size).from_address(at)
    weakref.finalize(held, system.munmap, at, size).atexit = False  # the system does it then
    made: NDArray[np.uint8] = np.frombuffer(memoryview(held), np.uint8)
    made.flags.writeable = False
    return made
