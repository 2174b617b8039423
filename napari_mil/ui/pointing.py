"""The place under the pointer: its menu by a right click, its history by key."""

from __future__ import annotations

from collections.abc import Callable

from qtpy.QtGui import QCursor
from qtpy.QtWidgets import QMenu

from napari_mil.ui import compat
from napari_mil.ui.desk import Desk
from napari_mil.ui.placehistory import PlaceHistory


class Pointing:
    """Right click on the slide while one looks; Alt+I anywhere.

    unfold : folds the section with the history out
    """

    def __init__(
        self, desk: Desk, pointer: compat.Pointer, history: PlaceHistory, unfold: Callable[[], None]
    ) -> None:
        self.desk = desk
        self._pointer, self._history, self._unfold = pointer, history, unfold
        self.stop = compat.when_clicked(desk.viewer, self.open_menu, button=2)
        desk.key("Alt+I", self.tell, "Tell the history of the place under the pointer")

    def open_menu(self, y: float, x: float) -> QMenu | None:
        """Have the tile at a world position at hand and open its menu; None beside the slide."""
        cell = self.desk.cell_at(y, x)
        if cell is None:
            return None
        self.desk.apply(cell=cell)
        menu = self._history.menu()
        menu.addSeparator()
        menu.addAction("History\tAlt+I").triggered.connect(lambda _checked=False: self._show())
        menu.popup(QCursor.pos())
        return menu

    def tell(self) -> None:
        """Show the history of the tile under the pointer, else of what is at hand."""
        if self._pointer.known:
            y, x = self.desk.viewer.cursor.position[-2:]
            self.desk.apply(cell=self.desk.cell_at(float(y), float(x)))
        self._show()

    def _show(self) -> None:
        self._unfold()
        self._history.list.setFocus()
        self._history.show_up()
