"""Adopt what a training made, or not: the two models compared, and the way back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from qtpy.QtWidgets import QWidget

from napari_mil.ui import acts, writing
from napari_mil.ui.desk import Desk
from napari_mil.ui.figuretable import FigureTable
from napari_mil.ui.flips import flip_table, flip_words, flips
from napari_mil.ui.state import State
from napari_mil.ui.widgets import button, column, hint, row, text

if TYPE_CHECKING:
    from napari_mil.card import ModelCard


@dataclass(frozen=True, slots=True, eq=False)
class NewlyTrained:
    """A model that is no child of another, so that there is nothing to compare it with; its card."""

    card: ModelCard
    worse: str = ""


class Decision(QWidget):
    """Figures side by side, a verdict, the cases answered differently, and the choice between the models.

    run : asks the chosen model about the slide in front
    """

    def __init__(self, desk: Desk, run: Callable[[], Any]) -> None:
        super().__init__()
        self.desk = desk
        self.result: Any = None
        self._run, self._asked_twice = run, False
        self.table = FigureTable()
        self.verdict = text()
        self.flipped = text()
        self.adopt_button = button(
            "Adopt the new model", self.adopt, "It answers from now on; the old one is kept"
        )
        self.keep_button = button(
            "Keep the old one", self.keep, "The new model stays in the list and is not used"
        )
        self.difference_button = button(
            "Show the difference here", self.difference, "Maps of what changes on the slide in front"
        )
        self.note = hint()
        self.run_button = button("Run it on this slide", run, "Ask the adopted model", key="Ctrl+Return")
        self.run_button.clicked.connect(self.run_button.hide)
        self.back_button = button(
            "Back to the model before", self.back, "Adopt again the model that was adopted before this one"
        )
        self._of_result = (
            *(self.table, self.verdict, self.flipped),
            *(self.adopt_button, self.keep_button, self.difference_button),
        )
        column(
            self,
            self.table,
            self.verdict,
            row(self.adopt_button, self.keep_button),
            row(self.difference_button),
            self.note,
            self.run_button,
            row(self.back_button),
            self.flipped,
        )
        self.fill(None)
        acts.whenever(desk, ("project", "changed_models"), self._show_back)

    def fill(self, result: Any) -> None:
        """Compare the models of a `workflow.Retrained`; None takes the comparison away."""
        self.result, self._asked_twice = result, False
        for part in self._of_result:
            part.setVisible(result is not None)
        self.run_button.hide()
        self.note.setText("")
        if result is None:
            return
        self.table.fill(result)
        found = flips(self.desk.state.project, result)
        done, of = result.obeyed
        lines = [f"<b>Worse on slides held out:</b> {result.worse}"] if result.worse else []
        lines += [f"The new model follows {done:,} of {of:,} corrected tiles."] if of else []
        lines += list(result.left_out)
        self.verdict.setText("<br>".join([*lines, flip_words(found)]))
        self.flipped.setText(flip_table(found))
        self.adopt_button.setText("Adopt although worse…" if result.worse else "Adopt the new model")

    def offer(self, card: ModelCard, lines: Sequence[str]) -> None:
        """Let the person adopt a newly trained model or not; `lines` say what it is worth."""
        self.fill(None)
        self.result, now = NewlyTrained(card), self.desk.state.card
        self.verdict.setText("<br>".join([f"<b>{escape(card.name)} is trained.</b>", *map(escape, lines)]))
        self.adopt_button.setText("Adopt the new model")
        other = now is not None and now.id != card.id
        comparable = other and now is not None and (now.tree, now.encoder) == (card.tree, card.encoder)
        self.verdict.show()
        self.adopt_button.show()
        self.keep_button.setVisible(other)
        self.difference_button.setVisible(comparable)

    def adopt(self) -> None:
        """The new model answers from now on; one that became worse must be asked for twice."""
        from napari_mil.workflow import adopt

        project, result = self.desk.state.project, self.result
        if project is None or result is None:
            return
        if result.worse and not self._asked_twice:
            self._asked_twice = True
            self.adopt_button.setText("Yes, adopt the worse model")
            self.note.setText("The new model answers held-out slides worse than the old one. Adopt it?")
            return
        twice = self._asked_twice

        def done(card: Any) -> None:
            self._use(card, f"{card.name} is adopted; the earlier models are still in the list.")

        writing.do(self.desk, lambda: adopt(project, result.card.id, although_worse=twice), done)

    def keep(self) -> None:
        """Do not adopt; the new model stays among the models."""
        if self.result is not None and self.desk.state.card is not None:
            name = self.desk.state.card.name
            self._decided(f"{name} stays. {self.result.card.name} is kept in the list of models.")

    def back(self) -> None:
        """Adopt again the model that was adopted before the present one."""
        from napari_mil.workflow import roll_back

        project = self.desk.state.project
        if project is None:
            return

        def done(card: Any) -> None:
            self._use(card, f"{card.name} answers again.")

        writing.do(self.desk, lambda: roll_back(project), done)

    def difference(self) -> Any:
        """Show what the new model says otherwise on the slide in front; returns the Job, or None."""
        state, result = self.desk.state, self.result
        if state.project is None or result is None or state.slide is None or state.card is None:
            return None
        project, slide, card = state.project, state.slide, state.card

        def make() -> Any:
            from napari_mil.workflow import difference_steps

            return difference_steps(project, slide, card.id, result.card.id)

        return self.desk.run(f"Comparing on {slide.name}", make, returned=self._show_difference)

    def _show_difference(self, found: Any) -> None:
        bag, answer = found
        if answer.slide_id == getattr(self.desk.state.slide, "fingerprint", None):
            shown = next(m.name for m in answer.maps if m.name.startswith("difference"))
            self.desk.apply(bag=bag, answer=answer, answer_grid=bag.grid, partial=False, shown=(shown,))

    def _use(self, card: Any, sentence: str) -> None:
        self.desk.apply(changed_models=self.desk.state.changed_models + 1)
        acts.use_model(self.desk, card, then=self._ask_adopted)
        self._decided(sentence)

    def _ask_adopted(self) -> None:
        """Show what the adopted model says: at once where the slide's features are kept."""
        if self.desk.state.answer is None and self.desk.state.bag is not None:
            self._run()
        self.run_button.setVisible(self.desk.state.answer is None and self.desk.state.bag is None)

    def _decided(self, sentence: str) -> None:
        for part in (self.adopt_button, self.keep_button, self.difference_button):
            part.hide()
        self.note.setText(sentence)

    def _show_back(self, state: State) -> None:
        from napari_mil.workflow import earlier_card

        project = state.project

        def show(earlier: Any) -> None:
            if self.desk.state.project is project:
                self.back_button.setVisible(earlier is not None)
                self.back_button.setText(f"Back to {earlier.name}" if earlier is not None else "")

        if project is None:
            show(None)
        else:
            self.desk.asks.ask("earlier model", lambda: earlier_card(project), show)
