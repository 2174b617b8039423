"""Slide and Level: what every reader returns."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, Self

import numpy as np
from PIL import Image

from napari_mil.errors import SlideError, reason
from napari_mil.slides.address import SlidePath
from napari_mil.slides.boxes import reduced
from napari_mil.slides.identity import bare_name, fingerprint
from napari_mil.slides.indexing import boxed
from napari_mil.slides.info import Montage, Pixels
from napari_mil.slides.mpp import given_mpp, plausible
from napari_mil.slides.tiles import WIDEN_PX, Engine, dask_view

_BAND_PX = 32_000_000  # source pixels resampled at once
_HASH_PX = 16_000_000
_OF_PIXELS = ("fingerprint", "pixel_hash")  # the same whatever a pixel's size is


class RefusedError(SlideError):
    """The file was understood and is no usable bright-field slide: no other reader needs to be asked."""


class LeftError(SlideError):
    """It is a slide of a format that another reader reads."""


class UnknownError(SlideError):
    """It is nothing that this reader knows: what another one says of it says more."""


def refuse_fluorescence(words: str) -> None:
    """RefusedError where Hamamatsu's words of a scan, `;` between them, name the fluorescence filter."""
    if "ExcitationName=" in words:
        dye = re.search(r"\bName=([^;]+)", words)
        raise RefusedError(
            f"it is a fluorescence image (filter {dye[1].strip() if dye else 'unknown'}), "
            "while a bright-field RGB slide is expected, such as an H&E scan"
        )


@dataclass(frozen=True)
class Level:
    """One resolution of a slide: a lazy (h, w, 3) uint8 array, as numpy and napari know it. Levels are equal
    when they read the same resolution with the same engine.

    Attributes
    ----------
    engine : reads the tiles
    index : its number in the engine; 0 is the largest level
    shape_px : (h, w), pixels of this level
    downsample : (y, x) level-0 pixels per pixel of this level, exact: H/h, W/w of a level of the file
    tile_px : (h, w) of the file's tiles
    """

    engine: Engine = field(repr=False)
    index: int
    shape_px: tuple[int, int]
    downsample: tuple[float, float]
    tile_px: tuple[int, int]

    dtype = np.dtype(np.uint8)
    ndim = 3

    @classmethod
    def of(cls, engine: Engine, index: int) -> Level:
        """A level of an engine."""
        one = engine.levels[index]
        y, x = engine.levels[0].shape_px if one.of is None else cls.of(engine, one.of).downsample
        h, w = one.shape_px if one.of is None else (0.5, 0.5)  # of two by two, at the border of fewer
        return cls(engine, index, one.shape_px, (y / h, x / w), one.tile_px)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(h, w, 3)."""
        return (*self.shape_px, 3)

    @property
    def size(self) -> int:
        """Number of samples."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes when read whole."""
        return self.size

    @property
    def chunks(self) -> tuple[int, int, int]:
        """What a viewer should widen its requests to, in the words of zarr."""
        return (WIDEN_PX, WIDEN_PX, 3)

    @property
    def dask(self) -> Any:
        """The level as a dask array; its slices read only the tiles under them."""
        return dask_view(self, f"slide-{self.engine.token}-{self.index}")

    def read(self, y0: int, x0: int, y1: int, x1: int, step: tuple[int, int] = (1, 1)) -> Pixels:
        """(y1 − y0, x1 − x0, 3) uint8 of a half-open box in this level's pixels, or means of so many (rows,
        columns); background outside of it.
        """
        return self.engine.box(self.index, y0, x0, y1, x1, step)

    def __len__(self) -> int:
        return self.shape_px[0]

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self  # nothing of it can change; napari copies a layer's data when it duplicates the layer

    def __getitem__(self, key: Any) -> Any:
        """What numpy would give, reading no more than the box that the index spans."""
        ((y0, y1), (x0, x1), (first, last)), inside = boxed(key, self.shape)
        return self.read(y0, x0, y1, x1)[:, :, first:last][inside]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        if copy is False:
            raise ValueError(
                "The pixels of a level are read from its file: an array of them is always a copy."
            )
        whole = self.read(0, 0, *self.shape_px)
        return whole if dtype is None else whole.astype(dtype)


_Read = Callable[[Level, int, int, int, int, tuple[int, int]], Pixels]


