"""Many tiles at once, outlines that are mended, corrections that are withdrawn and locked."""

import numpy as np
import pytest
from quickstudy import study

from napari_mil.card import ModelCard
from napari_mil.correction import Cells, Polygon, WholeSlide, region
from napari_mil.errors import LabelError, ModelError, ProjectError
from napari_mil.prediction import Prediction, TileMap
from napari_mil.workflow import (
    SlideHistory,
    cut,
    draw,
    history_words,
    label_above,
    label_tiles,
    lock,
    log_rows,
    mended,
    note,
    slide_label,
    unlock,
    withdraw,
)

EIGHT = Polygon((np.array([[0.0, 0], [80, 80], [80, 0], [0, 80]]),))
RING = Polygon((np.array([[0.0, 0], [0, 90], [90, 90], [90, 0]]), np.array([[20.0, 20], [20, 70], [70, 70]])))


@pytest.fixture
def project(tmp_path):
    with study(tmp_path, 2) as made:
        yield made


@pytest.fixture
def answered(project):
    """A model whose answer for s0 has the scores 0, 1/11 … 1 on its twelve tiles."""
    record = project.slides[0]
    bag = project.store.load_bag(record.id, "builtin-1", 256, 0.5)
    card = ModelCard("m-1", "m", "mean", {}, bag.encoder, bag.features.shape[1], 256, 0.5, project.tree)
    project.store.save_model(card, b"weights")
    scores = TileMap("probability/fine/IC", "score", np.linspace(0, 1, 12).astype(np.float32))
    answer = Prediction(record.id, bag.grid.id, "m-1", "slide", (np.array([1.0], np.float32),), (scores,))
    project.store.save_prediction(answer)
    return bag.grid


def test_all_tiles_above_a_threshold_are_one_act_that_keeps_its_rule(project, answered):
    said = label_above(project, "s0", "probability/fine/IC", 0.5, "IC", model="m")
    assert said.place.cells.tolist() == answered.cells[6:].tolist()
    assert (said.label, said.tool, said.note, said.model_id) == (
        "Malignant/IC", "above threshold", "probability/fine/IC ≥ 0.5", "m-1",
    )  # fmt: skip
    again = label_above(project, "s0", "probability/fine/IC", 0.9, "ADH", model="m", note="sure ones")
    assert (again.was, again.note, len(again.place.cells)) == ("Malignant/IC", "sure ones", 2)
    assert label_above(project, "s0", "probability/fine/IC", 0.0, None, model="m").was is None  # several
    for _ in range(3):
        assert project.undo("s0")
    assert project.ledger.corrections() == ()


def test_chosen_tiles_are_labelled_by_their_numbers(project, answered):
    said = label_tiles(project, "s0", [3, 0, 3], "Benign", model="m")
    assert said.place.cells.tolist() == answered.cells[[0, 3]].tolist()
    assert said.tool == "rows"
    for rows, says in (([12], r"numbered from 0 to 11 here; got \[12, 12\]"), ([], "No tile was chosen")):
        with pytest.raises(LabelError, match=says):
            label_tiles(project, "s0", rows, "Benign", model="m")


def test_what_cannot_be_chosen_is_said_and_nothing_is_written(project, answered):
    head = project.ledger.head
    with pytest.raises(LabelError, match=r"No tile has probability/fine/IC ≥ 1.5.* the highest has 1"):
        label_above(project, "s0", "probability/fine/IC", 1.5, "IC", model="m")
    with pytest.raises(ModelError, match=r"has no map 'x' of this slide; there are probability/fine/IC"):
        label_above(project, "s0", "x", 0.5, "IC", model="m")
    with pytest.raises(ModelError, match="has not answered for s1 yet"):
        label_tiles(project, "s1", [0], "IC", model="m")
    with pytest.raises(LabelError, match="'Sarkoma' is no label"):
        label_above(project, "s0", "probability/fine/IC", 0.5, "Sarkoma", model="m")
    assert project.ledger.head == head


