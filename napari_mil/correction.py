"""What a person said about a place, and what training reads from it."""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_mil.arrays import frozen
from napari_mil.errors import LabelError, reason
from napari_mil.grid import TileGrid
from napari_mil.labeltree import LabelTree, Survival


@dataclass(frozen=True, slots=True)
class WholeSlide:
    """The place is the slide itself."""


@dataclass(frozen=True, slots=True, eq=False)
class Polygon:
    """A region as drawn: outer ring first, then holes.

    Each ring is (n ≥ 3, 2) float64, (y, x) in level-0 pixels, not closed.
    """

    rings: tuple[NDArray[np.float64], ...]

    def __post_init__(self) -> None:
        rings = tuple(frozen(r, np.float64, shape=(None, 2), name="ring") for r in self.rings)
        if not rings or any(len(r) < 3 or not np.isfinite(r).all() for r in rings):
            raise LabelError("A region needs rings of at least three finite points.")
        object.__setattr__(self, "rings", rings)


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """Painted cells: (n, 2) int32 (row, col) on a lattice that starts at the slide's corner.

    `pitch_px` is the distance of neighbouring cells (y, x) in level-0 pixels.
    """

    cells: NDArray[np.int32]
    pitch_px: tuple[float, float]

    def __post_init__(self) -> None:
        try:
            cells = frozen(self.cells, np.int32, shape=(None, 2), name="cells")
        except ValueError as error:
            raise LabelError(f"Painted cells are pairs of row and column: {reason(error)}.") from error
        object.__setattr__(self, "cells", cells)
        pitch = (float(self.pitch_px[0]), float(self.pitch_px[1]))
        object.__setattr__(self, "pitch_px", pitch)
        if not len(self.cells) or not all(map(math.isfinite, pitch)) or min(pitch) <= 0:
            raise LabelError(f"Painted cells need at least one cell and a positive pitch; got {pitch} px.")

    @property
    def keys(self) -> NDArray[np.int64]:
        """(n,) one number per cell, equal for equal cells of a lattice."""
        return self.cells[:, 0].astype(np.int64) << 32 | self.cells[:, 1].astype(np.int64)


Place = WholeSlide | Polygon | Cells