@dataclass(frozen=True, eq=False)
class Slide:
    """An image on disk, read lazily; use it as a context manager or call `close`.

    Attributes
    ----------
    engine : the open file with its tile cache and decode threads
    path : the file, folder or address that was opened
    mpp : (y, x) µm per level-0 pixel as a person or the file says, or None when nobody does or the file says
        something implausible (outside 0.05–20)
    levels : largest first
    """

    engine: Engine = field(repr=False)
    path: SlidePath
    mpp: tuple[float, float] | None
    levels: tuple[Level, ...] = field(repr=False)

    @classmethod
    def of(cls, path: SlidePath, engine: Engine, mpp: tuple[float, float] | None = None) -> Slide:
        """The slide that `engine` reads; `mpp` overrules what the file says."""
        levels = tuple(Level.of(engine, i) for i in range(len(engine.source.info.levels)))
        return cls(engine, path, mpp or plausible(engine.source.info.mpp), levels)

    @property
    def drawn_levels(self) -> tuple[Level, ...]:
        """The levels and, where the next is smaller by more than two, those in between that the file lacks,
        made of means of two by two pixels: for whoever shows the slide.
        """
        every = (Level.of(self.engine, i) for i in range(len(self.engine.levels)))
        return tuple(sorted(every, key=lambda level: level.downsample))

    @property
    def name(self) -> str:
        """File name without folder and suffix; a montage has its folder's name."""
        return self.path.name if self.montage is not None else bare_name(self.path)

    @property
    def stated_mpp(self) -> tuple[float, float] | None:
        """(y, x) µm per level-0 pixel that the file itself says; None when it does not, or implausibly."""
        return plausible(self.engine.source.info.mpp)

    @property
    def mpp_was_said(self) -> bool:
        """Whether the µm per pixel are what a person said, in the place of what the file says or does not."""
        return self.mpp is not None and self.mpp != self.stated_mpp

    @property
    def shape_px(self) -> tuple[int, int]:
        """(H, W) of level 0."""
        return self.levels[0].shape_px

    @property
    def bounds_px(self) -> tuple[int, int, int, int]:
        """y0, x0, y1, x1 of the scanned area in level-0 pixels."""
        return self.engine.source.info.bounds_px or (0, 0, *self.shape_px)

    @property
    def background(self) -> tuple[int, int, int]:
        """RGB where nothing was scanned and outside the slide."""
        return self.engine.source.info.background

    @property
    def objective_power(self) -> float | None:
        """Magnification of the objective, or None."""
        return self.engine.source.info.objective_power

    @property
    def montage(self) -> Montage | None:
        """The photographs that lie side by side on it, or None for an image of one piece."""
        return self.engine.source.info.montage

    @property
    def properties(self) -> Mapping[str, str]:
        """What the vendor wrote into the file."""
        return self.engine.source.info.properties

    @cached_property
    def associated(self) -> Mapping[str, Pixels]:
        """Label, macro, thumbnail by name: (h, w, 3) uint8, read when asked for; never part of `levels`."""
        return _Associated(self.engine)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the names, sizes, first and last MB of the slide's files and the shape of level 0."""
        try:
            found = fingerprint(self.path, self.engine.source.info.files, self.shape_px)
        except OSError as error:
            raise SlideError(f"{self.name} cannot be read ({reason(error)}); check its disk.") from error
        with self.engine.originals.unchanged():
            return found

    @cached_property
    def pixel_hash(self) -> str:
        """SHA-256 over the coarsest level's pixels (a lattice of boxes when it is huge), for leak checks."""
        level = self.levels[-1]
        digest = hashlib.sha256(repr((self.shape_px, level.shape_px)).encode())
        for box in sample_boxes(level, _HASH_PX):
            digest.update(level.read(*box).tobytes())
        return digest.hexdigest()

    def read(self, box_px: tuple[float, float, float, float], *, out_px: tuple[int, int]) -> Pixels:
        """The box at the wanted size, antialiased, from the coarsest level that is fine enough: where its
        pixels are a whole number of times smaller they are averaged, else filtered (Hamming).

        Parameters
        ----------
        box_px : y0, x0, y1, x1 in level-0 pixels, floats; may reach beyond the slide
        out_px : (h, w) of the result

        Returns
        -------
        (h, w, 3) uint8; background outside the slide
        """
        return self._read(box_px, out_px, Level.read)

    def _read(
        self, box_px: tuple[float, float, float, float], out_px: tuple[int, int], read: _Read
    ) -> Pixels:
        y0, x0, y1, x1 = map(float, box_px)
        height, width = out_px
        if not (y1 > y0 and x1 > x0 and height > 0 and width > 0):
            raise SlideError(
                f"Cannot read the box {tuple(box_px)} at {tuple(out_px)} px from {self.name}: "
                "both need a positive size."
            )
        scale = ((y1 - y0) / height, (x1 - x0) / width)
        level = _level_for(self.levels, scale)
        dy, dx = level.downsample
        rows = max(1, int(_BAND_PX / (scale[0] / dy) / ((x1 - x0) / dx)))
        if rows >= height:
            return _resample(
                partial(read, level), level.shape_px, (y0 / dy, x0 / dx, y1 / dy, x1 / dx), out_px
            )
        out = np.empty((height, width, 3), np.uint8)
        for top in range(0, height, rows):
            bottom = min(height, top + rows)
            band = ((y0 + top * scale[0]) / dy, x0 / dx, (y0 + bottom * scale[0]) / dy, x1 / dx)
            out[top:bottom] = _resample(partial(read, level), level.shape_px, band, (bottom - top, width))
        return out

    def thumbnail(self, max_px: int = 1024) -> Pixels:
        """The whole slide as (h, w, 3) uint8 whose longer side is at most `max_px`, read through dask."""
        height, width = self.shape_px
        factor = max(1.0, max(height, width) / max_px)
        size = (max(1, round(height / factor)), max(1, round(width / factor)))
        return self._read((0, 0, height, width), size, _read_dask)

    def with_mpp(self, mpp: float | tuple[float, float]) -> Slide:
        """The same open slide at a pixel size in µm that a person gave; closing either closes both."""
        made = replace(self, mpp=given_mpp(mpp))
        vars(made).update({name: vars(self)[name] for name in _OF_PIXELS if name in vars(self)})
        return made

    def close(self) -> None:
        """End the decode threads and give the file back."""
        self.engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _level_for(levels: Sequence[Level], scale: tuple[float, float]) -> Level:
    """The coarsest of some levels, largest first, that is fine enough, else the first."""
    most = np.multiply(scale, 1.01)
    fine = [level for level in levels if np.less_equal(level.downsample, most).all()]
    return fine[-1] if fine else levels[0]


