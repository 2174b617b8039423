"""Next to review: the queue's places one after the other, each with its reason; one key accepts, relabels,
skips.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from qtpy.QtWidgets import QProgressBar, QWidget

from napari_mil.errors import MILError
from napari_mil.steps import ASIDE, Progress
from napari_mil.ui import acts, writing
from napari_mil.ui.desk import Desk
from napari_mil.ui.state import State
from napari_mil.ui.widgets import button, column, hint, row, text
from napari_mil.ui.words import percent

if TYPE_CHECKING:
    from napari_mil.workflow.review import Question

#: places that are looked for at once; then the labels given are looked at anew
BATCH = 20
BLIND = "Why, and what the model says, is hidden until you have given this slide a label (read blind first)."
DONE = "Nothing is left to review: every place was labelled or skipped."


class ReviewQueue(QWidget):
    """The place to look at now, why, and how many are left.

    Attributes
    ----------
    question : what is asked now, or None
    """

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self.desk = desk
        self.question: Question | None = None
        self._waiting: list[Question] = []
        self._finding = False
        self.next_button = button("Next to review", self.next, "Go to the place to look at next", key="Alt+N")
        self.accept_button = button("Accept", self.accept, "The model is right here", key="Alt+C")
        self.relabel_button = button("Relabel", self.relabel, "Give the chosen label", key="Alt+E")
        self.skip_button = button("Skip", self.skip, "Do not ask me about this place again", key="Alt+S")
        self.what, self.why = text(), hint()
        self.bar = QProgressBar()
        self.bar.setFixedHeight(6)
        self.bar.setTextVisible(False)
        self.answers = row(self.accept_button, self.relabel_button, self.skip_button)
        column(
            self,
            self.next_button,
            self.what,
            self.why,
            self.answers,
            self.bar,
            margins=(0, 0, 0, 0),
            spacing=3,
        )
        desk.key("Alt+N", self.next, "Go to the place to look at next")
        desk.key("Alt+C", self.accept, "Accept: the model is right about it")
        desk.key("Alt+E", self.relabel, "Relabel: it is the chosen label")
        desk.key("Alt+S", self.skip, "Skip: do not ask me about it again")
        acts.whenever(desk, ("project", "card"), self._forget)
        acts.whenever(desk, ("record", "node", "blind", "corrections", "lattice"), self._show)

    def next(self) -> None:
        """Go to the next place; where none is known, look for some first."""
        if self._waiting:
            self._ask(self._waiting.pop(0))
        elif not self._finding:
            self._find()

    def accept(self) -> None:
        """Say that the model is right about this place, and go on."""
        if self._is_here():
            if self.desk.state.veiled:
                self.desk.tell("You read blind: choose your own label, then Relabel.")
            else:
                self._answer(self.question.label)

    def relabel(self) -> None:
        """Give this place the chosen label, and go on."""
        if not self._is_here():
            return
        state = self.desk.state
        if not state.node:
            self.desk.tell("Choose the label first: a click in the list, or the key beside it.")
            return
        self._answer(state.project.tree.path(state.node))

    def skip(self) -> None:
        """Set this place aside for good, and go on."""
        from napari_mil.workflow import skip_question

        if self.question is None:
            self.desk.tell("Nothing is asked yet; press Next to review.")
            return
        try:
            skip_question(self.desk.state.project, self.question)
        except MILError as error:
            self.desk.tell(error)
            return
        self._step()

    def _answer(self, label: str) -> None:
        if writing.correct(self.desk, self.question.place, label, tool="review") is not None:
            self._step()

    def _step(self) -> None:
        self.bar.setValue(self.bar.value() + 1)
        self.question = None
        self.next()

    def _is_here(self) -> bool:
        """Whether a place is asked about and its slide lies in front; else the person is told."""
        if self.question is None:
            self.desk.tell("Nothing is asked yet; press Next to review.")
        elif self.desk.state.record is None or self.desk.state.record.id != self.question.record.id:
            self.desk.tell(f"The question is about {self.question.name}; Next to review goes on from here.")
        else:
            return True
        return False

    def _find(self) -> None:
        """Look for the next places in the job lane."""
        from napari_mil.workflow import review_steps

        project, card = self.desk.state.project, self.desk.state.card
        if project is None or card is None:
            self.desk.tell("Open a project and choose a model first: the queue is made from its answers.")
            return
        self._finding = True
        self.next_button.setEnabled(False)

        def found(questions: tuple[Question, ...]) -> None:
            if (project, card) == (self.desk.state.project, self.desk.state.card):
                self._take(questions)

        def finished() -> None:
            self._finding = False
            self.next_button.setEnabled(True)

        self.desk.run(
            "Finding what to review",
            lambda: review_steps(project, model=card.id, n=BATCH),
            progressed=self._progressed,
            returned=found,
            finished=finished,
        )

    def _progressed(self, now: Progress) -> None:
        if now.stage == ASIDE:
            self.desk.said.emit(now.note)

    def _take(self, questions: tuple[Question, ...]) -> None:
        self._waiting = list(questions)
        self.bar.setRange(0, max(len(questions), 1))
        self.bar.setValue(0)
        if questions:
            self.next()
        else:
            self.question = None
            self._show(self.desk.state)
            self.what.setText(DONE)
            self.what.show()

    def _ask(self, question: Question) -> None:
        """Bring the place to the front."""
        self.question = question
        acts.visit(self.desk, question.record, question.place)
        self._show(self.desk.state)

    def _forget(self, _state: State) -> None:
        """Another project or model: its questions are others."""
        self.question, self._waiting = None, []
        self._show(self.desk.state)

    def _show(self, state: State) -> None:
        asked = self.question
        here = asked is not None and state.record is not None and state.record.id == asked.record.id
        for part in (self.what, self.why, self.answers, self.bar):
            part.setVisible(asked is not None)
        self.next_button.setEnabled(
            state.project is not None and state.card is not None and not self._finding
        )
        if asked is None:
            return
        veiled = here and state.veiled
        self.what.setText(what_words(asked, self.bar.value() + 1, self.bar.maximum(), veiled=veiled))
        self.why.setText(BLIND if veiled else asked.item.reason)
        self.accept_button.setEnabled(here and not veiled)
        self.relabel_button.setEnabled(here)
        chosen = state.project.tree.path(state.node) if state.project is not None and state.node else ""
        self.relabel_button.setToolTip(f"Give the label {chosen or 'that you choose'} (Alt+E)")


def what_words(asked: Any, number: int, of: int, *, veiled: bool) -> str:
    """What is asked, in a line."""
    where = "the whole slide" if asked.item.cell is None else "tile {}, {}".format(*asked.item.cell)
    said = "" if veiled else f"<br>model: {escape(asked.label)} {escape(percent(asked.sure))}"
    return f"<b>{escape(asked.name)}</b>, {where} · {min(number, of)} of {of}{said}"
