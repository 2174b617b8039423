"""Review: say what a place is. Paint tiles, draw a region, label the slide; every act is kept as it is
made.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QLabel, QListWidget, QSpinBox, QWidget

from napari_mil.correction import Cells, WholeSlide
from napari_mil.ui import acts, compat
from napari_mil.ui.desk import Desk, State
from napari_mil.ui.drawing import RegionPen
from napari_mil.ui.labellist import LabelList
from napari_mil.ui.widgets import button, column, hint, row, text
from napari_mil.ui.words import contradictions, history_line

HISTORY = 30
#: How opaque labels are while one paints; at other times only their outlines are seen.
FILL = 0.4


class ReviewSection(QWidget):
    """The label to give, the tools that give it, and what was said so far."""

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self.desk = desk
        self._pen = RegionPen(desk)
        self._painted_on: Any = None
        self.tree = LabelList(desk)
        self.brush = QSpinBox()
        self.brush.setRange(1, 41)
        self.brush.setSingleStep(2)
        self.brush.setToolTip("Width of the brush in tiles")
        self.brush.valueChanged.connect(lambda _n: self._set_brush())
        self.look_button = button("Look", self.look, "Move the view; nothing is changed", key="Alt+Q")
        self.paint_button = button(
            "Paint tiles", self.paint, "Paint the chosen label over tiles", key="Alt+B"
        )
        self.draw_button = button("Draw region", self.draw, "Draw a polygon; Enter ends it", key="Alt+R")
        self.slide_label = text()
        self.set_button = button(
            "Label slide", self.label_slide, "Give the whole slide the chosen label", key="Alt+G"
        )
        self.confirm_button = button(
            "Model is right", self.confirm, "Say that the model's answer is right", key="Alt+A"
        )
        self.undo_button = button("Undo", self.undo, "Take back the latest act on this slide", key="Alt+Z")
        self.redo_button = button("Redo", self.redo, "Restore what was taken back", key="Alt+Y")
        self.conflicts = hint()
        self.history = QListWidget()
        self.history.setWordWrap(True)
        self.history.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.history.setMinimumHeight(90)
        self.history.setMaximumHeight(140)
        column(
            self,
            text("Choose a label, then paint, draw, or label the slide:"),
            self.tree,
            row(self.look_button, self.paint_button, self.draw_button),
            row(QLabel("Brush"), self.brush, QLabel("tiles wide"), None),
            self.slide_label,
            row(self.set_button, self.confirm_button),
            row(self.undo_button, self.redo_button),
            self.conflicts,
            self.history,
        )
        for key, act in self._shortcuts():
            desk.key(key, act)
        acts.whenever(desk, ("node",), lambda _state: self._set_brush())
        acts.whenever(desk, ("corrections", "record", "answer"), self._show_said)
        desk.changed.connect(lambda _before, _after: self._watch_layer())

    def choose(self, node: int | str) -> None:
        """Choose the label to give: a node, or a label text; 0 takes labels away."""
        project = self.desk.state.project
        if project is not None:
            self.desk.apply(node=project.tree.node(node) if isinstance(node, str) else int(node))

    def look(self) -> None:
        """Stop painting and drawing."""
        self._pen.put_down()
        if self._painted_on is not None:
            self._painted_on.mode = "pan_zoom"

    def paint(self) -> None:
        """Paint the chosen label over tiles; every stroke is kept at once."""
        self._pen.put_down()
        layer = self.desk.layer("corrections")
        if layer is None:
            self.desk.tell("Open a slide before painting.")
            return
        self._watch_layer()
        self.desk.viewer.layers.selection.active = layer
        layer.mode = "paint"
        self._set_brush()

    def draw(self) -> None:
        """Draw a polygon with the chosen label."""
        self.look()
        self._pen.pick_up()

    def label_slide(self) -> None:
        """Give the whole slide the chosen label."""
        label = self._label()
        if label is None:
            self.desk.tell("Choose a label first: Alt+1 to Alt+9, or a click in the list.")
            return
        acts.correct(self.desk, WholeSlide(), label, tool="slide label")

    def confirm(self) -> None:
        """Say that the model's answer for the slide is right: agreement is information too."""
        state = self.desk.state
        if state.answer is None or state.answer.scope != "slide" or state.partial or state.project is None:
            self.desk.tell("There is no answer for the whole slide yet; run a model first.")
            return
        if not state.answer.probabilities:
            self.desk.tell("This model answers with a risk, not with a label; choose the label yourself.")
            return
        node = state.answer.best(state.project.tree)[-1][0]
        acts.correct(self.desk, WholeSlide(), state.project.tree.path(node), tool="confirm")

    def undo(self) -> None:
        """Take back the latest act on this slide."""
        if self.desk.state.project is not None:
            acts.undo(self.desk)

    def redo(self) -> None:
        """Restore what was taken back last."""
        if self.desk.state.project is not None:
            acts.redo(self.desk)

    def _label(self) -> str | None:
        state = self.desk.state
        return state.project.tree.path(state.node) or None if state.project else None

    def _shortcuts(self) -> list[tuple[str, Any]]:
        keys: list[tuple[str, Any]] = [(f"Alt+{n}", lambda n=n: self.choose(n)) for n in range(10)]
        return [
            *keys,
            ("Alt+Q", self.look), ("Alt+B", self.paint), ("Alt+R", self.draw), ("Alt+G", self.label_slide),
            ("Alt+A", self.confirm), ("Alt+Z", self.undo), ("Alt+Y", self.redo),
        ]  # fmt: skip

    def _set_brush(self) -> None:
        layer = self.desk.layer("corrections")
        if layer is not None:
            layer.brush_size = self.brush.value()
            layer.selected_label = self.desk.state.node
        self._pen.label = self._label()

    def _watch_layer(self) -> None:
        """Follow the strokes on the layer of corrections, which is new for every slide."""
        layer = self.desk.layer("corrections")
        if layer is None or layer is self._painted_on:
            return
        self._painted_on = layer
        compat.when_painted(layer, self._stroke)
        compat.fill_while_painting(layer, FILL)
        compat.bind(layer, "Control-Z", self.undo)
        compat.bind(layer, "Control-Shift-Z", self.redo)
        self._set_brush()

    def _stroke(self) -> None:
        """One stroke on the lattice becomes one correction per label it gave: one, but for fills by other
        tools.
        """
        state, layer = self.desk.state, self._painted_on
        if state.lattice is None or state.nodes is None or state.project is None:
            return
        compat.forget_history(layer)
        before = state.nodes.reshape(state.lattice.shape)
        for node, cells in acts.painted(before, np.array(layer.data)):
            label = state.project.tree.path(node) if node < len(state.project.tree) else ""
            acts.correct(self.desk, Cells(cells, state.lattice.pitch_px), label or None, tool="paint")

    def _show_said(self, state: State) -> None:
        self.history.clear()
        if state.project is None or state.record is None:
            self.slide_label.setText("")
            return
        said = [c.label for c in state.corrections if isinstance(c.place, WholeSlide)]
        label = said[-1] if said else state.record.label
        self.slide_label.setText(f"This slide is labelled <b>{label or 'nothing yet'}</b>.")
        self.history.addItems([history_line(c) for c in reversed(state.corrections[-HISTORY:])])
        self.conflicts.setText(contradictions(state, label))
        self.conflicts.setVisible(bool(self.conflicts.text()))
