"""The label tree as a list with colours and keys; the chosen label is the one to give next."""

from __future__ import annotations

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QTreeWidget, QTreeWidgetItem

from napari_mil.ui import acts
from napari_mil.ui.desk import Desk, State
from napari_mil.ui.widgets import colour_icon

_NODE = Qt.ItemDataRole.UserRole
#: Rows that are seen without scrolling.
ROWS = 12


def key_of_node(node: int) -> str:
    """The key that chooses a node: Alt with a digit, from the tenth on with Shift; "" from the 19th on."""
    if node <= 9:
        return f"Alt+{node}"
    return f"Alt+Shift+{node - 9}" if node <= 18 else ""


class LabelList(QTreeWidget):
    """The nodes of the project's label tree; the last entry takes labels away."""

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self._desk = desk
        self._items: dict[int, QTreeWidgetItem] = {}
        self.setColumnCount(2)
        self.setHeaderHidden(True)
        self.setUniformRowHeights(True)
        self.itemClicked.connect(lambda item, _column: desk.apply(node=item.data(0, _NODE)))
        acts.whenever(desk, ("project",), self._fill)
        acts.whenever(desk, ("node",), self._mark)

    def _fill(self, state: State) -> None:
        self.clear()
        self._items = {}
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
