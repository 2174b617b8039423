"""Retrain: what was corrected since the model was trained, the training itself, of a new model too, and
whether to adopt the result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from qtpy.QtWidgets import QWidget

from napari_mil.steps import ASIDE
from napari_mil.ui import acts, commandline, writing
from napari_mil.ui.curves import Curves
from napari_mil.ui.decision import Decision
from napari_mil.ui.desk import Desk
from napari_mil.ui.figuretable import figures_of
from napari_mil.ui.newmodel import NewModelDialog
from napari_mil.ui.state import State
from napari_mil.ui.widgets import allow, button, column, hint, row, text
from napari_mil.ui.words import PROJECT_FIRST, hidden_words, since_words, why_no_parent

if TYPE_CHECKING:
    from napari_mil.card import ModelCard
    from napari_mil.steps import Progress


class RetrainSection(QWidget):
    """Train a child of the chosen model on everything that was said, or a new model; adopt it or not."""

    def __init__(self, desk: Desk, run: Callable[[], Any]) -> None:
        super().__init__()
        self.desk = desk
        self.since = text()
        self.start_button = button("Retrain", self.start, "Train a new model on all labels and corrections")
        self.new_button = button(
            "New model…", self.ask_new, "Train a model from the beginning: choose a method and its options"
        )
        self.stop_button = button(
            "Stop, keep the best", self.stop, "End the training; its best state is kept"
        )
        self.plot = Curves(desk)
        self.decision = Decision(desk, run)
        self.note = hint()
        column(
            self,
            self.since,
            row(self.start_button, self.new_button),
            row(self.stop_button, commandline.copier(desk, self._line, lambda: why_no_parent(desk.state))),
            self.plot,
            self.note,
            self.decision,
        )
        self._job: Any = None
        self.dialog: NewModelDialog | None = None
        self.plot.hide()
        acts.whenever(desk, ("project", "card", "heard", "second"), self._show_since)

    def start(self, *, seed: int = 0, recipe: Mapping[str, Any] | None = None) -> Any:
        """Start a training in a child process.

        recipe : what differs from the usual recipe for going on

        Returns the Job, or None when there is no model to go on from or a training runs already.
        """
        project, card = self.desk.state.project, self.desk.state.card
        if project is None or card is None or self._job is not None:
            return None

        def make() -> Any:
            from napari_mil.workflow import retrain_steps

            return retrain_steps(project, card.id, recipe=recipe, seed=seed)

        return self._begin(f"Retraining {card.name}", make, self.decision.fill)

    def ask_new(self) -> None:
        """Open the form of a new model; Start in it trains the model."""
        project = self.desk.state.project
        if project is None or self._job is not None:
            return

        def show(choices: Any) -> None:
            self.note.setText("")
            if self.desk.state.project is project and self._job is None:
                self.dialog = NewModelDialog(self.desk, choices)
                self.dialog.asked.connect(lambda about: self.train(**about))
                self.dialog.copied.connect(
                    lambda about: commandline.copy(self.desk, commandline.train_line(project, about))
                )
                self.dialog.open()

        def failed(error: BaseException) -> None:
            self.note.setText("")
            self.desk.tell(error)

        from napari_mil.workflow import method_choices

        self.note.setText("Loading the methods…")
        self.desk.asks.ask("methods", method_choices, show, failed=failed)

    def train(self, **about: Any) -> Any:
        """Train a new model in a child process.

        about : keywords of `workflow.train_apart_steps`

        Returns the Job, or None when no project is open or a training runs already.
        """
        project, name = self.desk.state.project, about["name"]
        if project is None or self._job is not None:
            return None

        def make() -> Any:
            from napari_mil.workflow import train_apart_steps

            return train_apart_steps(project, **about)

        def offer(card: ModelCard) -> None:
            from napari_mil.workflow.figures import held_out_lines

            called = {key: " ".join(words.split()) for key, words in figures_of(card.tree).items()}
            lines = [line.strip() for line in held_out_lines(project, card, called=called)]
            if card.name != name:
                lines.append(f"These are its weights to the bit, so no second model {name} was made.")
            if self.desk.state.project is project:
                self.decision.offer(card, lines)

        return self._begin(f"Training {name}", make, offer)

    def _begin(self, title: str, make: Callable[[], Any], returned: Callable[[Any], None]) -> Any:
        self.decision.fill(None)
        self.note.setText("")
        self.plot.begin()
        self._cards_before = {c.id for c in self.desk.state.project.cards}
        self._job = self.desk.run(
            title,
            writing.kept_first(self.desk, make),
            progressed=self._progressed,
            returned=returned,
            finished=self._finished,
        )
        self._job.cancelled.connect(self._cancelled)
        self._enable(self.desk.state)
        return self._job

    def stop(self) -> None:
        """End the training; the best model so far is kept."""
        if self._job is not None:
            self.note.setText("Stopping; the best state so far is being kept…")
            allow(self.stop_button, "It stops already.")
            self._job.cancel()

    def _line(self) -> str:
        return commandline.retrain_line(self.desk.state.project, self.desk.state.card)

    def _progressed(self, now: Progress) -> None:
        if now.stage == ASIDE:
            self.note.setText(now.note)
        if isinstance(now.payload, dict):
            self.plot.add(now.payload)

    def _finished(self) -> None:
        self._job = None
        self._enable(self.desk.state)
        self.desk.apply(changed_models=self.desk.state.changed_models + 1)

    def _cancelled(self) -> None:
        project = self.desk.state.project
        kept = [c for c in project.cards if c.id not in self._cards_before] if project else []
        nothing = "it had not come far enough to keep anything"
        words = f"its best state is kept as {kept[-1].name}" if kept else nothing
        self.note.setText(f"The training was stopped; {words}.")

    def _enable(self, state: State) -> None:
        why = "" if self._job is None else "A training runs already."
        why = PROJECT_FIRST if state.project is None else why
        allow(self.start_button, why or why_no_parent(state))
        allow(self.new_button, why)
        allow(self.stop_button, "Nothing is being trained." if self._job is None else "")

    def _show_since(self, state: State) -> None:
        project, card = state.project, state.card
        self._enable(state)
        if project is None or card is None:
            self.since.setText(why_no_parent(state))
            return

        if state.second:
            self.since.setText(hidden_words(state, "What was said"))
            return

        def work() -> Any:
            return acts.corrections_since(project, card.ledger_head)

        def show(corrections: Any) -> None:
            if self.desk.state.card is card and not self.desk.state.second:
                self.since.setText(since_words(card.name, corrections))

        self.desk.asks.ask("since", work, show)
