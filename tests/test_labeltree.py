"""The tree of labels: numbering, lifting, paths, refusals."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_mil.errors import LabelError
from napari_mil.labeltree import LabelTree, agree

BREAST = LabelTree.from_paths(
    [
        "Benign/N",
        "Benign/PB",
        "Benign/UDH",
        "Atypical/FEA",
        "Atypical/ADH",
        "Malignant/DCIS",
        "Malignant/IC",
    ],
    normal=["Benign/N"],
)


def test_nodes_are_numbered_level_by_level_in_the_order_given():
    assert [BREAST.path(n) for n in BREAST.nodes_at(0)] == ["Benign", "Atypical", "Malignant"]
    assert [BREAST.names[n] for n in BREAST.leaves] == ["N", "PB", "UDH", "FEA", "ADH", "DCIS", "IC"]
    assert BREAST.levels == 2
    assert BREAST.normal_classes().tolist() == [True, *[False] * 6]


def test_a_flat_list_is_a_tree_of_depth_one():
    flat = LabelTree.from_paths(["LUAD", "LUSC"])
    assert (flat.levels, flat.leaves, flat.lift([0.3, 0.7], 0).tolist()) == (1, (1, 2), [0.3, 0.7])


def test_a_name_that_is_unique_stands_for_its_path():
    assert BREAST.node("ADH") == BREAST.node("Atypical/ADH")
    assert BREAST.node(None) == BREAST.node("") == 0
    with pytest.raises(LabelError, match="Benign/N"):
        BREAST.node("Sarcoma")


def test_fine_implies_coarse_and_coarse_leaves_the_fine_open():
    adh, atypical = BREAST.node("ADH"), BREAST.node("Atypical")
    assert BREAST.class_index(adh, 0) == BREAST.class_index(atypical, 0) == 1
    assert BREAST.class_index(atypical, 1) == -1
    assert agree(BREAST, [adh, atypical, 0])
    assert not agree(BREAST, [adh, BREAST.node("IC")])
    assert not agree(BREAST, [BREAST.node("FEA"), adh])


@given(st.lists(st.floats(0, 1), min_size=7, max_size=7))
@settings(max_examples=30, deadline=None)
def test_lifting_keeps_the_mass(p):
    assert BREAST.lift(np.array(p), 0).sum() == pytest.approx(sum(p))
    np.testing.assert_allclose(BREAST.lift(np.array(p), 1), p)


def test_json_round_trip():
    assert LabelTree.from_json(BREAST.to_json()) == BREAST


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"names": ["a"]}', "\x00"])
def test_what_is_no_tree_is_refused(text):
    with pytest.raises(LabelError):
        LabelTree.from_json(text)


@pytest.mark.parametrize("paths", [["A/x", "B"], ["A/x", "A/x"], ["A/"], []])
def test_impossible_trees_are_refused(paths):
    if paths == ["A/x", "A/x"]:
        assert len(LabelTree.from_paths(paths)) == 3  # said twice is said once
        return
    with pytest.raises(LabelError):
        LabelTree.from_paths(paths)
