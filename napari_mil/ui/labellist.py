"""The label tree as a list with colours and keys; the chosen label is the one to give next."""

from __future__ import annotations

from qtpy.QtCore import Qt
from qtpy.QtGui import QBrush, QColor
from qtpy.QtWidgets import QTreeWidget, QTreeWidgetItem

from napari_mil.ui import acts
from napari_mil.ui.desk import Desk
from napari_mil.ui.possible import implied, impossible
from napari_mil.ui.state import State
from napari_mil.ui.widgets import colour_icon

_NODE = Qt.ItemDataRole.UserRole
#: Rows that are seen without scrolling.
ROWS = 12
#: Of labels that cannot hold: it is dim on a dark and on a light ground.
GREY = "#808080"


def key_of_node(node: int) -> str:
    """The key that chooses a node: Alt with a digit, from the tenth on with Shift; "" from the 19th on."""
    if node <= 9:
        return f"Alt+{node}"
    return f"Alt+Shift+{node - 9}" if node <= 18 else ""


class LabelList(QTreeWidget):
    """The nodes of the project's label tree; the last entry takes labels away.

    Labels that cannot hold for the place at hand are grey and say why; they can be given all the same, since
    it may be the other label that is wrong. What the chosen label says too is bold.
    """

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self._desk = desk
        self._items: dict[int, QTreeWidgetItem] = {}
        self._judged: tuple[dict[int, str], ...] = ()
        self.setColumnCount(2)
        self.setHeaderHidden(True)
        self.setUniformRowHeights(True)
        for signal in (self.itemClicked, self.itemActivated):
            signal.connect(lambda item, _column: desk.apply(node=item.data(0, _NODE)))
        acts.whenever(desk, ("project",), self._fill)
        acts.whenever(desk, ("node",), self._mark)
        watched = ("project", "record", "corrections", "locked", "cell", "node", "blind", "second")
        acts.whenever(desk, watched, self._judge)

    def _fill(self, state: State) -> None:
        self.clear()
        self._items, self._judged = {}, ()
        if state.project is None:
            return
        tree = state.project.tree
        for node in (*range(1, len(tree)), 0):
            name = tree.names[node] if node else "take the label away"
            item = QTreeWidgetItem([name, key_of_node(node)])
            item.setData(0, _NODE, node)
            if node:
                item.setIcon(0, colour_icon(tree.colours[node]))
            parent = self._items.get(tree.parent[node]) if node else None
            if parent is None:
                self.addTopLevelItem(item)
            else:
                parent.addChild(item)
            self._items[node] = item
        self.expandAll()
        self.resizeColumnToContents(0)
        row_px = max(self.sizeHintForRow(0), 18)
        self.setFixedHeight(min(len(tree), ROWS) * row_px + 6)
        self._mark(state)

    def _mark(self, state: State) -> None:
        self.setCurrentItem(None if state.node is None else self._items.get(state.node))

    def _judge(self, state: State) -> None:
        """Grey what cannot hold, embolden what is implied."""
        if state.project is None:
            return
        judged = impossible(state), implied(state.project.tree, state.node)
        if judged == self._judged:
            return
        self._judged, (why, said_too) = judged, judged
        for node, item in self._items.items():
            for column in (0, 1):
                item.setForeground(column, QBrush(QColor(GREY)) if node in why else QBrush())
                font = item.font(column)
                font.setItalic(node in why)
                font.setBold(node in said_too and not column)
                item.setFont(column, font)
                item.setToolTip(column, " ".join(s[node] for s in (why, said_too) if node in s))
