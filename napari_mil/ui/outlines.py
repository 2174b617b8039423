"""Regions of a lattice as lines along their borders, inside them. Pure.

A painted raster has one pixel per tile, so the contours that napari draws of it would fill every region that
is not three tiles wide. Lines keep what lies under a region visible, at every zoom.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_mil.ui.ramps import is_dark, rgb

#: Width of a line on screen (px), and the widest it may be in tiles.
LINE_PX, WIDEST = 3.0, 0.2
LIGHT, DARK = "#ffffff", "#000000"
#: More lines than this are a texture, and cost more than they tell.
MOST_LINES = 20_000


def line_width(tile_screen_px: float) -> float:
    """Width of a line in tiles, for tiles that are that wide on screen."""
    return float(min(LINE_PX / max(tile_screen_px, 1e-6), WIDEST))


def outline(
    raster: NDArray[np.int32], colours: Mapping[int, str], width: float, *, bold: bool
) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
    """Lines around the regions of equal code, and their colours; None where there are none, or too many.

    Parameters
    ----------
    raster : (rows, cols) code of each cell, 0 = none
    colours : code → "#rrggbb"
    width : of a line, in cells
    bold : a line in the code's colour with a light or dark one inside it, whichever reads beside it; else
        only the latter, half as wide, for regions that are filled

    Returns
    -------
    lines : (n, 2, 2) float32, start and step, as napari takes vectors: cells, whose centres are integers
    colours : (n, 4) float32 RGBA
    """
    width = width if bold else width / 2
    sides = _sides(raster)
    if sides is None:
        return None
    codes = np.concatenate([side.code for side in sides])
    beside = {code: LIGHT if is_dark(colour) else DARK for code, colour in colours.items()}
    if not bold:
        return _lines(sides, width / 2, width), _rgba(codes, beside)
    lines = [_lines(sides, inset * width, width) for inset in (0.5, 1.5)]
    return np.concatenate(lines), np.concatenate([_rgba(codes, colours), _rgba(codes, beside)])


def _rgba(codes: NDArray[np.int32], colours: Mapping[int, str]) -> NDArray[np.float32]:
    every = np.ones((max([0, *colours]) + 1, 4), np.float32)
    for code, colour in colours.items():
        every[code, :3] = rgb(colour)
    return every[codes]


@dataclass(frozen=True, slots=True)
class _Side:
    """Straight borders that look one way.

    Attributes
    ----------
    turned : whether they run along columns
    side : −1 for borders above (left of) their region, 1 below (right of) it
    row, first, end : (n,) where: a row, the first column and the one after the last (turned: the other way
        round)
    code : (n,) of the region
    ends : (2, n) whether the region ends where the border does, at its first and last column
    """

    turned: bool
    side: int
    row: NDArray[np.int64]
    first: NDArray[np.int64]
    end: NDArray[np.int64]
    code: NDArray[np.int32]
    ends: NDArray[np.bool_]


def _sides(raster: NDArray[np.int32]) -> list[_Side] | None:
    """The borders of all regions, by the way they look; None where there are none, or too many lines."""
    raster = np.asarray(raster, np.int32)
    rows, cols = np.flatnonzero(raster.any(1)), np.flatnonzero(raster.any(0))
    if not len(rows):
        return None
    top, left = int(rows[0]), int(cols[0])  # corrections are few, lattices are large
    framed = np.pad(raster[top : rows[-1] + 1, left : cols[-1] + 1], 1)
    sides: list[_Side] = []
    for turned, side in ((False, -1), (False, 1), (True, -1), (True, 1)):
        origin = (left, top) if turned else (top, left)
        sides.append(_runs(framed.T if turned else framed, turned, side, origin))
        if sum(len(found.row) for found in sides) > MOST_LINES:
            return None
    return sides


def _runs(framed: NDArray[np.int32], turned: bool, side: int, origin: tuple[int, int]) -> _Side:
    """Runs of cells along a row that have another code above (side −1) or below (1).

    framed : (rows + 2, cols + 2) codes with a frame of zeros, whose first cell is `origin` of the lattice
    """
    core = framed[1:-1, 1:-1]
    near = framed[: len(core), 1:-1] if side < 0 else framed[2:, 1:-1]
    edges = np.pad(np.where(core != near, core, 0), ((0, 0), (1, 1)))
    rows, cols = np.nonzero(edges[:, 1:] != edges[:, :-1])
    i = np.flatnonzero(edges[rows, cols + 1])
    row, first, end = rows[i], cols[i], cols[i + 1]
    code = core[row, first]
    ends = np.stack([framed[row + 1, first] != code, framed[row + 1, end + 1] != code])
    return _Side(turned, side, row + origin[0], first + origin[1], end + origin[1], code, ends)


def _lines(sides: list[_Side], inset: float, width: float) -> NDArray[np.float32]:
    """(n, 2, 2) lines `inset` cells inside the borders."""
    lines = []
    for border in sides:
        # a line stops short of a corner that points outwards and goes past one that points inwards
        start = border.first + np.where(border.ends[0], inset, -inset) - width / 2
        length = border.end + np.where(border.ends[1], -inset, inset) + width / 2 - start
        at = border.row + 0.5 + border.side * (0.5 - inset)
        pairs = np.stack([np.stack([at, start], 1) - 0.5, np.stack([0 * length, length], 1)], 1)
        lines.append(pairs[:, :, ::-1] if border.turned else pairs)
    return np.concatenate(lines).astype(np.float32)