def test_a_region_is_kept_as_drawn_with_its_holes(project):
    said = []
    [kept] = draw(project, "s0", RING, "ADH", remark=said.append)
    assert [ring.tolist() for ring in kept.place.rings] == [ring.tolist() for ring in RING.rings]
    assert (said, kept.tool) == ([], "region")


def test_an_outline_that_crosses_itself_is_mended_said_and_undone_as_one(project):
    said = []
    parts = draw(project, "s0", EIGHT, "ADH", remark=said.append)
    assert said == ["The outline crossed itself: it was kept as 2 regions that cover the same area."]
    assert sum(region(c.place).area for c in parts) == pytest.approx(region(EIGHT).area)
    assert len(project.ledger.corrections()) == 2
    assert project.undo("s0")
    assert project.ledger.corrections() == ()


def test_a_hole_that_crosses_its_outline_is_mended_into_one_region():
    cut = Polygon((RING.rings[0], np.array([[50.0, 50], [50, 120], [60, 120], [60, 50]])))
    [kept], sentence = mended(cut)
    assert "as one region that covers" in sentence
    assert region(kept).area == pytest.approx(90 * 90 - 10 * 40)


def test_an_outline_without_area_is_refused(project):
    with pytest.raises(LabelError, match="The region has no area"):
        draw(project, "s0", Polygon((np.array([[0.0, 0], [5, 5], [9, 9]]),)), "ADH")


def test_corrections_of_any_time_are_withdrawn_and_locked_by_their_events(project):
    project.correct("s0", WholeSlide(), "IC")
    project.correct("s0", WholeSlide(), "UDH")
    project.correct("s1", WholeSlide(), "ADH")
    events = [e.seq for e in project.ledger.events(kind="correct")]
    assert [c.label for c in withdraw(project, events[1], events[2])] == ["Benign/UDH", "Atypical/ADH"]
    records = project.slides
    assert [slide_label(project, r) for r in records] == ["Malignant/IC", "Malignant/IC"]  # s1's manifest
    lock(project, events[0])
    project.correct("s0", WholeSlide(), "N")
    assert slide_label(project, records[0]) == "Malignant/IC"
    unlock(project, events[0])
    assert slide_label(project, records[0]) == "Benign/N"
    with pytest.raises(ProjectError, match="Event 1 states no label"):
        withdraw(project, 1)
    with pytest.raises(ProjectError, match="is no label in force"):
        withdraw(project, events[1])


def test_a_note_is_written_down_and_changes_no_label(project):
    note(project, "s0", " ask again ")
    note(project, None, "of the project")
    assert [(r["slide"], r["text"], r["by"]) for r in log_rows(project)[-2:]] == [
        ("s0", "ask again", "tester"), ("", "of the project", "tester"),
    ]  # fmt: skip
    with pytest.raises(LabelError, match="An empty note says nothing"):
        note(project, "s0", "  ")
    assert project.ledger.corrections() == ()


def test_what_tiles_were_called_before_is_the_latest_that_was_said_of_each(project):
    def cells(*which):
        return Cells([[0, c] for c in which], (256.0, 256.0))

    project.correct("s0", cells(0, 1, 2), "IC")
    project.correct("s0", cells(1), "ADH")
    assert project.correct("s0", cells(0, 2), "N").was == "Malignant/IC"
    assert project.correct("s0", cells(0, 1), "N").was is None
    assert project.correct("s0", cells(2, 3), "N").was is None
    assert project.correct("s0", Cells([[0, 0]], (128.0, 128.0)), "N").was is None


