"""Threads that outlive their window, and Python's end while they work: in processes of their own, as Qt would
take them down.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

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
