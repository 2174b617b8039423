"""The bar of what runs now."""

from __future__ import annotations

import os
import threading

import pytest

from napari_mil.steps import Progress
from napari_mil.ui import compat

pytestmark = pytest.mark.skipif(
    os.environ.get("QT_QPA_PLATFORM") == "offscreen", reason="needs a screen, real or virtual (xvfb-run)"
)


def test_that_a_cancel_was_heard_is_seen_until_the_step_is_over(quick_bench, qtbot):
    bar, gate = quick_bench.jobs, threading.Event()

    def counting():
        yield Progress("counting", 1, 5)
        gate.wait(20)
        yield Progress("counting", 2, 5)

    quick_bench.desk.run("Numbers", counting)
    qtbot.waitUntil(lambda: bar.title.text() == "Numbers: counting", timeout=20_000)
    assert bar.cancel.isEnabled()
    bar.cancel.click()
    assert bar.title.text() == "Numbers: stopping…"
    assert not bar.cancel.isEnabled()
    gate.set()
    assert quick_bench.wait(20)
    assert bar.isHidden()
    quick_bench.desk.run("Numbers", counting)
    assert quick_bench.wait(20)
    assert bar.cancel.isEnabled()


def test_a_job_that_is_over_while_its_bar_is_made_leaves_no_bar(quick_bench, qtbot, monkeypatch):
    made, bars = compat.activity, []

    def slowly(title):
        bars.append(made(title))
        qtbot.waitUntil(lambda: not quick_bench.desk.jobs.busy, timeout=20_000)
        qtbot.wait(1)  # the event loop runs, as it does in napari's own
        return bars[-1]

    monkeypatch.setattr(compat, "activity", slowly)

    def counting():
        yield Progress("counting", 1, 1)

    quick_bench.desk.run("Numbers", counting)
    assert quick_bench.wait(20)
    assert len(bars) == 1
    assert quick_bench.jobs.isHidden()
