"""Retrain: what was corrected since the model was trained, the training itself, and whether to adopt the
result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from qtpy.QtWidgets import QWidget

from napari_mil.ui import acts, writing
from napari_mil.ui.curves import Curves
from napari_mil.ui.decision import Decision
from napari_mil.ui.desk import Desk
from napari_mil.ui.state import State
from napari_mil.ui.widgets import button, column, hint, row, text
from napari_mil.ui.words import hidden_words, since_words

if TYPE_CHECKING:
    from napari_mil.steps import Progress


class RetrainSection(QWidget):
    """Train a child of the chosen model on everything that was said, compare, and adopt it or not."""

    def __init__(self, desk: Desk, run: Callable[[], Any]) -> None:
        super().__init__()
        self.desk = desk
        self.since = text()
        self.start_button = button("Retrain", self.start, "Train a new model on all labels and corrections")
        self.stop_button = button(
            "Stop, keep the best", self.stop, "End the training; its best state is kept"
        )
        self.plot = Curves(desk)
        self.decision = Decision(desk, run)
        self.note = hint()
        column(
            self,
            self.since,
            row(self.start_button, self.stop_button),
            self.plot,
            self.note,
            self.decision,
        )
        self._job: Any = None
        self.plot.hide()
        self.stop_button.setEnabled(False)
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

        self.decision.fill(None)
        self.note.setText("")
        self.plot.begin()
        self.start_button.setEnabled(False)
        self.stop_button.setEnabled(True)
        self._cards_before = {c.id for c in project.cards}
        self._job = self.desk.run(
            f"Retraining {card.name}",
            writing.kept_first(self.desk, make),
            progressed=self._progressed,
            returned=self.decision.fill,
            finished=self._finished,
        )
        self._job.cancelled.connect(self._cancelled)
        return self._job

    def stop(self) -> None:
        """End the training; the best model so far is kept."""
        if self._job is not None:
            self.note.setText("Stopping; the best state so far is being kept…")
            self._job.cancel()

    def _progressed(self, now: Progress) -> None:
        if isinstance(now.payload, dict):
            self.plot.add(now.payload)

    def _finished(self) -> None:
        self._job = None
        self.start_button.setEnabled(True)
        self.stop_button.setEnabled(False)
        self.desk.apply(changed_models=self.desk.state.changed_models + 1)

    def _cancelled(self) -> None:
        project = self.desk.state.project
        kept = [c for c in project.cards if c.id not in self._cards_before] if project else []
        words = (
            f"its best state is kept as {kept[-1].name}"
            if kept
            else "it had not come far enough to keep anything"
        )
        self.note.setText(f"The training was stopped; {words}.")

    def _show_since(self, state: State) -> None:
        project, card = state.project, state.card
        self.start_button.setEnabled(card is not None and self._job is None)
        if project is None or card is None:
            self.since.setText("Retraining starts from a model; this project has none.")
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
