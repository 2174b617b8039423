"""Hidden tiles: which tiles MHIM's teacher hides from the student at training time, simulated with live
sliders, or replayed where the training was recorded.
"""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QCheckBox, QWidget
from superqt import QLabeledDoubleSlider

from napari_mil.prediction import TileMap
from napari_mil.ui import acts
from napari_mil.ui.desk import Desk
from napari_mil.ui.replay import EpochSlider
from napari_mil.ui.state import State
from napari_mil.ui.widgets import column, hint, row, text

HIDDEN = "hidden tiles (MHIM)"


class HiddenTiles(QWidget):
    """Which tiles MHIM's teacher hides from the student at training time: simulated, with live sliders."""

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self.desk = desk
        self.on = QCheckBox("Hidden tiles (MHIM, simulated)")
        self.on.setToolTip("The tiles that the teacher hides from the student while MHIM is trained")
        self.on.toggled.connect(lambda _on: self.simulate())
        self.mask_ratio = _slider(0.0, 0.5, 0.03)
        self.keep_ratio = _slider(0.0, 1.0, 0.8)
        self.sliders = QWidget()
        column(
            self.sliders,
            row(text("Mask ratio"), self.mask_ratio),
            row(text("Keep ratio"), self.keep_ratio),
            margins=(0, 0, 0, 0),
            spacing=2,
        )
        self.counts = hint()
        self.replay = EpochSlider(desk, self.simulate)
        self.shown = QWidget()
        column(self.shown, self.replay, self.sliders, self.counts, margins=(0, 0, 0, 0), spacing=2)
        column(self, self.on, self.shown, margins=(0, 0, 0, 0), spacing=2)
        for slider in (self.mask_ratio, self.keep_ratio):
            slider.valueChanged.connect(lambda _value: self.simulate())
        self._model: Any = None
        self._simulator: Any = None
        acts.whenever(desk, ("card", "bag"), self._reset)

    def simulate(self) -> None:
        """Ask which tiles would be hidden, or replay which were; the latest setting of the sliders wins."""
        state = self.desk.state
        self.shown.setVisible(self.on.isChecked())
        self.sliders.setEnabled(not self.replay.epoch)
        if not self.on.isChecked() or state.bag is None or state.card is None:
            self._show_off()
            return
        if self.replay.epoch:
            self.desk.asks.ask("hidden tiles", _roles, self._show_epoch)
            return
        project, card, bag = state.project, state.card, state.bag
        ratios = {"mask_ratio": self.mask_ratio.value(), "keep_ratio": self.keep_ratio.value()}

        def work() -> Any:
            from napari_mil.masks import Simulator

            if self._simulator is None or self._simulator[:2] != (card, bag):
                self._simulator = (card, bag, Simulator(project.model(card.id), bag))
            return self._simulator[2](**ratios), _roles()

        def show(found: Any) -> None:
            if self.desk.state.bag is bag and self.desk.state.card is card and self.on.isChecked():
                masks, roles = found
                note = "Simulated, one draw: what the teacher would hide from the student at training time."
                self._show(masks.role, roles, note)
                n = masks.counts
                self.counts.setText(
                    f"{n['hidden']:,} of {n['tiles']:,} tiles hidden, {n['recycled']:,} recycled "
                    f"(a random {n['recycled'] / n['left']:.0%} of those left); "
                    "the hard ones are those left to learn from."
                )

        self.desk.asks.ask("hidden tiles", work, show)

    def _show_epoch(self, roles: Any) -> None:
        found = self.replay.on_show()
        if found is not None and self.on.isChecked():
            role, note, counts = found
            self._show(role, roles, note)
            self.counts.setText(counts)

    def _show(self, role: Any, roles: Any, note: str) -> None:
        made = TileMap(HIDDEN, "groups", role, legend=roles, note=note)
        shown = self.desk.state.shown if HIDDEN in self.desk.state.shown else (HIDDEN,)
        self.desk.apply(simulated=(made,), shown=shown)

    def _show_off(self) -> None:
        state = self.desk.state
        if state.simulated:
            shown = tuple(n for n in state.shown if n != HIDDEN)
            self.desk.apply(simulated=(), shown=shown or (("attention",) if state.answer else ()))

    def _reset(self, state: State) -> None:
        """A model without a teacher hides nothing; a new model brings its own ratios."""
        fits = state.card is not None and state.card.method == "mhim"
        self.setVisible(fits)
        self.on.setEnabled(state.bag is not None)
        if not fits:
            self.on.setChecked(False)
        if state.card is not None and state.card is not self._model:
            self._model = state.card
            for slider, name in ((self.mask_ratio, "mask_ratio"), (self.keep_ratio, "keep_ratio")):
                slider.blockSignals(True)
                slider.setValue(float(state.card.config.get(name, slider.value())))
                slider.blockSignals(False)
        self.replay.load(state)
        self.simulate()


def _roles() -> Any:
    """What the codes of the tiles mean; asked off the GUI thread, as the room loads torch."""
    from napari_mil.masks import ROLES

    return ROLES


def _slider(low: float, high: float, value: float) -> QLabeledDoubleSlider:
    slider = QLabeledDoubleSlider(Qt.Orientation.Horizontal)
    slider.setRange(low, high)
    slider.setDecimals(3)
    slider.setMinimumWidth(120)
    slider.setSingleStep(0.005)
    slider.setValue(value)
    return slider
