"""Labels that cannot hold for the place at hand are grey, say why, and can be given all the same."""

from __future__ import annotations

import os

import numpy as np
import pytest

from napari_mil.correction import Cells, Correction, WholeSlide
from napari_mil.ui.labellist import GREY
from napari_mil.ui.possible import implied, impossible
from napari_mil.ui.state import State

needs_a_screen = pytest.mark.skipif(
    os.environ.get("QT_QPA_PLATFORM") == "offscreen", reason="needs a screen, real or virtual (xvfb-run)"
)


class Project:
    def __init__(self, tree):
        self.tree = tree


@pytest.fixture
def say(tree, grid):
    """A state in which these (place, label) were said, as events 1, 2, …"""
    from napari_mil.correction import tile_nodes

    full = grid.with_cells(np.indices(grid.shape).reshape(2, -1).T)

    def made(*said, **about):
        corrections = tuple(Correction("s", place, label, by="ann") for place, label in said)
        nodes = tile_nodes(corrections, full, tree)
        events = tuple(range(1, len(said) + 1))
        shown = {"corrections": corrections, "events": events, "nodes": nodes, "lattice": full}
        return State(project=Project(tree), **(shown | about))

    return made


def test_what_the_slide_label_excludes_of_tiles(say, tree):
    state = say((WholeSlide(), "Benign"), cell=(0, 0))
    why = impossible(state)
    assert {tree.path(node) for node in why} == {
        "Atypical", "Atypical/ADH", "Malignant", "Malignant/IC",
    }  # fmt: skip
    assert why[tree.node("IC")] == "The slide is labelled Benign, so no tile of it can be Malignant/IC."
    assert "Benign/UDH" in {tree.path(node) for node in impossible(say((WholeSlide(), "Benign/N")))}
    assert impossible(say((WholeSlide(), "Malignant"), cell=(0, 0))) == {}
    assert impossible(say()) == {}


def test_what_tiles_exclude_of_the_slide(say, grid, tree):
    two = Cells(np.array([[0, 0], [0, 1]]), grid.pitch_px)
    why = impossible(say((two, "IC")))
    words = "2 tiles are labelled Malignant/IC, so the slide as a whole cannot be Benign/UDH."
    assert why[tree.node("UDH")] == words
    assert tree.node("Malignant") not in why
    assert impossible(say((two, "IC"), cell=(3, 3))) == {}  # the tile at hand may be anything


def test_what_is_locked_can_be_nothing_else(say, grid, tree):
    here = Cells(np.array([[0, 0]]), grid.pitch_px)
    why = impossible(say((here, "Malignant/IC"), locked=frozenset({1}), cell=(0, 0)))
    assert len(why) == len(tree)
    assert set(why.values()) == {"This place is locked as Malignant/IC; unlock it first (Alt+K)."}
    assert impossible(say((here, "IC"), locked=frozenset({1}), cell=(0, 1))) == {}


def test_who_reads_blind_is_told_nothing(say):
    from types import SimpleNamespace

    known = SimpleNamespace(label="Benign/N")
    assert impossible(say(record=known))
    assert impossible(say(record=known, blind=True)) == {}


def test_fine_implies_coarse(tree):
    assert implied(tree, tree.node("ADH")) == {tree.node("Atypical"): "Atypical/ADH says Atypical too."}
    assert implied(tree, tree.node("Atypical")) == implied(tree, 0) == implied(tree, None) == {}


@needs_a_screen
def test_the_list_greys_them_and_gives_them_all_the_same(quick_bench):
    bench = quick_bench  # s0 is Benign/N
    tree, shown = bench.desk.state.project.tree, bench.review.tree
    item = shown._items[tree.node("Malignant/IC")]
    assert item.foreground(0).color().name() == GREY
    assert "The slide is labelled Benign/N" in item.toolTip(0)
    assert shown._items[tree.node("Benign/N")].toolTip(0) == ""
    shown.itemClicked.emit(item, 0)
    assert bench.desk.state.node == tree.node("Malignant/IC")
    coarse = shown._items[tree.node("Malignant")]
    assert coarse.font(0).bold()
    assert coarse.toolTip(0).endswith("Malignant/IC says Malignant too.")
    bench.review.label_slide()
    assert item.foreground(0).color().name() != GREY