@dataclass(frozen=True, slots=True, eq=False)
class Correction:
    """One statement: this place has that label.

    It is about a place and states label text, so it survives re-tiling.

    Attributes
    ----------
    slide_id : fingerprint of the slide
    place : the whole slide, a polygon, or painted cells
    label : label path ("Atypical/ADH", or coarse "Atypical"), or None: withdrawn
    was : label text of the place before, or None
    model_id, model_said, model_confidence : what the model had said there at that moment, where there was
        one: its label of the slide, or of all tiles of the place, whose mean probability then is the
        confidence; "no call" where it called none of them, None where it called them differently
    visible : names of the maps that were on screen
    by, at, tool, note : who, when (UTC; None where nobody knows, as for a manifest's label), with which tool,
        why
    id : unique; kept through export and import
    replaces : id of an earlier correction that counts no more, and in whose place this one does; "" = none
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
    at: datetime | None = field(default_factory=lambda: datetime.now(UTC))
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    replaces: str = ""


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
        if (self.time is None) != (self.event is None) or (self.time is not None and not self.time >= 0):
            raise LabelError(
                f"Survival needs a time of at least 0 and whether the event was observed; got time "
                f"{self.time} and event {self.event}."
            )

    def says(self, tree: LabelTree) -> bool:
        """Whether something is known of the bag as a whole for this task: its label, or its survival."""
        return self.time is not None if isinstance(tree, Survival) else bool(self.slide)

    def classes(self, tree: LabelTree) -> tuple[int, ...]:
        """Class index of the slide per level, coarse first; −1 = unknown."""
        return tuple(tree.class_index(self.slide, level) for level in range(tree.levels))


def covered(place: Place, grid: TileGrid, *, min_cover: float = 0.25) -> NDArray[np.bool_]:
    """(N,) True for the tiles that a place labels.

    A place labels every tile it covers by at least `min_cover` of the tile's area, and always the tile it
    overlaps most, so that a small region never vanishes. The whole slide labels no tile, and neither does a
    place where the grid has no tile.
    """
    inside = np.zeros(len(grid), bool)
    inside[_tiles(place, grid, float(min_cover))] = True
    return inside


def tile_nodes(
    corrections: Sequence[Correction], grid: TileGrid, tree: LabelTree, *, min_cover: float = 0.25
) -> NDArray[np.int32]:
    """(N,) int32 node per tile from corrections in the order given.

    The latest correction of a tile counts, a withdrawn label (None) clears it. LabelError when a correction
    states a label that the tree does not have.
    """
    nodes = np.zeros(len(grid), np.int32)
    known: dict[str | None, int] = {}
    for c in corrections:
        if isinstance(c.place, WholeSlide):
            continue
        if c.label not in known:
            known[c.label] = tree.node(c.label)
        nodes[_tiles(c.place, grid, float(min_cover))] = known[c.label]
    return nodes


def nodes_after(
    nodes: NDArray[np.int32],
    before: Sequence[Correction],
    after: Sequence[Correction],
    grid: TileGrid,
    tree: LabelTree,
    *,
    min_cover: float = 0.25,
) -> NDArray[np.int32]:
    """(N,) int32 `tile_nodes(after, …)` from `nodes`, which is `tile_nodes(before, …)`: only the tiles of
    what differs are looked at.
    """
    first = next((i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a is not b), None)
    start = min(len(before), len(after)) if first is None else first
    same = 0
    while same < min(len(before), len(after)) - start and before[-1 - same] is after[-1 - same]:
        same += 1
    changed = [*before[start : len(before) - same], *after[start : len(after) - same]]
    touched = [_tiles(c.place, grid, float(min_cover)) for c in changed]
    if sum(map(len, touched)) > len(grid) // 4:
        return tile_nodes(after, grid, tree, min_cover=min_cover)
    asked = np.zeros(len(grid), bool)
    for tiles in touched:
        asked[tiles] = True
    made = nodes.copy()
    for tiles in touched:
        made[tiles] = 0
    low = min((tiles[0] for tiles in touched if len(tiles)), default=0)
    high = max((tiles[-1] for tiles in touched if len(tiles)), default=-1)
    left = int(np.count_nonzero(asked[low : high + 1]))
    for c in reversed(after):
        if not left:
            break
        tiles = _tiles(c.place, grid, float(min_cover))  # in rising order
        if not len(tiles) or tiles[0] > high or tiles[-1] < low:
            continue
        tiles = tiles[asked[tiles]]
        if len(tiles):
            made[tiles] = tree.node(c.label)
            asked[tiles] = False
            left -= len(tiles)
    return made


def tiles_of(place: Place, grid: TileGrid, *, min_cover: float = 0.25) -> NDArray[np.intp]:
    """(n,) indices of the tiles that a place labels, as `covered` has it."""
    return _tiles(place, grid, float(min_cover))


def slide_node(corrections: Sequence[Correction], tree: LabelTree, given: str | None = None) -> int:
    """The slide's node: the latest whole-slide correction, else the manifest's label `given`; 0 = unknown.

    A withdrawn slide label leaves the slide unknown; undoing the correction brings the manifest's label back.
    """
    said = [c.label for c in corrections if isinstance(c.place, WholeSlide)]
    return tree.node(said[-1] if said else given)


@lru_cache(maxsize=4)
def _lookup(grid: TileGrid) -> NDArray[np.int32]:
    return grid.lookup()


@lru_cache(maxsize=4096)
def _tiles(place: Place, grid: TileGrid, min_cover: float) -> NDArray[np.intp]:
    """(n,) indices of the tiles that a place labels; remembered, since undo replays the same places."""
    if isinstance(place, WholeSlide) or not len(grid):
        return np.empty(0, np.intp)
    if isinstance(place, Cells) and np.allclose(place.pitch_px, grid.pitch_px, rtol=1e-9, atol=0):
        rows, cols = grid.shape
        r, c = place.cells.T
        at = place.cells[(r >= 0) & (c >= 0) & (r < rows) & (c < cols)]
        found = np.unique(_lookup(grid)[at[:, 0], at[:, 1]])
        return found[found >= 0].astype(np.intp)
    tiles, shares = _cells_cover(place, grid) if isinstance(place, Cells) else _polygon_cover(place, grid)
    if not len(tiles) or shares.max() <= 0:
        return np.empty(0, np.intp)
    wanted = shares >= min_cover - 1e-9
    wanted[np.argmax(shares)] = True
    return tiles[wanted]


def _cells_cover(place: Cells, grid: TileGrid) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Every tile and the share of it that painted cells of another pitch cover.

    Both are axis-aligned, so the shared area is (overlap of rows) · (painted or not) · (overlap of columns).
    """
    rows, row_at = np.unique(place.cells[:, 0], return_inverse=True)
    cols, col_at = np.unique(place.cells[:, 1], return_inverse=True)
    painted = np.zeros((len(rows), len(cols)))
    painted[row_at, col_at] = 1
    (high, wide), (pitch_y, pitch_x) = grid.shape, grid.pitch_px
    down = _overlap(np.arange(high) * pitch_y, pitch_y, rows * place.pitch_px[0], place.pitch_px[0])
    across = _overlap(np.arange(wide) * pitch_x, pitch_x, cols * place.pitch_px[1], place.pitch_px[1])
    shares = grid.gather(down @ painted @ across.T) / (pitch_y * pitch_x)
    return np.arange(len(grid)), shares


