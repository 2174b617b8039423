"""A second reading, blind; and the report of how far two readers agree."""

from __future__ import annotations

import csv
import os

import numpy as np
import pytest

from napari_mil.correction import Cells, WholeSlide
from napari_mil.ui.questions import READ_BLIND, SecondReading
from napari_mil.ui.writing import SECOND
from napari_mil.workflow import Project, readings, slide_label

pytestmark = pytest.mark.skipif(
    os.environ.get("QT_QPA_PLATFORM") == "offscreen", reason="needs a screen, real or virtual (xvfb-run)"
)


@pytest.fixture
def bench(quick_bench):
    """bob has called s0 ADH, and two of its tiles IC."""
    made, pitch = quick_bench, quick_bench.desk.state.lattice.pitch_px
    with Project(made.desk.state.project.path, by="bob") as bob:
        bob.correct("s0", WholeSlide(), "ADH")
        bob.correct("s0", Cells(np.array([[0, 0], [0, 1]]), pitch), "IC")
    made.company.look()
    assert made.wait(30)
    return made


def press(bench, key):
    bench.desk.keys[key].activated.emit()
    assert bench.wait(30)


def test_nothing_that_was_said_can_be_seen(bench):
    bench.heard.clear()
    press(bench, "Alt+Shift+N")
    assert bench.review.second.isChecked()
    assert bench.desk.layer("corrections") is None
    assert bench.desk.layer("outlines/corrections") is None
    assert bench.legend.isHidden()
    assert bench.review.history.isHidden()
    assert "ADH" not in bench.slides.list.text() + bench.review.slide_label.text()
    assert "label hidden\nmodel: hidden" in bench.slides.list.text()
    assert bench._read_tile(*bench.desk.middle_of((0, 0))) == "tile 0, 0"
    assert bench.export.preview.text().endswith("is hidden until you end the second reading.")
    assert "hidden" in bench.retrain.since.text() or "none" in bench.retrain.since.text()
    with Project(bench.desk.state.project.path, by="bob") as bob:
        bob.correct("s1", WholeSlide(), "UDH")
    bench.company.look()
    assert bench.wait(30)
    assert not any("UDH" in sentence for sentence in bench.heard)
    for act in (bench.review.paint, bench.review.draw, bench.review.label_slide, bench.review.undo):
        bench.told.clear()
        act()
        assert bench.told == [SECOND]
    assert bench.review.reading.compare() is None
    assert "end the second reading first" in bench.told[-1]
    press(bench, "Alt+Shift+N")
    assert bench.desk.layer("corrections").data.any()
    assert "ADH" in bench.slides.list.text()


def test_places_are_read_and_take_the_place_of_nothing(bench):
    queue, project = bench.review.queue, bench.desk.state.project
    bench.review.second.setChecked(True)
    assert queue.next_button.text() == "Next for a second reading"
    assert queue.next_button.isEnabled()  # no model is needed
    bench.review.choose("DCIS")
    asked = []
    press(bench, "Alt+N")
    while queue.question is not None:
        asked.append(queue.question.place)
        assert queue.why.text() == READ_BLIND
        assert queue.accept_button.isHidden()
        assert "IC" not in queue.what.text()
        press(bench, "Alt+E")
    assert len(asked) == 3
    assert queue.what.text() == SecondReading.done
    said = readings(project)
    assert {c.label for c in said} == {"Malignant/DCIS"}
    assert {c.by for c in said} == {"ann"}
    assert {c.tool for c in said} == {"second reading"}
    assert slide_label(project, project.slides[0]) == "Atypical/ADH"
    assert [c.by for c in project.ledger.corrections()] == ["bob", "bob"]


def test_the_report_shows_kappa_and_goes_to_what_is_called_differently(bench, tmp_path):
    bench.review.second.setChecked(True)
    press(bench, "Alt+N")
    while bench.review.queue.question is not None:
        whole = isinstance(bench.review.queue.question.place, WholeSlide)
        bench.review.choose("UDH" if whole else "IC")
        press(bench, "Alt+E")
    bench.review.second.setChecked(False)
    bench.slides.step(1)
    assert bench.wait(30)
    report = bench.review.reading.compare()
    assert bench.wait(30)
    assert (report.first.currentText(), report.second.currentText()) == ("ann", "bob")
    rows = [[report.table.item(i, k).text() for k in range(3)] for i in range(report.table.rowCount())]
    assert ["all labels (fine), slides", "1", "0%"] in rows
    assert ["Malignant/IC, tiles", "2", "100%"] in rows
    assert report.heading.text() == "<b>1 place called differently</b>"
    words = "s0, the whole slide: ann says Benign/UDH, bob Atypical/ADH"
    assert report.list.item(0).text() == words
    report.step(1)
    assert bench.wait(30)
    assert bench.desk.state.record.name == "s0"
    assert bench.desk.state.cell is None
    report.save(tmp_path / "kappa.csv")
    assert bench.wait(30)
    written = csv.DictReader((tmp_path / "kappa.csv").read_text().splitlines())
    assert [row["bob"] for row in written][-1] == "Atypical/ADH"
    report.close()


def test_where_nobody_else_has_labelled_it_is_said(quick_bench, qtbot):
    bench = quick_bench
    report = bench.review.reading.compare()
    assert bench.wait(30)
    assert "No place was labelled by two people yet" in report.note.text()
    assert not report.save_button.isEnabled()
    report.step(1)
    assert report.isVisible()
    with qtbot.waitSignal(report.destroyed):
        bench.review.second.setChecked(True)  # then it must not be seen
    press(bench, "Alt+N")
    assert bench.review.queue.question is None
    assert bench.review.queue.what.text() == SecondReading.done
