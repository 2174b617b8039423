"""Pictures of the slides in a list, read one after the other in the interactive lane."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QListWidget

from napari_mil.errors import MILError
from napari_mil.ui.desk import Desk
from napari_mil.ui.widgets import picture_icon


class Thumbnails:
    """Fills in the icons of a list whose items carry slide ids; a slide that cannot be read gets none."""

    def __init__(self, desk: Desk, slides: QListWidget, side_px: int) -> None:
        self._desk, self._list, self._side = desk, slides, side_px
        self._at = 0

    def start(self) -> None:
        """Begin with the first item; called when the list has been filled anew."""
        self._at = 0
        self._ask()

    def _ask(self) -> None:
        project, at = self._desk.state.project, self._at
        if project is None or at >= self._list.count():
            return
        which = self._list.item(at).data(Qt.ItemDataRole.UserRole)

        def work() -> Any:
            try:
                return project.slide(which).thumbnail(2 * self._side)
            except MILError:
                return None

        def show(pixels: Any) -> None:
            item = self._list.item(at)
            if item is not None and item.data(Qt.ItemDataRole.UserRole) == which and pixels is not None:
                item.setIcon(picture_icon(pixels, self._side))
            self._at = at + 1
            self._ask()

        self._desk.asks.ask("thumbnail", work, show)
