"""What tells a slide from every other: its name for people, its fingerprint for the program."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from napari_mil.slides.address import Address, SlidePath

EDGE = 2**20
_AT_ONCE = 8  # files that are read together: from a server one waits for each
_ENDINGS = (".tif", ".tiff", ".zarr")


def bare_name(path: SlidePath) -> str:
    """A file's name without its suffix, .ome.tif and .ome.zarr as one.

    >>> bare_name(Path("a.b.ome.tif")), bare_name(Path("a.b.svs"))
    ('a.b', 'a.b')
    """
    return path.stem.removesuffix(".ome") if path.suffix in _ENDINGS else path.stem


def fingerprint(path: SlidePath, files: Sequence[SlidePath], shape_px: tuple[int, int]) -> str:
    """SHA-256 over the files' names, sizes, first and last MB, and the shape of level 0.

    Names count from the slide's folder, so that a slide is the same wherever it lies.
    OSError when a file cannot be read.
    """
    if isinstance(path, Address) and not isinstance(files[0], Address):
        path = files[0]  # of a copy
    home: Any = path.parent if path in files else path
    digest = hashlib.sha256(repr(tuple(map(int, shape_px))).encode())
    named = sorted((f.relative_to(home).as_posix(), f) for f in files)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for i in range(0, len(named), _AT_ONCE):
            names, some = zip(*named[i : i + _AT_ONCE], strict=True)
            for name, (size, first, last) in zip(names, pool.map(_edges, some), strict=True):
                digest.update(
                    f"{name}\0{size}\0".encode(errors="surrogateescape")
                )  # the name as it is on disk
                digest.update(first)
                digest.update(last)
    return digest.hexdigest()


def _edges(file: SlidePath) -> tuple[int, bytes, bytes]:
    """Size, first and last MB of a file."""
    if isinstance(file, Address):
        from napari_mil.slides.remote import RemoteFile

        there = RemoteFile(file)
        return there.size, there.read(0, EDGE), there.read(max(0, there.size - EDGE), EDGE)
    size = file.stat().st_size
    with file.open("rb") as stream:
        first = stream.read(EDGE)
        stream.seek(max(0, size - EDGE))
        return size, first, stream.read(EDGE)
