"""The card of one tile, on the canvas: its picture at full resolution and everything that is known of it."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QEvent, Qt
from qtpy.QtGui import QImage, QPixmap
from qtpy.QtWidgets import QFrame, QLabel, QToolButton

from napari_mil.ui import compat
from napari_mil.ui.desk import Desk
from napari_mil.ui.state import State
from napari_mil.ui.widgets import column, row, text

SIDE_PX, MARGIN_PX = 208, 8


class TileCard(QFrame):
    """Shown by a click on a tile while one looks; gone by a click beside the slide, or on its cross.

    read : what the status bar says of a world position
    """

    def __init__(self, desk: Desk, read: Callable[[float, float], str]) -> None:
        super().__init__(compat.canvas_widget(desk.viewer))
        self.desk, self._read = desk, read
        self.setObjectName("tileCard")
        self.setFixedWidth(SIDE_PX + 20)
        self.picture = QLabel()
        self.picture.setFixedSize(SIDE_PX, SIDE_PX)
        self.heading, self.words = text(), text()
        shut = QToolButton()
        shut.setText("✕")
        shut.setToolTip("Close the tile's card")
        shut.clicked.connect(lambda _checked=False: self.show_cell(None))
        column(
            self, row(self.heading, None, shut), self.picture, self.words, margins=(10, 4, 10, 6), spacing=3
        )
        compat.float_over_canvas(self, desk.viewer)
        desk.theme_changed.connect(lambda: compat.float_over_canvas(self, desk.viewer))
        desk.changed.connect(self._changed)
        self.stop = compat.when_clicked(desk.viewer, self.show_at)
        self.parent().installEventFilter(self)
        self.hide()

    @property
    def cell(self) -> tuple[int, int] | None:
        """The cell whose card is shown."""
        return self.desk.state.cell

    def show_at(self, y: float, x: float) -> None:
        """Show the card of the tile at a world position; beside the slide it goes away."""
        self.show_cell(self.desk.cell_at(y, x))

    def show_cell(self, cell: tuple[int, int] | None) -> None:
        """Have a cell at hand, or none: its card is shown."""
        self.desk.apply(cell=cell)

    def _fill(self, state: State) -> None:
        cell, slide, lattice = state.cell, state.slide, state.lattice
        if cell is None or slide is None or lattice is None:
            self.hide()
            return
        self._say()
        self.picture.clear()
        box = tuple(lattice.with_cells([cell]).boxes_px[0])
        full = tuple(round(side) for side in lattice.pitch_px)

        def show(pixels: Any) -> None:
            if self.cell == cell and self.desk.state.slide is slide:
                self.picture.setPixmap(_fitted(pixels))

        self.desk.asks.ask("tile card", lambda: slide.read(box, out_px=full), show)

    def eventFilter(self, _watched: Any, event: QEvent) -> bool:  # noqa: N802 - Qt's name
        """Stay in the corner when the canvas changes its size."""
        if event.type() == QEvent.Type.Resize:
            self._place()
        return False

    def _changed(self, before: State, after: State) -> None:
        if before.slide is not after.slide or before.cell != after.cell:
            self._fill(after)
        elif self.cell is not None:
            self._say()

    def _say(self) -> None:
        heading, *lines = self._read(*self.desk.middle_of(self.cell)).split(" · ")
        self.heading.setText(f"<b>{escape(heading)}</b>")
        self.words.setText("<br>".join(map(escape, lines)))
        self.show()
        self.layout().activate()
        self.resize(self.width(), self.layout().heightForWidth(self.width()))
        self._place()

    def _place(self) -> None:
        self.move(MARGIN_PX, self.parent().height() - self.height() - MARGIN_PX)
        self.raise_()


def _fitted(pixels: NDArray[np.uint8]) -> QPixmap:
    whole = np.ascontiguousarray(pixels)
    height, width = whole.shape[:2]
    image = QImage(whole.data, width, height, 3 * width, QImage.Format.Format_RGB888).copy()
    how = Qt.AspectRatioMode.KeepAspectRatio, Qt.TransformationMode.SmoothTransformation
    return QPixmap.fromImage(image).scaled(SIDE_PX, SIDE_PX, *how)
