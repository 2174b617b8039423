"""Review: say what a place is. Paint tiles, draw a region, label the slide; every act is kept as it is
made.
"""

from __future__ import annotations

from qtpy.QtWidgets import QLabel, QWidget

from napari_mil.correction import WholeSlide
from napari_mil.ui import acts, writing
from napari_mil.ui.above import Above
from napari_mil.ui.contradictionlist import ContradictionList
from napari_mil.ui.desk import Desk
from napari_mil.ui.drawing import RegionPen
from napari_mil.ui.labellist import LabelList, key_of_node
from napari_mil.ui.painting import Brush
from napari_mil.ui.placehistory import PlaceHistory
from napari_mil.ui.readingmode import ReadingMode
from napari_mil.ui.reviewqueue import ReviewQueue
from napari_mil.ui.state import State
from napari_mil.ui.widgets import allow, button, column, row, text
from napari_mil.ui.words import label_words

SLIDE_FIRST = "Open a project and choose a slide first (1 Slides)."
CUT = "Cut a hole into a region that you drew: draw its outline inside; Enter ends it"


class ReviewSection(QWidget):
    """The label to give, the tools that give it, and what was said so far."""

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self.desk = desk
        self._pen = RegionPen(desk)
        self.brush = Brush(desk, self._has_label, self.undo, self.redo)
        self.choose_words, self.tree = text(), LabelList(desk)
        self.look_button = button("Look", self.look, "Move the view; nothing is changed", key="Alt+Q")
        self.paint_button = button("Paint", self.paint, "Paint the label over tiles", key="Alt+B")
        self.fill_button = button(
            "Fill", self.fill, "Fill tiles of one label that hang together; how many is said", key="Alt+U"
        )
        self.draw_button = button("Region", self.draw, "Draw a polygon; Enter ends it", key="Alt+R")
        self.cut_button = button("Hole", self.cut, CUT, key="Alt+Shift+R")
        self.slide_label = text()
        self.set_button = button("Label slide", self.label_slide, "Label the whole slide", key="Alt+G")
        self.confirm_button = button(
            "Model is right", self.confirm, "Say that the model's answer is right", key="Alt+A"
        )
        self.undo_button = button("Undo", self.undo, "Take back the latest act on this slide", key="Alt+Z")
        self.redo_button = button("Redo", self.redo, "Restore what was taken back", key="Alt+Y")
        tools = (self.paint_button, self.fill_button, self.draw_button)
        self._labelling = (*tools, self.set_button, self.confirm_button, self.undo_button, self.redo_button)
        self.contradictions = ContradictionList(desk)
        self.reading = ReadingMode(desk, self.look)
        self.blind, self.second = self.reading.blind, self.reading.second
        self.above = Above(desk)
        self.history, self.queue = PlaceHistory(desk), ReviewQueue(desk)
        self._lay_out()
        self._set_keys()
        watched = ("project", "record", "corrections", "answer", "blind", "second", "locked")
        acts.whenever(desk, watched, self._show_said)

    def _lay_out(self) -> None:
        column(
            self,
            self.reading,
            self.queue,
            self.contradictions,
            self.choose_words,
            self.tree,
            row(self.look_button, self.paint_button, self.fill_button, self.draw_button, self.cut_button),
            row(QLabel("Brush"), self.brush.width, None, self.undo_button, self.redo_button),
            self.slide_label,
            row(self.set_button, self.confirm_button),
            self.above,
            self.history,
            row(self.reading.agreement_button, None),
        )

    def choose(self, node: int | str) -> None:
        """Choose the label to give: a node, or a label text; 0 takes labels away."""
        project = self.desk.state.project
        if project is None:
            return
        chosen = project.tree.node(node) if isinstance(node, str) else int(node)
        if chosen < len(project.tree):
            self.desk.apply(node=chosen)

    def look(self) -> None:
        """Stop painting and drawing."""
        self._pen.put_down()
        self.brush.put_down()

    def paint(self) -> None:
        """Paint the chosen label over tiles; every stroke is kept at once."""
        self._pen.put_down()
        self.brush.pick_up()

    def fill(self) -> None:
        """Fill what a painted line encloses, or what has one label, with the chosen label."""
        self._pen.put_down()
        self.brush.pick_up("fill")

    def draw(self) -> None:
        """Draw a polygon with the chosen label."""
        self.look()
        if self._has_label():
            self._pen.pick_up()

    def cut(self) -> None:
        """Draw the outline of a hole in a region of this person."""
        self.look()
        if why := writing.uncuttable(self.desk.state):
            self.desk.tell(why)
        else:
            self._pen.pick_up(hole=True)

    def label_slide(self) -> None:
        """Give the whole slide the chosen label, or take its label away."""
        state = self.desk.state
        if state.project is None or state.record is None or not self._has_label():
            return
        label = state.project.tree.path(state.node or 0) or None
        if label is None and state.slide_label is None:
            self.desk.tell("This slide has no label to take away.")
            return
        writing.correct(self.desk, WholeSlide(), label, tool="slide label")

    def confirm(self) -> None:
        """Say that the model's answer for the slide is right: agreement is information too."""
        state = self.desk.state
        if state.answer is None or state.answer.scope != "slide" or state.partial or state.project is None:
            self.desk.tell("There is no answer for the whole slide yet; run a model first.")
            return
        if state.veiled:
            self.desk.tell("You read blind: give your own label first.")
            return
        if not state.answer.probabilities:
            self.desk.tell("This model answers with a risk, not with a label; choose the label yourself.")
            return
        node = state.answer.best(state.project.tree)[-1][0]
        writing.correct(self.desk, WholeSlide(), state.project.tree.path(node), tool="confirm")

    def undo(self) -> None:
        """Take back the latest act on this slide."""
        if self.desk.state.project is not None:
            writing.undo(self.desk)

    def redo(self) -> None:
        """Restore what was taken back last."""
        if self.desk.state.project is not None:
            writing.redo(self.desk)

    def _has_label(self) -> bool:
        """Whether a label may be given and was chosen; else the person is told how."""
        if writing.refused(self.desk):
            return False
        if self.desk.state.node is None:
            self.desk.tell("Choose a label first: a click in the list, or the key beside it.")
        return self.desk.state.node is not None

    def _set_keys(self) -> None:
        for n in range(19):
            words = f"Choose label {n}" if n else "Choose to take labels away"
            self.desk.key(key_of_node(n), lambda n=n: self.choose(n), words)
        for key, act, words in (
            ("Alt+Q", self.look, "Look: move the view, change nothing"),
            ("Alt+B", self.paint, "Paint tiles with the chosen label"),
            ("Alt+U", self.fill, "Fill what is enclosed with the chosen label"),
            ("Alt+R", self.draw, "Draw a region with the chosen label"),
            ("Alt+Shift+R", self.cut, "Cut a hole into a region that you drew"),
            ("Alt+G", self.label_slide, "Label the slide in front"),
            ("Alt+A", self.confirm, "Say that the model is right about the slide"),
            ("Alt+Z", self.undo, "Undo your latest act on this slide"),
            ("Alt+Y", self.redo, "Redo"),
        ):
            self.desk.key(key, act, words)

    def _show_said(self, state: State) -> None:
        known = state.project is not None and state.record is not None
        self.slide_label.setText(label_words(state) if known else "")
        self.choose_words.setText("Choose a label, then where it holds:" if known else SLIDE_FIRST)
        self.tree.setVisible(state.project is not None)
        for part in self._labelling:
            allow(part, writing.SECOND if state.second else "" if known else SLIDE_FIRST)
        allow(self.cut_button, writing.uncuttable(state))
