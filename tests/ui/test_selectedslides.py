"""Several slides of the list are labelled at once, as one act."""

from __future__ import annotations

import os

import pytest
from qtpy.QtCore import QItemSelectionModel

from napari_mil.correction import WholeSlide

pytestmark = pytest.mark.skipif(
    os.environ.get("QT_QPA_PLATFORM") == "offscreen", reason="needs a screen, real or virtual (xvfb-run)"
)


def labels(bench):
    return [bench.slides.list.text(row).split("\n")[1] for row in range(bench.slides.list.count)]


def test_they_are_labelled_in_one_act_and_taken_back_in_one(quick_bench):
    bench, bulk = quick_bench, quick_bench.slides.bulk
    assert bulk.isHidden()
    bench.desk.keys["Alt+Shift+G"].activated.emit()
    assert bench.told[-1].startswith("Select several slides in the list first")
    bench.slides.list.view.selectAll()
    assert not bulk.isHidden()
    assert "choose their label" in bulk.words.text()
    bench.desk.keys["Alt+Shift+G"].activated.emit()
    assert bench.told[-1].startswith("Choose a label first")
    bench.review.choose("DCIS")
    assert bulk.words.text() == "2 slides are selected; all of them will be Malignant/DCIS."
    bench.desk.keys["Alt+Shift+G"].activated.emit()
    assert bench.wait(30)
    project = bench.desk.state.project
    said = project.ledger.corrections()
    assert {(type(c.place), c.label, c.tool, c.by) for c in said} == {
        (WholeSlide, "Malignant/DCIS", "selected slides", "ann")
    }
    assert [c.was for c in said] == ["Benign/N", "Malignant/IC"]
    assert labels(bench) == ["Malignant/DCIS · 1 correction"] * 2
    assert bench.slides.list.ids == [r.id for r in project.slides]  # they stay selected
    bulk.back_button.click()
    assert bench.wait(30)
    assert bench.heard[-1] == "An act on 2 slides is undone."
    assert project.ledger.corrections() == ()
    assert labels(bench) == ["Benign/N", "Malignant/IC"]
    bench.review.redo()  # of the slide in front, and of the others with it
    assert bench.wait(30)
    assert len(project.ledger.corrections()) == 2


def test_a_click_opens_a_slide_and_one_that_adds_to_a_selection_does_not(quick_bench):
    bench, shown = quick_bench, quick_bench.slides.list
    second = shown.found.index(1, 0)
    shown.view.selectionModel().select(second, QItemSelectionModel.SelectionFlag.Select)
    shown.view.clicked.emit(second)
    assert bench.wait(30)
    assert bench.desk.state.record.name == "s0"
    shown.view.setCurrentIndex(second)
    shown.view.clicked.emit(second)
    assert bench.wait(30)
    assert bench.desk.state.record.name == "s1"
    assert shown.ids == [bench.desk.state.record.id]
