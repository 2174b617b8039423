"""The history of the place at hand, and the acts on what was said there: by button, key and menu."""

from __future__ import annotations

import os

import numpy as np
import pytest

from napari_mil.correction import Cells
from napari_mil.ui import writing
from napari_mil.workflow import Project

pytestmark = pytest.mark.skipif(
    os.environ.get("QT_QPA_PLATFORM") == "offscreen", reason="needs a screen, real or virtual (xvfb-run)"
)


@pytest.fixture
def bench(quick_bench):
    """Tile 0, 0 is ADH and then a region of IC; tile 1, 1 is ADH."""
    made = quick_bench
    pitch = made.desk.state.lattice.pitch_px
    writing.correct(made.desk, Cells(np.array([[0, 0], [1, 1]]), pitch), "ADH", tool="paint")
    made.review.choose("IC")
    made.review._pen.take([[9.5, 9.5], [9.5, 249.5], [249.5, 249.5], [249.5, 9.5]])
    assert made.wait(30)
    return made


def press(bench, key):
    bench.desk.keys[key].activated.emit()
    assert bench.wait(30)


def at(bench, cell):
    bench.desk.apply(cell=cell)
    assert bench.wait(30)
    shown = bench.review.history.list
    return [shown.item(n) for n in range(shown.count())]


def test_it_tells_of_the_tile_at_hand_and_else_of_the_slide(bench):
    history = bench.review.history
    region, stroke = at(bench, (0, 0))
    assert history.heading.text() == "<b>Said of tile 0, 0</b>"
    assert " · ann, region\nregion → Malignant/IC (was Atypical/ADH)" in region.text()
    assert " · ann, paint\n2 tiles → Atypical/ADH" in stroke.text()
    assert (region.font().bold(), stroke.font().bold()) == (True, False)  # the region counts
    assert len(at(bench, (1, 1))) == 1
    assert at(bench, (0, 1)) == []
    assert history.heading.text() == "Nothing was said of tile 0, 1 yet."
    assert len(at(bench, None)) == 2
    assert history.heading.text() == "<b>Said of this slide</b>"


def test_a_region_is_locked_and_unlocked_by_key(bench):
    state, history = bench.desk.state, bench.review.history
    at(bench, (0, 0))
    press(bench, "Alt+K")
    assert len(bench.desk.state.locked) == 1
    assert history.lock_button.text() == "Unlock"
    assert not history.withdraw_button.isEnabled()
    assert history.list.item(0).text().endswith("locked by ann")
    writing.correct(bench.desk, Cells(np.array([[0, 0]]), state.lattice.pitch_px), "Benign", tool="paint")
    assert bench.heard[-1] == "1 tile keeps its label: it is locked (Alt+K unlocks what is chosen)."
    assert bench.wait(30)
    tree = state.project.tree
    assert bench.desk.state.nodes[0] == tree.node("IC")
    assert bench.desk.layer("corrections").data[0, 0] == tree.node("IC")
    press(bench, "Alt+X")
    assert "is locked" in bench.told[-1]
    press(bench, "Alt+K")
    assert bench.desk.state.locked == frozenset()
    assert bench.desk.state.nodes[0] == tree.node("Benign")


def test_what_is_chosen_is_withdrawn_and_undone(bench):
    history = bench.review.history
    _, stroke = at(bench, (0, 0))
    history.list.setCurrentItem(stroke)
    press(bench, "Alt+X")
    assert [c.tool for c in bench.desk.state.corrections] == ["region"]
    withdrawn = at(bench, (0, 0))[1]
    assert withdrawn.font().italic()
    assert withdrawn.text().endswith("withdrawn by ann (taken back)")
    bench.review.undo()
    assert bench.wait(30)
    assert len(bench.desk.state.corrections) == 2
    at(bench, (0, 1))
    press(bench, "Alt+X")
    assert bench.told[-1].startswith("Nothing in force is chosen")


def test_a_note_is_kept_with_what_is_chosen(bench):
    history = bench.review.history
    at(bench, (1, 1))
    history.remark.setText("  ask again ")
    history.remark.returnPressed.emit()
    assert bench.wait(30)
    assert history.remark.text() == ""
    assert history.list.item(0).text().endswith("note: ask again by ann")
    history.remark.returnPressed.emit()
    assert bench.wait(30)
    assert bench.told[-1].startswith("An empty note says nothing")


def test_a_right_click_opens_the_same_acts(bench):
    y, x = bench.desk.middle_of((0, 0))
    menu = bench.pointing.open_menu(y, x)
    actions = {action.text().split("\t")[0]: action for action in menu.actions()}
    assert list(actions) == ["tile 0, 0: Malignant/IC (ann)", "", "Withdraw", "Lock", "Note…", "History"]
    assert bench.desk.state.cell == (0, 0)
    actions["Lock"].trigger()  # before the history has come
    menu.close()
    assert bench.wait(30)
    assert len(bench.desk.state.locked) == 1
    menu = bench.pointing.open_menu(y, x)
    assert "Unlock\tAlt+K" in [action.text() for action in menu.actions()]
    menu.close()
    assert bench.pointing.open_menu(-100.0, x) is None


def test_the_history_of_what_lies_under_the_pointer(bench):
    bench.viewer.mouse_over_canvas = bench._pointer.moved = True
    bench.viewer.cursor.position = bench.desk.middle_of((1, 1))
    press(bench, "Alt+I")
    bench.viewer.mouse_over_canvas = False
    assert bench.desk.state.cell == (1, 1)
    assert bench.folds["Review"].heading.isChecked()
    assert bench.review.history.list.count() == 1


def test_what_others_say_of_the_place_appears(bench):
    at(bench, (1, 1))
    with Project(bench.desk.state.project.path, by="bob") as other:
        other.correct("s0", Cells(np.array([[1, 1]]), bench.desk.state.lattice.pitch_px), "UDH")
    bench.company.look()
    assert bench.wait(30)
    assert [" · bob" in item.text() for item in at(bench, (1, 1))] == [True, False]
