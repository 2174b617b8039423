"""Boxes and tiles: which lie under which, and pixels laid from one into the other."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from napari_mil.slides.info import Box, LevelInfo, Pixels, SlideInfo

Indices = NDArray[np.intp]

#: Rows that are worked on at once: what is made of them meanwhile stays in the processor's cache.
_BAND_ROWS = 128
_MOST_RUNS = 64
#: A tile that cannot be read is hatched: lines of this colour, so wide, so far apart.
_HATCH, _LINE_PX, _PITCH_PX = (214, 0, 110), 3, 24
#: The next level may be smaller by so much before there should be one in between.
FARTHEST = 3.0
#: A coarsest level of more pixels is too large to be read whole and stay in memory as long as the slide is on
#: show; then there are further ones, down to so few.
WHOLE_PX, SMALL_PX = 8_000_000, 1024 * 1024


def halves(info: SlideInfo) -> Iterator[LevelInfo]:
    """Levels that are missing where the next is smaller by more than two, and after the last one where that
    is large: each half of the one before it.

    They are numbered after the file's own.
    """
    number = len(info.levels)
    if info.montage is not None:
        return
    for i, (fine, coarse) in enumerate(pairwise(info.levels)):
        of, (h, w) = i, fine.shape_px
        while min(h / coarse.shape_px[0], w / coarse.shape_px[1]) >= FARTHEST:
            h, w = -(-h // 2), -(-w // 2)
            yield LevelInfo((h, w), fine.tile_px, of)
            of, number = number, number + 1
    last, of = info.levels[-1], len(info.levels) - 1
    h, w = last.shape_px
    while math.prod(last.shape_px) > WHOLE_PX and h * w > SMALL_PX:
        h, w = -(-h // 2), -(-w // 2)
        yield LevelInfo((h, w), last.tile_px, of)
        of, number = number, number + 1


def reduced(pixels: Pixels, step: tuple[int, int]) -> Pixels:
    """(h, w, 3) uint8 made of the means of `step` (rows, columns) of pixels; of fewer at an uneven border."""
    if step == (1, 1):
        return pixels
    if not pixels.size:
        return np.empty((-(-pixels.shape[0] // step[0]), -(-pixels.shape[1] // step[1]), 3), np.uint8)
    if step == (2, 2) and pixels.shape[0] % 2 == pixels.shape[1] % 2 == 0:
        return _halved(pixels)
    return np.array(Image.fromarray(pixels).reduce(step[::-1]))


def _halved(pixels: Pixels) -> Pixels:
    """The means of two by two pixels in half the time that Pillow takes: sample by sample, which numpy adds
    faster than pixels of three.
    """
    h, w = pixels.shape[0] // 2, pixels.shape[1] // 2
    out = np.empty((h, w, 3), np.uint8)
    for top in range(0, h, _BAND_ROWS):
        band, part = pixels[2 * top : 2 * (top + _BAND_ROWS)], out[top : top + _BAND_ROWS]
        pairs = np.add(band[0::2], band[1::2], dtype=np.uint16)
        pairs += 1
        planes = pairs.transpose(2, 0, 1)
        # order "C": along the row, not over the three samples
        four = np.add(planes[:, :, 0::2], planes[:, :, 1::2], order="C")
        np.right_shift(four, 2, out=part.transpose(2, 0, 1), casting="unsafe", order="C")
    return out


def enlarged(source: Pixels, rows: Indices, cols: Indices, out: Pixels) -> None:
    """out[i, j] = source[rows[i], cols[j]] of pixels (h, w, 3), for indices that never fall.

    numpy copies samples that are evenly spaced three times as fast as it gathers pixels.
    """
    runs = _runs(cols)
    for top in range(0, len(rows), _BAND_ROWS):
        band = rows[top : top + _BAND_ROWS]
        part = source[band[0] : band[-1] + 1]
        lines = np.empty((len(part), len(cols), 3), np.uint8)
        for (to, of), c in itertools.product(runs, range(3)):
            lines[:, to, c] = part[:, of, c]
        out[top : top + _BAND_ROWS] = lines[band - band[0]]


def _runs(index: Indices) -> list[tuple[slice, slice | Indices]]:
    """Where pixels go, and which ones: evenly spaced slices where those are few, else all at once."""
    begins = np.flatnonzero(np.diff(index, prepend=index[:1] - 1))
    times = int(np.median(np.diff(begins, append=len(index)))) if len(begins) else 1
    breaks = np.flatnonzero(index[times:] - index[:-times] != 1) + times
    runs: list[tuple[slice, slice | Indices]] = []
    start = 0
    while start < len(index):
        later = breaks[np.searchsorted(breaks, start + times) :]
        end = int(later[0]) if len(later) else len(index)
        for first in range(start, min(start + times, end)):
            of = int(index[first])
            runs.append((slice(first, end, times), slice(of, of + len(range(first, end, times)))))
        if len(runs) > _MOST_RUNS:
            return [(slice(None), index)]
        start = end
    return runs


def lattice(box: tuple[int, int, int, int], tile_px: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """(row, col) of the tiles under a box y0, x0, y1, x1 that is not empty."""
    (y0, x0, y1, x1), (th, tw) = box, tile_px
    return itertools.product(range(y0 // th, (y1 - 1) // th + 1), range(x0 // tw, (x1 - 1) // tw + 1))


def lay(out: Pixels, box: Box, tile: Pixels, corner: tuple[int, int]) -> None:
    """Copy what of a tile at (y, x) lies in a box into `out`, which shows the box."""
    (y, x), (h, w) = corner, tile.shape[:2]
    a, b, c, d = max(box[0], y), min(box[2], y + h), max(box[1], x), min(box[3], x + w)
    if a < b and c < d:
        out[a - box[0] : b - box[0], c - box[1] : d - box[1]] = tile[a - y : b - y, c - x : d - x]


def hatch(pixels: Pixels, at: tuple[int, int] = (0, 0), *, times: int = 1) -> None:
    """Mark what cannot be read: lines from corner to corner, so many times as wide and far apart. `at` is
    the pixel (y, x) of the whole where these begin, so that lines of neighbours meet.
    """
    rows, cols = (np.arange(n) + start for n, start in zip(pixels.shape, at, strict=False))
    pixels[(rows[:, None] + cols) % (_PITCH_PX * times) < _LINE_PX * times] = _HATCH
