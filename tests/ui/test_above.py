"""All tiles above a threshold: how many is said before, and it is one act."""

from __future__ import annotations

import os

import numpy as np
import pytest

from napari_mil.prediction import Prediction, TileMap

pytestmark = pytest.mark.skipif(
    os.environ.get("QT_QPA_PLATFORM") == "offscreen", reason="needs a screen, real or virtual (xvfb-run)"
)


@pytest.fixture
def bench(quick_bench):
    """The model's scores for IC on the four tiles of s0 are 0.2, 0.6, 0.9 and unknown."""
    desk = quick_bench.desk
    grid = desk.state.lattice
    scores = np.array([0.2, 0.6, 0.9, np.nan], np.float32)
    maps = (
        TileMap("attention", "score", np.array([1e-4, 2e-4, 3e-4, 4e-4], np.float32)),
        TileMap("probability/fine/IC", "score", scores, span=(0.0, 1.0)),
        TileMap("class/fine", "nodes", np.zeros(4, np.int32)),
    )
    said = (np.full(3, 1 / 3, np.float32), np.full(7, 1 / 7, np.float32))
    answer = Prediction(desk.state.record.id, grid.id, "m-1", "slide", said, maps)
    assert len(grid) == 4
    desk.apply(answer=answer, answer_grid=grid)
    return quick_bench


def test_how_many_tiles_is_said_before_and_undo_is_one_step(bench):
    above = bench.review.above
    assert not above.isHidden()
    assert [above.which.itemData(i) for i in range(above.which.count())] == [
        "attention", "probability/fine/IC",
    ]  # fmt: skip
    assert "choose its label first" in above.why.text()
    assert not above.label_button.isEnabled()
    bench.review.choose("IC")
    assert above.which.currentData() == "probability/fine/IC"  # the label's own map is offered
    assert (above.least.value(), above.why.text()) == (0.9, "1 tile of 4 will be Malignant/IC.")
    above.least.setValue(0.6)
    assert above.label_button.text() == "Label 2 tiles"
    bench.desk.keys["Alt+T"].activated.emit()
    assert bench.heard[-1] == "2 tiles of 4 will be Malignant/IC."
    assert bench.desk.state.corrections == ()
    above.least.lineEdit().returnPressed.emit()
    assert bench.wait(30)
    [said] = bench.desk.state.corrections
    assert said.place.cells.tolist() == bench.desk.state.answer_grid.cells[1:3].tolist()
    assert (said.label, said.tool, said.note) == (
        "Malignant/IC", "above threshold", "probability/fine/IC ≥ 0.6",
    )  # fmt: skip
    assert said.model_id == "m-1"
    assert (
        bench.heard[-1]
        == "2 tiles with probability/fine/IC ≥ 0.6 are labelled Malignant/IC; Undo is one step."
    )
    bench.review.undo()
    assert bench.wait(30)
    assert bench.desk.state.corrections == ()


def test_small_scores_have_digits_enough(bench):
    above = bench.review.above
    bench.review.choose("N")
    above.which.setCurrentIndex(0)
    above.least.setValue(2.5e-4)
    assert above.label_button.text() == "Label 2 tiles"
    above.least.setValue(4e-4)
    assert above.label_button.text() == "Label 1 tile"


def test_it_is_not_offered_without_an_answer_or_to_who_reads_blind(bench):
    above = bench.review.above
    bench.review.blind.setChecked(True)
    assert above.isHidden()
    bench.desk.keys["Alt+T"].activated.emit()
    assert "There is no answer whose tiles could be chosen" in bench.told[-1]
    above.label()
    assert bench.desk.state.corrections == ()
    bench.review.blind.setChecked(False)
    assert not above.isHidden()
    bench.desk.apply(answer=None, answer_grid=None)
    assert above.isHidden()
