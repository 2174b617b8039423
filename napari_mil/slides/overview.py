"""The whole of a slide in one small picture, where its file has none.

Some files hold one large level alone. Whoever shows such a slide needs a small one, and every tile has to be
decoded for it: once, not in the thread that draws. It is kept beside the slide's sidecar, without any loss.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from functools import partial
from typing import TYPE_CHECKING
from zipfile import BadZipFile

import numpy as np
from PIL import Image

from napari_mil.errors import MILError, SlideError
from napari_mil.slides import sidecar
from napari_mil.slides.boxes import hatch
from napari_mil.slides.cache import slots
from napari_mil.slides.remote import UnreachableError
from napari_mil.slides.tiles import Engine, made_of

if TYPE_CHECKING:
    from pathlib import Path

    from napari_mil.slides.info import Pixels
    from napari_mil.slides.slide import Level, Slide


def needed(slide: Slide) -> bool:
    """Whether a slide's smallest level is not in its file, and nothing of it has been computed yet."""
    level = slide.drawn_levels[-1]
    if level.engine.levels[level.index].of is None:
        return False
    keys = ((slide.engine.token, level.index, *cell) for cell in _cells(level))
    return any(slide.engine.cache.get(key) is None for key in keys)


def prepare(slide: Slide) -> Slide:
    """Have the smallest level at hand, from the disk or by decoding the slide; the slide. Tiles that are
    damaged are hatched in it, and its engine knows why; SlideError where a server does not answer.
    """
    level = slide.drawn_levels[-1]
    if not needed(slide) or _put(level, _kept(slide, level)):
        return slide
    try:
        pixels = level.read(0, 0, *level.shape_px)
    except UnreachableError:
        raise
    except SlideError as error:
        with slide.engine.reading():
            _salvage(slide.engine, level)
        slide.engine.damage = error
        return slide
    with contextlib.suppress(MILError, OSError):  # without it time alone is lost
        _keep(slide, level, pixels)
    return slide


def picture(slide: Slide, max_px: int) -> Pixels:
    """The whole slide for people to look at, whose longer side is at most `max_px`: its thumbnail, made of
    the smallest level where that is not in the file.
    """
    level = prepare(slide).drawn_levels[-1]
    if level.engine.levels[level.index].of is None or max(level.shape_px) < max_px:
        return slide.thumbnail(max_px)
    image = Image.fromarray(level.read(0, 0, *level.shape_px))
    image.thumbnail((max_px, max_px))
    return np.asarray(image)


def _salvage(engine: Engine, level: Level) -> None:
    """Have the tiles of a level in the cache as far as the file can be read."""
    for row, col in _cells(level):
        key = (engine.token, level.index, row, col)
        if engine.cache.get(key) is None:
            engine.cache.put(key, slots.keep(_readable(engine, 1, *key[1:])))


def _readable(engine: Engine, times: int, level: int, row: int, col: int) -> Pixels:
    """A tile, hatched where tiles of the file that it is made of are damaged; so many times as finely as it
    is drawn.
    """
    try:
        return engine.decode(level, row, col)
    except UnreachableError:
        raise
    except (SlideError, OSError):
        of, one = engine.levels[level].of, engine.levels[level]
    if of is None:
        (h, w), (th, tw) = one.shape_px, one.tile_px
        size = (min(th, h - row * th), min(tw, w - col * tw), 3)
        pixels = np.full(size, engine.source.info.background, np.uint8)
        hatch(pixels, (row * th, col * tw), times=times)
        return pixels
    return made_of(engine.levels[of], row, col, partial(_readable, engine, 2 * times, of))


def _cells(level: Level) -> list[tuple[int, int]]:
    rows, cols = level.engine.levels[level.index].lattice
    return [(row, col) for row in range(rows) for col in range(cols)]


def _put(level: Level, pixels: Pixels | None) -> bool:
    """Have the tiles of a level in the cache; False where there are none."""
    if pixels is None or pixels.shape != level.shape or pixels.dtype != np.uint8:
        return False
    th, tw = level.tile_px
    for row, col in _cells(level):
        tile = pixels[row * th : (row + 1) * th, col * tw : (col + 1) * tw].copy()
        tile.flags.writeable = False
        level.engine.cache.put((level.engine.token, level.index, row, col), tile)
    return True


def _kept(slide: Slide, level: Level) -> Pixels | None:
    """What was kept of this very file, or None."""
    if slide.engine.source.info.served:
        return None
    try:
        with _file(slide).open("rb") as stream, np.load(stream, allow_pickle=False) as kept:
            same = str(kept["about"]) == sidecar.about(slide, level.index)
            pixels: Pixels = kept["pixels"]
    except (MILError, OSError, ValueError, KeyError, EOFError, BadZipFile, zlib.error):
        return None
    return pixels if same else None


def _keep(slide: Slide, level: Level, pixels: Pixels) -> None:
    if slide.engine.source.info.served or not sidecar.bound_bytes():
        return
    file = _file(slide)
    file.parent.mkdir(parents=True, exist_ok=True)
    sidecar.Room(slide).look()
    part = file.with_name(f"{file.stem}.{os.getpid()}.part")
    try:
        with part.open("wb") as stream:
            np.savez_compressed(stream, about=sidecar.about(slide, level.index), pixels=pixels)
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


def _file(slide: Slide) -> Path:
    return sidecar.folder_of(slide) / "overview.npz"
