"""What a person said about a place, and what training reads from it."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from napari_mil.arrays import frozen
from napari_mil.errors import LabelError
from napari_mil.grid import TileGrid
from napari_mil.labeltree import LabelTree


@dataclass(frozen=True, slots=True)
class WholeSlide:
    """The place is the slide itself."""


@dataclass(frozen=True, slots=True, eq=False)
class Polygon:
    """A region as drawn: outer ring first, then holes; each ring (n ≥ 3, 2) float64, (y, x) in level-0 pixels, not closed."""

    rings: tuple[NDArray[np.float64], ...]

    def __post_init__(self) -> None:
        rings = tuple(frozen(r, np.float64, shape=(None, 2), name="ring") for r in self.rings)
        if not rings or any(len(r) < 3 or not np.isfinite(r).all() for r in rings):
            raise LabelError("A region needs rings of at least three finite points.")
        object.__setattr__(self, "rings", rings)


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """Painted cells: (n, 2) int32 (row, col) on a lattice of `pitch_px` (y, x) level-0 pixels that starts at the corner."""

    cells: NDArray[np.int32]
    pitch_px: tuple[float, float]

    def __post_init__(self) -> None:
        object.__setattr__(self, "cells", frozen(self.cells, np.int32, shape=(None, 2), name="cells"))
        if not len(self.cells) or min(self.pitch_px) <= 0:
            raise LabelError("Painted cells need at least one cell and a positive pitch.")


Place = WholeSlide | Polygon | Cells


@dataclass(frozen=True, slots=True, eq=False)
class Correction:
    """One statement: this place has that label. It is about a place and states label text, so it survives re-tiling.

    Attributes
    ----------
    slide_id : fingerprint of the slide
    place : the whole slide, a polygon, or painted cells
    label : label path ("Atypical/ADH", or coarse "Atypical"), or None: withdrawn
    was : label text of the place before, or None
    model_id, model_said, model_confidence : what the model had said there at that moment, where there was one
    visible : names of the maps that were on screen
    by, at, tool, note : who, when (UTC), with which tool, why
    id : unique; kept through export and import
    """

    slide_id: str
    place: Place
    label: str | None
    was: str | None = None
    model_id: str | None = None
    model_said: str | None = None
    model_confidence: float | None = None
    visible: tuple[str, ...] = ()
    by: str = ""
    tool: str = ""
    note: str = ""
    at: datetime = field(default_factory=lambda: datetime.now(UTC))
    id: str = field(default_factory=lambda: str(uuid.uuid4()))


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """What training reads about one bag.

    Attributes
    ----------
    slide : node of the label tree, 0 = unknown
    tiles : (N,) int32 node per tile, 0 = unknown, or None: no tile is labelled
    time, event : survival time and whether it was observed, or None
    """

    slide: int = 0
    tiles: NDArray[np.int32] | None = None
    time: float | None = None
    event: bool | None = None

    def __post_init__(self) -> None:
        if self.tiles is not None:
            object.__setattr__(self, "tiles", frozen(self.tiles, np.int32, shape=(None,), name="tiles"))

    def classes(self, tree: LabelTree) -> tuple[int, ...]:
        """Class index of the slide per level, coarse first; −1 = unknown."""
        return tuple(tree.class_index(self.slide, level) for level in range(tree.levels))


def covered(place: Place, grid: TileGrid, *, min_cover: float = 0.25) -> NDArray[np.bool_]:
    """(N,) True for the tiles that a place labels.

    A place labels every tile it covers by at least `min_cover` of the tile's area, and always the tile it overlaps
    most, so that a small region never vanishes. The whole slide labels no tile.
    """
    raise NotImplementedError


def tile_nodes(
    corrections: Sequence[Correction], grid: TileGrid, tree: LabelTree, *, min_cover: float = 0.25
) -> NDArray[np.int32]:
    """(N,) int32 node per tile from corrections in the order given: the latest of a tile counts, None withdraws."""
    raise NotImplementedError


def slide_node(corrections: Sequence[Correction], tree: LabelTree, given: str | None = None) -> int:
    """The slide's node: the latest whole-slide correction, else the label `given` by the manifest; 0 = unknown."""
    raise NotImplementedError
