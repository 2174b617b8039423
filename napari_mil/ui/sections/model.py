"""Model: choose one, see its card, run it on the slide or on what is in view, read its answer."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from qtpy.QtWidgets import QButtonGroup, QComboBox, QRadioButton, QVBoxLayout, QWidget

from napari_mil.steps import ASIDE
from napari_mil.ui import acts
from napari_mil.ui.allslides import AllSlides
from napari_mil.ui.curves import HalvesPlot, SurvivalPlot
from napari_mil.ui.desk import Desk
from napari_mil.ui.importmodel import ImportModel
from napari_mil.ui.state import State
from napari_mil.ui.widgets import allow, button, clear, column, hint, row, text
from napari_mil.ui.words import (
    answer_remarks,
    chosen_words,
    estimate_words,
    hidden_words,
    percent,
    risk_words,
    why_no_model,
)

if TYPE_CHECKING:
    from napari_mil.card import ModelCard
    from napari_mil.steps import Progress

#: Tiles per second that the built-in encoder is known to reach on two cores; replaced by what was seen here.
USUAL_SPEED = 400.0


class ModelSection(QWidget):
    """The model that answers, and its answer."""

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self.desk = desk
        self.speed = USUAL_SPEED
        self._cards: tuple[ModelCard, ...] = ()
        self.choice = QComboBox()
        self.choice.setToolTip("The model that is asked")
        self.choice.activated.connect(lambda i: self.choose(self._cards[i].id))
        self.card = text()
        self.held_out = QWidget()
        self._held_out = QVBoxLayout(self.held_out)
        self._held_out.setContentsMargins(0, 0, 0, 0)
        self.whole = QRadioButton("Whole slide")
        self.visible = QRadioButton("Visible region")
        self.whole.setChecked(True)
        scope = QButtonGroup(self)
        scope.addButton(self.whole)
        scope.addButton(self.visible)
        scope.buttonClicked.connect(lambda _b: self._estimate(desk.state))
        self.estimate = hint()
        self.run_button = button("Run", self.run, "Ask the model about this slide", key="Ctrl+Return")
        self.all = AllSlides(desk, self.run_button, self._take)
        self.answer = QWidget()
        self._answer = QVBoxLayout(self.answer)
        self._answer.setContentsMargins(0, 0, 0, 0)
        above = (row(self.choice, ImportModel(desk)), self.card, self.held_out)
        column(self, *above, row(self.whole, self.visible, None), self.estimate, self.all, self.answer)
        desk.key("Ctrl+Return", self.run, "Run the model on the slide, or on what is in view")
        acts.whenever(desk, ("project", "changed_models", "card"), self._show_cards)
        acts.whenever(desk, ("card", "slide", "bag"), self._estimate)
        acts.whenever(desk, ("answer", "partial", "blind", "second", "corrections"), self._show_answer)

    def choose(self, which: str) -> None:
        """Choose a model by id or name."""
        from napari_mil.workflow import find_card

        if self.desk.state.project is not None:
            acts.use_model(self.desk, find_card(self.desk.state.project, which))

    def run(self, *, region: bool | None = None) -> Any:
        """Ask the model; maps fill in while the work goes on. Returns the Job, or None when there is
        nothing to ask.
        """
        state = self.desk.state
        if state.project is None or state.slide is None or state.card is None:
            self.desk.tell("Open a slide and choose a model first.")
            return None
        box = self.desk.view_box_px()
        region = self.visible.isChecked() if region is None else region
        if not region and self.all.comes_next():
            return None
        if region and box is None:
            self.desk.tell("The slide is not in view; move it into the window, or run the whole slide.")
            return None
        return self._start(state, box, region)

    def _start(self, state: State, box: Any, region: bool) -> Any:
        project, slide, card = state.project, state.slide, state.card
        began = time.monotonic()

        def current() -> bool:
            return self.desk.state.slide is slide and self.desk.state.card is card

        def make() -> Any:
            from napari_mil.workflow import analyse_steps

            return analyse_steps(project, slide, model=card.id, region=box if region else None, view=box)

        def progressed(now: Progress) -> None:
            if now.stage == ASIDE:
                self.desk.tell(now.note)
            if now.stage == "features" and now.total and now.done == now.total and now.done > 200:
                self.speed = now.total / max(time.monotonic() - began, 1e-3)
            if now.payload is not None and current():
                self._take(now.payload.prediction, now.payload.grid, partial=now.stage != "answer")

        def returned(prediction: Any) -> None:
            if not region:
                self.desk.answered.emit(slide.fingerprint, prediction)
            if current() and not region:
                acts.take_features(self.desk)

        title = f"{card.name} on {slide.name}" + (" (region)" if region else "")
        return self.desk.run(title, make, progressed=progressed, returned=returned, finished=self._settle)

    def _take(self, prediction: Any, grid: Any, *, partial: bool) -> None:
        shown = self.desk.state.shown
        known = [m.name for m in prediction.maps]
        if not any(name in known for name in shown):
            shown = ("attention",) if "attention" in known else shown
        self.desk.apply(answer=prediction, answer_grid=grid, partial=partial, shown=shown)

    def _settle(self) -> None:
        if self.desk.state.partial:
            self.desk.apply(partial=False)

    def _show_cards(self, state: State) -> None:
        self._cards = state.project.cards if state.project else ()
        self.choice.clear()
        self.choice.addItems([c.name for c in self._cards])
        if state.card is not None:
            self.choice.setCurrentIndex([c.id for c in self._cards].index(state.card.id))
        self.card.setText(chosen_words(state))
        allow(self.run_button, why_no_model(state))
        self._show_held_out(state.card)

    def _show_held_out(self, card: ModelCard | None) -> None:
        """The curves of held-out cases by risk, where the model's card has them."""
        clear(self._held_out)
        if card is None or not card.survival:
            return
        from napari_mil.workflow.figures import logrank_words

        self._held_out.addWidget(hint(f"Held-out cases, halves by risk: {logrank_words(card.survival)}"))
        self._held_out.addWidget(HalvesPlot(self.desk, card.tree, card.survival))

    def _estimate(self, state: State) -> None:
        """Say before a run how many tiles it is and how long it takes here."""
        slide, card = state.slide, state.card
        if slide is None or card is None:
            self.estimate.setText("")
            return
        if state.bag is not None:
            self._say_estimate(len(state.bag), kept=True)
            return
        self.estimate.setText("Counting tiles…")

        def work() -> int:
            from napari_mil.tissue import tissue_grid

            return len(tissue_grid(slide, tile_px=card.tile_px, mpp=card.mpp))

        def show(tiles: int) -> None:
            if self.desk.state.slide is slide and self.desk.state.bag is None:
                self._say_estimate(tiles, kept=False)

        self.desk.asks.ask("estimate", work, show)

    def _say_estimate(self, tiles: int, *, kept: bool) -> None:
        self.estimate.setText(estimate_words(tiles, self.speed, kept=kept))

    def _show_answer(self, state: State) -> None:
        clear(self._answer)
        if state.answer is None or state.project is None:
            return
        if state.veiled:
            self._answer.addWidget(hint(hidden_words(state, "The answer")))
            return
        tree = state.project.tree
        if state.answer.risk is not None and state.answer.survival is not None and state.card is not None:
            self._answer.addWidget(text(risk_words(state.answer.risk)))
            self._answer.addWidget(SurvivalPlot(self.desk, state.card.tree, state.answer.survival))
        for node, p in state.answer.best(tree):
            self._answer.addWidget(text(f"<b>{tree.path(node)}</b> {percent(p)}"))
        for sentence in answer_remarks(state):
            self._answer.addWidget(hint(sentence))
