"""The figures of two models side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QHeaderView, QTableWidget, QTableWidgetItem

from napari_mil.labeltree import LabelTree, level_names
from napari_mil.ui.words import change, figure

if TYPE_CHECKING:
    from napari_mil.workflow import Retrained

TIPS = {
    "balanced_accuracy": "Balanced accuracy: the mean, over the classes, of the share answered rightly",
    "c_index": "Share of pairs of cases whose order of events the risk predicts",
}
ROW_PX = 24


def figures_of(tree: LabelTree) -> dict[str, str]:
    """The figures that are compared: name in a card → words."""
    levels = level_names(tree)
    return {
        "lesion/auc": "AUC lesion",
        **{f"{level}/auc": f"AUC {level}" for level in levels},
        f"{levels[-1]}/balanced_accuracy": "balanced\naccuracy",
        "survival/c_index": "c-index",
    }


class FigureTable(QTableWidget):
    """Figures on held-out cases before and after a retraining; hidden where there are none."""

    def __init__(self) -> None:
        super().__init__(0, 3)
        self.setHorizontalHeaderLabels(["held out", "before → after", "change"])
        self.verticalHeader().hide()
        self.setEditTriggers(QTableWidget.EditTrigger.NoEditTriggers)
        self.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        self.horizontalHeader().setSectionResizeMode(2, QHeaderView.ResizeMode.Stretch)
        self.verticalHeader().setMinimumSectionSize(ROW_PX)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)

    def fill(self, done: Retrained) -> None:
        """Show the figures that both models have, and how they changed on the same cases."""
        from napari_mil.workflow.figures import stands_on

        named = figures_of(done.card.tree)
        keys = [key for key in named if key in done.before and key in done.after]
        self.setRowCount(len(keys))
        for i, key in enumerate(keys):
            cases = stands_on(key, done.after, done.held)
            both = f"{figure(done.before[key], cases)}\n→ {figure(done.after[key], cases)}"
            row = (named[key], both, change(done.changes.get(key), cases).replace(" [", "\n["))
            for j, words in enumerate(row):
                item = QTableWidgetItem(words)
                item.setToolTip(TIPS.get(key.rpartition("/")[2], ""))
                self.setItem(i, j, item)
        self.resizeRowsToContents()
        self.setFixedHeight(sum(map(self.rowHeight, range(len(keys)))) + 30)
        self.setVisible(bool(keys))
