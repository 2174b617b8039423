"""What is kept with a correction: what the model on show had said of the place. The window waits for no
ledger: what is said is shown at once and kept in order.
"""

import json
import os
import sqlite3
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import sqlalchemy as sa

from napari_mil.correction import Cells, Polygon, WholeSlide
from napari_mil.errors import LabelError
from napari_mil.labeltree import class_names
from napari_mil.ledger import Ledger
from napari_mil.ledger.postgres import LOCK
from napari_mil.prediction import Prediction, TileMap
from napari_mil.ui.state import State
from napari_mil.ui.writing import correct, kept_first, model_said
from napari_mil.workflow import Project, converts, share

needs_a_screen = pytest.mark.skipif(
    os.environ.get("QT_QPA_PLATFORM") == "offscreen", reason="needs a screen, real or virtual (xvfb-run)"
)


@pytest.fixture
def state(tree, grid):
    """The model calls tiles 0–3 ADH, 4 and 5 IC, and all others nothing."""
    nodes = np.zeros(len(grid), np.int32)
    nodes[:4], nodes[4:6] = tree.node("ADH"), tree.node("IC")
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(4), len(grid)).astype(np.float32)
    maps = [TileMap(f"probability/fine/{c}", "score", p[:, k]) for k, c in enumerate(class_names(tree, 1))]
    said = (np.array([0.1, 0.6, 0.3], np.float32), np.array([0.05, 0.05, 0.6, 0.3], np.float32))
    answer = Prediction("s", grid.id, "mhim-1", "slide", said, (TileMap("class/fine", "nodes", nodes), *maps))
    project = SimpleNamespace(tree=tree)
    return State(project=project, answer=answer, answer_grid=grid), p


def painted(grid, *tiles):
    return Cells(grid.cells[list(tiles)], grid.pitch_px)


def test_tiles_of_one_call_are_what_they_are_called_with_their_mean_probability(state, grid):
    state, p = state
    said = model_said(state, painted(grid, 0, 1, 3))
    assert (said["model_id"], said["model_said"]) == ("mhim-1", "Atypical/ADH")
    assert said["model_confidence"] == pytest.approx(p[[0, 1, 3], 2].mean())
    y0, x0, y1, x1 = grid.boxes_px[4]
    ring = np.array([[y0, x0], [y0, x1], [y1, x1], [y1, x0]])
    said = model_said(state, Polygon((ring,)))
    assert said["model_said"] == "Malignant/IC"
    assert said["model_confidence"] == pytest.approx(p[4, 3])


def test_no_call_is_said_and_nothing_is_made_up_where_calls_differ(state, grid):
    state, _ = state
    assert model_said(state, painted(grid, 7, 8)) == {"model_id": "mhim-1", "model_said": "no call"}
    assert model_said(state, painted(grid, 3, 4)) == {"model_id": "mhim-1"}
    assert model_said(state, painted(grid, 3, 9)) == {"model_id": "mhim-1"}
    beyond = Cells(np.array([[99, 99]]), grid.pitch_px)  # no tile of the model's
    assert model_said(state, beyond) == {"model_id": "mhim-1"}


def test_a_slide_has_the_slides_answer(state):
    said = model_said(state[0], WholeSlide())
    assert said["model_said"] == "Atypical/ADH"
    assert said["model_confidence"] == pytest.approx(0.6)
    assert model_said(State(project=state[0].project), WholeSlide()) == {}


