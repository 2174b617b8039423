"""Next to review in the real window: the reason is shown, the view goes there, one key answers."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest

from napari_mil.correction import Cells, WholeSlide
from napari_mil.steps import drain
from napari_mil.ui import compat
from napari_mil.ui.questions import BLIND, WhatTellsMost
from napari_mil.workflow import Project, analyse_steps

pytestmark = pytest.mark.skipif(
    os.environ.get("QT_QPA_PLATFORM") == "offscreen", reason="needs a screen, real or virtual (xvfb-run)"
)


@pytest.fixture(scope="module")
def answered_study(finished_study, tmp_path_factory):
    """The study with answers of hmil-1 for every slide."""
    folder = shutil.copytree(finished_study, tmp_path_factory.mktemp("queue") / "study")
    with Project(folder) as project:
        for record in project.slides:
            drain(analyse_steps(project, project.slide(record), model="hmil-1"))
    return folder


@pytest.fixture
def bench(docked, answered_study, tmp_path):
    made = docked(shutil.copytree(answered_study, tmp_path / "study"), by="tester")
    made.model.choose("hmil-1")
    assert made.wait(30)
    made.unfold("Review")
    return made


def press(bench, key):
    bench.desk.keys[key].activated.emit()
    assert bench.wait(60)


def until_a_tile(bench):
    queue = bench.review.queue
    while queue.question.item.cell is None:
        press(bench, "Alt+J")
    return queue.question


def test_next_goes_to_the_place_and_says_why(bench):
    queue = bench.review.queue
    assert queue.question is None
    assert queue.answers.isHidden()
    press(bench, "Alt+N")
    first = queue.question
    assert bench.desk.state.record == first.record
    assert queue.why.text() == first.item.reason
    assert f"{first.label}" in queue.what.text()
    assert "1 of" in queue.what.text()
    tile = until_a_tile(bench)
    assert bench.desk.state.record == tile.record
    assert bench.card.cell == tile.item.cell
    middle = compat.camera(bench.viewer).center[-2:]
    np.testing.assert_allclose(middle, bench.desk.middle_of(tile.item.cell))


def test_accept_is_a_correction_and_goes_on(bench):
    press(bench, "Alt+N")
    first = bench.review.queue.question
    press(bench, "Alt+Return")
    project = bench.desk.state.project
    [said] = project.ledger.corrections()
    assert (said.slide_id, said.label, said.tool, said.by) == (
        first.record.id,
        first.label,
        "review",
        "tester",
    )
    assert said.model_said == first.label
    assert bench.review.queue.question.key != first.key
    assert "2 of" in bench.review.queue.what.text()
    assert bench.review.queue.bar.value() == 1


def test_relabel_gives_the_chosen_label_to_the_tile(bench):
    press(bench, "Alt+N")
    tile = until_a_tile(bench)
    before = bench.desk.state.project.ledger.head
    press(bench, "Alt+E")
    assert "Choose the label first" in bench.said.text()
    assert bench.desk.state.project.ledger.head == before
    bench.review.choose("UDH")
    assert "Benign/UDH" in bench.review.queue.relabel_button.toolTip()
    press(bench, "Alt+E")
    [said] = [c for c in bench.desk.state.project.ledger.corrections() if c.tool == "review"]
    assert isinstance(said.place, Cells)
    assert (said.label, said.place.cells.tolist()) == ("Benign/UDH", [list(tile.item.cell)])
    assert said.place.pitch_px == bench.desk.state.lattice.pitch_px or said.slide_id != tile.record.id


def test_skip_is_kept_and_not_asked_again(bench):
    press(bench, "Alt+N")
    first = bench.review.queue.question
    press(bench, "Alt+J")
    [event] = bench.desk.state.project.ledger.events(kind="skip")
    assert (event.by, event.slide_id) == ("tester", first.record.id)
    assert not bench.desk.state.project.ledger.corrections()
    asked = {bench.review.queue.question.key}
    for _ in range(4):
        press(bench, "Alt+J")
        if bench.review.queue.question is None:
            break
        assert bench.review.queue.question.key not in asked | {first.key}
        asked.add(bench.review.queue.question.key)


def test_who_reads_blind_sees_neither_reason_nor_answer_first(bench):
    bench.review.blind.setChecked(True)
    press(bench, "Alt+N")
    queue, first = bench.review.queue, bench.review.queue.question
    assert queue.why.text() == BLIND
    assert "model" not in queue.what.text()
    assert not queue.accept_button.isEnabled()
    assert "You read blind" in queue.accept_button.toolTip()
    press(bench, "Alt+Return")
    assert "You read blind" in bench.said.text()
    assert not bench.desk.state.project.ledger.corrections()
    bench.review.choose("IC")
    press(bench, "Alt+E")
    [said] = bench.desk.state.project.ledger.corrections()
    assert (said.slide_id, said.label, said.visible) == (first.record.id, "Malignant/IC", ())


def test_a_question_belongs_to_its_slide(bench):
    press(bench, "Alt+N")
    queue, first = bench.review.queue, bench.review.queue.question
    other = next(r for r in bench.desk.state.project.slides if r.id != first.record.id)
    bench.slides.open(other.id)
    assert bench.wait(20)
    assert not queue.accept_button.isEnabled()
    tips = {part.toolTip() for part in (queue.accept_button, queue.relabel_button)}
    assert tips == {f"The question is about {first.name}; Alt+N goes on from here."}
    press(bench, "Alt+Return")
    assert f"The question is about {first.name}" in bench.said.text()
    assert not bench.desk.state.project.ledger.corrections()


def test_before_next_there_is_nothing_to_answer_and_in_the_end_nothing_to_ask(bench):
    for key in ("Alt+Return", "Alt+E", "Alt+J"):
        press(bench, key)
        assert "Nothing is asked yet" in bench.said.text()
    project = bench.desk.state.project
    for record in project.slides:
        project.correct(record.id, WholeSlide(), "Benign/N")  # then its tiles are known too
    press(bench, "Alt+N")
    assert bench.review.queue.question is None
    assert bench.review.queue.what.text() == WhatTellsMost.done


def test_another_model_has_other_questions(bench):
    press(bench, "Alt+N")
    assert bench.review.queue.question is not None
    bench.model.choose("mhim-1")
    assert bench.wait(30)
    assert bench.review.queue.question is None
    press(bench, "Alt+N")  # mhim-1 has answered nothing
    assert bench.review.queue.question is None
    assert bench.review.queue.next_button.isEnabled()
