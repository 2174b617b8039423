"""Two people at one project: news appear by themselves, and contradictions are told."""

from __future__ import annotations

import os
import time

import pytest

from napari_mil.correction import Cells, WholeSlide
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
