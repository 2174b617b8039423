"""The legends of everything on show, on the canvas itself: whichever section is folded out."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFrame, QVBoxLayout

from napari_mil.ui import acts, compat
from napari_mil.ui.desk import Desk
from napari_mil.ui.legends import Legend, corrections_legend, legend
from napari_mil.ui.state import State
from napari_mil.ui.widgets import LegendView, clear, soon

NARROW_PX, WIDE_PX, MARGIN_PX = 180, 360, 8


class CanvasLegend(QFrame):
    """A frame in the corner of the canvas; the mouse goes through it."""

    def __init__(self, desk: Desk) -> None:
        super().__init__(compat.canvas_widget(desk.viewer))
        self.desk = desk
        self.on = True
        self.setObjectName("canvasLegend")
        self.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
        self.move(MARGIN_PX, MARGIN_PX)
        self._views = QVBoxLayout(self)
        self._views.setContentsMargins(4, 4, 4, 2)
        self._views.setSpacing(0)
        compat.float_over_canvas(self, desk.viewer)
        desk.theme_changed.connect(lambda: compat.float_over_canvas(self, desk.viewer))
        draw = soon(self, self.draw)
        watched = ("answer", "shown", "simulated", "style", "nodes", "corrections", "blind", "second")
        acts.whenever(desk, watched, lambda _state: draw())

    def switch(self, on: bool) -> None:
        """Show it, or take it off the canvas."""
        self.on = on
        self.draw()

    def draw(self) -> None:
        """Say what is on show now."""
        found = legends(self.desk.state) if self.on else []
        views = [self._views.itemAt(n).widget() for n in range(self._views.count())]
        if len(views) != len(found) or not all(map(LegendView.recount, views, found)):
            clear(self._views)
            for made in found:
                view = LegendView(made)
                self._views.addWidget(view)
                view.show()  # else a layout that is on screen already makes room for it a moment later
        self.setVisible(bool(found))
        self._views.activate()
        width = min(max(self._views.sizeHint().width(), NARROW_PX), WIDE_PX)
        wrapped = self._views.heightForWidth(width) if self._views.hasHeightForWidth() else 0
        self.resize(width, max(wrapped, self._views.sizeHint().height()))
        self.raise_()


def legends(state: State) -> list[Legend]:
    """The legend of every map on show, in their order, then that of the corrections."""
    tree: Any = state.project.tree if state.project else None
    made = [legend(found[0], tree, style=state.style) for name in state.seen if (found := state.map(name))]
    if tree is not None and state.nodes is not None and state.nodes.any() and not state.second:
        made.append(corrections_legend(state.nodes, tree))
    return made