def test_a_history_is_read_once_and_brought_forward(project, monkeypatch):
    here, there = (Cells([[0, col]], (256.0, 256.0)) for col in (0, 1))
    project.correct("s0", here, "IC")
    history, after = SlideHistory(project, "s0"), []
    events = project.ledger.events
    monkeypatch.setattr(project.ledger, "events", lambda **w: (after.append(w["after"]), events(**w))[1])
    assert [row["label"] for row in history.of(here)] == ["Malignant/IC"]
    project.correct("s0", there, "ADH")
    project.correct("s0", here, "UDH")
    lock(project, project.ledger.seq)
    assert [(row["label"], row["locked"]) for row in history.of(here)] == [
        ("Malignant/IC", False), ("Benign/UDH", True),
    ]  # fmt: skip
    assert [row["label"] for row in history.of(None, last=2)] == ["Atypical/ADH", "Benign/UDH"]
    assert after[-2:] == sorted(after[-2:])  # only what is new is read
    assert after[0] == 0 < after[-1]


def square(low, high):
    return Polygon((np.array([[low, low], [low, high], [high, high], [high, low]], float),))


def test_a_hole_is_one_event_that_one_undo_takes_back(project):
    [drawn] = draw(project, "s0", square(0, 90), "ADH", note="by eye")
    project.correct("s0", Cells([[0, 0]], (20.0, 20.0)), "IC")  # said later, counts above the region
    event = project.ledger.events(kind="correct")[0].seq
    made = cut(project, event, square(30, 60))
    assert [ring.tolist() for ring in made.place.rings] == [
        ring.tolist() for ring in (drawn.place.rings[0], square(30, 60).rings[0])
    ]
    assert (made.label, made.was, made.note, made.tool) == ("Atypical/ADH", "Atypical/ADH", "by eye", "hole")
    assert [c.label for c in project.ledger.corrections()] == ["Atypical/ADH", "Malignant/IC"]
    row = log_rows(project)[-1]
    assert (row["kind"], row["place"], row["text"]) == (
        "correct", "region with 1 hole", f"in the place of event {event}",
    )  # fmt: skip
    history, words = SlideHistory(project, "s0"), {}
    for act in (None, project.undo, project.redo):
        if act is not None:
            assert act("s0")
        rows = [row for row in history.of(drawn.place) if row["label"] == "Atypical/ADH"]
        words[act] = [history_words(row) for row in rows]
    assert words[None] == [
        "region → Atypical/ADH; “by eye”; changed by tester",
        "region with 1 hole → Atypical/ADH (was Atypical/ADH); “by eye”",
    ]
    assert words[project.undo][0].endswith("; changed by tester; change undone by tester")
    assert words[project.undo][1].endswith("; undone by tester (taken back)")
    assert words[project.redo][0].endswith("; changed again by tester")
    assert len(project.ledger.events(kind="correct")) == 3


def test_holes_that_meet_become_one_and_what_is_no_hole_is_said(project):
    draw(project, "s0", square(0, 90), "ADH")

    def here():
        return next(e.seq for e in reversed(project.ledger.events(kind="correct")))

    cut(project, here(), square(20, 40))
    made = cut(project, here(), square(30, 50))
    assert len(made.place.rings) == 2
    assert region(made.place).area == pytest.approx(90 * 90 - (400 + 400 - 100))
    eight = Polygon((EIGHT.rings[0] / 8 + 60,))  # crosses itself: both lobes
    made = cut(project, here(), eight)
    assert region(made.place).area == pytest.approx(90 * 90 - 700 - region(eight).area)
    head = project.ledger.head
    for outline, says in (
        (square(80, 100), "lies wholly inside its region"),
        (square(22, 30), "There is a hole already"),
        (square(0, 90), "leave nothing of the region"),
        (Polygon((np.array([[1.0, 1], [2, 2], [3, 3]]),)), "has no area"),
    ):
        with pytest.raises(LabelError, match=says):
            cut(project, here(), outline)
    assert project.ledger.head == head
    project.correct("s0", Cells([[0, 0]], (20.0, 20.0)), "IC")
    with pytest.raises(LabelError, match="Only a drawn region can have a hole"):
        cut(project, here(), square(1, 2))
    first = project.ledger.events(kind="correct")[0].seq
    with pytest.raises(ProjectError, match=f"What event {first} says was taken back or changed meanwhile"):
        cut(project, first, square(60, 70))
