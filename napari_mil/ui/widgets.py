"""Small widgets that the sections share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from qtpy.QtCore import QSize, Qt, QTimer
from qtpy.QtGui import QColor, QIcon, QImage, QLinearGradient, QPainter, QPen, QPixmap
from qtpy.QtWidgets import (
    QFrame,
    QHBoxLayout,
    QLabel,
    QProgressBar,
    QPushButton,
    QSizePolicy,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from napari_mil.steps import Progress
from napari_mil.ui import compat
from napari_mil.ui.desk import Desk
from napari_mil.ui.job import Job, JobLane
from napari_mil.ui.layers import CODE_OPACITY, SCORE_OPACITY
from napari_mil.ui.legends import Legend
from napari_mil.ui.outlines import DARK, LIGHT
from napari_mil.ui.ramps import TISSUE, Rgba, is_dark, rgb

#: What changes many times a second is shown this often: every repaint costs the window a frame.
SETTLE_MS = 250
#: Steps of a bar for each unit of the work: where units are slides, it moves within them.
FINE = 100
#: The property of a button that keeps its tooltip while it is disabled.
_TIP = "what it does"


class Fold(QWidget):
    """A section that can be folded away: a heading with an arrow, and what lies under it."""

    def __init__(self, title: str, content: QWidget, *, open_: bool = True) -> None:
        super().__init__()
        self.content = content
        self.heading = QToolButton()
        self.heading.setText(f" {title}")
        self.heading.setCheckable(True)
        self.heading.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self.heading.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.heading.setStyleSheet("QToolButton { font-weight: bold; text-align: left; padding: 4px; }")
        self.heading.toggled.connect(self.show_content)
        column(self, self.heading, content, margins=(0, 0, 0, 0), spacing=2)
        self.heading.setChecked(open_)
        self.show_content(open_)

    def show_content(self, opened: bool) -> None:
        """Fold out or in."""
        self.heading.setArrowType(Qt.ArrowType.DownArrow if opened else Qt.ArrowType.RightArrow)
        self.content.setVisible(opened)

    def unfold(self) -> None:
        """Fold out."""
        self.heading.setChecked(True)


class LegendView(QFrame):
    """The legend of one map: a ramp with its range, or a list of colours with counts; its note below."""

    def __init__(self, legend: Legend) -> None:
        super().__init__()
        self.legend = legend
        title = QLabel(f"<b>{legend.title}</b>")
        parts: list[QWidget] = [title]
        if legend.low is not None:
            parts.append(_Ramp(legend.ramp))
            parts.append(row(QLabel(legend.low), None, QLabel(str(legend.high))))
        self._counts = [QLabel(tiles(count)) for _, _, count in legend.entries]
        parts += [
            row(swatch(colour, outlined=legend.outlined), QLabel(words), None, shown)
            for (colour, words, _), shown in zip(legend.entries, self._counts, strict=True)
        ]
        if legend.note:
            parts.append(hint(legend.note))
        column(self, *parts, margins=(4, 2, 4, 6), spacing=2)

    def recount(self, legend: Legend) -> bool:
        """Show a legend that differs in its counts alone; False when it differs in more."""
        if _without_counts(legend) != _without_counts(self.legend):
            return False
        for shown, (_, _, count) in zip(self._counts, legend.entries, strict=True):
            shown.setText(tiles(count))
            shown.parentWidget().layout().activate()  # whoever lays this out is to see at once how wide it is
        self.layout().activate()
        self.legend = legend
        return True


def _without_counts(legend: Legend) -> Legend:
    return replace(legend, entries=tuple((colour, words, 0) for colour, words, _ in legend.entries))


class _Ramp(QWidget):
    """A colour ramp from left to right, as it looks over tissue."""

    def __init__(self, ramp: tuple[Rgba, ...]) -> None:
        super().__init__()
        self._colours = [QColor.fromRgbF(*rgb, SCORE_OPACITY * opacity) for *rgb, opacity in ramp]
        self.setFixedHeight(12)

    def paintEvent(self, _event: Any) -> None:  # noqa: N802 - Qt's name
        painter = QPainter(self)
        gradient = QLinearGradient(0, 0, self.width(), 0)
        for i, colour in enumerate(self._colours):
            gradient.setColorAt(i / max(1, len(self._colours) - 1), colour)
        painter.fillRect(self.rect(), QColor(TISSUE))
        painter.fillRect(self.rect(), gradient)
        painter.setPen(QColor("gray"))
        painter.drawRect(self.rect().adjusted(0, 0, -1, -1))
        painter.end()


class JobBar(QWidget):
    """What runs now in a lane (None: that of the models): stage, how far, time left, Cancel. Hidden when
    nothing runs.
    """

    def __init__(self, desk: Desk, lane: JobLane | None = None) -> None:
        super().__init__()
        self._lane = lane or desk.jobs
        self._job: Job | None = None
        self._activity: compat.activity | None = None
        self._show_soon = soon(self, self._show, ms=SETTLE_MS)
        self.title = QLabel()
        self.title.setWordWrap(True)
        self.bar = QProgressBar()
        self.bar.setTextVisible(False)
        self.bar.setFixedHeight(10)
        self.left = QLabel()
        self.cancel = button("Cancel", self._cancel, "Stop the work that runs now. What is done stays.")
        column(self, self.title, self.bar, row(self.left, None, self.cancel), margins=(4, 4, 4, 4), spacing=3)
        self.hide()
        self._lane.began.connect(self._follow)

    def _follow(self, job: Job) -> None:
        self._job = job
        allow(self.cancel)
        job.progressed.connect(lambda _now: self._show_soon())
        job.finished.connect(lambda: self._end(job))
        self._show()
        self.show()
        activity = compat.activity(job.title)  # it runs the event loop, so that the job may be over by now
        if job is self._job:
            self._activity = activity
        else:
            activity.close()

    def _cancel(self) -> None:
        """Stop the work; that it was heard is seen until the step at hand is over."""
        allow(self.cancel, "It stops as soon as the step at hand is over.")
        self._show()
        self._lane.cancel()

    def _show(self) -> None:
        if self._job is None:
            return
        if not self.cancel.isEnabled():
            self.title.setText(f"{self._job.title}: stopping…")
            return
        now = self._job.last
        note = f" ({now.note})" if now.note else ""
        self.title.setText(f"{self._job.title}: {now.stage}{note}")
        self.bar.setRange(0, FINE * (now.total or 0))
        self.bar.setValue(int(FINE * (now.done + now.within)) if now.total else 0)
        self.left.setText(time_left(self._job.seconds_left(), now))
        if self._activity is not None:
            self._activity.set(now.done, now.total)

    def _end(self, job: Job) -> None:
        if job is not self._job:
            return
        self._job = None
        self.hide()
        if self._activity is not None:
            self._activity.close()
            self._activity = None


def time_left(seconds: float | None, now: Progress) -> str:
    """How far and how long: "1,200 of 5,000, about 14 s left", as far as it is known."""
    count = f"{now.done:,} of {now.total:,}" if now.total else ""
    if seconds is None:
        return count
    words = f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
    return f"{count}, about {words} left"


def column(
    parent: QWidget, *parts: Any, margins: tuple[int, int, int, int] = (6, 2, 4, 8), spacing: int = 5
) -> QVBoxLayout:
    """Stack widgets in `parent`, top to bottom; None is a stretch."""
    return _fill(QVBoxLayout(parent), parts, margins, spacing)


def row(*parts: Any, spacing: int = 5) -> QWidget:
    """Widgets side by side; None is a stretch."""
    widget = QWidget()
    _fill(QHBoxLayout(widget), parts, (0, 0, 0, 0), spacing)
    return widget


def _fill(layout: Any, parts: Iterable[Any], margins: tuple[int, int, int, int], spacing: int) -> Any:
    layout.setContentsMargins(*margins)
    layout.setSpacing(spacing)
    for part in parts:
        if part is None:
            layout.addStretch(1)
        else:
            layout.addWidget(part)
    return layout


def button(text: str, act: Callable[[], Any], tip: str, *, key: str | None = None) -> QPushButton:
    """A push button; its tooltip ends in the key that does the same."""
    made = QPushButton(text)
    made.setToolTip(f"{tip} ({key})" if key else tip)
    made.setProperty(_TIP, made.toolTip())
    made.clicked.connect(lambda _checked=False: act())
    return made


def allow(made: QPushButton, why_not: str = "") -> None:
    """Enable a button of `button`, or disable it and let its tooltip say why."""
    made.setEnabled(not why_not)
    made.setToolTip(why_not or made.property(_TIP))


def hint(text: str = "") -> QLabel:
    """A remark in the small print: wrapped, selectable, slightly dimmed by the theme's own means."""
    made = QLabel(text)
    made.setWordWrap(True)
    made.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
    made.setStyleSheet("QLabel { font-style: italic; }")
    return made


