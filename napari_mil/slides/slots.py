"""Memory for tiles: pieces of equal size that are used again and again, and given back to the system whole.

Tiles from the allocator would leave holes between those of other threads: a cache of many threads' tiles
would take nearly half as much again as its bound. Fresh memory for each tile would cost half as much time as
its decoding.
"""

from __future__ import annotations

import math
import mmap
import weakref
from collections import defaultdict, deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: So many pieces are fetched from the system at once.
AT_ONCE = 32
#: Pieces begin so many bytes past a multiple of 32: into memory aligned to 32 libjpeg-turbo writes past the
#: processor's caches, which takes a fifth longer, and who looks at the tile next waits for it.
_ODD = 16
_PRIVATE: dict[str, int] = (
    {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
)


def _fills_a_piece(tile: NDArray[np.uint8]) -> bool:
    root: Any = tile
    while isinstance(root.base, np.ndarray):
        root = root.base
    return isinstance(root.base, memoryview) and bool(tile.nbytes == root.nbytes)


class Slots:
    """Pieces of memory by their size; safe from many threads and from the garbage collector."""

    def __init__(self) -> None:
        self._free: defaultdict[int, deque[memoryview]] = defaultdict(deque)

    def empty(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """An array in a piece of memory that is free again when nobody has it."""
        size = math.prod(shape)
        piece = self._piece(size)
        flat = np.frombuffer(piece, np.uint8)
        weakref.finalize(flat, self._free[size].append, piece).atexit = False
        return flat.reshape(shape)

    def keep(self, tile: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The tile, read-only: itself where it fills such a piece of memory, else a copy that does."""
        if not _fills_a_piece(tile):
            own = self.empty(tile.shape)
            own[...] = tile
            tile = own
        tile.flags.writeable = False
        return tile

    def give_back(self) -> None:
        """Let go of what is free; the system has it as soon as none of the same fetch is in use."""
        self._free.clear()

    def _piece(self, size: int) -> memoryview:
        free = self._free[size]
        try:
            return free.pop()
        except IndexError:
            pitch = -(-size // 32) * 32
            whole = memoryview(mmap.mmap(-1, pitch * AT_ONCE + _ODD, **_PRIVATE))[_ODD:]
            pieces = [whole[i * pitch : i * pitch + size] for i in range(AT_ONCE)]
            free.extend(pieces[1:])
            return pieces[0]
