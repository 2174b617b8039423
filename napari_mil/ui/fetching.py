"""Slides of which all has to come from a server before they can be opened: seen, cancelled, then opened."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from qtpy.QtCore import QObject
from qtpy.QtWidgets import QProgressDialog, QWidget

from napari_mil.slides.address import Address, SlidePath, slide_path
from napari_mil.slides.copies import CopyError, LaterError, copying
from napari_mil.steps import Progress
from napari_mil.ui.job import PAUSE_S
from napari_mil.ui.lane import Lane

if TYPE_CHECKING:
    from napari_mil.ui.desk import Desk


def copy_first(
    desk: Desk, path: str | SlidePath, then: Callable[[], None]
) -> Callable[[BaseException], None]:
    """What to do about an error of opening a slide: where it has to be copied first, that is a job, after
    which `then()` is called; any other is told.
    """

    def failed(error: BaseException) -> None:
        address = slide_path(path)
        if isinstance(error, LaterError) and isinstance(address, Address):
            desk.run(f"Copying {address.name}", lambda: copying(address), returned=lambda _path: then())
        else:
            desk.tell(error)

    return failed


class CopyBar(QObject):
    """How far a copy is, where there is no lane of jobs: a small window with Cancel, once a copy is made.

    lane : in whose thread the copy is made; that it closes ends the copy
    """

    def __init__(self, window: QWidget, lane: Lane) -> None:
        super().__init__(window)
        self._lane, self._stop, self._seen = lane, threading.Event(), 0.0
        self.dialog: QProgressDialog | None = None

    def stop(self) -> None:
        """End the copy."""
        self._stop.set()

    def hear(self, now: Progress) -> None:
        """Called in the thread that copies."""
        if self._stop.is_set() or self._lane.closed:
            raise CopyError(f"{now.note} is not opened: its copying was cancelled.")
        if time.monotonic() - self._seen > PAUSE_S:
            self._seen = time.monotonic()
            self._lane.post(partial(self._show, now))

    def end(self) -> None:
        """Called in the thread when the slide is open, or cannot be."""
        self._lane.post(self._close)

    def _show(self, now: Progress) -> None:
        if self.dialog is None:
            self.dialog = QProgressDialog(self.parent())
            self.dialog.setAutoClose(False)
            self.dialog.setAutoReset(False)
            self.dialog.setMinimumDuration(500)
            self.dialog.canceled.connect(self.stop)
        self.dialog.setLabelText(f"{now.note}: {now.done:,} of {now.total or 0:,} {now.stage}")
        self.dialog.setMaximum(now.total or 0)
        self.dialog.setValue(now.done)

    def _close(self) -> None:
        if self.dialog is not None:
            self.dialog.deleteLater()
            self.dialog = None
        self.deleteLater()
