"""Drawing regions, and holes in them: a Shapes layer that takes one polygon after the other and hands each on
as a correction.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from napari_mil.correction import Polygon
from napari_mil.errors import MILError
from napari_mil.ui import writing
from napari_mil.ui.desk import Desk
from napari_mil.ui.layers import unit


class RegionPen:
    """Polygons drawn with it become corrections with the chosen label (0: they take labels away), or holes in
    the regions of this person that they lie in; the drawn shape itself is taken away again.
    """

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.layer: Any = None
        self._cuts = False
        self._drawn: list[np.ndarray] = []
        self._soon = desk.pauses.after(0, self._hand_on)

    def pick_up(self, *, hole: bool = False) -> None:
        """Get ready to draw regions, or holes."""
        self._hand_on()
        self._cuts = hole
        slide = self.desk.state.slide
        if slide is None:
            self.desk.tell("Open a slide before drawing.")
            return
        viewer = self.desk.viewer
        if self.layer is None or self.layer not in viewer.layers:
            self.layer = viewer.add_shapes(
                ndim=2,
                scale=slide.mpp or (1.0, 1.0),
                units=(unit(slide),) * 2,
                edge_color="#F0E442",
                face_color="transparent",
                edge_width=6,
            )
            self.layer.events.data.connect(self._finished)
        self.layer.name = "draw a hole here" if hole else "draw a region here"
        viewer.layers.selection.active = self.layer
        self.layer.mode = "add_polygon"

    def put_down(self) -> None:
        """Take the drawing layer away."""
        self._hand_on()
        if self.layer is not None and self.layer in self.desk.viewer.layers:
            self.desk.viewer.layers.remove(self.layer)
        self.layer = None

    def take(self, points: Any) -> Any:
        """Keep a region or a hole; points: (n, 2) data coordinates of napari, pixel centres on integers. What
        became of it: corrections, several where its outline crossed itself; or the region that got a hole.
        """
        try:
            polygon = Polygon((np.asarray(points, np.float64)[:, -2:] + 0.5,))
        except MILError as error:
            self.desk.tell(error)
            return []
        if self._cuts:
            return writing.cut(self.desk, polygon)
        project, node = self.desk.state.project, self.desk.state.node
        if project is None or node is None:
            return []
        return writing.draw(self.desk, polygon, project.tree.path(node) or None)

    def _finished(self, event: Any) -> None:
        """A polygon is drawn. napari tells so while it is still at it, so the layer is left alone until it is
        done.
        """
        if str(getattr(event.action, "value", event.action)) != "added" or self.layer is None:
            return
        self._drawn = [np.array(points) for points in self.layer.data]
        self._soon()

    def _hand_on(self) -> None:
        """Clear the layer, and keep what was drawn."""
        drawn, self._drawn = self._drawn, []
        if not drawn:
            return
        if self.layer is not None and self.layer in self.desk.viewer.layers:
            with self.layer.events.data.blocker():
                self.layer.data = []
                self.layer.mode = "add_polygon"
        for points in drawn:
            self.take(points)
