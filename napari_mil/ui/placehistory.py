"""What was said of the place at hand, the latest first: who, when, how, what was known and seen, and what
became of it. What is chosen there can be withdrawn, locked and remarked on.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QLineEdit, QListWidget, QListWidgetItem, QMenu, QScrollArea, QWidget

from napari_mil.correction import Cells
from napari_mil.ui import acts, writing
from napari_mil.ui.desk import Desk
from napari_mil.ui.state import State
from napari_mil.ui.widgets import button, column, row, text
from napari_mil.ui.words import history_entry

#: The ledger is asked when nothing has changed for so long.
REST_MS = 200
#: Entries that are shown, and the height by their number: of three lines each, up to three are seen.
ENTRIES, HEIGHTS_PX = 30, (0, 58, 112, 150)
_EVENT = Qt.ItemDataRole.UserRole


class PlaceHistory(QWidget):
    """The history of the tile at hand and of the regions over it; while no tile is, of the whole slide.

    Attributes
    ----------
    rows : as `workflow.place_history` tells them, the earliest first
    """

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self.desk = desk
        self.rows: list[dict[str, Any]] = []
        self._of: tuple[Any, Any] = (None, None)
        self._known: tuple[Any, Any] = (None, None)
        self.heading = text()
        self.list = QListWidget()
        self.list.setWordWrap(True)
        self.list.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.list.setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)
        self.list.customContextMenuRequested.connect(
            lambda at: self.menu().popup(self.list.viewport().mapToGlobal(at))
        )
        self.list.currentRowChanged.connect(lambda _n: self._offer())
        self.withdraw_button = button(
            "Withdraw", self.withdraw, "Take back what is chosen, however long ago it was said", key="Alt+X"
        )
        self.lock_button = button("Lock", self.lock, "", key="Alt+K")
        self.remark = QLineEdit()
        self.remark.setPlaceholderText("Note: Enter keeps it (Alt+M)")
        self.remark.setToolTip("A remark on what is chosen, or on the slide; it changes no label (Alt+M)")
        self.remark.returnPressed.connect(self.note)
        acting = row(self.withdraw_button, self.lock_button, self.remark)
        column(self, self.heading, self.list, acting, margins=(0, 0, 0, 0), spacing=3)
        desk.key("Alt+X", self.withdraw, "Withdraw what is chosen in the history")
        desk.key("Alt+K", self.lock, "Lock or unlock what is chosen in the history")
        desk.key("Alt+M", self.remark.setFocus, "Write a note")
        soon = desk.pauses.after(REST_MS, self.refresh)
        watched = ("project", "record", "slide", "corrections", "locked", "heard", "cell", "blind", "second")
        acts.whenever(desk, watched, lambda _state: soon())
        self._show([], desk.state)

    def refresh(self) -> None:
        """Ask the ledger, in the interactive lane."""
        from napari_mil.workflow import SlideHistory

        state = self.desk.state
        project, record, cell = state.project, state.record, state.cell
        if project is None or record is None or state.lattice is None or state.veiled:
            self._show([], state)
            return
        place = None if cell is None else Cells(np.array([cell], np.int32), state.lattice.pitch_px)

        def show(rows: list[dict[str, Any]]) -> None:
            now = self.desk.state
            if now.record is record and now.cell == cell and not now.veiled:
                self._show(rows, now)

        if self._known[0] != (project, record.id):
            self._known = ((project, record.id), SlideHistory(project, record.id))
        known = self._known[1]
        self.desk.asks.ask("history", lambda: known.of(place, last=ENTRIES), show)

    @property
    def chosen(self) -> int | None:
        """Number of the event that is chosen, else of the one that counts at the place at hand."""
        item, state = self.list.currentItem(), self.desk.state
        if item is not None and self._of == (state.record, state.cell):
            return int(item.data(_EVENT))
        return next((event for event, _ in state.said_of(state.cell) if event), None)

    def withdraw(self) -> None:
        """Take back what is chosen."""
        if (event := self._in_force()) is not None:
            writing.act_on(self.desk, "withdraw", event)

    def lock(self) -> None:
        """Let what is chosen count whatever is said later, or no more."""
        if (event := self._in_force()) is not None:
            verb = "unlock" if event in self.desk.state.locked else "lock"
            writing.act_on(self.desk, verb, event)

    def note(self) -> None:
        """Keep the remark that was written."""

        def kept(_event: Any) -> None:
            self.remark.clear()
            self.desk.said.emit("The note is kept.")
            self.refresh()

        writing.note(self.desk, self.remark.text(), self.chosen, kept)

    def menu(self) -> QMenu:
        """The same acts as a menu, with their keys."""
        made = QMenu(self)
        made.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        made.addAction(place_words(self.desk.state)).setEnabled(False)
        made.addSeparator()
        event = self.chosen
        counts = event in self.desk.state.events
        unlocks = event in self.desk.state.locked
        for words, act, possible in (
            ("Withdraw\tAlt+X", self.withdraw, counts and not unlocks),
            ("Unlock\tAlt+K" if unlocks else "Lock\tAlt+K", self.lock, counts),
            ("Note…\tAlt+M", self.remark.setFocus, True),
        ):
            action = made.addAction(words)
            action.triggered.connect(lambda _checked=False, act=act: act())
            action.setEnabled(possible)
        return made

    def show_up(self) -> None:
        """Be seen, in whatever is scrolled."""
        parent = self.parentWidget()
        while parent is not None and not isinstance(parent, QScrollArea):
            parent = parent.parentWidget()
        if parent is not None:
            parent.ensureWidgetVisible(self)

    def _in_force(self) -> int | None:
        """The chosen event where it counts; else the person is told."""
        event = self.chosen
        if event is not None and event in self.desk.state.events:
            return event
        self.desk.tell(
            "Nothing in force is chosen: click a tile that was labelled, or an entry of its history."
        )
        return None

    def _show(self, rows: list[dict[str, Any]], state: State) -> None:
        chosen = self.list.currentItem().data(_EVENT) if self.list.currentItem() else None
        counting = next((event for event, _ in state.said_of(state.cell)), None)
        self.rows, self._of = rows, (state.record, state.cell)
        self.list.clear()
        for said in reversed(rows):
            item = QListWidgetItem(history_entry(said))
            item.setData(_EVENT, said["event"])
            font = item.font()
            font.setBold(said["event"] == counting and state.cell is not None)
            font.setItalic(not said["in_force"])
            item.setFont(font)
            self.list.addItem(item)
            if said["event"] == chosen:
                self.list.setCurrentItem(item)
        self.list.setFixedHeight(HEIGHTS_PX[min(len(rows), len(HEIGHTS_PX) - 1)])
        self.list.setVisible(bool(rows))
        what = _what(state)
        self.heading.setText(f"<b>Said of {what}</b>" if rows else f"Nothing was said of {what} yet.")
        self.setVisible(state.record is not None and not state.veiled)
        self._offer()

    def _offer(self) -> None:
        """Offer what can be done with what is chosen."""
        event, state = self.chosen, self.desk.state
        counts, locked = event in state.events, event in state.locked
        self.withdraw_button.setEnabled(counts and not locked)
        self.lock_button.setEnabled(counts)
        self.lock_button.setText("Unlock" if locked else "Lock")
        tip = "Let later labels count again" if locked else "Let it count whatever is said later"
        self.lock_button.setToolTip(f"{tip} (Alt+K)")


def place_words(state: State) -> str:
    """The place at hand and what it is called."""
    event, counts = next(iter(state.said_of(state.cell)), (0, None))
    if counts is None:
        return f"{_what(state)}: nothing said"
    locked = ", locked" if event in state.locked else ""
    return f"{_what(state)}: {counts.label or 'label taken away'} ({counts.by or 'somebody'}{locked})"


def _what(state: State) -> str:
    return "this slide" if state.cell is None else "tile {}, {}".format(*state.cell)
