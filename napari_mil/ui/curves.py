"""The live curves of a training, the survival that a model expects, and that of held-out cases by risk."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyqtgraph as pg
from qtpy.QtWidgets import QWidget

from napari_mil.labeltree import Survival
from napari_mil.ui import compat
from napari_mil.ui.desk import Desk
from napari_mil.ui.widgets import SETTLE_MS, column, soon

#: Curve → colour; blue and orange are told apart by everybody, on dark and on light.
CURVES = {"loss": "#E69F00", "validation score": "#3A8DDE"}
#: Curve → the name of its figure in an epoch's record.
KEYS = {"loss": "loss", "validation score": "validation/score"}
#: Curve → what is written above it.
WORDS = {
    "loss": "loss while learning (lower is better)",
    "validation score": "score on validation cases (higher is better)",
}
#: Half of the cases by risk → colour
HALVES = {"lower": CURVES["validation score"], "higher": CURVES["loss"]}
#: Curve → height of its plot; the lower one bears the numbers of the epochs for both.
HEIGHTS = {"loss": 100, "validation score": 122}


#: An axis spans so much at least: less says nothing, and its figures would need more than three decimals.
LEAST_RANGE = 0.02
#: Ticks are at least so far apart, as a share of the axis, that their figures stay apart.
LEAST_APART = 0.11


class _Plot(pg.PlotWidget):
    """A small plot in the viewer's colours that nobody drags by accident."""

    def __init__(self, desk: Desk, height: int) -> None:
        super().__init__()
        self._desk, self._head = desk, ""
        self.setFixedHeight(height)
        self.setMouseEnabled(x=False, y=False)
        self.setMenuEnabled(False)
        self.hideButtons()
        self._paint()
        desk.theme_changed.connect(self._paint)

    def _paint(self) -> None:
        colours = compat.theme_colours(self._desk.viewer)
        self.setBackground(colours["background"])
        for name in ("bottom", "left"):
            self.getAxis(name).setPen(colours["text"])
            self.getAxis(name).setTextPen(colours["text"])
        if self._head:
            self.setTitle(self._head, size="9pt", color=colours["text"])

    def head(self, words: str) -> None:
        """Write something above."""
        self._head = words
        self._paint()

    def axes_of(self, task: Survival) -> None:
        """Name the axes: time, and the share still without the event."""
        self.setLabel("bottom", f"time ({task.unit})" if task.unit else "time")
        self.setLabel("left", "event-free")
        self.setYRange(0, 1)

    def step(self, times: Any, shares: Any, colour: str) -> None:
        """Draw shares (m,) that hold from each of the times (m,) on."""
        ends = np.append(times, times[-1] * 1.02)
        self.plot(ends, shares, stepMode="center", pen=pg.mkPen(colour, width=2))


class SurvivalPlot(_Plot):
    """S(t) as the model expects it: a step at the end of each interval of its task.

    curve : (K,) chance that the event has not come by the end of each interval
    """

    def __init__(self, desk: Desk, task: Survival, curve: Any) -> None:
        super().__init__(desk, 150)
        self.times = np.array([0.0, *task.edges[1:]])
        self.survival = np.array([1.0, *curve])
        self.axes_of(task)
        self.getAxis("bottom").setTicks([ends_of(self.times)])
        self.step(self.times, self.survival, CURVES["validation score"])


def ends_of(times: Any) -> list[tuple[float, str]]:
    """Where intervals end, as ticks of an axis: the first and the last, and those with room around them."""
    first, *others, last = np.asarray(times, float).tolist()
    room, shown = LEAST_APART * (last - first), [last]
    for time in reversed(others):
        if shown[-1] - time >= room and time - first >= room:
            shown.append(time)
    return [(time, f"{time:.3g}") for time in (first, *reversed(shown))]


class HalvesPlot(_Plot):
    """Kaplan–Meier curves of held-out cases, of the lower and the higher half by risk.

    names : what each half is called, above the curves
    """

    def __init__(self, desk: Desk, task: Survival, table: Mapping[str, Any]) -> None:
        super().__init__(desk, 180)
        self.axes_of(task)
        self.names = []
        for half, colour in HALVES.items():
            curve = table[half]
            self.names.append(f"{half} risk, {curve['cases']} case{'' if curve['cases'] == 1 else 's'}")
            times, shares = np.array([0.0, *curve["times"]]), np.array([1.0, *curve["survival"]])
            self.step(times, shares, colour)
        marks = (f'<span style="color:{colour}">▬</span>' for colour in HALVES.values())
        self.head("<br>".join(f"{mark} {name}" for mark, name in zip(marks, self.names, strict=True)))


class Curves(QWidget):
    """Loss and validation figure over the epochs: two plots, for the one's scale says nothing of the other's.

    points : per curve, (epoch, value) as they came, of the stage that goes on: each counts its epochs anew
    """

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self.points: dict[str, list[tuple[float, float]]] = {}
        self._stage = ""
        self.plots = {name: _Plot(desk, HEIGHTS[name]) for name in CURVES}
        self._lines = {}
        for name, plot in self.plots.items():
            plot.head(WORDS[name])
            # so that the epochs of one stand under those of the other; figures that do not fit are left out
            plot.getAxis("left").setWidth(plot.fontMetrics().horizontalAdvance("0.000") + 8)
            plot.setLimits(minYRange=LEAST_RANGE)
            pen = pg.mkPen(CURVES[name], width=2)
            self._lines[name] = plot.plot([], pen=pen, symbol="o", symbolSize=5, symbolBrush=CURVES[name])
        self.plots["validation score"].setLabel("bottom", "epoch")
        self.plots["validation score"].setXLink(self.plots["loss"])
        column(self, *self.plots.values(), margins=(0, 0, 0, 0), spacing=0)
        self._draw_soon = soon(self, self._draw, ms=SETTLE_MS)

    def begin(self) -> None:
        """Empty the plots; they come with the first epoch."""
        self.points = {name: [] for name in CURVES}
        for line in self._lines.values():
            line.setData([], [])
        self.hide()

    def add(self, epoch: Mapping[str, Any]) -> None:
        """Add one epoch's figures; those that belong to no curve are left out."""
        if (stage := epoch.get("stage", "")) != self._stage:
            self._stage, self.points = stage, {name: [] for name in CURVES}
        for name, points in self.points.items():
            value = epoch.get(KEYS[name])
            if value is not None and np.isfinite(float(value)):
                points.append((float(epoch.get("epoch", len(points))), float(value)))
        self._draw_soon()

    def _draw(self) -> None:
        for name, points in self.points.items():
            if points:
                self._lines[name].setData(*np.array(points).T)
                step = max(1, math.ceil(len(points) / 9))
                self.plots[name].getAxis("bottom").setTickSpacing(levels=[(step, 0)])  # whole epochs only
                self.show()