def text(content: str = "") -> QLabel:
    """A wrapped text that can be selected."""
    made = QLabel(content)
    made.setWordWrap(True)
    made.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
    return made


def tiles(count: int) -> str:
    """A number of tiles in words."""
    return "1 tile" if count == 1 else f"{count:,} tiles"


def swatch(colour: str, side: int = 14, *, outlined: bool = False) -> QLabel:
    """A small square of tissue with a colour over it, as on the canvas: filled, outlined or, for "", not.

    colour : "#rrggbb", and an opacity may follow
    """
    made = QLabel()
    made.setFixedSize(side, side)
    made.setStyleSheet("QLabel { padding: 0; margin: 0; }")  # napari's own would cut it
    pixmap = _square(TISSUE, side)
    painter = QPainter(pixmap)
    if outlined:
        for inset, line in ((1, colour), (3, LIGHT if is_dark(colour) else DARK)):
            painter.setPen(QPen(QColor(line), 2))
            painter.drawRect(inset, inset, side - 2 * inset, side - 2 * inset)
    elif colour:
        opacity = CODE_OPACITY * int(colour[7:] or "ff", 16) / 255
        painter.fillRect(1, 1, side - 2, side - 2, QColor.fromRgbF(*rgb(colour), opacity))
    painter.end()
    made.setPixmap(pixmap)
    return made


