"""Two people at one project: news appear by themselves, and contradictions are told."""

from __future__ import annotations

import os
import shutil
import socket
import threading
import time

import pytest

from napari_mil.correction import Cells, WholeSlide
from napari_mil.store.disk import write_marker
from napari_mil.ui import acts
from napari_mil.workflow import Project, share, slide_label

pytestmark = pytest.mark.skipif(
    os.environ.get("QT_QPA_PLATFORM") == "offscreen", reason="needs a screen, real or virtual (xvfb-run)"
)


@pytest.fixture
def folder(quick_bench):
    return quick_bench.desk.state.project.path


@pytest.fixture
def bench(quick_bench):
    return quick_bench


@pytest.fixture
def bob(folder):
    with Project(folder, by="bob") as project:
        yield project


def look(bench):
    bench.company.look()
    assert bench.wait(30)


def test_what_another_person_says_appears_by_itself_and_is_told(bench, bob):
    cells = Cells([[0, 0]], bench.desk.state.lattice.pitch_px)
    bob.correct("s0", cells, "IC")
    bob.correct("s1", WholeSlide(), "ADH")
    assert bench.desk.state.corrections == ()
    look(bench)
    state = bench.desk.state
    assert [c.by for c in state.corrections] == ["bob"]
    assert state.nodes.any()
    assert bench.heard[-1] == "bob on s0: 1 tile → Malignant/IC. bob on s1: whole slide → Atypical/ADH."
    assert "Atypical/ADH" in bench.slides.list.text(1)
    assert bench.told == []
    bob.undo("s0")
    look(bench)
    assert bench.desk.state.corrections == ()


def test_news_come_without_being_asked_for(bench, bob):
    bob.correct("s0", WholeSlide(), "ADH")
    end = time.monotonic() + 20
    while not bench.desk.state.corrections and time.monotonic() < end:
        bench.wait(1)
    assert bench.desk.state.slide_label == "Atypical/ADH"


def test_what_both_said_unseen_is_told_once_and_settled_by_who_knows_both(bench, bob):
    bob.correct("s0", WholeSlide(), "ADH")
    bench.review.choose("IC")
    bench.review.label_slide()  # before the news have come
    assert bench.wait(30)
    look(bench)
    [sentence] = bench.told
    assert sentence.startswith(
        "Not agreed upon: s0, whole slide: ann says Malignant/IC, bob said Atypical/ADH;"
    )
    look(bench)
    assert len(bench.told) == 1
    assert [c.by for c in bench.desk.state.corrections] == ["bob", "ann"]  # neither is lost
    bench.review.choose("ADH")
    bench.review.label_slide()
    assert bench.wait(30)
    look(bench)
    assert len(bench.told) == 1
    assert slide_label(bob, bob.slides[0]) == "Atypical/ADH"


def test_undo_takes_back_what_this_person_said(bench, bob):
    bench.review.choose("IC")
    bench.review.label_slide()
    assert bench.wait(30)
    bob.correct("s0", WholeSlide(), "ADH")
    look(bench)
    bench.review.undo()
    assert bench.wait(30)
    assert [c.by for c in bench.desk.state.corrections] == ["bob"]
    bench.review.undo()
    assert bench.wait(30)
    assert bench.heard[-1] == "There is nothing of yours to undo on this slide."


def test_a_server_that_goes_away_is_said_once_and_the_window_goes_on(bench, bob, folder, postgres, qtbot):
    bob.close()
    share(folder, postgres.address(postgres.database()))
    look(bench)
    assert "was moved to postgresql://" in bench.told[-1]
    bench.open_project(folder, by="ann")
    assert bench.wait(30)
    bench.review.choose("IC")
    bench.review.label_slide()
    assert bench.wait(30)
    postgres.kill()
    try:
        look(bench)
        look(bench)
        assert sum("does not answer" in sentence for sentence in bench.told) == 1
        bench.review.choose("ADH")
        with qtbot.waitSignal(bench.desk.writes.stuck, timeout=60_000):
            bench.review.label_slide()
            assert bench.desk.state.slide_label == "Atypical/ADH"  # at once, whatever the server does
        assert "does not answer" in bench.told[-1]
        assert "stays on screen" in bench.told[-1]
    finally:
        postgres.start()
    assert bench.wait(60)  # it was tried again until it was kept
    look(bench)
    assert "The ledger answers again." in bench.heard
    assert "Everything that you said is kept now." in bench.heard
    assert bench.desk.state.pending == ()
    assert bench.desk.state.slide_label == "Atypical/ADH"


@pytest.fixture
def silent():
    """The address of a ledger on a server that takes calls and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"postgresql://tester@127.0.0.1:{server.getsockname()[1]}/study"


def test_a_project_on_a_server_that_does_not_answer_is_one_sentence_and_the_window_goes_on(
    bench, folder, silent, tmp_path
):
    away, here = tmp_path / "away", bench.desk.state.project
    shutil.copytree(folder, away)
    write_marker(away, ledger=silent)
    began = time.perf_counter()
    bench.open_project(away)
    assert time.perf_counter() - began < 1.0  # the server has five seconds
    assert bench.heard[-1] == "Opening away …"
    bench.slides.open("s1")
    end = time.monotonic() + 4
    while bench.desk.state.record.name != "s1" and time.monotonic() < end:
        bench.wait(0.05)
    assert bench.desk.state.record.name == "s1"
    assert bench.desk.openings.busy
    assert bench.wait(60)
    [sentence] = bench.told
    assert "does not answer" in sentence
    assert bench.desk.state.project is here
    correct = Cells([[0, 0]], bench.desk.state.lattice.pitch_px)
    here.correct("s1", correct, "IC")


def test_of_two_projects_the_one_chosen_last_comes_to_the_front(bench, tmp_path):
    opened, there = [], bench.desk.state.project
    for name in ("one", "two"):
        bench.open_project(tmp_path / name, by="ann", then=lambda name=name: opened.append(name))
    assert bench.wait(60)
    assert opened == ["two"]
    assert bench.desk.state.project.path.name == "two"
    assert bench.desk.state.project.slides == ()
    assert bench.heard[-2:] == ["Opening two …", ""]
    assert there.ledger._closed


def test_news_that_do_not_come_hold_up_no_question(bench, monkeypatch):
    asked, gate = threading.Event(), threading.Event()
    monkeypatch.setattr("napari_mil.ui.company.news", lambda _project, _seen: asked.set() or gate.wait(30))
    bench.company.look()
    assert asked.wait(10)
    acts.step_slide(bench.desk, 1)
    bench.wait(2)
    assert bench.desk.state.record.name == "s1"
    began = time.perf_counter()
    bench.shut()
    assert time.perf_counter() - began < 5.0
    gate.set()
