"""Hours of work in one window leave nothing behind: no memory, threads, files or Qt objects.

Memory is that of the process after free pages went back to the system. glibc gives threads arenas of their
own, up to eight a core, and each keeps pages that are partly in use: about 1 MB more with every analysis,
which nobody holds. With MALLOC_ARENA_MAX=2, which `make test-soak` sets, that is not mistaken for a leak.
"""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import shutil
import threading
from collections import Counter
from dataclasses import dataclass

import napari
import numpy as np
import psutil
import pytest
from qtpy.QtCore import QEvent, QObject
from qtpy.QtWidgets import QApplication

from napari_mil.ui import compat
from napari_mil.ui.workbench import Workbench

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(
        platform.libc_ver()[0] == "glibc" and os.environ.get("MALLOC_ARENA_MAX") != "2",
        reason="the memory of many arenas says nothing about leaks: MALLOC_ARENA_MAX=2",
    ),
    pytest.mark.timeout(4 * 3600),
    pytest.mark.skipif(
        os.environ.get("QT_QPA_PLATFORM") == "offscreen", reason="needs a screen, real or virtual (xvfb-run)"
    ),
]

ROUNDS = 200
REOPEN = 25  # rounds after which the workbench is closed and made anew; half way the project is opened again
WARM_UP = 75
GROWTH_MB = 48


@dataclass(frozen=True)
class Held:
    """What the process holds at a moment of rest."""

    memory_mb: float
    threads: Counter
    files: int
    widgets: int
    objects: int

    @classmethod
    def now(cls, viewer) -> Held:
        for _ in range(3):
            QApplication.processEvents()
            QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
            gc.collect()
        if platform.libc_ver()[0] == "glibc":
            ctypes.CDLL(None).malloc_trim(0)
        me = psutil.Process()
        names = Counter(t.name.rstrip("0123456789-_ ") for t in threading.enumerate())
        return cls(
            me.memory_info().rss / 2**20,
            names,
            me.num_fds(),
            len(QApplication.allWidgets()),
            len(compat.main_window(viewer).findChildren(QObject)),
        )


class Person:
    """Somebody who works through the slides of a study, over and over."""

    def __init__(self, viewer, folder):
        self.viewer, self.folder = viewer, folder
        self.draw = np.random.default_rng(0)
        self.open_dock()

    def open_dock(self):
        self.bench = Workbench(self.viewer)
        self.viewer.window.add_dock_widget(self.bench, area="right", add_vertical_stretch=False)
        self.open_project()

    def close_dock(self):
        self.bench.shut()
        self.viewer.layers.clear()
        self.viewer.window.remove_dock_widget(self.bench)
        self.bench.deleteLater()
        self.bench = None

    def open_project(self):
        self.bench.open_project(self.folder, by="tester")
        assert self.bench.wait(120)

    def look_and_analyse(self, turn):
        bench = self.bench
        bench.slides.step(1)
        assert bench.wait(60)
        state = bench.desk.state
        shutil.rmtree(self.folder / "maps" / state.record.id, ignore_errors=True)
        if turn % 20 == 0:
            shutil.rmtree(self.folder / "bags" / state.record.id, ignore_errors=True)
        bench.model.choose(("mhim-1", "hmil-1")[turn % 2])
        assert bench.wait(60)
        job = bench.model.run()
        assert bench.wait(240)
        assert job.error is None
        names = [m.name for m in bench.desk.state.maps]
        bench.instances.show_map(names[turn % len(names)])
        bench.instances.hidden.on.setChecked(turn % 4 == 0)
        compat.camera(self.viewer).zoom *= (1.5, 0.7)[turn % 2]
        assert bench.wait(60)

    def correct(self, turn):
        review = self.bench.review
        review.choose(1 + turn % 7)
        review.paint()
        layer = self.bench.desk.layer("corrections")
        for _ in range(3):
            layer.paint(tuple(self.draw.integers(0, layer.data.shape)), layer.selected_label)
            assert self.bench.wait(30)
        review.draw()
        low = self.draw.uniform(0, 300, 2)
        review._pen.layer.add_polygons(low + np.array([[0, 0], [0, 400], [400, 400], [400, 0.0]]))
        assert self.bench.wait(30)
        review.look()
        review.label_slide()
        for act in (review.undo, review.redo, review.undo, review.undo):
            act()
        assert self.bench.wait(30)


def test_hundreds_of_slides_in_one_window_leave_nothing_behind(qapp, study_folder):
    viewer = napari.Viewer(show=False)
    try:
        person, seen = Person(viewer, study_folder), []
        for turn in range(1, ROUNDS + 1):
            person.look_and_analyse(turn)
            person.correct(turn)
            if turn % REOPEN == 0:
                person.close_dock()
                seen.append(Held.now(viewer))
                person.open_dock()
            elif turn % REOPEN == REOPEN // 2:
                person.open_project()
        person.close_dock()
    finally:
        viewer.close()
    warm, last = seen[WARM_UP // REOPEN - 1], seen[-1]
    assert last.threads == warm.threads
    assert not [name for name in last.threads if name.startswith(("napari-mil", "slide-"))]
    assert last.files <= warm.files
    assert last.widgets <= warm.widgets
    assert last.objects <= warm.objects
    assert last.memory_mb - warm.memory_mb <= GROWTH_MB, seen
