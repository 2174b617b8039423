"""Retrain: what was corrected since the model was trained, the training itself, and whether to adopt the
result.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QTableWidget, QTableWidgetItem, QWidget

from napari_mil.ui import acts
from napari_mil.ui.curves import Curves
from napari_mil.ui.desk import Desk, State
from napari_mil.ui.widgets import button, column, hint, row, text
from napari_mil.ui.words import figure, since_words

if TYPE_CHECKING:
    from napari_mil.steps import Progress


#: The figures that are compared: name in a card → words.
FIGURES = {
    "lesion/auc": "AUC lesion",
    "coarse/auc": "AUC coarse",
    "fine/auc": "AUC fine",
    "fine/balanced_accuracy": "accuracy",
}


class RetrainSection(QWidget):
    """Train a child of the chosen model on everything that was said, compare, and adopt it or not."""

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self.desk = desk
        self.result: Any = None
        self.since = text()
        self.start_button = button("Retrain", self.start, "Train a new model on all labels and corrections")
        self.stop_button = button(
            "Stop, keep the best", self.stop, "End the training; its best state is kept"
        )
        self.plot = Curves(desk)
        self.table = QTableWidget(0, 3)
        self.table.setHorizontalHeaderLabels(["held out", "before", "after"])
        self.table.verticalHeader().hide()
        self.table.setEditTriggers(QTableWidget.EditTrigger.NoEditTriggers)
        self.table.horizontalHeader().setStretchLastSection(True)
        self.table.verticalHeader().setDefaultSectionSize(24)
        self.table.setFixedHeight(len(FIGURES) * 24 + 30)
        self.table.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.verdict = text()
        self.adopt_button = button(
            "Adopt the new model", self.adopt, "It answers from now on; the old one is kept"
        )
        self.keep_button = button(
            "Keep the old one", self.keep, "The new model stays in the list and is not used"
        )
        self.note = hint()
        column(
            self,
            self.since,
            row(self.start_button, self.stop_button),
            self.plot,
            self.table,
            self.verdict,
            row(self.adopt_button, self.keep_button),
            self.note,
        )
        self._job: Any = None
        self._show_result(None)
        self.plot.hide()
        self.stop_button.setEnabled(False)
        acts.whenever(desk, ("project", "card", "corrections"), self._show_since)

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

        self._show_result(None)
        self.plot.begin()
        self.start_button.setEnabled(False)
        self.stop_button.setEnabled(True)
        self._cards_before = {c.id for c in project.cards}
        self._job = self.desk.run(
            f"Retraining {card.name}",
            make,
            progressed=self._progressed,
            returned=self._show_result,
            finished=self._finished,
        )
        self._job.cancelled.connect(self._cancelled)
        return self._job

    def stop(self) -> None:
        """End the training; the best model so far is kept."""
        if self._job is not None:
            self.note.setText("Stopping; the best state so far is being kept…")
            self._job.cancel()

    def adopt(self) -> None:
        """The new model answers from now on."""
        from napari_mil.workflow import adopt

        project, result = self.desk.state.project, self.result
        if project is None or result is None:
            return
        card = adopt(project, result.card.id)
        self.desk.apply(changed_models=self.desk.state.changed_models + 1)
        acts.use_model(self.desk, card)
        self._decided(
            f"{card.name} is adopted. Run it to see its maps; the earlier models are still in the list."
        )

    def keep(self) -> None:
        """Do not adopt; the new model stays among the models."""
        if self.result is not None and self.desk.state.card is not None:
            self._decided(
                f"{self.desk.state.card.name} stays. {self.result.card.name} is kept in the list of models."
            )

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

    def _show_result(self, result: Any) -> None:
        self.result = result
        for part in (self.table, self.verdict, self.adopt_button, self.keep_button):
            part.setVisible(result is not None)
        self.note.setText("")
        if result is None:
            return
        keys = [k for k in FIGURES if k in result.before and k in result.after]
        self.table.setRowCount(len(keys))
        for i, key in enumerate(keys):
            self.table.setItem(i, 0, QTableWidgetItem(FIGURES[key]))
            for j, values in enumerate((result.before[key], result.after[key])):
                self.table.setItem(i, j + 1, QTableWidgetItem(figure(values)))
        self.table.setVisible(bool(keys))
        self.table.resizeColumnsToContents()
        done, of = result.obeyed
        lines = [f"The new model follows {done:,} of {of:,} corrected tiles."] if of else []
        lines += [f"{case}: {old} → {new}" for case, old, new in result.flipped[:6]]
        if result.worse:
            lines.insert(0, f"<b>Worse on slides held out:</b> {result.worse}")
        self.verdict.setText("<br>".join(lines))
        self.adopt_button.setText("Adopt although worse" if result.worse else "Adopt the new model")

    def _decided(self, sentence: str) -> None:
        self.adopt_button.hide()
        self.keep_button.hide()
        self.note.setText(sentence)

    def _show_since(self, state: State) -> None:
        project, card = state.project, state.card
        self.start_button.setEnabled(card is not None and self._job is None)
        if project is None or card is None:
            self.since.setText("Retraining starts from a model; this project has none.")
            return

        def work() -> Any:
            return acts.corrections_since(project, card.ledger_head)

        def show(corrections: Any) -> None:
            if self.desk.state.card is card:
                self.since.setText(since_words(card.name, corrections))

        self.desk.asks.ask("since", work, show)
