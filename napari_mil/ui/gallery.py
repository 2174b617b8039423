"""The tiles that a map speaks of most, as pictures; one click goes there."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QSize, Qt
from qtpy.QtWidgets import QListWidget, QListWidgetItem, QWidget

from napari_mil.grid import TileGrid
from napari_mil.prediction import TileMap
from napari_mil.ui import acts
from napari_mil.ui.desk import Desk
from napari_mil.ui.layers import title_of
from napari_mil.ui.state import State
from napari_mil.ui.widgets import column, picture_icon, text

MOST = 12
SIDE_PX = 64
#: Pictures follow when the map has rested for so long.
REST_MS = 200
_CELL = Qt.ItemDataRole.UserRole


class Gallery(QWidget):
    """Pictures of the top tiles of the map on show, read in the interactive lane."""

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self.desk = desk
        self.title = text()
        self.list = QListWidget()
        self.list.setViewMode(QListWidget.ViewMode.IconMode)
        self.list.setMovement(QListWidget.Movement.Static)
        self.list.setResizeMode(QListWidget.ResizeMode.Adjust)
        self.list.setIconSize(QSize(SIDE_PX, SIDE_PX))
        self.list.setGridSize(QSize(SIDE_PX + 6, SIDE_PX + 6))
        self.list.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.list.setFixedHeight(2 * (SIDE_PX + 6) + 6)
        for signal in (self.list.itemClicked, self.list.itemActivated):
            signal.connect(self._go)
        column(self, self.title, self.list, margins=(0, 0, 0, 0), spacing=2)
        self._shown: Any = None
        soon = desk.pauses.after(REST_MS, self.refresh)
        watched = ("slide", "answer", "partial", "shown", "simulated", "blind", "second", "corrections")
        acts.whenever(desk, watched, lambda _state: soon())
        desk.key("Alt+Right", lambda: self.step(1), "Go to the next tile below the list of maps")
        desk.key("Alt+Left", lambda: self.step(-1), "Go to the tile before")

    def refresh(self) -> None:
        """Ask for the pictures of the map on show, unless they are there."""
        state = self.desk.state
        found = state.map(state.seen[-1]) if state.seen and not state.partial else None
        self.setVisible(found is not None)
        if found is None or state.slide is None:
            self._shown = None
            return
        tile_map, grid = found
        top = grid.with_cells(grid.cells[top_tiles(tile_map, _attention(state, len(grid)))])
        self.title.setText(title(tile_map, len(top)))
        shown = (state.slide, top.id)
        if shown == self._shown:
            return
        self._shown = shown
        slide = state.slide

        def work() -> Any:
            return [slide.read(tuple(box), out_px=(2 * SIDE_PX, 2 * SIDE_PX)) for box in top.boxes_px]

        def show(pictures: Any) -> None:
            if self._shown == shown:
                self._fill(top, pictures)

        self.list.clear()
        self.desk.asks.ask("gallery", work, show)

    def step(self, by: int) -> None:
        """Go to the next (1) or the previous (−1) tile."""
        if self.list.count() and not self.isHidden():
            self.list.setCurrentRow((max(self.list.currentRow(), -by) + by) % self.list.count())
            self._go(self.list.currentItem())

    def _fill(self, grid: TileGrid, pictures: list[NDArray[np.uint8]]) -> None:
        for cell, picture in zip(grid.cells.tolist(), pictures, strict=True):
            item = QListWidgetItem(picture_icon(picture, SIDE_PX), "")
            item.setData(_CELL, tuple(cell))
            item.setToolTip(f"tile {cell[0]}, {cell[1]}: click goes there (Alt+Right the next)")
            self.list.addItem(item)

    def _go(self, item: QListWidgetItem) -> None:
        self.desk.go_to(item.data(_CELL))


def top_tiles(tile_map: TileMap, attention: TileMap | None = None, *, most: int = MOST) -> NDArray[np.intp]:
    """Tiles that a map speaks of most, first the most.

    Of a score the highest. Of a map of codes those that it says something of (of MHIM's roles the hidden
    ones), in the order of attention where there is one.
    """
    values = np.asarray(tile_map.values)
    if tile_map.kind == "score":
        chosen, by = np.flatnonzero(np.isfinite(values)), values
    else:
        chosen = np.flatnonzero(values == 1 if tile_map.name.startswith("hidden") else values != 0)
        by = np.arange(len(values), 0, -1) if attention is None else np.asarray(attention.values)
    return chosen[np.argsort(-by[chosen], kind="stable")][:most]


def title(tile_map: TileMap, found: int) -> str:
    """What the pictures are."""
    name = f"<b>{title_of(tile_map.name)}</b>"
    if not found:
        return f"{name}: no tiles to show"
    if tile_map.kind == "score":
        return f"Highest of {name}"
    return f"{name}: those hidden" if tile_map.name.startswith("hidden") else f"Tiles of {name}"


def _attention(state: State, tiles: int) -> TileMap | None:
    maps = state.answer.maps if state.answer else ()
    return next((m for m in maps if m.name == "attention" and len(m.values) == tiles), None)
