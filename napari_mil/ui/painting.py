"""Painting tiles: the layer of corrections with napari's own brush, whose strokes become corrections."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from qtpy.QtWidgets import QSpinBox

from napari_mil.correction import Cells
from napari_mil.ui import acts, compat, writing
from napari_mil.ui.desk import Desk
from napari_mil.ui.state import State
from napari_mil.ui.widgets import tiles

#: How opaque labels are while one paints; at other times only their outlines are seen.
FILL = 0.4


class Brush:
    """Strokes painted with it become corrections with the chosen label, one stroke one statement.

    ready : whether there is a label to paint; it tells the person what is missing
    undo, redo : what napari's own keys for them do on the layer of corrections

    Attributes
    ----------
    width : the widget for the brush's width in tiles
    """

    def __init__(
        self,
        desk: Desk,
        ready: Callable[[], bool],
        undo: Callable[[], None],
        redo: Callable[[], None],
    ) -> None:
        self.desk, self._ready, self._undo, self._redo = desk, ready, undo, redo
        self._layer: Any = None
        self.width = QSpinBox()
        self.width.setRange(1, 41)
        self.width.setSingleStep(2)
        self.width.setToolTip("Width of the brush in tiles")
        self.width.valueChanged.connect(lambda _n: self._dip(desk.state))
        acts.whenever(desk, ("node",), self._dip)
        desk.changed.connect(lambda _before, _after: self._watch())

    def pick_up(self, tool: str = "paint") -> None:
        """Get ready to paint, or to "fill" what is enclosed."""
        if self.desk.state.slide is None:
            self.desk.tell("Open a slide before painting.")
            return
        layer = self.desk.layer("corrections")
        if self._ready() and layer is not None:
            self._watch()
            self.desk.viewer.layers.selection.active = layer
            layer.mode = tool
            self._dip(self.desk.state)

    def put_down(self) -> None:
        """Paint no more."""
        if self._layer is not None and self._layer in self.desk.viewer.layers:
            self._layer.mode = "pan_zoom"

    def stroke(self) -> None:
        """One stroke on the lattice becomes one correction per label it gave: one, but for fills by other
        tools.
        """
        state, layer = self.desk.state, self._layer
        if state.lattice is None or state.nodes is None or state.project is None:
            return
        compat.forget_history(layer)
        before = state.nodes.reshape(state.lattice.shape)
        for node, cells in acts.painted(before, np.array(layer.data)):
            label = state.project.tree.path(node) if node < len(state.project.tree) else ""
            tool = "fill" if str(layer.mode) == "fill" else "paint"
            place = Cells(cells, state.lattice.pitch_px)
            if writing.correct(self.desk, place, label or None, tool=tool) is not None and tool == "fill":
                n = tiles(len(cells))
                what = f"labels {n} {label}" if label else f"takes the label from {n}"
                self.desk.said.emit(f"The fill {what}.")

    def _dip(self, state: State) -> None:
        """Give the layer's brush the chosen label and the width."""
        layer = self.desk.layer("corrections")
        if layer is not None:
            layer.brush_size = self.width.value()
            layer.selected_label = state.node or 0

    def _watch(self) -> None:
        """Follow the strokes on the layer of corrections, which is new for every slide."""
        layer = self.desk.layer("corrections")
        if layer is None or layer is self._layer:
            return
        self._layer = layer
        compat.when_painted(layer, self.stroke)
        compat.fill_while_painting(layer, FILL, self._ready, lambda: self.desk.state.coarse)
        compat.bind(layer, "Control-Z", self._undo)
        compat.bind(layer, "Control-Shift-Z", self._redo)
        self._dip(self.desk.state)
