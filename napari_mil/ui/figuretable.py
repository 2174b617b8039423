"""The figures of two models side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QTableWidget, QTableWidgetItem

from napari_mil.ui.words import change, figure

#: The figures that are compared: name in a card → words.
FIGURES = {
    "lesion/auc": "AUC lesion",
    "coarse/auc": "AUC coarse",
    "fine/auc": "AUC fine",
    "fine/balanced_accuracy": "balanced\naccuracy",
    "survival/c_index": "c-index",
}
TIPS = {
    "fine/balanced_accuracy": "Balanced accuracy: the mean, over the classes, of the share answered rightly",
    "survival/c_index": "Share of pairs of cases whose order of events the risk predicts",
}
ROW_PX = 24


class FigureTable(QTableWidget):
    """Figures on held-out cases before and after a retraining; hidden where there are none."""

    def __init__(self) -> None:
        super().__init__(0, 3)
        self.setHorizontalHeaderLabels(["held out", "before → after", "change"])
        self.verticalHeader().hide()
        self.setEditTriggers(QTableWidget.EditTrigger.NoEditTriggers)
        self.horizontalHeader().setStretchLastSection(True)
        self.verticalHeader().setMinimumSectionSize(ROW_PX)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)

    def fill(self, before: Mapping[str, Any], after: Mapping[str, Any], changes: Mapping[str, Any]) -> None:
        """Show the figures that both have, and how they changed on the same cases."""
        keys = [key for key in FIGURES if key in before and key in after]
        self.setRowCount(len(keys))
        for i, key in enumerate(keys):
            both = f"{figure(before[key])}\n→ {figure(after[key])}"
            row = (FIGURES[key], both, change(changes.get(key)).replace(" [", "\n["))
            for j, words in enumerate(row):
                item = QTableWidgetItem(words)
                item.setToolTip(TIPS.get(key, ""))
                self.setItem(i, j, item)
        self.resizeColumnsToContents()
        self.resizeRowsToContents()
        self.setFixedHeight(sum(map(self.rowHeight, range(len(keys)))) + 30)
        self.setVisible(bool(keys))
