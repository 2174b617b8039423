"""Instances: what the model saw. Maps at one click, and the tiles that MHIM hides."""

from __future__ import annotations

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication, QCheckBox, QTreeWidget, QTreeWidgetItem, QWidget

from napari_mil.ui import acts
from napari_mil.ui.desk import Desk
from napari_mil.ui.gallery import Gallery
from napari_mil.ui.hidden import HIDDEN, HiddenTiles
from napari_mil.ui.state import State
from napari_mil.ui.widgets import column, hint, row
from napari_mil.ui.words import hidden_words

_NAME = Qt.ItemDataRole.UserRole
#: What the first part of a map's name is called on screen, in the order of the list.
GROUPS = {
    "attention": "Attention",
    "class": "Class of each tile",
    "lesion": "Lesion",
    "risk": "Risk",
    "evidence": "Evidence for a class",
    "probability": "Probability of a class",
    "disagreement": "Coarse and fine disagree",
    "difference": "Difference to the new model",
}
EMPTY = "Run a model to see what it looked at."


class InstancesSection(QWidget):
    """The maps of the answer on show."""

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self.desk = desk
        self.empty = hint()
        self.list = QTreeWidget()
        self.list.setHeaderHidden(True)
        self.list.setFixedHeight(158)
        self.list.setSelectionMode(QTreeWidget.SelectionMode.MultiSelection)
        self.list.itemClicked.connect(self._clicked)
        self.rank = QCheckBox("Show scores as ranks")
        self.rank.setToolTip("Colour tiles by their place among all tiles instead of by the score itself")
        self.rank.toggled.connect(lambda on: desk.apply(style="rank" if on else "raw"))
        self.hidden = HiddenTiles(desk)
        self.legend = QCheckBox("Legend")
        self.legend.setToolTip("What the colours mean, on the picture (Alt+O)")
        self.legend.setChecked(True)
        self.gallery = Gallery(desk)
        shown = row(self.rank, None, self.legend)
        column(self, self.empty, self.list, shown, self.hidden, self.gallery)
        self._names: tuple[str, ...] = ()
        acts.whenever(
            desk, ("answer", "shown", "simulated", "blind", "second", "corrections"), self._show_list
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the maps there are."""
        return self._names

    def show_map(self, name: str, *, alone: bool = True) -> None:
        """Put a map on show; `alone` takes the others away. A map on show is taken away."""
        acts.show_map(self.desk, name, alone=alone)

    def _clicked(self, item: QTreeWidgetItem, _column: int) -> None:
        if name := item.data(0, _NAME):
            self.show_map(name, alone=not _control_is_held())
        else:
            item.setExpanded(not item.isExpanded())
        self._show_list(self.desk.state)  # what is marked is what is on show, whatever the click did

    def _show_list(self, state: State) -> None:
        names = () if state.veiled else tuple(m.name for m in state.maps if m.name != HIDDEN)
        self.empty.setText(hidden_words(state, "The answer") if state.veiled else EMPTY)
        self.empty.setVisible(not names)
        self.hidden.setEnabled(not state.veiled)
        for part in (self.list, self.rank, self.legend):
            part.setVisible(bool(names))
        if names != self._names:
            self._names = names
            self._fill(names)
        for item in self._items():
            on = item.data(0, _NAME) in state.shown
            item.setSelected(on)
            if on:
                self.list.scrollToItem(item)  # unfolds its group too

    def _fill(self, names: tuple[str, ...]) -> None:
        self.list.clear()
        for head, words in ordered_groups(names):
            members = sorted((n for n in names if n.split("/")[0].split(" ")[0] == head), key=_coarse_first)
            if len(members) == 1:
                self.list.addTopLevelItem(_item(words, members[0]))
                continue
            parent = QTreeWidgetItem([words])
            self.list.addTopLevelItem(parent)
            for name in members:
                parent.addChild(_item(" · ".join(name.split("/")[1:]) or "overall", name))
            parent.setExpanded(head in ("attention", "class"))

    def _items(self) -> list[QTreeWidgetItem]:
        tops = [self.list.topLevelItem(i) for i in range(self.list.topLevelItemCount())]
        every = [t.child(i) for t in tops for i in range(t.childCount())] + tops
        return [item for item in every if item.data(0, _NAME)]


def ordered_groups(names: tuple[str, ...]) -> list[tuple[str, str]]:
    """(first part of the names, words) in the order of GROUPS, then whatever else there is."""
    heads = dict.fromkeys(n.split("/")[0].split(" ")[0] for n in names)
    known = [h for h in GROUPS if h in heads]
    words = GROUPS | ({"evidence": "Evidence for the event"} if "evidence/risk" in names else {})
    return [
        (h, words.get(h, h[:1].upper() + h[1:])) for h in (*known, *(h for h in heads if h not in GROUPS))
    ]


def _coarse_first(name: str) -> tuple[bool, bool, bool]:
    """The overall map of a group first, then coarse before fine, what ignores the slide's answer last."""
    return ("without" in name, "/" in name, "/fine" in name)


def _item(words: str, name: str) -> QTreeWidgetItem:
    item = QTreeWidgetItem([words])
    item.setData(0, _NAME, name)
    item.setFlags(Qt.ItemFlag.ItemIsEnabled | Qt.ItemFlag.ItemIsSelectable)
    item.setToolTip(0, f"{name}. Click shows it alone, Ctrl+click beside the others.")
    return item


def _control_is_held() -> bool:
    return bool(QApplication.keyboardModifiers() & Qt.KeyboardModifier.ControlModifier)
