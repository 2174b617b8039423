"""The lattice of tiles over a slide, and which of its cells are tissue."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_mil.arrays import frozen
from napari_mil.errors import BagError


@dataclass(frozen=True, slots=True, eq=False)
class TileGrid:
    """N tiles on a lattice that starts at the slide's corner; on a montage the tiles are its photographs.

    Attributes
    ----------
    slide_px : (H, W) of level 0, pixels
    slide_mpp : (y, x) µm per level-0 pixel, or None when unknown
    tile_px : side of the square that a network sees, pixels at `mpp`
    mpp : µm per pixel asked for, or None: level-0 pixels are used as they are
    cells : (N, 2) int32, (row, col) of each tile on the lattice; unique
    cell_px : (h, w) of a montage's cells in level-0 pixels: the network sees the photograph in a cell through
        squares of `tile_px` at `mpp`. None: a cell is such a square itself

    Cells at the right and bottom border may reach beyond the slide; they are read padded with background.

    >>> grid = TileGrid.full((1000, 1500), (0.25, 0.25), tile_px=256, mpp=0.5)
    >>> grid.shape, grid.pitch_px
    ((2, 3), (512.0, 512.0))
    >>> grid.placement()
    ((128.0, 128.0), (63.875, 63.875))
    """

    slide_px: tuple[int, int]
    slide_mpp: tuple[float, float] | None
    tile_px: int
    mpp: float | None
    cells: NDArray[np.int32]
    cell_px: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.tile_px < 1 or min(self.slide_px) < 1:
            raise BagError(
                f"A grid needs positive sizes; got a slide of {self.slide_px} px "
                f"and tiles of {self.tile_px} px."
            )
        cells = frozen(self.cells, np.int32, shape=(None, 2), name="cells")
        rows, cols = self.shape
        if len(cells):
            if cells.min() < 0 or cells[:, 0].max() >= rows or cells[:, 1].max() >= cols:
                raise BagError(
                    f"cells reach outside the lattice of {rows} × {cols}: {cells.min(0)} … {cells.max(0)}."
                )
            if len(np.unique(cells[:, 0].astype(np.int64) * cols + cells[:, 1])) != len(cells):
                raise BagError("cells holds the same (row, col) twice; every tile must lie on its own cell.")
        object.__setattr__(self, "cells", cells)

    @classmethod
    def full(
        cls,
        slide_px: tuple[int, int],
        slide_mpp: tuple[float, float] | None,
        *,
        tile_px: int,
        mpp: float | None,
        cell_px: tuple[int, int] | None = None,
    ) -> TileGrid:
        """Every cell of the lattice, row by row."""
        empty = cls(slide_px, slide_mpp, tile_px, mpp, np.empty((0, 2), np.int32), cell_px)
        rows, cols = empty.shape
        return empty.with_cells(np.indices((rows, cols)).reshape(2, -1).T)

    def __len__(self) -> int:
        return len(self.cells)

    @property
    def pitch_px(self) -> tuple[float, float]:
        """Exact distance of neighbouring tiles in level-0 pixels (y, x)."""
        if self.cell_px is not None:
            return (float(self.cell_px[0]), float(self.cell_px[1]))
        return self.view_px

    @property
    def view_px(self) -> tuple[float, float]:
        """Sides (y, x) in level-0 pixels of what the network sees at once."""
        if self.mpp is None or self.slide_mpp is None:
            return (float(self.tile_px), float(self.tile_px))
        return (self.tile_px * self.mpp / self.slide_mpp[0], self.tile_px * self.mpp / self.slide_mpp[1])

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, cols) of the whole lattice."""
        py, px = self.pitch_px
        return (
            max(1, math.ceil(self.slide_px[0] / py - 1e-9)),
            max(1, math.ceil(self.slide_px[1] / px - 1e-9)),
        )

    @property
    def id(self) -> str:
        """Content id: equal for equal grids, on every machine."""
        return _content_id(self)

    @property
    def boxes_px(self) -> NDArray[np.float64]:
        """(N, 4) half-open boxes y0, x0, y1, x1 in level-0 pixels, exact and not clipped to the slide."""
        pitch = np.array(self.pitch_px)
        return np.concatenate([self.cells * pitch, (self.cells + 1) * pitch], axis=1)

    def raster(self, values: Any, fill: Any = None) -> NDArray[Any]:
        """(N, …) values laid out as (rows, cols, …); cells without a tile hold `fill` (NaN for floats, else
        0).
        """
        values = np.asarray(values)
        if len(values) != len(self):
            raise BagError(f"{len(values)} values do not fit a grid of {len(self)} tiles.")
        if _in_reading_order(self):
            return np.array(values.reshape(*self.shape, *values.shape[1:]))
        if fill is None:
            fill = np.nan if values.dtype.kind == "f" else 0
        out = np.full((*self.shape, *values.shape[1:]), fill, dtype=values.dtype)
        out[self.cells[:, 0], self.cells[:, 1]] = values
        return out

    def gather(self, raster: NDArray[Any]) -> NDArray[Any]:
        """(N, …) values of the tiles' cells out of a (rows, cols, …) raster: the inverse of `raster`."""
        if raster.shape[:2] != self.shape:
            raise BagError(f"A raster of {raster.shape[:2]} cells does not fit a lattice of {self.shape}.")
        gathered: NDArray[Any] = raster[self.cells[:, 0], self.cells[:, 1]]
        return gathered

    def lookup(self) -> NDArray[np.int32]:
        """(rows, cols) index of the tile on each cell, −1 where there is none."""
        return self.raster(np.arange(len(self), dtype=np.int32), fill=-1)

    def with_cells(self, cells: Any) -> TileGrid:
        """The same lattice with other cells."""
        return replace(self, cells=np.asarray(cells, np.int32))

    def inside(self, box_px: tuple[float, float, float, float]) -> NDArray[np.bool_]:
        """(N,) True where a tile overlaps the half-open box y0, x0, y1, x1 (level-0 pixels)."""
        b = self.boxes_px
        y0, x0, y1, x1 = box_px
        return (b[:, 0] < y1) & (b[:, 2] > y0) & (b[:, 1] < x1) & (b[:, 3] > x0)

    def crop(self, box_px: tuple[float, float, float, float]) -> TileGrid:
        """The tiles that overlap a box in level-0 pixels, on the same lattice."""
        return self.with_cells(self.cells[self.inside(box_px)])

    def placement(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """(scale, translate) that put a raster over the slide in napari, in µm when mpp is known, else in
        pixels.

        napari puts pixel centres on integers, hence the shift by half a cell less half a pixel.
        """
        mpp = self.slide_mpp or (1.0, 1.0)
        (py, px) = self.pitch_px
        return (py * mpp[0], px * mpp[1]), ((py - 1) / 2 * mpp[0], (px - 1) / 2 * mpp[1])


@lru_cache(maxsize=8)
def _in_reading_order(grid: TileGrid) -> bool:
    """Whether a grid has every cell of its lattice, row by row."""
    rows, cols = grid.shape
    return len(grid) == rows * cols and bool((grid.cells @ (cols, 1) == np.arange(rows * cols)).all())


@lru_cache(maxsize=8)  # a drawn lattice is asked for its id at every stroke
def _content_id(grid: TileGrid) -> str:
    cell = () if grid.cell_px is None else (grid.cell_px,)
    head = repr((grid.slide_px, grid.slide_mpp, grid.tile_px, grid.mpp, *cell)).encode()
    return hashlib.sha256(head + grid.cells.astype("<i4").tobytes()).hexdigest()[:16]
