"""What is kept with a correction: what the model on show had said of the place."""

from types import SimpleNamespace

import numpy as np
import pytest

from napari_mil.correction import Cells, Polygon, WholeSlide
from napari_mil.labeltree import class_names
from napari_mil.prediction import Prediction, TileMap
from napari_mil.ui.state import State
from napari_mil.ui.writing import model_said


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
