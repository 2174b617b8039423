"""Next to review: the queue's places one after the other, each with its reason; one key accepts, relabels,
skips. A second reading asks in the same way, blind.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qtpy.QtWidgets import QProgressBar, QWidget

from napari_mil.ui import acts, writing
from napari_mil.ui.desk import Desk
from napari_mil.ui.questions import SecondReading, Source, WhatTellsMost, where_words
from napari_mil.ui.state import State
from napari_mil.ui.widgets import allow, button, column, hint, row, text
from napari_mil.ui.words import why_no_model

ELSEWHERE = "The question is about {}; Alt+N goes on from here."
LABEL_FIRST = "You read blind: choose your own label, then press Alt+E."


class ReviewQueue(QWidget):
    """The place to look at now, why, and how many are left.

    Attributes
    ----------
    question : what is asked now, or None
    """

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self.desk = desk
        self.question: Any = None
        self._source: Source = WhatTellsMost()
        self._waiting: list[Any] = []
        self._finding = False
        self.next_button = button("", self.next, "Go to the place to look at next", key="Alt+N")
        self.accept_button = button("Accept", self.accept, "The model is right here", key="Alt+Return")
        self.relabel_button = button("", self.relabel, "Give the chosen label", key="Alt+E")
        self.skip_button = button("Skip", self.skip, "Do not ask me about this place again", key="Alt+J")
        self.what, self.why = text(), hint()
        self.bar = QProgressBar()
        self.bar.setFixedHeight(6)
        self.bar.setTextVisible(False)
        self.answers = row(self.accept_button, self.relabel_button, self.skip_button)
        asked = (self.what, self.why, self.answers, self.bar)
        column(self, self.next_button, *asked, margins=(0, 0, 0, 0), spacing=3)
        desk.key("Alt+N", self.next, "Go to the place to look at next")
        desk.key("Alt+Return", self.accept, "Accept: the model is right about it")
        desk.key("Alt+E", self.relabel, "Relabel: it is the chosen label")
        desk.key("Alt+J", self.skip, "Skip: do not ask me about it again")
        acts.whenever(desk, ("project", "card", "second"), self._forget)
        acts.whenever(desk, ("record", "node", "blind", "corrections", "lattice"), self._show)

    def next(self) -> None:
        """Go to the next place; where none is known, look for some first."""
        if self._waiting:
            self._ask(self._waiting.pop(0))
        elif not self._finding:
            writing.after(self.desk, self._find)  # what was answered is not asked again

    def accept(self) -> None:
        """Say that the model is right about this place, and go on."""
        if self._is_here():
            if self.desk.state.veiled:
                self.desk.tell(LABEL_FIRST)
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
        """Set this place aside, and go on."""
        if self.question is None:
            self.desk.tell("Nothing is asked yet; press Alt+N.")
            return
        asked = self.question

        def then() -> None:
            if self.question is asked:
                self._step()

        self._source.skip(self.desk, asked, then)

    def _answer(self, label: str) -> None:
        if self._source.answer(self.desk, self.question, label):
            self._step()

    def _step(self) -> None:
        self.bar.setValue(self.bar.value() + 1)
        self.question = None
        self.next()

    def _is_here(self) -> bool:
        """Whether a place is asked about and its slide lies in front; else the person is told."""
        if self.question is None:
            self.desk.tell("Nothing is asked yet; press Alt+N.")
        elif self.desk.state.record is None or self.desk.state.record.id != self.question.record.id:
            self.desk.tell(ELSEWHERE.format(self.question.name))
        else:
            return True
        return False

    def _find(self) -> None:
        """Look for the next places."""
        if self._finding:
            return
        source, of = self._source, (self.desk.state.project, self.desk.state.card)

        def found(questions: Sequence[Any]) -> None:
            if source is self._source and of == (self.desk.state.project, self.desk.state.card):
                self._take(questions)

        def finished() -> None:
            self._finding = False
            self._show(self.desk.state)

        self._finding = True
        self._finding = source.find(self.desk, found, finished)
        self.next_button.setEnabled(not self._finding)

    def _take(self, questions: Sequence[Any]) -> None:
        self._waiting = list(questions)
        self.bar.setRange(0, max(len(questions), 1))
        self.bar.setValue(0)
        if questions:
            self.next()
        else:
            self.question = None
            self._show(self.desk.state)
            self.what.setText(self._source.done)
            self.what.show()

    def _ask(self, question: Any) -> None:
        """Bring the place to the front."""
        self.question = question
        acts.visit(self.desk, question.record, question.place)
        self._show(self.desk.state)

    def _forget(self, state: State) -> None:
        """Another project or model, or another way of reading: its questions are others."""
        if state.second != isinstance(self._source, SecondReading):
            self._source = SecondReading() if state.second else WhatTellsMost()
        self.question, self._waiting = None, []
        self.next_button.setText(self._source.next_words)
        self.relabel_button.setText(self._source.answer_words)
        self.accept_button.setVisible(not state.second)
        self._show(state)

    def _show(self, state: State) -> None:
        asked = self.question
        here = asked is not None and state.record is not None and state.record.id == asked.record.id
        for part in (self.what, self.why, self.answers, self.bar):
            part.setVisible(asked is not None)
        why = "" if state.second else why_no_model(state)
        allow(self.next_button, why or ("Looking for places…" if self._finding else ""))
        if asked is None:
            return
        veiled = here and state.veiled
        model, why = self._source.words(asked, veiled=veiled)
        number = min(self.bar.value() + 1, self.bar.maximum())
        lines = [f"{where_words(asked)} · {number} of {self.bar.maximum()}", *([model] if model else [])]
        self.what.setText("<br>".join(lines))
        self.why.setText(why)
        elsewhere = "" if here else ELSEWHERE.format(asked.name)
        allow(self.accept_button, elsewhere or (LABEL_FIRST if veiled else ""))
        allow(self.relabel_button, elsewhere)
        if elsewhere:
            return
        chosen = state.project.tree.path(state.node) if state.project is not None and state.node else ""
        self.relabel_button.setToolTip(f"Give the label {chosen or 'that you choose'} (Alt+E)")
