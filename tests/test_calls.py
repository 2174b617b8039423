"""Calls of tiles: the rule, its parts, and what it must never do."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_mil import methods
from napari_mil.calls import call_tiles, calls, lesion_score
from napari_mil.errors import BagError
from napari_mil.infer import answer
from napari_mil.labeltree import LabelTree

TREE = LabelTree.from_paths(["Benign/N", "Benign/UDH", "Malignant/DCIS", "Malignant/IC"], normal=["Benign/N"])
N, UDH, DCIS, IC = TREE.leaves
BENIGN, MALIGNANT = TREE.nodes_at(0)


def softmax(logits):
    e = np.exp(logits - logits.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def test_a_sure_tile_is_called_only_where_the_model_looked():
    p = [[0.05, 0.05, 0.1, 0.8]] * 3
    assert call_tiles(p, [[0.99], [1.0], [7.0]], None, TREE).tolist() == [0, IC, IC]


@pytest.mark.parametrize("tiles", [1, 40, 41, 47, 107])
def test_even_attention_is_a_lift_of_one_whatever_it_is_rounded_to(tiles):
    model = methods.create("mean", {"hidden": 8}, in_features=4, tree=TREE).eval()
    said = answer(model, np.ones((tiles, 4), np.float32))
    for some in (said, said.rows(np.arange(tiles) < 31)):
        p = np.tile(np.float32([0.0, 0.0, 0.2, 0.8]), (len(some.lift), 1))
        assert call_tiles(p, some.lift, None, TREE).tolist() == [IC] * len(p)


def test_an_unsure_tile_is_not_called():
    assert call_tiles([[0.3, 0.2, 0.1, 0.4]], [3.0], None, TREE).tolist() == [0]
    assert call_tiles([[0.3, 0.2, 0.1, 0.4]], [3.0], None, TREE, min_probability=0.4).tolist() == [IC]


def test_the_slide_s_answer_silences_what_it_contradicts():
    p, lift = [[0.2, 0.1, 0.1, 0.6]], [2.0]
    assert call_tiles(p, lift, None, TREE).tolist() == [IC]
    assert call_tiles(p, lift, [0.9, 0.04, 0.03, 0.03], TREE).tolist() == [0]
    assert call_tiles(p, lift, [0.1, 0.1, 0.2, 0.6], TREE).tolist() == [IC]


def test_the_slide_s_answer_never_turns_a_call_into_another():
    p = [[0.55, 0.0, 0.0, 0.45]]
    assert call_tiles(p, [2.0], [0.01, 0.0, 0.0, 0.99], TREE).tolist() == [0]


def test_a_slide_that_excludes_every_class_of_a_tile_gives_no_call():
    assert call_tiles([[0.0, 0.0, 0.0, 1.0]], [2.0], [1.0, 0.0, 0.0, 0.0], TREE).tolist() == [0]


def test_coarse_calls_add_up_the_leaves():
    p, lift = [[0.1, 0.1, 0.4, 0.4]], [2.0]
    assert call_tiles(p, lift, None, TREE).tolist() == [0]
    assert call_tiles(p, lift, None, TREE, level=0).tolist() == [MALIGNANT]
    assert call_tiles(p, lift, [0.5, 0.1, 0.2, 0.2], TREE, level=0).tolist() == [MALIGNANT]
    assert call_tiles(p, lift, [0.97, 0.01, 0.01, 0.01], TREE, level=0).tolist() == [0]


def test_class_wise_attention_counts_for_the_class_called():
    p = [[0.0, 0.0, 0.2, 0.8]] * 2
    lift = [[5.0, 5.0, 5.0, 0.5], [0.0, 0.0, 0.0, 1.5]]
    assert call_tiles(p, lift, None, TREE).tolist() == [0, IC]
    assert call_tiles(p, lift, None, TREE, level=0).tolist() == [MALIGNANT, MALIGNANT]


def test_a_coarse_head_may_speak_for_itself():
    coarse = [[0.3, 0.7], [0.8, 0.2]]
    lift = [[0.1, 1.2], [1.2, 0.1]]
    assert call_tiles(coarse, lift, None, TREE, level=0).tolist() == [MALIGNANT, BENIGN]
    assert call_tiles(coarse, lift, [0.05, 0.95], TREE, level=0).tolist() == [MALIGNANT, 0]
    assert call_tiles(coarse, lift, [0.05, 0.0, 0.0, 0.95], TREE, level=0).tolist() == [MALIGNANT, 0]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40))
def test_the_rule_as_it_is_written(seed, tiles):
    rng = np.random.default_rng(seed)
    t = rng.normal(0, 3, (tiles, 4))
    lift = rng.gamma(1.0, 1.0, (tiles, 1))
    slide = rng.dirichlet(np.ones(4))
    called = call_tiles(softmax(t), lift, slide, TREE)
    for i, node in enumerate(called):
        p, joint = softmax(t[i]), softmax(t[i] + np.log(slide))
        k = int(p.argmax())
        said = lift[i, 0] >= 1 and p[k] >= 0.5 and joint[k] >= 0.5
        assert node == (TREE.leaves[k] if said else 0)
    assert called.dtype == np.int32
    without = call_tiles(softmax(t), lift, None, TREE)
    assert ((called == without) | (called == 0)).all()


def test_lesion_score_is_the_lift_of_what_is_not_normal():
    p = [[0.9, 0.1, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25]]
    assert lesion_score(p, [[2.0], [4.0]], TREE) == pytest.approx([0.2, 3.0])


def test_lesion_score_tells_tiles_apart_that_are_surely_normal():
    t = np.array([[30.0, 0.0, 0.0, -40.0], [30.0, 0.0, 2.0, -40.0], [30.0, 3.0, 0.0, -40.0]])
    score = lesion_score(softmax(t).astype(np.float32), np.ones(3), TREE)
    assert score[0] > 0
    assert (np.diff(score) > 0).all()


def test_lesion_score_of_class_wise_attention_is_its_highest_lesion_leaf():
    assert lesion_score([[0.25] * 4], [[9.0, 0.5, 2.5, 1.0]], TREE) == pytest.approx([2.5])


def test_lesion_score_needs_a_tree_that_says_what_is_normal():
    with pytest.raises(BagError, match="0 of 2 leaves are normal"):
        lesion_score([[0.5, 0.5]], [1.0], LabelTree.from_paths(["LUAD", "LUSC"]))


@pytest.mark.parametrize(
    ("p", "lift", "slide", "words"),
    [
        ([[0.2, 0.3, 0.5]], [1.0], None, "tile_probability has 3 columns"),
        ([[0.25] * 4], [1.0, 1.0], None, "2 rows for 1 tiles"),
        ([[0.25] * 4], [[1.0, 1.0, 1.0]], None, "lift has 3 columns"),
        ([[0.25] * 4], [1.0], [0.2, 0.3, 0.5], "slide_probability has 3 columns"),
        ([[[0.25] * 4]], [1.0], None, "shape"),
    ],
)
def test_arrays_that_do_not_belong_together_are_refused(p, lift, slide, words):
    with pytest.raises(BagError, match=words):
        call_tiles(p, lift, slide, TREE)


def test_no_tiles_no_calls():
    assert call_tiles(np.zeros((0, 4)), np.zeros((0, 1)), None, TREE).shape == (0,)


@given(st.integers(0, 20_000), st.integers(0, 2**16), st.booleans())
@settings(max_examples=20, deadline=None)
def test_many_tiles_are_called_as_each_would_be_alone(n, seed, class_wise):
    """In chunks, with and without the slide's answer at once, as the definition says it for one tile."""
    rng = np.random.default_rng(seed)
    p = softmax(3 * rng.standard_normal((n, len(TREE.leaves))))
    lift = 2 * rng.random((n, len(TREE.leaves) if class_wise else 1))
    slide = softmax(rng.standard_normal(len(TREE.leaves)))
    for level in range(TREE.levels):
        both = calls(p, lift, [slide, None], TREE, level=level)
        for i in (0, n // 2, n - 1, 8191, 8192) if n else ():
            if i < n:
                alone = [
                    call_tiles(p[i : i + 1], lift[i : i + 1], s, TREE, level=level) for s in (slide, None)
                ]
                assert [made[i] for made in both] == [one[0] for one in alone]
        here, looked = TREE.lift(p, level), lift
        if class_wise:
            under = TREE.lift_matrix(level).astype(bool)
            looked = np.stack([lift[:, leaves].max(1, initial=0) for leaves in under.T], 1)
        agreed = TREE.lift(p * slide, level) / np.maximum((p * slide).sum(1, keepdims=True), 1e-300)
        nodes, rows = np.array(TREE.nodes_at(level)), np.arange(n)
        best = here.argmax(1)
        sure = (here[rows, best] >= 0.5) & (looked[rows, best if class_wise else 0] >= 1 - 1e-6)
        near = np.abs(np.stack([here[rows, best], agreed[rows, best]]) - 0.5).min(0, initial=1) < 1e-9
        want = np.where(sure & (agreed[rows, best] >= 0.5), nodes[best], 0), np.where(sure, nodes[best], 0)
        for made, expected in zip(both, want, strict=True):
            assert ((made == expected) | near).all()
