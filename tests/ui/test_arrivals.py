"""However fast one thing is asked for after the other, each is done."""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager

import pytest
from qtpy.QtWidgets import QApplication

from napari_mil.ui import acts, writing
from napari_mil.ui.dialogs import MppDialog
from napari_mil.workflow import Project
from tests.ui.test_reader import write_pyramid

pytestmark = pytest.mark.skipif(
    os.environ.get("QT_QPA_PLATFORM") == "offscreen", reason="needs a screen, real or virtual (xvfb-run)"
)


@contextmanager
def busy(bench):
    """The lane of short questions has something to do meanwhile."""
    gate, began = threading.Event(), threading.Event()

    def hold():
        began.set()
        gate.wait(30)

    bench.desk.asks.ask("held", hold, lambda _none: None)
    assert began.wait(30)
    yield
    gate.set()
    assert bench.wait(60)


def names(bench):
    return [record.name for record in bench.desk.state.project.slides]


def dialogs():
    return [one for one in QApplication.topLevelWidgets() if type(one) is MppDialog and one.isVisible()]


def test_slides_that_napari_opens_one_after_the_other_are_all_taken(quick_bench, tmp_path):
    paths = [write_pyramid(tmp_path / f"n{i}.tif") for i in range(5)]
    with busy(quick_bench):
        for path in paths:
            quick_bench.slides.add([path])
    assert names(quick_bench) == ["s0", "s1", "n0", "n1", "n2", "n3", "n4"]
    assert quick_bench.desk.state.record.name == "n0"
    assert not dialogs()


def test_slides_that_arrive_while_others_are_taken_are_asked_about_with_them(
    quick_bench, tmp_path, monkeypatch
):
    project, gate, began = quick_bench.desk.state.project, threading.Event(), threading.Event()
    add = project.add

    def slow(path, **more):
        began.set()
        gate.wait(30)
        return add(path, **more)

    monkeypatch.setattr(type(project), "add", lambda _self, path, **more: slow(path, **more))
    (tmp_path / "deep").mkdir()
    quick_bench.slides.add([write_pyramid(tmp_path / "a.tif", mpp=None)])
    assert began.wait(30)
    quick_bench.slides.add([tmp_path / "there is none.tif"])
    write_pyramid(tmp_path / "deep" / "b.tif", mpp=None)
    quick_bench.slides.add([tmp_path / "deep"], within=True)
    gate.set()
    assert quick_bench.wait(60)
    assert names(quick_bench)[2:] == ["a", "b"]
    assert sum("There is no file" in told for told in quick_bench.told) == 1
    [dialog] = dialogs()
    dialog.field.setText("0.5")
    dialog._check()
    assert quick_bench.wait(60)
    assert [r.mpp for r in quick_bench.desk.state.project.slides[2:]] == [(0.5, 0.5)] * 2


def test_labels_of_several_slides_are_all_kept(quick_bench):
    ids = [record.id for record in quick_bench.desk.state.project.slides]
    with busy(quick_bench):
        writing.label_slides(quick_bench.desk, ids, "Benign/N")
        writing.label_slides(quick_bench.desk, ids[:1], "Malignant/DCIS")
        writing.undo(quick_bench.desk, ids[0])
    said = quick_bench.desk.state.project.ledger.corrections()
    assert [(c.slide_id, c.label) for c in said] == [(one, "Benign/N") for one in ids]


def test_every_file_that_is_asked_for_is_written(quick_bench, tmp_path):
    export = quick_bench.export
    with busy(quick_bench):
        export.write(tmp_path / "one.geojson")
        export.write(tmp_path / "two.geojson")
    assert (tmp_path / "one.geojson").exists()
    assert (tmp_path / "two.geojson").exists()


def test_every_slide_that_is_asked_for_lies_beside(quick_bench, tmp_path):
    quick_bench.slides.add([write_pyramid(tmp_path / f"n{i}.tif") for i in range(2)])
    assert quick_bench.wait(60)
    others = [r for r in quick_bench.desk.state.project.slides if r.name != "n0"]
    with busy(quick_bench):
        for record in others[:2]:
            acts.show_beside(quick_bench.desk, record)
    assert {slide.fingerprint for slide in quick_bench.desk.state.beside} == {r.id for r in others[:2]}


def test_a_window_that_closes_takes_what_it_has_begun_and_no_more(quick_bench, tmp_path, monkeypatch):
    paths = [write_pyramid(tmp_path / f"n{i}.tif", shape=(1024, 1280 + i)) for i in range(4)]
    began, gate, project = threading.Event(), threading.Event(), quick_bench.desk.state.project
    add = Project.add

    def slow(self, path, **about):
        began.set()
        gate.wait(10)
        return add(self, path, **about)

    monkeypatch.setattr(Project, "add", slow)
    quick_bench.slides.add(list(paths[:2]))
    quick_bench.slides.add(list(paths[2:]))
    assert began.wait(10)
    threading.Timer(0.2, gate.set).start()
    quick_bench.shut()
    monkeypatch.undo()
    with Project(project.path) as again:
        assert [record.name for record in again.slides][2:] == ["n0"]
    assert quick_bench.told == []
