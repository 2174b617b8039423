"""Where a person looked last on each slide: kept in a folder of theirs, one small file per slide."""

from __future__ import annotations

import contextlib
import json
import math
import re
from pathlib import Path
from typing import Any

from qtpy.QtCore import QObject, QTimer

from napari_mil.slides.home import keep, state_folder
from napari_mil.ui import compat
from napari_mil.ui.front import front, looked_at

#: A view that rested for so long is kept.
REST_MS = 700
#: So many slides are remembered, those looked at last.
MOST = 2000
View = tuple[float, float, float]  # y, x of the middle in level-0 pixels; screen pixels per level-0 pixel


class Views(QObject):
    """Keeps the view whenever it rests, for the slide that it is of, and brings it back."""

    def __init__(self, viewer: Any, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._rested = QTimer(self)
        self._rested.setSingleShot(True)
        self._rested.setInterval(REST_MS)
        self._rested.timeout.connect(self.keep)
        self._moved = compat.watch_camera(viewer, self._rested.start)

    def keep(self) -> None:
        """Keep the view, of the slide that it is of: a view of several is that of none."""
        self._rested.stop()
        shown = looked_at(self._viewer)
        if shown is None:
            return
        camera = compat.camera(self._viewer)
        y, x = shown.px(*camera.center[-2:])
        keep_view(shown.fingerprint, (float(y), float(x), float(camera.zoom * shown.scale[1])))

    def bring_back(self, *, zoom: bool = True) -> bool:
        """Look where one looked last on the slide in front; False where that is not known."""
        shown = front(self._viewer)
        view = None if shown is None else kept_view(shown.fingerprint)
        if shown is None or view is None:
            return False
        camera = compat.camera(self._viewer)
        camera.center = (*camera.center[:-2], *shown.world(*view[:2]))
        if zoom:
            camera.zoom = view[2] / shown.scale[1]
        return True

    def stop(self) -> None:
        """Keep the view and watch no longer."""
        self.keep()
        self._moved()


def keep_view(fingerprint: str, view: View) -> None:
    """Remember a view; that a disk is full is no reason to say anything."""
    file = _file(fingerprint)
    if kept_view(fingerprint) == view:
        return
    with contextlib.suppress(OSError):
        keep(file, json.dumps(view))
        _forget_oldest(file.parent)


def kept_view(fingerprint: str) -> View | None:
    """The view of a slide, or None where none is known or its file is damaged."""
    try:
        y, x, zoom = map(float, json.loads(_file(fingerprint).read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return (y, x, zoom) if all(map(math.isfinite, (y, x, zoom))) and zoom > 0 else None


def _file(fingerprint: str) -> Path:
    return state_folder("views") / f"{re.sub(r'[^0-9A-Za-z]', '', fingerprint)[:64]}.json"


def _forget_oldest(folder: Path) -> None:
    files = list(folder.iterdir())
    if len(files) > MOST:
        for file in sorted(files, key=lambda f: f.stat().st_mtime)[: len(files) - MOST]:
            file.unlink(missing_ok=True)
