"""What lies in front of one viewer's user, as a frozen noun. Pure."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_mil.correction import Cells, Correction, Polygon, WholeSlide, region, tiles_of
from napari_mil.grid import TileGrid
from napari_mil.prediction import TileMap
from napari_mil.ui.layers import OUTLINED_PX, Near

if TYPE_CHECKING:
    from napari_mil.bag import Bag
    from napari_mil.card import ModelCard
    from napari_mil.ledger import SlideRecord
    from napari_mil.prediction import Prediction
    from napari_mil.slides import Slide
    from napari_mil.workflow import Project

#: Lattices of so many cells have their lines drawn at once, larger ones where the view is.
SMALL = 250 * 250


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """Everything that is on the table. None and empty say that it is not there yet.

    Attributes
    ----------
    project : the open project
    record, slide : the slide in front
    card : the model that was chosen
    answer, answer_grid : what the model said, and the grid of its tiles; partial while tiles are still on
    their way
    bag : the slide's features, where they are kept
    simulated : maps that were simulated here (hidden tiles), over `bag.grid`
    shown : names of the maps on show
    style : "raw" values of score maps, or their "rank"
    lattice : every cell of the slide, for painting
    corrections : in force on this slide, in the order in which they count
    events, locked : number of the event of each correction (0: not kept yet); those that count whatever is
        said later
    pending : said, and not kept yet
    cell : the tile at hand: clicked, gone to or asked about; None: the slide as a whole
    nodes : (cells of the lattice,) int32 node that people gave each cell, 0 = nothing said
    node : the label to give next; 0 takes labels away, None: nothing was chosen yet
    beside : other slides on show, to the right of the one in front
    blind : maps and answer stay hidden until the slide in front has its first label from a person
    second : a second reading is on: what anybody said, and what the model says, stays hidden
    tile_screen_px : width of a tile on screen, to the nearest power of two; lines are drawn for it
    near : cells of a large lattice that lines are drawn for: those in view and some around; None: all
    changed_models : counts up when models come or are adopted
    heard : number of the ledger's last event that is on show
    """

    project: Project | None = None
    record: SlideRecord | None = None
    slide: Slide | None = None
    card: ModelCard | None = None
    answer: Prediction | None = None
    answer_grid: TileGrid | None = None
    partial: bool = False
    bag: Bag | None = None
    simulated: tuple[TileMap, ...] = ()
    shown: tuple[str, ...] = ()
    style: str = "raw"
    lattice: TileGrid | None = None
    corrections: tuple[Correction, ...] = ()
    events: tuple[int, ...] = ()
    locked: frozenset[int] = frozenset()
    pending: tuple[Correction, ...] = ()
    cell: tuple[int, int] | None = None
    nodes: NDArray[np.int32] | None = None
    node: int | None = None
    beside: tuple[Slide, ...] = ()
    blind: bool = False
    second: bool = False
    tile_screen_px: float = 64.0
    near: Near = None
    changed_models: int = 0
    heard: int = 0

    @property
    def veiled(self) -> bool:
        """Whether what the model says of this slide, and what it is labelled, must not be seen yet."""
        return self.second or (self.blind and not self.corrections)

    @property
    def coarse(self) -> bool:
        """Whether tiles are so small on screen that what people said is filled, not outlined."""
        return self.tile_screen_px < OUTLINED_PX

    @property
    def slide_label(self) -> str | None:
        """Label text of the slide in front: what was said last, else what the manifest gave."""
        given = self.record.label if self.record else None
        said = (c.label for c in reversed(self.corrections) if isinstance(c.place, WholeSlide))
        return next(said, given)

    def said_of(self, cell: tuple[int, int] | None) -> list[tuple[int, Correction]]:
        """What is in force of a tile, or for None of the slide as a whole, with the numbers of the events;
        the first of them counts.
        """
        both = zip(reversed(self.events), reversed(self.corrections), strict=False)
        if cell is None or self.lattice is None:
            return [(event, c) for event, c in both if isinstance(c.place, WholeSlide)]
        tile = cell[0] * self.lattice.shape[1] + cell[1]
        return [(event, c) for event, c in both if _holds(tiles_of(c.place, self.lattice), tile)]

    @property
    def seen(self) -> tuple[str, ...]:
        """Names of the maps on show that may be seen."""
        return () if self.veiled else self.shown

    @property
    def maps(self) -> tuple[TileMap, ...]:
        """Every map there is: the model's, then the simulated ones."""
        return (*(self.answer.maps if self.answer else ()), *self.simulated)

    def map(self, name: str) -> tuple[TileMap, TileGrid] | None:
        """A map and the grid it lies on, or None."""
        for found in self.simulated:
            if found.name == name and self.bag is not None:
                return found, self.bag.grid
        for found in self.answer.maps if self.answer else ():
            if found.name == name and self.answer_grid is not None:
                return found, self.answer_grid
        return None


def _holds(tiles: NDArray[np.intp], tile: int) -> bool:
    """Whether a tile is among tiles in rising order."""
    at = int(np.searchsorted(tiles, tile))
    return at < len(tiles) and int(tiles[at]) == tile


def inside(place: Polygon | Cells) -> NDArray[np.float64]:
    """(2,) y, x of a point that lies in a place, near its middle, in level-0 pixels."""
    if isinstance(place, Polygon):
        point = region(place).representative_point()
        return np.array([point.x, point.y])  # regions are (y, x)
    middles = (place.cells + 0.5) * place.pitch_px
    nearest: NDArray[np.float64] = middles[np.square(middles - middles.mean(0)).sum(1).argmin()]
    return nearest


def around(box_px: tuple[float, ...], lattice: TileGrid, known: Near) -> Near:
    """The cells of a large lattice that a view shows, with as much again on every side; the known ones as
    long as they hold the view and are not far larger. None for a small lattice: all cells.
    """
    if lattice.shape[0] * lattice.shape[1] <= SMALL:
        return None
    box = np.array(box_px).reshape(2, 2) / lattice.pitch_px
    if known is not None:
        top, left, bottom, right = known
        inside = (box[0] >= (top, left)).all() and (box[1] <= (bottom, right)).all()
        if inside and (bottom - top) * (right - left) <= 36 * np.prod(box[1] - box[0]):
            return known
    size = box[1] - box[0]
    low = np.clip(np.floor(box[0] - size), 0, lattice.shape).astype(int)
    high = np.clip(np.ceil(box[1] + size), 0, lattice.shape).astype(int)
    return (int(low[0]), int(low[1]), int(high[0]), int(high[1]))


def cell_at(lattice: TileGrid, y: float, x: float) -> tuple[int, int] | None:
    """The cell at a world position (µm, or pixels when µm are unknown), or None beside the lattice."""
    mpp = lattice.slide_mpp or (1.0, 1.0)
    row = int((y / mpp[0] + 0.5) // lattice.pitch_px[0])
    col = int((x / mpp[1] + 0.5) // lattice.pitch_px[1])
    return (row, col) if 0 <= row < lattice.shape[0] and 0 <= col < lattice.shape[1] else None


def fresh(state: State) -> dict[str, Any]:
    """Changes that clear everything that belongs to one slide."""
    theirs = ("project", "card", "shown", "style", "node", "blind", "second")
    kept = (*theirs, "tile_screen_px", "changed_models", "heard", "pending")
    empty = State()
    return {f.name: getattr(empty, f.name) for f in fields(state) if f.name not in kept}