@contextmanager
def held(project):
    """Another program is writing to the ledger meanwhile."""
    engine = project.ledger._open()
    if engine.dialect.name == "postgresql":
        with engine.connect() as other, other.begin():
            other.execute(sa.select(sa.func.pg_advisory_xact_lock(LOCK)))
            yield
        return
    other = sqlite3.connect(project.path / "ledger.sqlite", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.close()


@pytest.fixture
def impatient(monkeypatch):
    """Ledgers that are opened wait one second for another program, not five."""
    monkeypatch.setitem(Ledger.__init__.__kwdefaults__, "timeout_s", 1.0)


@pytest.fixture(params=["sqlite", "postgresql"])
def bench(request, quick_bench):
    if request.param == "postgresql":
        server, folder = request.getfixturevalue("postgres"), quick_bench.desk.state.project.path
        share(folder, server.address(server.database()))
        quick_bench.open_project(folder, by="ann")
        assert quick_bench.wait(60)
    return quick_bench


def paint(bench, *cells):
    layer = bench.desk.layer("corrections")
    with layer.block_history():
        for cell in cells:
            layer.paint(cell, layer.selected_label)


@needs_a_screen
def test_a_stroke_is_answered_at_once_while_the_ledger_is_busy(bench):
    project = bench.desk.state.project
    bench.review.choose("IC")
    bench.review.brush.width.setValue(1)
    bench.review.paint()
    with held(project):
        began = time.perf_counter()
        for cell in ((0, 0), (0, 1)):
            paint(bench, cell)
            bench.review.brush.stroke()
        bench.review.undo()
        assert time.perf_counter() - began < 4.0  # the ledger's patience is 5 s
        state = bench.desk.state
        assert [c.place.cells.tolist() for c in state.pending] == [[[0, 0]], [[0, 1]]]  # each what it painted
        assert state.corrections == state.pending
        assert np.count_nonzero(state.nodes) == 2
        assert "2 corrections" in bench.slides.list.text()
        assert not bench.wait(0.2)
    assert bench.wait(30)
    [kept] = project.ledger.corrections()  # in the order in which it was said: the undo came last
    assert kept.place.cells.tolist() == [[0, 0]]
    assert bench.desk.state.corrections == (state.pending[0],)  # what is kept is what was shown
    assert bench.desk.state.pending == ()
    assert bench.desk.layer("corrections").data.ravel().nonzero()[0].tolist() == [0]


@needs_a_screen
def test_files_and_retraining_come_after_what_was_said(quick_bench, tmp_path):
    bench, project = quick_bench, quick_bench.desk.state.project
    file, began = tmp_path / "labels.geojson", []
    bench.review.choose("IC")
    bench.review.brush.width.setValue(1)
    bench.review.paint()
    with held(project):
        paint(bench, (0, 0))
        bench.review.brush.stroke()
        bench.export.what.setCurrentIndex(0)
        bench.export.write(file)
        assert "as soon as everything that you said is kept" in bench.export.done.text()
        assert not bench.wait(0.2)
        assert not file.exists()
    assert bench.wait(30)
    areas = map(json.dumps, json.loads(file.read_text())["features"])
    assert sum("pitch_px" in area for area in areas) == 1  # beside the slide's own label
    with held(project):
        bench.review.undo()
        bench.export.read(file)  # else it would find nothing new in it, and the undo come last
        bench.desk.run("Retraining", kept_first(bench.desk, lambda: iter([began.append(1)])))
        assert not bench.wait(0.2)
        assert not began
    assert bench.wait(30)
    assert began
    [kept] = project.ledger.corrections()
    assert kept.place.cells.tolist() == [[0, 0]]
    assert bench.desk.layer("corrections").data.ravel().nonzero()[0].tolist() == [0]


@needs_a_screen
def test_what_cannot_be_kept_for_now_is_said_and_tried_again(impatient, bench, qtbot):
    project = bench.desk.state.project
    bench.desk.writes.patience_s = 0.1
    bench.review.choose("IC")
    bench.review.paint()
    with held(project):
        paint(bench, (0, 0))
        with qtbot.waitSignal(bench.desk.writes.stuck, timeout=30_000):
            pass
        correct(bench.desk, WholeSlide(), "ADH", tool="slide label")
        assert len(bench.desk.state.pending) == 2
        assert bench.desk.layer("corrections").data.any()
    assert bench.wait(30)
    [sentence] = bench.told
    assert "another program" in sentence
    assert "stays on screen" in sentence
    assert "Everything that you said is kept now." in bench.heard
    assert bench.desk.state.pending == ()
    assert [c.label for c in project.ledger.corrections()] == ["Malignant/IC", "Atypical/ADH"]


@needs_a_screen
def test_what_can_never_be_kept_is_said_and_goes_from_the_screen(quick_bench, monkeypatch):
    bench, project = quick_bench, quick_bench.desk.state.project

    def refuse(*_corrections, seen):
        raise LabelError(f"The label is refused at {seen}.")

    monkeypatch.setattr(project.ledger, "correct", refuse)
    bench.review.choose("IC")
    bench.review.paint()
    paint(bench, (0, 0))
    assert bench.wait(30)
    assert [said.split(" at")[0] for said in bench.told] == ["The label is refused"]
    assert bench.desk.state.corrections == bench.desk.state.pending == ()
    assert not bench.desk.layer("corrections").data.any()


@needs_a_screen
def test_what_a_damaged_ledger_refuses_is_not_tried_for_ever(quick_bench):
    bench = quick_bench
    with sqlite3.connect(bench.desk.state.project.path / "ledger.sqlite") as raw:
        raw.execute("DROP TABLE tip")
    raw.close()
    correct(bench.desk, WholeSlide(), "ADH", tool="slide label")
    assert bench.wait(30)
    assert any("is damaged: tables are missing" in sentence for sentence in bench.told)
    assert not any("stays on screen" in sentence for sentence in bench.told)
    assert bench.desk.state.corrections == bench.desk.state.pending == ()


@needs_a_screen
def test_a_window_that_closes_tries_once_more_and_says_what_is_lost(impatient, quick_bench, qtbot):
    bench = quick_bench
    with held(bench.desk.state.project):
        correct(bench.desk, WholeSlide(), "ADH", tool="slide label")
        with qtbot.waitSignal(bench.desk.writes.stuck, timeout=30_000):
            pass
        bench.desk.writes.close()
        qtbot.waitUntil(lambda: not bench.desk.writes.busy, timeout=30_000)
    assert len(bench.told) == 2
    assert bench.desk.state.pending == ()


@needs_a_screen
def test_a_window_that_closes_keeps_what_was_said_before(bench):
    project, folder = bench.desk.state.project, bench.desk.state.project.path
    writing, free = threading.Event(), threading.Event()

    def hold():
        with held(project):
            writing.set()
            free.wait()

    other = threading.Thread(target=hold)
    other.start()
    writing.wait()
    correct(bench.desk, WholeSlide(), "ADH", tool="slide label")
    assert len(bench.desk.state.pending) == 1
    threading.Timer(0.3, free.set).start()
    bench.shut()
    other.join()
    with Project(folder) as again:
        assert [c.label for c in again.ledger.corrections()] == ["Atypical/ADH"]


@needs_a_screen
def test_colours_are_chosen_while_the_ledger_is_busy(quick_bench):
    bench, project = quick_bench, quick_bench.desk.state.project
    before = bench.desk.state.slide
    with held(project):
        began = time.perf_counter()
        bench.slides.list.set_colours(True)
        assert time.perf_counter() - began < 1.0
        assert not converts(project)
    assert bench.wait(60)
    assert converts(project)
    assert bench.desk.state.slide is not before
    assert bench.told == []
