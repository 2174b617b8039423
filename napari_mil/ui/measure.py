"""Ruler and area: lines and outlines on a layer of their own, each with its measure written beside it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from napari_mil.ui import compat
from napari_mil.ui.desk import Desk, State
from napari_mil.ui.front import front

COLOUR = "#0033A0"
#: What each tool draws with.
TOOLS = {"ruler": "add_line", "area": "add_polygon"}


class Measures:
    """Measures of the slide in front; they go when another slide comes, and are no labels."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.layer: Any = None
        self._of: Any = None  # the layer of the slide that they were begun on
        desk.changed.connect(self._changed)

    def pick_up(self, tool: str) -> bool:
        """Take a tool up: "ruler" or "area"; False where there is no slide to measure."""
        shown = front(self.desk.viewer)
        if shown is None:
            self.desk.tell("Open a slide before measuring.")
            return False
        viewer = self.desk.viewer
        if self.layer is None or self.layer not in viewer.layers:
            self._of = shown.layer
            self.layer = viewer.add_shapes(
                name="measures",
                ndim=2,
                **_placed(shown.layer),
                edge_color=COLOUR,
                face_color="transparent",
                opacity=1.0,
                edge_width=max(1.0, 2 / (compat.camera(viewer).zoom * float(shown.scale[0]))),
                features={"measure": np.array([], object)},
                text={"string": "{measure}", "size": 12, "color": COLOUR, "anchor": "upper_left"},
            )
            self.layer.events.data.connect(self._drawn)
        viewer.layers.selection.active = self.layer
        self.layer.mode = TOOLS[tool]
        return True

    def follow(self) -> None:
        """Go when the slide has gone; measure in µm once somebody says how large its pixels are."""
        if self.layer is None or self.layer not in self.desk.viewer.layers:
            return
        if self._of not in self.desk.viewer.layers:
            self.clear()
        elif self.layer.units != self._of.units:
            for name, value in _placed(self._of).items():
                setattr(self.layer, name, value)
            self._say()

    def put_down(self) -> None:
        """Look again; the measures stay."""
        if self.layer is not None and self.layer in self.desk.viewer.layers:
            self.layer.mode = "pan_zoom"

    def clear(self) -> None:
        """Take all measures away."""
        if self.layer is not None and self.layer in self.desk.viewer.layers:
            self.desk.viewer.layers.remove(self.layer)
        self.layer = self._of = None

    def words(self) -> list[str]:
        """What is written beside each shape."""
        layer = self.layer
        unit = "px" if str(layer.units[-1]) == "pixel" else "µm"
        scale = np.asarray(layer.scale, float)[-2:]
        shapes = zip(layer.shape_type, layer.data, strict=True)
        return [measure(kind, np.asarray(points)[:, -2:] * scale, unit) for kind, points in shapes]

    def _drawn(self, event: Any) -> None:
        if str(getattr(event.action, "value", event.action)) in {"added", "changed", "removed"}:
            self._say()

    def _say(self) -> None:
        self.layer.features = {"measure": np.array(self.words(), object)}
        self.layer.refresh_text()

    def _changed(self, before: State, after: State) -> None:
        if before.slide is not after.slide:
            self.clear()


def _placed(slide: Any) -> dict[str, Any]:
    """Where a slide's layer lies, as options of another: pixel upon pixel."""
    return {
        "scale": tuple(np.asarray(slide.scale)[-2:]),
        "translate": tuple(np.asarray(slide.translate)[-2:]),
        "units": slide.units,
    }


def measure(kind: str, points: np.ndarray, unit: str) -> str:
    """The length of a line or path, or the area of an outline, in words.

    points : (n, 2) in units

    >>> measure("line", np.array([[0, 0], [300, 400]]), "µm")
    '500 µm'
    >>> measure("rectangle", np.array([[0, 0], [0, 2000], [1000, 2000], [1000, 0]]), "µm")
    '2.00 mm²'
    """
    if kind in {"line", "path"}:
        return _length(float(np.hypot(*np.diff(points, axis=0).T).sum()), unit)
    y, x = points.T
    area = abs(float(np.dot(y, np.roll(x, 1)) - np.dot(x, np.roll(y, 1)))) / 2
    return _area(area * (math.pi / 4 if kind == "ellipse" else 1.0), unit)


def _length(value: float, unit: str) -> str:
    if unit == "µm" and value >= 1000:
        return f"{value / 1000:,.2f} mm"
    return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.1f} {unit}"


def _area(value: float, unit: str) -> str:
    if unit == "µm" and value >= 1e5:
        return f"{value / 1e6:,.2f} mm²" if value >= 1e6 else f"{value / 1e6:.3f} mm²"
    return f"{value:,.0f} {unit}²"
