"""What people said of the slide in front, the latest first."""

from __future__ import annotations

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QListWidget

from napari_mil.ui import acts
from napari_mil.ui.desk import Desk
from napari_mil.ui.state import State
from napari_mil.ui.words import history_line

ENTRIES = 30
#: Height by number of entries: of two lines each, up to three are seen.
HEIGHTS_PX = (24, 42, 78, 108)


class HistoryList(QListWidget):
    """One entry per correction; only as high as it needs to be."""

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self.setWordWrap(True)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        acts.whenever(desk, ("corrections", "record"), self._fill)

    def _fill(self, state: State) -> None:
        self.clear()
        self.addItems([history_line(c) for c in reversed(state.corrections[-ENTRIES:])])
        self.setVisible(self.count() > 0)
        self.setFixedHeight(HEIGHTS_PX[min(self.count(), len(HEIGHTS_PX) - 1)])