class _Associated(Mapping[str, Pixels]):
    """Associated images, each read when it is asked for."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __getitem__(self, name: str) -> Pixels:
        read = self._engine.source.info.associated[name]
        with self._engine.reading(), self._engine.originals.unchanged():
            return read()

    def __iter__(self) -> Iterator[str]:
        return iter(self._engine.source.info.associated)

    def __len__(self) -> int:
        return len(self._engine.source.info.associated)


def sample_boxes(level: Level, most_px: int) -> list[tuple[int, int, int, int]]:
    """The whole level as one box, or where it exceeds `most_px` 5 × 5 boxes of 256 px spread over it."""
    height, width = level.shape_px
    if height * width <= most_px:
        return [(0, 0, height, width)]
    side = 256
    return [
        (y, x, min(height, y + side), min(width, x + side))
        for y in np.linspace(0, max(0, height - side), 5).astype(int).tolist()
        for x in np.linspace(0, max(0, width - side), 5).astype(int).tolist()
    ]


def _read_dask(level: Level, y0: int, x0: int, y1: int, x1: int, step: tuple[int, int]) -> Pixels:
    """Level.read through the dask array."""
    out = np.empty((y1 - y0, x1 - x0, 3), np.uint8)
    out[:] = level.engine.source.info.background
    top, left, bottom, right = max(y0, 0), max(x0, 0), min(y1, level.shape_px[0]), min(x1, level.shape_px[1])
    inside = level.dask[top:bottom, left:right].compute(scheduler="threads")
    out[top - y0 : bottom - y0, left - x0 : right - x0] = inside
    return reduced(out, step)


def _resample(
    read: Callable[..., Pixels],
    shape_px: tuple[int, int],
    box: tuple[float, float, float, float],
    out_px: tuple[int, int],
) -> Pixels:
    """`box` (pixels of a level, floats) resampled to `out_px`, with the neighbourhood the filter needs."""
    y0, x0, y1, x1 = box
    height, width = out_px
    snapped = tuple(round(v) for v in box)
    size = (snapped[2] - snapped[0], snapped[3] - snapped[1])
    whole = size[0] % height == 0 and size[1] % width == 0
    if whole and all(abs(v - s) < 1e-3 for v, s in zip(box, snapped, strict=True)):
        return read(*snapped, (size[0] // height, size[1] // width))
    top, bottom = _reach(y0, y1, max(1.0, (y1 - y0) / height) + 1, shape_px[0])
    left, right = _reach(x0, x1, max(1.0, (x1 - x0) / width) + 1, shape_px[1])
    source = read(top, left, bottom, right, (1, 1))
    shrink = (y1 - y0) > height and (x1 - x0) > width
    image = Image.fromarray(source).resize(
        (width, height),
        Image.Resampling.HAMMING if shrink else Image.Resampling.BILINEAR,
        box=(x0 - left, y0 - top, x1 - left, y1 - top),
    )
    return np.asarray(image)


def _reach(low: float, high: float, margin: float, length: int) -> tuple[int, int]:
    """Whole pixels that a filter needs around an interval, beyond the image only where the interval is."""
    return (
        min(math.floor(low), max(0, math.floor(low - margin))),
        max(math.ceil(high), min(length, math.ceil(high + margin))),
    )
