"""Contradictions of the whole project: listed, counted, and gone to one after the other by key."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QListWidget, QWidget

from napari_mil.ui import acts
from napari_mil.ui.desk import Desk
from napari_mil.ui.widgets import button, column, row, text

if TYPE_CHECKING:
    from napari_mil.workflow import Contradiction

#: They are looked for when nothing has been said for so long.
REST_MS = 200
#: Height by number of entries: of two or three lines each.
HEIGHTS_PX = (0, 58, 96, 112)


class ContradictionList(QWidget):
    """Hidden while there are none.

    Attributes
    ----------
    found : the contradictions that are listed
    """

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self.desk = desk
        self.found: tuple[Contradiction, ...] = ()
        self._known: tuple[Any, dict[str, Any]] = (None, {})
        self.heading = text()
        self.heading.setWordWrap(False)
        self.list = QListWidget()
        self.list.setWordWrap(True)
        self.list.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        for signal in (self.list.itemClicked, self.list.itemActivated):
            signal.connect(lambda _item: self.go(self.list.currentRow()))
        self.previous = button("▲", lambda: self.step(-1), "The contradiction before", key="Alt+Shift+D")
        self.next = button("▼", lambda: self.step(1), "Go to the next contradiction", key="Alt+D")
        head = row(self.heading, None, self.previous, self.next)
        column(self, head, self.list, margins=(0, 0, 0, 0), spacing=2)
        desk.key("Alt+D", lambda: self.step(1), "Go to the next contradiction")
        desk.key("Alt+Shift+D", lambda: self.step(-1), "Go to the contradiction before")
        soon = desk.pauses.after(REST_MS, self.refresh)
        acts.whenever(desk, ("project", "corrections", "heard", "second"), lambda _state: soon())
        self._show(())

    def refresh(self) -> None:
        """Look for them, in the interactive lane."""
        from napari_mil.workflow import contradictions

        project = self.desk.state.project
        if project is None or self.desk.state.second:
            self._show(())
            return

        def show(found: tuple[Contradiction, ...]) -> None:
            if self.desk.state.project is project:
                self._show(found)

        if self._known[0] is not project:
            self._known = (project, {})
        known = self._known[1]
        self.desk.asks.ask("contradictions", lambda: contradictions(project, known=known), show)

    def step(self, by: int) -> None:
        """Go to the next (1) or the previous (−1) contradiction."""
        if self.found:
            at = self.list.currentRow()
            self.go((at + by) % len(self.found) if at >= 0 or by > 0 else len(self.found) - 1)
        else:
            self.desk.said.emit("There is no contradiction.")

    def go(self, number: int) -> None:
        """Bring the place of a contradiction to the front, on whichever slide it lies."""
        if 0 <= number < len(self.found):
            self.list.setCurrentRow(number)
            acts.visit(self.desk, self.found[number].record, self.found[number].place)
            self._count()

    def _show(self, found: tuple[Contradiction, ...]) -> None:
        """List what was found; the one that was gone to stays marked."""
        at = self.list.currentRow()
        marked = self.found[at].events if 0 <= at < len(self.found) else None
        self.found = found
        self.list.clear()
        self.list.addItems([str(one) for one in found])
        self.list.setFixedHeight(HEIGHTS_PX[min(len(found), len(HEIGHTS_PX) - 1)])
        self.list.setCurrentRow(next((n for n, one in enumerate(found) if one.events == marked), -1))
        self._count()
        self.setVisible(bool(found))

    def _count(self) -> None:
        n, at = len(self.found), self.list.currentRow()
        where = f" · {at + 1} of {n}" if at >= 0 else ""
        self.heading.setText(f"<b>{n:,} contradiction{'' if n == 1 else 's'}</b>{where}")
