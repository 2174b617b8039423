"""Regions of a lattice as lines along their borders, inside them. Pure.

A painted raster has one pixel per tile, so the contours that napari draws of it would fill every region that
is not three tiles wide. Lines keep what lies under a region visible, at every zoom.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from napari_mil.ui.ramps import is_dark, rgb

#: Width of a line on screen (px), and the widest it may be in tiles.
LINE_PX, WIDEST = 3.0, 0.2
LIGHT, DARK = "#ffffff", "#000000"


def line_width(tile_screen_px: float) -> float:
    """Width of a line in tiles, for tiles that are that wide on screen."""
    return float(min(LINE_PX / max(tile_screen_px, 1e-6), WIDEST))


def outline(
    raster: NDArray[np.int32], colours: Mapping[int, str], width: float, *, bold: bool
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Lines around the regions of equal code, and their colours.

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
    lines, codes = _lines(raster, width / 2, width)
    beside = {code: LIGHT if is_dark(colour) else DARK for code, colour in colours.items()}
    if not bold:
        return lines, _rgba(codes, beside)
    inner, inner_codes = _lines(raster, 1.5 * width, width)
    return (
        np.concatenate([lines, inner]),
        np.concatenate([_rgba(codes, colours), _rgba(inner_codes, beside)]),
    )


def _rgba(codes: NDArray[np.int32], colours: Mapping[int, str]) -> NDArray[np.float32]:
    every = np.ones((max([0, *colours]) + 1, 4), np.float32)
    for code, colour in colours.items():
        every[code, :3] = rgb(colour)
    return every[codes]


def _lines(
    raster: NDArray[np.int32], inset: float, width: float
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Lines `inset` cells inside the borders of regions, and the code each belongs to."""
    framed = np.pad(np.asarray(raster, np.int32), 1)
    lines, codes = [], []
    for turned, side in ((False, -1), (False, 1), (True, -1), (True, 1)):
        row, first, end, code, ends = _runs(framed.T if turned else framed, side)
        # a run stops short of a corner that points outwards and goes past one that points inwards
        start = first + np.where(ends[0], inset, -inset) - width / 2
        length = end + np.where(ends[1], -inset, inset) + width / 2 - start
        at = row + 0.5 + side * (0.5 - inset)
        pairs = np.stack([np.stack([at, start], 1) - 0.5, np.stack([0 * length, length], 1)], 1)
        lines.append(pairs[:, :, ::-1] if turned else pairs)
        codes.append(code)
    return np.concatenate(lines).astype(np.float32), np.concatenate(codes)


def _runs(framed: NDArray[np.int32], side: int) -> tuple[NDArray[np.int64], ...]:
    """Runs of cells along a row that have another code above (side −1) or below (1).

    framed : (rows + 2, cols + 2) codes with a frame of zeros

    Returns (without the frame) row, first column, column after the last, code, and (2, n) whether the region
    ends where the run does.
    """
    core = framed[1:-1, 1:-1]
    bordering = (core != 0) & (core != np.roll(framed, -side, 0)[1:-1, 1:-1])
    edges = np.pad(np.where(bordering, core, 0), ((0, 0), (1, 1)))
    rows, cols = np.nonzero(edges[:, 1:] != edges[:, :-1])
    inside = edges[rows, cols + 1] != 0
    i = np.flatnonzero(inside)
    row, first, end = rows[i], cols[i], cols[i + 1]
    code = core[row, first]
    ends = np.stack([framed[row + 1, first] != code, framed[row + 1, end + 1] != code])
    return row, first, end, code, ends
