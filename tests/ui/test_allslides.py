"""A model is asked about every slide of the project from the window."""

from __future__ import annotations

import os
import shlex
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication
from quickstudy import QUICK, study
from slidefiles import write_pyramid

from napari_mil import encode
from napari_mil.steps import drain
from napari_mil.workflow import analyse_steps, answering, find_card, train_model_steps

pytestmark = pytest.mark.skipif(
    os.environ.get("QT_QPA_PLATFORM") == "offscreen", reason="needs a screen, real or virtual (xvfb-run)"
)


def stained(path: Path, seed: int) -> Path:
    """A slide of 16 tiles of tissue with glass around them."""
    rng = np.random.default_rng(seed)
    tissue = rng.normal((190, 110, 170), 8, (4 * 256, 4 * 256, 3)).astype(np.uint8)
    return write_pyramid(path, np.pad(tissue, ((256,) * 2, (256,) * 2, (0, 0)), constant_values=240))


@pytest.fixture
def folder(tmp_path):
    """Four slides with features and a model, and two without."""
    with study(tmp_path, 4) as project:
        drain(train_model_steps(project, "mean", recipe=QUICK, name="m"))
        for n in (4, 5):
            project.add(stained(tmp_path / f"s{n}.tif", n))
        return project.path


@pytest.fixture
def bench_on(docked, folder):
    def make():
        made = docked(folder, by="ann")
        made.told, made.heard = [], []
        made.desk.tell = lambda what: made.told.append(str(what))
        made.desk.said.connect(made.heard.append)
        return made

    return make


def rows(bench):
    view = bench.slides.list
    assert bench.wait(30)
    for _ in range(2):
        [view.text(i) for i in range(view.count)]  # what is seen is looked up
        assert bench.wait(30)
    return [view.text(i).splitlines()[-1] for i in range(view.count)]


def test_every_slide_is_answered_and_the_list_tells(bench_on):
    bench = bench_on()
    assert rows(bench) == ["model: not analysed"] * 6
    assert bench.model.all.button.isEnabled()
    bench.model.all.button.click()
    assert not bench.model.all.button.isEnabled()
    assert bench.model.all.run() is None
    assert "already" in bench.told.pop()
    assert bench.wait(120)
    project, card = bench.desk.state.project, bench.desk.state.card
    assert bench.told == []
    assert bench.model.all.said.text() == bench.heard[-1] == "6 slides are answered now."
    assert all(project.store.latest_answer(r.id, card.id) is not None for r in project.slides)
    assert all("%" in words for words in rows(bench))
    assert bench.model.all.button.isEnabled()
    bench.model.all.run()
    assert bench.wait(60)
    assert bench.model.all.said.text() == "Every slide is answered already."


def test_the_slide_in_front_gets_its_maps_when_its_turn_comes(bench_on, monkeypatch):
    monkeypatch.setattr("napari_mil.workflow.analyse.REFRESH_S", 0.0)
    monkeypatch.setattr(encode, "encode_steps", partial(encode.encode_steps, batch=2))
    bench = bench_on()
    bench.slides.open("s5")
    assert bench.wait(60)
    sizes = []
    bench.desk.changed.connect(
        lambda _b, s: s.answer is not None and sizes.append((len(s.answer_grid), s.partial))
    )
    bench.model.all.run()
    assert bench.wait(120)
    state = bench.desk.state
    assert state.record.name == "s5"
    assert state.answer.scope == "slide"
    assert not state.partial
    assert state.shown == ("attention",)
    assert len(state.bag) == len(state.answer_grid)  # its features came too
    assert sizes[0][1]  # it filled in
    assert sizes[0][0] < len(state.answer_grid)
    assert sizes[-1] == (len(state.answer_grid), False)


def test_another_slide_can_be_opened_meanwhile_and_gets_its_own_answer(bench_on, monkeypatch):
    monkeypatch.setattr(encode, "encode_steps", partial(encode.encode_steps, batch=1))
    bench = bench_on()
    job = bench.model.all.run()
    job.progressed.connect(lambda now: now.note.startswith("s4: features") and bench.slides.open("s1"))
    assert bench.wait(120)
    state = bench.desk.state
    assert state.record.name == "s1"
    assert state.answer.slide_id == state.record.id


def test_one_that_fails_is_named_with_its_reason_and_the_others_are_answered(bench_on, folder):
    (folder.parent / "s5.tif").unlink()
    bench = bench_on()
    bench.model.all.run()
    assert bench.wait(120)
    first, second = bench.model.all.said.text().splitlines()
    assert first == "5 slides are answered now. 1 failed; run it again to retry:"
    assert second.startswith("s5: ")
    assert "s5.tif" in second
    assert bench.heard[-1] == "5 slides are answered now. 1 failed; section 2 names them."
    assert rows(bench)[5] == "model: could not be asked"
    tip = bench.slides.list.found.index(5, 0).data(Qt.ItemDataRole.ToolTipRole)
    assert tip.splitlines()[-1] == second.removeprefix("s5: ")
    stained(folder.parent / "s5.tif", 5)
    bench.model.all.run()
    assert bench.wait(120)
    assert bench.model.all.said.text() == "1 slide is answered now. 5 slides are answered already."
    assert "%" in rows(bench)[5]


def test_cancelled_it_keeps_what_is_done_and_goes_on_when_run_again(bench_on, monkeypatch):
    monkeypatch.setattr(encode, "encode_steps", partial(encode.encode_steps, batch=1))
    bench = bench_on()
    job = bench.model.all.run()
    job.progressed.connect(lambda now: now.note.startswith("s4: features") and bench.desk.jobs.cancel())
    assert bench.wait(120)
    assert bench.model.all.said.text() == "Stopped: 4 slides are answered. Run it again to go on."
    assert rows(bench)[4] == "model: not analysed"
    bench.model.all.run()
    assert bench.wait(120)
    assert bench.model.all.said.text() == "2 slides are answered now. 4 slides are answered already."


