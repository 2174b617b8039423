"""Sidecars: copies of levels that take long to decode, beside no slide but in a folder of this user.

Files step from level to level by four, and some keep slow codecs (JPEG 2000). A sidecar holds the levels in
between and copies of the slow ones as JPEG of quality 90. It is drawn from and never read from: its pixels
are approximate. Every level is a file of its own, a tiled TIFF, written under another name and renamed when
it is whole.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from napari_mil.errors import SlideError
from napari_mil.slides import shelf
from napari_mil.slides.colour import converted

if TYPE_CHECKING:
    from napari_mil.slides.info import Pixels, Source
    from napari_mil.slides.slide import Slide

#: So much of the disk is left free.
SPARE_BYTES = shelf.SPARE_BYTES
_SMALLEST_PX = 4_000_000  # a smaller level is decoded in no time
_VERSION = 1
STRIDE = 2**24  # bytes are written before the disk is looked at again
#: Where they lie; a bound of 0: none are made.
SIDECARS = shelf.Shelf("sidecars", "NAPARI_MIL_SIDECAR_GB", 10)
bound_bytes = SIDECARS.bound_bytes
remove_all, total_bytes, clean = SIDECARS.remove_all, SIDECARS.total_bytes, SIDECARS.clean


def wanted(slide: Slide) -> tuple[int, ...]:
    """Numbers of the levels that a sidecar of a slide would hold, the dearest first; none of a remote slide,
    which would have to be fetched whole.
    """
    engine, info = slide.engine, slide.engine.source.info
    if info.served or info.montage is not None or not bound_bytes():
        return ()
    large = [i for i, one in enumerate(engine.levels) if one.shape_px[0] * one.shape_px[1] >= _SMALLEST_PX]
    file = len(info.levels)
    below = [i for i in range(file, len(engine.levels)) if engine.levels[i].smaller_than(info.levels[-1])]
    between = sorted({*below[:-1], *(i for i in large if i >= file)})  # the last one is kept by `overview`
    return tuple(between + [i for i in large if info.slow and engine.levels[i].of is None])


class Sidecar:
    """The levels of one slide that are there; safe from many threads."""

    def __init__(self, sources: dict[int, Source]) -> None:
        self._sources = sources

    def __len__(self) -> int:
        return len(self._sources)

    def has(self, level: int) -> bool:
        """Whether it holds a level."""
        return level in self._sources

    def tile(self, level: int, row: int, col: int) -> Pixels:
        """(h, w, 3) uint8, approximate."""
        return self._sources[level].tile(0, row, col)

    def close(self) -> None:
        """Give the files back."""
        for source in self._sources.values():
            source.close()


def find(slide: Slide) -> Sidecar | None:
    """The sidecar of a slide as far as it is there and of this very file, or None."""
    from napari_mil.slides.tiff import open_source

    sources: dict[int, Source] = {}
    for level in wanted(slide):
        file = _file(slide, level)
        try:
            if not file.is_file():
                continue
            source = open_source(file)
        except (SlideError, OSError):  # damaged: it is made again
            file.unlink(missing_ok=True)
            continue
        if source.info.properties.get("description") == about(slide, level) and (
            source.info.levels[0].shape_px == slide.engine.levels[level].shape_px
        ):
            sources[level] = source
        else:
            source.close()
            file.unlink(missing_ok=True)
    if not sources:
        return None
    with contextlib.suppress(OSError):
        os.utime(folder_of(slide))  # the one used longest ago goes first
    return Sidecar(sources)


def missing(slide: Slide) -> tuple[int, ...]:
    """Numbers of the levels that are still to be made."""
    return tuple(level for level in wanted(slide) if not _file(slide, level).is_file())


@contextlib.contextmanager
def unfinished(slide: Slide, level: int) -> Iterator[Path]:
    """A file to write a level into; it gets its name when the block ends well, else it goes."""
    target = _file(slide, level)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{level}.{os.getpid()}.part")
    try:
        yield part
        with part.open("rb+") as stream:
            os.fsync(stream.fileno())
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


class Room:
    """What may still be written: bounded by the preference and the disk; others' sidecars make room."""

    def __init__(self, slide: Slide) -> None:
        self._own, self._written = folder_of(slide), 0

    def take(self, count: int) -> None:
        """Account for bytes about to be written; FullError where there is no room for them."""
        self._written += count
        if self._written < STRIDE:
            return
        self._written = 0
        self.look()

    def look(self) -> None:
        """Delete the sidecars used longest ago until there is room; FullError where there is none."""
        full = (
            "There is no room for copies that make this slide faster to look at; free some disk, or raise "
            "the preference Disk for sidecars."
        )
        SIDECARS.make_room(self._own, full, spare=SPARE_BYTES)


def folder_of(slide: Slide) -> Path:
    """Where the copies of a slide lie."""
    return SIDECARS.home / (slide.fingerprint + ("-srgb" if converted(slide.properties) else ""))


def _file(slide: Slide, level: int) -> Path:
    return folder_of(slide) / f"{level}.tif"


def about(slide: Slide, level: int) -> str:
    """What a sidecar says of itself: it is of these very files, and of this level."""
    found = [(Path(str(f)).name, Path(str(f)).stat()) for f in slide.engine.source.info.files]
    files = [(name, there.st_size, there.st_mtime_ns) for name, there in found]
    return json.dumps({"napari-mil": _VERSION, "level": level, "slide": slide.fingerprint, "files": files})
