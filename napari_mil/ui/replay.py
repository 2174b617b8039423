"""Replay: the epochs of a recorded training, one step of a slider each."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QWidget
from superqt import QLabeledSlider

from napari_mil.ui.desk import Desk
from napari_mil.ui.state import State
from napari_mil.ui.widgets import column, row, text

if TYPE_CHECKING:
    from napari_mil.train.recording import Recording


class EpochSlider(QWidget):
    """Visible where the chosen model's training was recorded on the open slide; 0 stands for now.

    Parameters
    ----------
    changed : called when another epoch is chosen
    """

    def __init__(self, desk: Desk, changed: Callable[[], None]) -> None:
        super().__init__()
        self.desk = desk
        self.slider = QLabeledSlider(Qt.Orientation.Horizontal)
        self.slider.setMinimumWidth(120)
        self.slider.setToolTip(
            "0 simulates what would be hidden now; then the epochs of the recorded training"
        )
        self.slider.valueChanged.connect(lambda _value: changed())
        column(self, row(text("Epoch"), self.slider), margins=(0, 0, 0, 0))
        self.recording: Recording | None = None
        self._show(None)

    @property
    def epoch(self) -> int:
        """The epoch on show, counted from 1; 0 for now."""
        return self.slider.value() if self.recording is not None else 0

    def load(self, state: State) -> None:
        """Look for a recording of the slide and model in front."""
        self._show(None)
        project, card, bag = state.project, state.card, state.bag
        if project is None or card is None or bag is None:
            return

        def work() -> Recording | None:
            from napari_mil.workflow import has_recording, recordings

            found = recordings(project, card.id).get(bag.slide_id) if has_recording(project, card) else None
            return found if found is not None and found.roles.shape[1] == len(bag) else None

        def show(found: Recording | None) -> None:
            if self.desk.state.card is card and self.desk.state.bag is bag:
                self._show(found)

        self.desk.asks.ask("recording", work, show)

    def on_show(self) -> tuple[Any, str, str] | None:
        """Of the epoch on show: (N,) int8 what became of each tile, what a reader must know of it, and its
        counts; None for now.
        """
        one, at = self.recording, self.epoch - 1
        if one is None or at < 0:
            return None
        how = "this slide was not learned from, but asked after it" if one.simulated else "as it happened"
        stayed = f", {one.stayed[at]:.0%} of them also in the epoch before" if at else ""
        counts = (
            f"{one.hidden[at].sum():,} of {one.roles.shape[1]:,} tiles hidden{stayed}; "
            f"{(one.roles[at] == 2).sum():,} recycled."
        )
        return one.roles[at], f"Recorded, epoch {at + 1} of the training: {how}.", counts

    def _show(self, found: Recording | None) -> None:
        self.recording = found
        self.slider.blockSignals(True)
        self.slider.setRange(0, 0 if found is None else len(found.epochs))
        self.slider.setValue(0)
        self.slider.blockSignals(False)
        self.setVisible(found is not None)
