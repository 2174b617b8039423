"""The live curve of a training, and the survival that a model expects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyqtgraph as pg

from napari_mil.labeltree import Survival
from napari_mil.ui import compat
from napari_mil.ui.desk import Desk
from napari_mil.ui.widgets import SETTLE_MS, soon

#: Curve → colour; blue and orange are told apart by everybody, on dark and on light.
CURVES = {"loss": "#E69F00", "validation score": "#3A8DDE"}
#: Curve → the name of its figure in an epoch's record.
KEYS = {"loss": "loss", "validation score": "validation/score"}


class _Plot(pg.PlotWidget):
    """A small plot in the viewer's colours that nobody drags by accident."""

    def __init__(self, desk: Desk, height: int) -> None:
        super().__init__()
        self._desk = desk
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


class SurvivalPlot(_Plot):
    """S(t) as the model expects it: a step at the end of each interval of its task.

    curve : (K,) chance that the event has not come by the end of each interval
    """

    def __init__(self, desk: Desk, task: Survival, curve: Any) -> None:
        super().__init__(desk, 150)
        self.times = np.array([0.0, *task.edges[1:]])
        self.survival = np.array([1.0, *curve])
        self.setLabel("bottom", f"time ({task.unit})" if task.unit else "time")
        self.setLabel("left", "event-free")
        self.setYRange(0, 1)
        steps = np.append(self.times, self.times[-1] * 1.02)
        self.plot(steps, self.survival, stepMode="center", pen=pg.mkPen(CURVES["validation score"], width=2))


class Curves(_Plot):
    """Loss and validation figure over the epochs, in the viewer's colours."""

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk, 160)
        self.setLabel("bottom", "epoch")
        words = "&nbsp;&nbsp;&nbsp;".join(f'<span style="color:{c}">{n}</span>' for n, c in CURVES.items())
        self.setTitle(words, size="9pt")
        self.points: dict[str, list[tuple[float, float]]] = {}
        self._lines = {name: self.plot([], pen=pg.mkPen(c, width=2)) for name, c in CURVES.items()}
        self._draw_soon = soon(self, self._draw, ms=SETTLE_MS)

    def begin(self) -> None:
        """Empty the plot and show it."""
        self.points = {name: [] for name in CURVES}
        for line in self._lines.values():
            line.setData([], [])
        self.show()

    def add(self, epoch: Mapping[str, Any]) -> None:
        """Add one epoch's figures; those that belong to no curve are left out."""
        for name, points in self.points.items():
            value = epoch.get(KEYS[name])
            if value is not None and np.isfinite(float(value)):
                points.append((float(epoch.get("epoch", len(points))), float(value)))
        self._draw_soon()

    def _draw(self) -> None:
        for name, points in self.points.items():
            if points:
                self._lines[name].setData(*np.array(points).T)
