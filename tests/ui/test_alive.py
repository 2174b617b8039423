"""The window stays alive while work runs, and nothing is lost when it is killed."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
from qtpy.QtCore import QTimer

from napari_mil.ui.workbench import Workbench
from napari_mil.workflow import Project

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        os.environ.get("QT_QPA_PLATFORM") == "offscreen", reason="needs a screen, real or virtual (xvfb-run)"
    ),
]


class Heartbeat:
    """Gaps (ms) between the ticks of a 10 ms timer."""

    def __init__(self):
        self.gaps, self._last = [], time.perf_counter()
        self._timer = QTimer()
        self._timer.setInterval(10)
        self._timer.timeout.connect(self._beat)
        self._timer.start()

    def _beat(self):
        now = time.perf_counter()
        self.gaps.append((now - self._last) * 1000)
        self._last = now

    def stop(self):
        self._timer.stop()
        return float(np.percentile(self.gaps, 95))


@pytest.fixture
def unread(study_folder):
    """The study, its features and answers forgotten."""
    for part in ("bags", "maps"):
        shutil.rmtree(study_folder / part, ignore_errors=True)


@pytest.fixture
def shown(make_napari_viewer, study_folder):
    """A workbench in a window on screen."""
    viewer = make_napari_viewer(show=True)
    made = Workbench(viewer)
    viewer.window.add_dock_widget(made, area="right", add_vertical_stretch=False)
    made.open_project(study_folder, by="tester")
    assert made.wait(60)
    yield made
    made.shut()


def resting(bench, qtbot):
    """p95 of the same timer when nothing runs: what this machine and its other guests cost."""
    beat = Heartbeat()
    qtbot.wait(700)
    return beat.stop()


def test_the_window_stays_alive_during_embedding(unread, shown, qtbot):
    rest = resting(shown, qtbot)
    shown.model.choose("mhim-1")
    assert shown.wait(30)
    beat = Heartbeat()
    job = shown.model.run()
    with qtbot.waitSignal(job.finished, timeout=120_000):
        pass
    assert job.error is None
    assert beat.stop() <= 50 + rest


def test_retraining_leaves_the_window_alive_and_ends_in_a_choice(shown, qtbot):
    shown.model.choose("hmil-1")
    assert shown.wait(30)
    shown.review.choose("Atypical/ADH")
    shown.review.paint()
    shown.desk.layer("corrections").paint((3, 3), shown.desk.state.node)
    assert shown.wait(10)
    assert "since hmil-1 was trained:<br>Atypical/ADH: 1 tile" in shown.retrain.since.text()
    rest = resting(shown, qtbot)
    beat = Heartbeat()
    job = shown.retrain.start(recipe={"epochs": 4, "min_epochs": 1})
    assert shown.retrain.start() is None  # one at a time
    with qtbot.waitSignal(job.finished, timeout=240_000):
        pass
    assert beat.stop() <= 50 + rest
    assert shown.wait(20)
    assert job.error is None
    assert len(shown.retrain.plot.points["loss"]) == 4
    assert shown.retrain.decision.result.card.parent == shown.desk.state.card.id
    assert shown.retrain.decision.table.rowCount() > 0
    assert "corrected tile" in shown.retrain.decision.verdict.text()
    shown.retrain.decision.adopt()
    assert shown.wait(20)
    assert shown.desk.state.card.id == shown.retrain.decision.result.card.id
    assert shown.model.choice.currentText() == shown.desk.state.card.name
    assert "Nothing was corrected since" in shown.retrain.since.text()
    assert shown.wait(60)  # the adopted model answers at once: the slide's features are kept
    assert shown.desk.state.answer.model_id == shown.desk.state.card.id


@pytest.mark.soak  # test_project.py stops a child in the suite
def test_stopping_a_training_keeps_the_best_so_far(shown, qtbot):
    shown.model.choose("mhim-1")
    assert shown.wait(30)
    before = {c.id for c in shown.desk.state.project.cards}
    job = shown.retrain.start()
    with qtbot.waitSignal(job.progressed, timeout=120_000, check_params_cb=lambda p: bool(p.payload)):
        pass
    shown.retrain.stop()
    assert shown.wait(120)
    kept = {c.id for c in shown.desk.state.project.cards} - before
    assert len(kept) == 1
    assert "its best state is kept" in shown.retrain.note.text()


def test_every_stroke_survives_kill_9(study_folder):
    """A child paints one tile after the other and says so; it is killed in the middle."""
    code = textwrap.dedent(
        """
        import sys
        from napari_mil.ui.workbench import open_workbench
        bench = open_workbench(sys.argv[1], show=False, by="tester")
        bench.wait(60)
        bench.review.choose("Malignant/IC")
        bench.review.paint()
        layer = bench.desk.layer("corrections")
        for row in range(layer.data.shape[0]):
            for col in range(layer.data.shape[1]):
                layer.paint((row, col), layer.selected_label)
                bench.wait(5)
                print(row, col, flush=True)
        """
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(study_folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        painted = [next(child.stdout).strip() for _ in range(5)]
    finally:
        with contextlib.suppress(ProcessLookupError):
            child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
    with Project(study_folder) as project:
        assert project.ledger.verify().ok
        kept = [" ".join(map(str, c.place.cells[0])) for c in project.ledger.corrections()]
    assert kept[: len(painted)] == painted
    assert len(kept) <= len(painted) + 2