def _overlap(a: NDArray[Any], a_side: float, b: NDArray[Any], b_side: float) -> NDArray[np.float64]:
    """(A, B) length that the intervals a…a + a_side and b…b + b_side share."""
    ends = np.minimum((a + a_side)[:, None], (b + b_side)[None])
    shared: NDArray[np.float64] = np.maximum(0.0, ends - np.maximum(a[:, None], b[None]))
    return shared


def region(place: Polygon) -> Any:
    """The shapely Polygon or MultiPolygon of a drawn region, (y, x) in level-0 pixels.

    One that crosses itself is mended: every lobe counts. One without area, such as a line, becomes empty.
    """
    import shapely

    drawn = shapely.Polygon(place.rings[0], place.rings[1:])
    if drawn.is_valid:
        return drawn
    with np.errstate(all="ignore"):  # the geometry engine sets floating-point flags on its way
        mended = shapely.make_valid(drawn, method="structure", keep_collapsed=False)
    parts = shapely.get_parts(shapely.get_parts([mended]))
    areas = parts[shapely.get_type_id(parts) == shapely.GeometryType.POLYGON]
    return areas[0] if len(areas) == 1 else shapely.MultiPolygon(list(areas))


def _polygon_cover(place: Polygon, grid: TileGrid) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """The tiles that meet a polygon and the share of each that it covers."""
    import shapely

    shape = region(place)
    if shape.area <= 0:  # a line or a point labels the tile under its middle
        middle = place.rings[0].mean(0)
        shape = shapely.box(*(middle - 1e-3), *(middle + 1e-3))
    tiles = _near(shape.bounds, grid)
    pitch = np.array(grid.pitch_px)
    low = grid.cells[tiles] * pitch
    boxes = shapely.box(low[:, 0], low[:, 1], low[:, 0] + pitch[0], low[:, 1] + pitch[1])
    shapely.prepare(shape)
    meets = shapely.intersects(shape, boxes)
    tiles, boxes = tiles[meets], boxes[meets]
    shares = np.ones(len(tiles))
    partly = ~shapely.contains(shape, boxes)
    with np.errstate(all="ignore"):
        shares[partly] = shapely.area(shapely.intersection(shape, boxes[partly])) / pitch.prod()
    return tiles, shares


