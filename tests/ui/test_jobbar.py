"""The bar of what runs now."""

from __future__ import annotations

import os
import threading

import pytest

from napari_mil.steps import Progress

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
