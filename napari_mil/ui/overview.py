"""The overview on the canvas: the whole slide, small, and in it the box that the view shows."""

from __future__ import annotations

from typing import Any

import numpy as np
from qtpy.QtCore import QEvent, QRectF, Qt
from qtpy.QtGui import QColor, QImage, QPainter, QPen, QPixmap
from qtpy.QtWidgets import QFrame

from napari_mil.errors import MILError
from napari_mil.slides.slide import Level
from napari_mil.ui import compat
from napari_mil.ui.desk import Desk
from napari_mil.ui.front import Shown, front
from napari_mil.ui.state import State
from napari_mil.ui.widgets import soon

SIDE_PX, MARGIN_PX, LEAST_PX = 168, 8, 6
FOLLOW_MS = 60
_BOX, _HALO = QColor("#D55E00"), QColor(255, 255, 255, 160)


class Overview(QFrame):
    """In the upper right corner of the canvas; a click or a drag in it goes there."""

    def __init__(self, desk: Desk) -> None:
        super().__init__(compat.canvas_widget(desk.viewer))
        self.desk, self.on = desk, True
        self.setObjectName("overview")
        self.setToolTip("The whole slide: click to go there")
        self.setCursor(Qt.CursorShape.CrossCursor)
        self._of: Level | None = None
        self._picture = QPixmap()
        self._follow = soon(self, self.follow, ms=FOLLOW_MS)
        viewer = desk.viewer
        self._ends = [
            compat.watch_camera(viewer, self._follow),
            compat.watch_layers(viewer, lambda _layer: self._follow()),
            compat.watch_removed(viewer, self._follow),
        ]
        desk.changed.connect(self._another)
        self.parent().installEventFilter(self)
        self.hide()

    def _another(self, before: State, after: State) -> None:
        if before.slide is not after.slide:  # the layer stays and shows another
            self._follow()

    def switch(self, on: bool) -> None:
        """Show it, or take it off the canvas."""
        self.on = on
        self.follow()

    def stop(self) -> None:
        """Watch no longer."""
        for end in self._ends:
            end()
        self._ends = []

    def follow(self) -> None:
        """Show the slide in front and what the view shows of it."""
        shown = front(self.desk.viewer) if self.on else None
        if shown is None:
            self._of = None
            self.hide()
            return
        if shown.levels[0] is not self._of:
            self._of = shown.levels[0]
            self._load(shown)
        self.update()

    def box(self) -> QRectF:
        """The view's box in this widget's pixels, never too small to be seen."""
        shown = front(self.desk.viewer)
        if shown is None or self._picture.isNull():
            return QRectF()
        y0, x0, y1, x1 = compat.visible_box(self.desk.viewer)
        (top, left), (bottom, right) = (shown.px(*at) * self._ratio(shown) for at in ((y0, x0), (y1, x1)))
        found = QRectF(left, top, right - left, bottom - top)
        wide, high = max(found.width(), LEAST_PX), max(found.height(), LEAST_PX)
        grown = QRectF(found.center().x() - wide / 2, found.center().y() - high / 2, wide, high)
        return grown.intersected(QRectF(self.rect()).adjusted(1, 1, -1, -1))

    def paintEvent(self, _event: Any) -> None:  # noqa: N802 - Qt's name
        """The slide, and the view's box in two colours, so that it is seen on every ground."""
        painter = QPainter(self)
        painter.drawPixmap(0, 0, self._picture)
        painter.setPen(QPen(QColor("gray"), 1))
        painter.drawRect(self.rect().adjusted(0, 0, -1, -1))
        box = self.box()
        for colour, width in ((_HALO, 4), (_BOX, 2)):
            painter.setPen(QPen(colour, width))
            painter.drawRect(box)
        painter.end()

    def mousePressEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Go there."""
        if event.buttons() & Qt.MouseButton.LeftButton:
            self._go(event.pos())

    def mouseMoveEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Go along."""
        if event.buttons() & Qt.MouseButton.LeftButton:
            self._go(event.pos())

    def eventFilter(self, _watched: Any, event: QEvent) -> bool:  # noqa: N802 - Qt's name
        """Stay in the corner when the canvas changes its size."""
        if event.type() == QEvent.Type.Resize:
            self._place()
        return False

    def _go(self, at: Any) -> None:
        shown, camera = front(self.desk.viewer), compat.camera(self.desk.viewer)
        if shown is not None:
            place = np.array([at.y(), at.x()]) / self._ratio(shown)
            camera.center = (*camera.center[:-2], *shown.world(*place))

    def _ratio(self, shown: Shown) -> np.ndarray:
        return np.array([self.height(), self.width()]) / shown.levels[0].shape_px

    def _load(self, shown: Shown) -> None:
        """The picture, from the coarsest level, read where it is not waited for."""
        height, width = shown.levels[0].shape_px * shown.scale
        factor = SIDE_PX / max(height, width)
        size = (max(LEAST_PX, round(height * factor)), max(LEAST_PX, round(width * factor)))
        first, last = shown.levels[0], shown.levels[-1]

        def work() -> Any:
            try:
                return last.read(0, 0, *last.shape_px)
            except MILError:
                return None  # it is said where the slide is drawn

        def show(pixels: Any) -> None:
            if self._of is first and pixels is not None:
                self._picture = _pixmap(pixels, size)
                self.resize(size[1], size[0])
                self._place()
                self.setVisible(self.on)

        self.hide()
        self.desk.asks.ask("overview", work, show)

    def _place(self) -> None:
        self.move(self.parent().width() - self.width() - MARGIN_PX, MARGIN_PX)
        self.raise_()


def _pixmap(pixels: np.ndarray, size: tuple[int, int]) -> QPixmap:
    """(h, w, 3) uint8 at a size (h, w)."""
    whole = np.ascontiguousarray(pixels)
    image = QImage(
        whole.data, whole.shape[1], whole.shape[0], 3 * whole.shape[1], QImage.Format.Format_RGB888
    )
    how = Qt.AspectRatioMode.IgnoreAspectRatio, Qt.TransformationMode.SmoothTransformation
    return QPixmap.fromImage(image.copy()).scaled(size[1], size[0], *how)