def _near(box_px: tuple[float, float, float, float], grid: TileGrid) -> NDArray[np.intp]:
    """(n,) indices of the tiles whose cells may meet a box y0, x0, y1, x1."""
    pitch, size = np.array(grid.pitch_px), np.array(grid.shape)
    first = np.clip(np.floor(np.array(box_px[:2]) / pitch) - 1, 0, size).astype(int)
    last = np.clip(np.floor(np.array(box_px[2:]) / pitch) + 2, 0, size).astype(int)
    found = _lookup(grid)[first[0] : last[0], first[1] : last[1]].ravel()
    return found[found >= 0].astype(np.intp)


def to_record(correction: Correction) -> dict[str, Any]:
    """A correction as a JSON-ready mapping; `from_record` is its exact inverse."""
    c, place = correction, place_record(correction.place)
    record: dict[str, Any] = {"id": c.id, "slide_id": c.slide_id, "place": place, "label": c.label}
    record |= {name: getattr(c, name) for name in _PLAIN} | ({"replaces": c.replaces} if c.replaces else {})
    return record | {"visible": list(c.visible), "at": c.at and _utc(c.at).isoformat()}


def _utc(at: datetime) -> datetime:
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(UTC)


def from_record(record: Mapping[str, Any]) -> Correction:
    """A correction from `to_record`'s mapping; LabelError when it is none."""
    try:
        return Correction(
            slide_id=str(record["slide_id"]),
            place=place_from(record["place"]),
            label=record["label"],
            visible=tuple(record["visible"]),
            at=None if record["at"] is None else datetime.fromisoformat(record["at"]),
            id=str(record["id"]),
            replaces=str(record.get("replaces") or ""),
            **{name: record[name] for name in _PLAIN},
        )
    except LabelError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise LabelError(f"This is no correction: {type(error).__name__} {reason(error)}.") from error


_PLAIN = ("was", "model_id", "model_said", "model_confidence", "by", "tool", "note")
_MOST_CELLS = 1 << 27


def place_record(place: Place) -> dict[str, Any]:
    """A place as a JSON-ready mapping; cells in reading order become runs [row, first col, last col]."""
    if isinstance(place, WholeSlide):
        return {"kind": "slide"}
    if isinstance(place, Polygon):
        return {"kind": "polygon", "rings": [ring.tolist() for ring in place.rings]}
    record: dict[str, Any] = {"kind": "cells", "pitch_px": list(place.pitch_px)}
    step = np.diff(place.cells.astype(np.int64), axis=0)
    if not ((step[:, 0] > 0) | ((step[:, 0] == 0) & (step[:, 1] > 0))).all():
        return record | {"cells": place.cells.tolist()}
    breaks = np.flatnonzero((step != (0, 1)).any(1))
    first, last = np.r_[0, breaks + 1], np.r_[breaks, len(place.cells) - 1]
    return record | {"runs": np.c_[place.cells[first], place.cells[last, 1]].tolist()}


def place_from(record: Mapping[str, Any]) -> Place:
    """A place from `place_record`'s mapping; LabelError when it is none."""
    kind = record.get("kind")
    if kind == "slide":
        return WholeSlide()
    if kind == "polygon":
        return Polygon(tuple(np.array(ring, np.float64) for ring in record["rings"]))
    if kind != "cells":
        raise LabelError(f"A place of kind {kind!r} is unknown; there are slide, polygon and cells.")
    pitch = (float(record["pitch_px"][0]), float(record["pitch_px"][1]))
    if "cells" in record:
        return Cells(np.array(record["cells"], np.int32), pitch)
    runs: Any = np.array(record["runs"], np.int64).reshape(-1, 3)
    row, first, last = runs.T
    lengths = last - first + 1
    if (lengths < 1).any() or lengths.sum() > _MOST_CELLS:
        raise LabelError("Painted cells are written as runs [row, first col, last col], first ≤ last.")
    if (lengths == 1).all():
        return Cells(runs[:, :2], pitch)
    start = np.cumsum(lengths) - lengths
    cols = np.arange(lengths.sum()) - np.repeat(start - first, lengths)
    return Cells(np.c_[np.repeat(row, lengths), cols], pitch)
