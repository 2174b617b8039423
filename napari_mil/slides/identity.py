"""What tells a slide from every other: its name for people, its fingerprint for the program."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

EDGE = 2**20
_ENDINGS = (".tif", ".tiff", ".zarr")


def bare_name(path: Path) -> str:
    """A file's name without its suffix, .ome.tif and .ome.zarr as one.

    >>> bare_name(Path("a.b.ome.tif")), bare_name(Path("a.b.svs"))
    ('a.b', 'a.b')
    """
    return path.stem.removesuffix(".ome") if path.suffix in _ENDINGS else path.stem


def fingerprint(home: Path, files: Iterable[Path], shape_px: tuple[int, int]) -> str:
    """SHA-256 over the names below `home`, sizes, first and last MB of files, and the shape of level 0.

    OSError when one of them cannot be read.
    """
    digest = hashlib.sha256(repr(tuple(map(int, shape_px))).encode())
    for name, file in sorted((f.relative_to(home).as_posix(), f) for f in files):
        digest.update(f"{name}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(EDGE))
            stream.seek(max(0, file.stat().st_size - EDGE))
            digest.update(stream.read(EDGE))
    return digest.hexdigest()
