"""All tiles of which a map says at least so much get the chosen label: how many is said before it is done."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtWidgets import QComboBox, QDoubleSpinBox, QLabel, QWidget

from napari_mil.correction import Cells
from napari_mil.labeltree import class_names, level_names
from napari_mil.ui import acts, writing
from napari_mil.ui.desk import Desk
from napari_mil.ui.layers import title_of
from napari_mil.ui.ramps import limits_of
from napari_mil.ui.state import State
from napari_mil.ui.widgets import button, column, hint, row, tiles

#: Where on its range a map's threshold begins.
HIGH = 0.9


class Above(QWidget):
    """A score map, a threshold, and a button that says how many tiles it labels; one act, one undo.

    Hidden while there is no answer that may be seen.
    """

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self.desk = desk
        self.which = QComboBox()
        self.which.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.which.setMinimumContentsLength(12)
        self.which.setToolTip("The map of the model's answer that is looked at")
        self.which.currentIndexChanged.connect(lambda _i: self._range())
        self.least = QDoubleSpinBox()
        self.least.setToolTip("Tiles with at least this value are labelled: Enter does it (Alt+T comes here)")
        self.least.valueChanged.connect(lambda _v: self._say())
        self.least.lineEdit().returnPressed.connect(self.label)
        self.label_button = button("", self.label, "Give these tiles the chosen label, as one act")
        self.why = hint()
        first = row(QLabel("All tiles with"), self.which)
        first.layout().setStretch(1, 1)
        column(
            self,
            first,
            row(QLabel("≥"), self.least, self.label_button, None),
            self.why,
            margins=(0, 0, 0, 0),
            spacing=3,
        )
        desk.key("Alt+T", self.begin, "Go to the threshold for all tiles above it; Enter labels them")
        acts.whenever(desk, ("answer", "partial", "blind", "second", "corrections"), self._list)
        acts.whenever(desk, ("node",), self._follow)
        acts.whenever(desk, ("node", "locked", "nodes", "answer_grid"), lambda _state: self._say())

    def begin(self) -> None:
        """Go to the threshold; how many tiles it is is said."""
        if self.isHidden():
            self.desk.tell("There is no answer whose tiles could be chosen; run a model first.")
            return
        self.least.setFocus()
        self.least.selectAll()
        self.desk.said.emit(self.why.text())

    def label(self) -> None:
        """Label the tiles."""
        state, chosen = self.desk.state, self._chosen()
        if state.project is None or state.answer_grid is None or not self.label_button.isEnabled():
            self.desk.tell(self.why.text())
            return
        grid = state.answer_grid
        place = Cells(grid.cells[chosen], grid.pitch_px)
        label = state.project.tree.path(state.node or 0) or None
        rule = f"{self.which.currentData()} ≥ {self.least.value():g}"
        if writing.correct(self.desk, place, label, tool="above threshold", note=rule) is not None:
            what = f"labelled {label}" if label else "without a label now"
            self.desk.said.emit(
                f"{tiles(int(chosen.sum()))} with {rule} {_are(chosen)} {what}; Undo is one step."
            )

    def _list(self, state: State) -> None:
        """Offer the score maps of the answer."""
        ready = state.answer is not None and not state.partial and not state.veiled
        names = [m.name for m in state.answer.maps if m.kind == "score"] if ready and state.answer else []
        if names != [self.which.itemData(i) for i in range(self.which.count())]:
            self.which.blockSignals(True)
            self.which.clear()
            for name in names:
                self.which.addItem(title_of(name), name)
            self.which.blockSignals(False)
            self._follow(state)
            self._range()
        self.setVisible(bool(names))

    def _follow(self, state: State) -> None:
        """Offer the probability of the chosen label, where the model has one."""
        if state.project is None or not state.node:
            return
        tree = state.project.tree
        level = tree.level_of(state.node)
        name = class_names(tree, level)[tree.class_index(state.node, level)]
        at = self.which.findData(f"probability/{level_names(tree)[level]}/{name}")
        if at >= 0:
            self.which.setCurrentIndex(at)

    def _range(self) -> None:
        """Let the threshold span the map's range."""
        found = self.desk.state.map(self.which.currentData() or "")
        if found is not None:
            low, high = limits_of(found[0])
            self.least.blockSignals(True)
            self.least.setDecimals(max(2, 2 - math.floor(math.log10(max(high - low, 1e-9)))))
            self.least.setRange(low, high)
            self.least.setSingleStep((high - low) / 50)
            self.least.setValue(low + HIGH * (high - low))
            self.least.blockSignals(False)
        self._say()

    def _chosen(self) -> NDArray[np.bool_]:
        """(N,) the tiles of the answer that are high enough."""
        found = self.desk.state.map(self.which.currentData() or "")
        if found is None:
            return np.zeros(0, bool)
        high: NDArray[np.bool_] = np.asarray(found[0].values) >= self.least.value() - 1e-12
        return high

    def _say(self) -> None:
        """Say how many tiles it is, before anything is done."""
        state, chosen = self.desk.state, self._chosen()
        n = int(chosen.sum())
        self.label_button.setText(f"Label {tiles(n)}")
        self.label_button.setEnabled(bool(n) and state.node is not None)
        if not n:
            self.why.setText("No tile is so high.")
        elif state.node is None or state.project is None:
            whose = "its" if n == 1 else "their"
            self.why.setText(
                f"{tiles(n)} of {len(chosen):,} {_are(chosen)} so high; choose {whose} label first."
            )
        else:
            what = state.project.tree.path(state.node) or "no label any more"
            self.why.setText(f"{tiles(n)} of {len(chosen):,} will be {what}.")


def _are(chosen: Any) -> str:
    return "is" if int(chosen.sum()) == 1 else "are"
