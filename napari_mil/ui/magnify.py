"""The magnification: as under a microscope, 40× being 0.25 µm per pixel of the screen; and where one is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qtpy.QtWidgets import QLabel, QPushButton, QSizePolicy, QWidget

from napari_mil.ui import compat
from napari_mil.ui.desk import Desk
from napari_mil.ui.front import UM_AT_ONE, Shown, front, slides
from napari_mil.ui.measure import TOOLS, Measures
from napari_mil.ui.state import State
from napari_mil.ui.widgets import column, row, soon

POWERS = (1, 2.5, 5, 10, 20, 40)
KNOWN = "Show the middle of the view at {:g}×: {:g} µm per pixel of the screen"
UNKNOWN = "Magnifications need to know how many µm a pixel of the slide is wide"
COPIED = (
    "What is drawn is a copy on this disk (JPEG of quality 90): colours are off by a little; whatever is "
    "computed reads the slide itself."
)
SAY_MS = 100


class Magnification(QWidget):
    """Buttons for the whole slide and the usual objectives, what is shown and where, ruler and area."""

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self.desk = desk
        self.fit = self._button("Fit", desk.viewer.reset_view, "Show the whole slide")
        self.buttons = {p: self._button(f"{p:g}×", lambda p=p: self.show_at(p)) for p in POWERS}
        self.now, self.where = QLabel(), QLabel()
        self.where.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self._pointer = compat.Pointer(desk.viewer)
        self.measures = Measures(desk)
        self.tools = {
            "ruler": self._tool("Ruler", "Measure a length: draw a line on the slide"),
            "area": self._tool("Area", "Measure an area: click its corners, double-click the last"),
        }
        for name, made in self.tools.items():
            made.clicked.connect(lambda on, name=name: self.measure(name if on else ""))
        self.map = self._tool("Map", "Show the whole slide in the corner of the canvas")
        self.map.setChecked(True)
        # napari's title bar reaches a little over what it is the title of
        top = row(self.fit, *self.buttons.values(), None, self.now, spacing=3)
        below = row(self.where, *self.tools.values(), self.map, spacing=3)
        below.layout().setStretch(0, 1)  # all that the tools leave
        column(self, top, below, margins=(6, 8, 6, 2), spacing=2)
        self._say_soon, self._settle_soon = soon(self, self._say, ms=SAY_MS), soon(self, self._settle)
        self._ends = [
            compat.watch_camera(desk.viewer, self._say_soon),
            compat.watch_pointer(desk.viewer, self._say_soon),
            compat.watch_layers(desk.viewer, lambda _layer: self._settle_soon()),
            compat.watch_removed(desk.viewer, self._settle_soon),
        ]
        desk.changed.connect(self._another)
        self._settle()

    def show_at(self, power: float) -> None:
        """Look at the middle of the view at a magnification; nothing happens where µm are unknown."""
        shown = front(self.desk.viewer)
        if shown is not None and shown.in_um:
            compat.camera(self.desk.viewer).zoom = power / UM_AT_ONE

    def measure(self, tool: str) -> None:
        """Take up "ruler" or "area", or with "" put them down."""
        taken = bool(tool) and self.measures.pick_up(tool)
        if not taken:
            self.measures.put_down()
        for name, made in self.tools.items():
            made.setChecked(taken and name == tool)

    def stop(self) -> None:
        """Watch no longer; measures go."""
        self._pointer.forget()
        for end in self._ends:
            end()
        self._ends = []
        self.measures.clear()

    def _another(self, before: State, after: State) -> None:
        if before.slide is not after.slide:  # the layer stays and shows another
            self._settle_soon()

    def _settle(self) -> None:
        self.measures.follow()
        shown = front(self.desk.viewer)
        known = self._known = shown is not None and shown.in_um
        for made in (self.fit, *self.tools.values(), self.map):
            made.setEnabled(shown is not None)
        for power, made in self.buttons.items():
            made.setEnabled(known)
            made.setToolTip(KNOWN.format(power, UM_AT_ONE / power) if known or shown is None else UNKNOWN)
        self._say_soon()

    def _say(self) -> None:
        shown = front(self.desk.viewer)
        if self._known != (shown is not None and shown.in_um):  # somebody said how large a pixel is
            self._settle()
        power = compat.camera(self.desk.viewer).zoom * UM_AT_ONE
        self.now.setText(f"{power:.2g}×" if shown is not None and shown.in_um else "")
        self.where.setText("" if shown is None else " · ".join(self._words(shown)))
        layer = self.measures.layer
        active = self.desk.viewer.layers.selection.active
        mode = str(layer.mode) if layer is not None and layer is active else ""
        for name, made in self.tools.items():
            made.setChecked(mode == TOOLS[name])

    def _words(self, shown: Shown) -> list[str]:
        """What is drawn, and where the pointer is on the slide under it."""
        level = shown.levels[min(shown.layer.data_level, len(shown.levels) - 1)]
        copied = level.engine.sketched(level.index)
        words = [f"{'≈ ' if copied else ''}level {shown.layer.data_level}"]
        said = f", {shown.said}" if shown.said else ""
        mpp = f", {level.downsample[0] * shown.scale[0]:.3g} µm per pixel{said}" if shown.in_um else ""
        drawn = f"Drawn from level {shown.layer.data_level}, 1:{level.downsample[0]:.3g}{mpp}"
        self.where.setToolTip(f"{drawn}. {COPIED}" if copied else drawn)
        at = self.desk.viewer.cursor.position[-2:] if self._pointer.known else None
        under = [one for one in slides(self.desk.viewer) if at is not None and one.holds(*at)]
        if under:
            y, x = under[-1].px(*at) * (under[-1].scale if under[-1].in_um else 1.0)
            words.append(f"x {x:,.0f} y {y:,.0f} {'µm' if under[-1].in_um else 'px'}")
        return words

    def _tool(self, words: str, tip: str) -> QPushButton:
        made = self._button(words, lambda: None, tip)
        made.setCheckable(True)
        return made

    def _button(self, words: str, act: Callable[[], Any], tip: str = "") -> QPushButton:
        made = QPushButton()
        made.setText(words)
        made.setToolTip(tip)
        made.setMinimumWidth(made.fontMetrics().horizontalAdvance(words) + 12)
        made.setStyleSheet("QPushButton { padding: 2px 3px; }")
        made.clicked.connect(lambda _checked=False: act())
        return made