def test_with_another_project_in_front_it_ends(bench_on, monkeypatch, tmp_path):
    monkeypatch.setattr(encode, "encode_steps", partial(encode.encode_steps, batch=1))
    bench = bench_on()
    with study(tmp_path / "other", 1) as other:
        place = other.path
    job = bench.model.all.run()
    while not job.last.note.startswith("s4: features"):
        QApplication.processEvents()
    bench.open_project(place)
    assert bench.wait(120)
    assert bench.desk.state.project.path == place
    assert bench.told == []
    assert bench.model.all.said.isHidden()
    assert not bench.model.all.button.isEnabled()  # it has no model


def test_a_run_on_one_slide_is_told_in_the_list_though_another_is_in_front_by_then(bench_on, monkeypatch):
    monkeypatch.setattr(encode, "encode_steps", partial(encode.encode_steps, batch=1))
    bench = bench_on()
    bench.slides.open("s4")
    assert bench.wait(60)
    assert rows(bench)[4] == "model: not analysed"
    job = bench.model.run()
    job.progressed.connect(lambda now: now.stage == "features" and bench.slides.open("s0"))
    assert bench.wait(60)
    assert bench.desk.state.record.name == "s0"
    assert "%" in rows(bench)[4]


def test_the_bar_counts_slides_and_says_where_it_is(bench_on, monkeypatch):
    monkeypatch.setattr("napari_mil.ui.widgets.SETTLE_MS", 0)
    monkeypatch.setattr("napari_mil.ui.job.PAUSE_S", 0.0)
    monkeypatch.setattr(encode, "encode_steps", partial(encode.encode_steps, batch=1))
    bench = bench_on()
    seen = []
    job = bench.model.all.run()

    def look(_now):
        bench.jobs._show()
        seen.append((bench.jobs.title.text(), bench.jobs.bar.value(), bench.jobs.left.text()))

    job.progressed.connect(look)
    assert bench.wait(120)
    titles, values, left = zip(*(one for one in seen if "all slides" in one[0]), strict=True)
    assert any(title.startswith("m: all slides (s4: features") for title in titles)
    assert list(values) == sorted(values)
    assert any(value % 100 for value in values)  # it moves within a slide
    assert any(words.startswith("4 of 6, about ") for words in left)


def test_the_same_as_a_command_line(bench_on, folder, tmp_path):
    bench = bench_on()
    bench.model.all.copy_all.trigger()
    line = QApplication.clipboard().text()
    assert shlex.split(line) == ["napari-mil", "predict", str(folder), "--model", "m"]
    assert bench.heard[-1] == f"Copied: {line}"
    bench.slides.open("s2")
    assert bench.wait(60)
    bench.model.all.copy_one.trigger()
    assert shlex.split(QApplication.clipboard().text()) == [
        *("napari-mil", "predict", str(folder), "s2", "--model", "m")
    ]
    project = bench.desk.state.project
    old = find_card(project, "m")
    drain(train_model_steps(project, "max", recipe=QUICK, name="m"))  # the name means this one by now
    bench.model.all.copy_all.trigger()
    assert shlex.split(QApplication.clipboard().text())[-1] == old.id


def test_those_that_were_answered_can_be_asked_anew(bench_on):
    bench = bench_on()
    project, card = bench.desk.state.project, bench.desk.state.card
    drain(analyse_steps(project, project.slide("s0"), model="m"))
    before = project.store.latest_answer(project.slides[0].id, card.id).at
    bench.model.all.again.trigger()
    assert bench.wait(120)
    assert bench.model.all.said.text() == "6 slides are answered now."
    assert project.store.latest_answer(project.slides[0].id, card.id).at > before


def test_a_run_on_the_slide_in_front_comes_next_while_all_are_asked(bench_on, monkeypatch):
    monkeypatch.setattr(encode, "encode_steps", partial(encode.encode_steps, batch=1))
    bench = bench_on()
    order = []
    bench.desk.answered.connect(lambda slide_id, _what: order.append(slide_id))
    held, go = threading.Event(), threading.Event()
    real = answering._one

    def one(project, record, *others, **more):
        if record.name == "s1":
            held.set()
            go.wait(30)
        return (yield from real(project, record, *others, **more))

    monkeypatch.setattr(answering, "_one", one)
    bench.model.all.run()
    while not held.wait(0.01):
        QApplication.processEvents()
    bench.slides.open("s5")
    while bench.desk.state.record.name != "s5":
        QApplication.processEvents()
    assert bench.model.run() is None
    assert bench.heard[-1] == "All slides are being asked; s5 is next, unless it was asked already."
    go.set()
    assert bench.wait(120)
    names = {record.id: record.name for record in bench.desk.state.project.slides}
    assert [names[i] for i in order] == ["s0", "s1", "s5", "s2", "s3", "s4"]
    assert bench.desk.state.answer.slide_id == bench.desk.state.record.id


def test_stopped_while_asking_anew_it_promises_nothing(bench_on, monkeypatch):
    bench = bench_on()
    job = bench.model.all.run(again=True)
    job.progressed.connect(lambda now: now.note.startswith("s4") and bench.desk.jobs.cancel())
    assert bench.wait(120)
    assert bench.model.all.said.text() == "Stopped: 4 slides are answered anew."