def colour_icon(colour: str, side: int = 14) -> QIcon:
    """A square of a colour for lists."""
    return _plain_icon(_square(colour, side))


def _square(colour: str, side: int) -> QPixmap:
    """A square with a border, so that colours as dark as the theme read too."""
    pixmap = QPixmap(side, side)
    pixmap.fill(QColor(colour))
    painter = QPainter(pixmap)
    painter.setPen(QColor("#9a9a9a"))
    painter.drawRect(0, 0, side - 1, side - 1)
    painter.end()
    return pixmap


def picture_icon(pixels: np.ndarray, side: int) -> QIcon:
    """(h, w, 3) uint8 as an icon that fits a square."""
    whole = np.ascontiguousarray(pixels)
    height, width = whole.shape[:2]
    image = QImage(whole.data, width, height, 3 * width, QImage.Format.Format_RGB888)
    size = QSize(side, side)
    return _plain_icon(QPixmap.fromImage(image.copy()).scaled(size, Qt.AspectRatioMode.KeepAspectRatio))


def _plain_icon(pixmap: QPixmap) -> QIcon:
    """An icon whose colours stay what they are when its entry is selected."""
    icon = QIcon(pixmap)
    icon.addPixmap(pixmap, QIcon.Mode.Selected)
    return icon


def clear(layout: Any) -> None:
    """Take every widget out of a layout."""
    while layout.count():
        widget = layout.takeAt(0).widget()
        if widget is not None:
            widget.hide()
            widget.deleteLater()


def soon(parent: QWidget, act: Callable[[], None], *, ms: int = 0) -> Callable[[], None]:
    """A function that runs `act` once, `ms` later, however often it is called meanwhile."""
    timer = QTimer(parent)
    timer.setSingleShot(True)
    timer.setInterval(ms)
    timer.timeout.connect(act)
    return lambda: None if timer.isActive() else timer.start()
