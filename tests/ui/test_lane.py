"""Threads that outlive their window, and Python's end while they work: in processes of their own, as Qt would
take them down.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest
from qtpy.QtCore import QCoreApplication, QEvent
from qtpy.QtWidgets import QLabel, QWidget

from napari_mil.steps import Progress
from napari_mil.ui.job import AskLane, Job, JobLane

BEGUN = """
import faulthandler, gc, threading
faulthandler.enable()
from qtpy.QtCore import QCoreApplication, QEvent, QObject
from napari_mil.ui.job import AskLane, Job, JobLane, WriteLane
app, begun, gate = QCoreApplication([]), threading.Event(), threading.Event()

def working():
    begun.set()
    gate.wait(60)

def steps():
    working()
    return
    yield

work = {
    "job": (JobLane, lambda lane: lane.start(Job("long", steps))),
    "question": (AskLane, lambda lane: lane.ask("long", working, print)),
    "word": (WriteLane, lambda lane: lane.write(working, print, print)),
}
"""
OUTLIVED = """
for make, begin in work.values():
    for _ in range(5):
        window = QObject()
        lane = make(window)
        begin(lane)
        assert begun.wait(10)
        lane.close(0.01)
        assert lane._thread.is_alive()
        window.deleteLater()
        app.sendPostedEvents(None, QEvent.DeferredDelete)
        gc.collect()
        others = [QObject() for _ in range(99)]  # where it had been
        gate.set()
        lane._thread.join(10)
        begun.clear(), gate.clear()
print("whole")
"""
LEFT_OPEN = """
lane = WriteLane()
lane.write(working, print, print)
lane.write(lambda: print("kept"), print, print)
assert begun.wait(10)
threading.Timer(0.3, gate.set).start()
"""


@pytest.mark.parametrize(("ends", "says"), [(OUTLIVED, "whole"), (LEFT_OPEN, "kept")])
def test_a_thread_that_outlives_its_window_says_nothing_and_loses_nothing(ends, says):
    """Memory that was freed is overwritten, so that nobody can go on with it unnoticed."""
    done = subprocess.run(
        [sys.executable, "-c", BEGUN + ends],
        env=os.environ | {"MALLOC_PERTURB_": "165", "QT_QPA_PLATFORM": "offscreen"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, [says], "")


@pytest.mark.parametrize("closed", [False, True])
def test_what_is_on_its_way_when_the_window_goes_goes_with_it(qtbot, closed):
    """An exception in a slot, as of a label that is gone, would fail this test."""
    window, seen = QWidget(), []
    label, jobs, asks = QLabel(window), JobLane(window), AskLane(window)

    def steps():
        yield Progress("counting", 1, 1)

    job = Job("count", steps)
    jobs.began.connect(lambda job: label.setText(job.title))
    for signal in (job.started, job.progressed, job.returned, job.finished):
        signal.connect(lambda *_values: seen.append(label.text()))
    jobs.start(job)
    asks.ask("label", lambda: "answered", label.setText)
    for lane in (jobs, asks):
        while lane.current is not None or lane._waiting:
            time.sleep(0.001)
        if closed:
            lane.close()
    window.deleteLater()
    QCoreApplication.sendPostedEvents(window, QEvent.Type.DeferredDelete)
    qtbot.wait(1)
    for lane in (jobs, asks):
        lane.close()  # the thread itself knows of no window
    assert not seen
