"""Boxes and tiles: which lie under which, and pixels laid from one into the other."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from PIL import Image

from napari_mil.slides.info import Box, LevelInfo, Pixels, SlideInfo

#: The next level may be smaller by so much before there should be one in between.
FARTHEST = 3.0


def halves(info: SlideInfo) -> Iterator[LevelInfo]:
    """Levels that are missing where the next is smaller by more than two: each half of the one before it.

    They are numbered after the file's own.
    """
    number = len(info.levels)
    for i, (fine, coarse) in enumerate(pairwise(info.levels) if info.montage is None else ()):
        of, (h, w) = i, fine.shape_px
        while min(h / coarse.shape_px[0], w / coarse.shape_px[1]) >= FARTHEST:
            h, w = -(-h // 2), -(-w // 2)
            yield LevelInfo((h, w), fine.tile_px, of)
            of, number = number, number + 1


def halved(pixels: Pixels) -> Pixels:
    """(h, w, 3) uint8 made of the means of two by two pixels, fewer at an odd border."""
    return np.asarray(Image.fromarray(pixels).reduce(2)).copy()


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
