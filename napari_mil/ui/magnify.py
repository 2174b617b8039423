"""The magnification: as under a microscope, 40× being 0.25 µm per pixel of the screen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qtpy.QtWidgets import QHBoxLayout, QLabel, QPushButton, QWidget

from napari_mil.ui import acts, compat
from napari_mil.ui.desk import Desk
from napari_mil.ui.state import State
from napari_mil.ui.widgets import soon

POWERS = (1, 5, 10, 20, 40)
#: µm per screen pixel at 1×.
UM_AT_ONE = 10.0
KNOWN = "Show the middle of the view at {}×: {:g} µm per pixel of the screen"
UNKNOWN = "Magnifications need to know how many µm a pixel of the slide is wide"


class Magnification(QWidget):
    """Buttons for the whole slide and the usual objectives, and the magnification there is."""

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self.desk = desk
        self.overview = self._button("Overview", desk.viewer.reset_view, "Show the whole slide")
        self.buttons = {power: self._button(f"{power}×", lambda p=power: self.show_at(p)) for power in POWERS}
        self.now = QLabel()
        layout = QHBoxLayout(self)
        layout.setContentsMargins(
            6, 8, 6, 2
        )  # napari's title bar reaches a little over what it is the title of
        layout.setSpacing(3)
        for part in (self.overview, *self.buttons.values()):
            layout.addWidget(part)
        layout.addStretch(1)
        layout.addWidget(self.now)
        self._say_soon = soon(self, self._say, ms=100)
        self.stop = compat.watch_camera(desk.viewer, self._say_soon)
        acts.whenever(desk, ("slide",), self._settle)

    def show_at(self, power: float) -> None:
        """Look at the middle of the view at a magnification; nothing happens where µm are unknown."""
        if self._known(self.desk.state):
            compat.camera(self.desk.viewer).zoom = power / UM_AT_ONE

    @staticmethod
    def _known(state: State) -> bool:
        return state.slide is not None and state.slide.mpp is not None

    def _settle(self, state: State) -> None:
        known = self._known(state)
        self.overview.setEnabled(state.slide is not None)
        for power, made in self.buttons.items():
            made.setEnabled(known)
            made.setToolTip(KNOWN.format(power, UM_AT_ONE / power) if known or not state.slide else UNKNOWN)
        self._say_soon()

    def _say(self) -> None:
        power = compat.camera(self.desk.viewer).zoom * UM_AT_ONE
        self.now.setText(f"{power:.2g}×" if self._known(self.desk.state) else "")

    def _button(self, words: str, act: Callable[[], Any], tip: str = "") -> QPushButton:
        made = QPushButton()
        made.setText(words)
        made.setToolTip(tip)
        made.setMinimumWidth(made.fontMetrics().horizontalAdvance(words) + 12)
        made.setStyleSheet("QPushButton { padding: 2px 3px; }")
        made.clicked.connect(lambda _checked=False: act())
        return made
