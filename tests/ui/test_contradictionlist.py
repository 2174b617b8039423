"""Contradictions are listed, counted and gone to by key, on whichever slide they lie."""

from __future__ import annotations

import os

import numpy as np
import pytest

from napari_mil.correction import Cells, Polygon
from napari_mil.ui import compat

pytestmark = pytest.mark.skipif(
    os.environ.get("QT_QPA_PLATFORM") == "offscreen", reason="needs a screen, real or virtual (xvfb-run)"
)


def press(bench, key):
    bench.desk.keys[key].activated.emit()
    assert bench.wait(30)


def test_they_are_counted_and_gone_to_one_after_the_other(quick_bench):
    bench, shown = quick_bench, quick_bench.review.contradictions
    project, pitch = bench.desk.state.project, bench.desk.state.lattice.pitch_px
    assert shown.isHidden()
    press(bench, "Alt+D")
    assert bench.heard[-1] == "There is no contradiction."
    bench.review.choose("IC")
    bench.review._pen.take([[9.5, 9.5], [9.5, 249.5], [249.5, 249.5], [249.5, 9.5]])
    project.add(project.slides[1].path, label="Benign/UDH")
    project.correct("s1", Cells(np.array([[1, 1]]), pitch), "DCIS")
    bench.company.look()
    assert bench.wait(30)
    assert not shown.isHidden()
    assert shown.heading.text() == "<b>2 contradictions</b>"
    assert shown.list.item(0).text().startswith("s0: region is labelled Malignant/IC by ann")
    press(bench, "Alt+D")
    assert bench.desk.state.record.name == "s0"
    assert bench.desk.state.cell == (0, 0)
    assert shown.heading.text().endswith("1 of 2")
    press(bench, "Alt+D")
    assert (bench.desk.state.record.name, bench.desk.state.cell) == ("s1", (1, 1))
    assert compat.camera(bench.viewer).center[-2:] == pytest.approx(bench.desk.middle_of((1, 1)))
    assert shown.heading.text().endswith("2 of 2")
    press(bench, "Alt+D")  # from the last to the first
    assert bench.desk.state.record.name == "s0"
    press(bench, "Alt+Shift+D")
    assert bench.desk.state.record.name == "s1"


def test_one_that_is_settled_goes_away_and_the_next_stays_marked(quick_bench):
    bench, shown = quick_bench, quick_bench.review.contradictions
    bench.review.choose("IC")
    for corner in (0, 140):
        square = np.array([[0, 0], [0, 100], [100, 100], [100, 0]]) + corner
        bench.review._pen.take(square)
    assert bench.wait(30)
    assert len(shown.found) == 2
    shown.go(1)
    bench.review.undo()
    bench.review.redo()
    assert bench.wait(30)
    assert [isinstance(one.place, Polygon) for one in shown.found] == [True, True]
    assert shown.list.currentRow() == 1
    bench.review.label_slide()
    assert bench.wait(30)
    assert shown.isHidden()
