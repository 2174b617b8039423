from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import FLAT, TREE, bag, cohort
from sklearn import metrics

from napari_mil import methods
from napari_mil.correction import Target
from napari_mil.errors import BagError, LabelError
from napari_mil.evaluate import (
    Split,
    TileRecord,
    TrainingCase,
    answers,
    evaluate,
    figures,
    folds_by_case,
    lesion_of,
    obeyed,
    selection_metrics,
    slide_metrics,
    split_by_case,
    tile_metrics,
)
from napari_mil.infer import Answer, call, lesion


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(5, 60), st.sampled_from([3, 1000]))
def test_auc_is_that_of_scikit_learn_under_any_weights(seed, n, distinct):
    rng = np.random.default_rng(seed)
    positive = rng.random(n) < 0.4
    positive[:2] = (True, False)
    score = rng.integers(0, distinct, n) / distinct  # few distinct values: many ties
    weights = np.stack([np.ones(n), rng.integers(1, 5, n)]).astype(float)
    ours = figures.auc(positive, score, weights)
    theirs = [metrics.roc_auc_score(positive, score, sample_weight=w) for w in weights]
    np.testing.assert_allclose(ours, theirs, atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_the_other_figures_are_those_of_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    truth = np.r_[np.arange(4), rng.integers(0, 4, 40)]
    p = rng.dirichlet(np.ones(4), len(truth))
    w = rng.integers(1, 4, len(truth)).astype(float)
    counts = figures.confusion(truth, p.argmax(1), 4, w[None])
    expected = metrics.balanced_accuracy_score(truth, p.argmax(1), sample_weight=w)
    assert figures.balanced_accuracy(counts)[0] == pytest.approx(expected)
    expected = metrics.f1_score(truth, p.argmax(1), average="macro", sample_weight=w)
    assert figures.macro_f1(counts)[0] == pytest.approx(expected)
    expected = metrics.roc_auc_score(truth, p, multi_class="ovr", sample_weight=w)
    assert figures.macro_auc(truth, p, w[None])[0] == pytest.approx(expected)


def test_an_interval_draws_whole_cases():
    weights = figures.case_weights(["a", "a", "b", "c"], resamples=200, seed=1)
    assert (weights[0] == 1).all()
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, [0, 2, 3]].sum(1) == 3).all()


def test_an_interval_holds_its_value_and_shrinks_with_more_cases():
    rng = np.random.default_rng(0)

    def width(n):
        nodes = [TREE.leaves[i % 7] for i in range(n)]
        p = [np.eye(7)[i % 7] * 0.3 + rng.dirichlet(np.ones(7)) * 0.7 for i in range(n)]
        answers = [(TREE.lift(q, 0), q) for q in p]
        found = slide_metrics([str(i) for i in range(n)], nodes, answers, TREE, resamples=300)
        value, low, high = found["fine/auc"]
        assert low <= value <= high
        return high - low

    assert width(280) < width(35)


def test_figures_of_a_perfect_and_of_a_constant_answer():
    nodes = list(TREE.leaves) * 3
    cases = [str(i) for i in range(len(nodes))]
    right = [np.eye(7)[TREE.leaves.index(n)] * 0.9 + 0.1 / 7 for n in nodes]
    found = slide_metrics(cases, nodes, [(TREE.lift(p, 0), p) for p in right], TREE, resamples=50)
    assert {k: v[0] for k, v in found.items()} == dict.fromkeys(found, pytest.approx(1.0))
    assert set(found) == {
        *(f"{level}/{m}" for level in ("coarse", "fine") for m in ("auc", "balanced_accuracy", "macro_f1")),
        *("lesion/auc", "hierarchy"),
    }
    same = np.full(7, 1 / 7)
    found = slide_metrics(cases, nodes, [(TREE.lift(same, 0), same)] * len(nodes), TREE, resamples=50)
    assert found["fine/auc"] == (0.5, 0.5, 0.5)
    assert found["lesion/auc"][0] == 0.5


def test_slides_that_a_model_is_sure_of_keep_their_order():
    """The chance of a lesion is told in float32 down to 1e-38; what a normal one leaves of 1 ends at 6e-8."""
    chance = np.float32([1e-12, 1e-10, 1e-9, 1e-8])
    nodes = [TREE.node(x) for x in ("N", "IC", "N", "IC")]
    fine = [np.concatenate([[1 - p], np.zeros(5), [p]]).astype(np.float32) for p in chance]
    said = [(TREE.lift(p, 0), p) for p in fine]
    found = slide_metrics(list("abcd"), nodes, said, TREE, resamples=10)
    assert found["lesion/auc"][0] == found["fine/auc"][0] == found["coarse/auc"][0] == 0.75


def test_hierarchy_counts_answers_whose_levels_agree():
    fine = np.eye(7)[TREE.leaves.index(TREE.node("IC"))]
    agrees, differs = (TREE.lift(fine, 0), fine), (np.eye(3)[0], fine)
    found = slide_metrics(["a", "b", "c"], [0, 0, 0], [agrees, differs, agrees], TREE, resamples=10)
    assert found["hierarchy"][0] == pytest.approx(2 / 3)
    assert "fine/auc" not in found  # no slide has a label
    assert found["hierarchy/heads"][0] == pytest.approx(2 / 3)
    assert found["hierarchy/distance"][0] == pytest.approx(1 / 3)


def test_a_second_head_is_judged_beside_the_lifted_answer_and_a_lifted_one_is_not():
    nodes = [TREE.node("IC"), TREE.node("N")]
    fine = [np.eye(7)[TREE.leaves.index(n)] for n in nodes]
    wrong = [(np.eye(3)[1], p) for p in fine]
    found = slide_metrics(["a", "b"], nodes, wrong, TREE, resamples=10)
    assert found["coarse/balanced_accuracy"][0] == 0
    assert found["coarse_lifted/balanced_accuracy"][0] == 1
    assert found["hierarchy"][0] == found["hierarchy/heads"][0] == 0
    lifted = slide_metrics(["a", "b"], nodes, [(TREE.lift(p, 0), p) for p in fine], TREE, resamples=10)
    assert lifted["hierarchy"][0] == 1
    assert not {k for k in lifted if "lifted" in k or "heads" in k}


def test_a_coarse_label_counts_for_its_level_only():
    p = np.eye(7)[TREE.leaves.index(TREE.node("ADH"))]
    nodes = [TREE.node("Atypical"), TREE.node("Benign")]
    found = slide_metrics(["a", "b"], nodes, [(TREE.lift(p, 0), p)] * 2, TREE, resamples=10)
    assert found["coarse/balanced_accuracy"][0] == 0.5
    assert "fine/macro_f1" not in found


def test_a_resampling_without_any_known_case_says_nothing_of_the_interval():
    p = np.eye(7)[TREE.leaves.index(TREE.node("ADH"))]
    nodes = [TREE.node("ADH")] + [TREE.node("Atypical")] * 19  # a third of the draws has no leaf at all
    cases = [str(i) for i in range(20)]
    found = slide_metrics(cases, nodes, [(TREE.lift(p, 0), p)] * 20, TREE, resamples=100)
    assert found["fine/balanced_accuracy"] == found["fine/macro_f1"] == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("label", "lesion"), [("N", 0), ("UDH", 1), ("Atypical", 1), ("Benign", -1), (None, -1)]
)
def test_what_is_a_lesion(label, lesion):
    assert lesion_of(TREE, TREE.node(label)) == lesion


def test_folds_test_every_case_once_and_keep_the_mixture():
    labels = {f"c{i:03d}": TREE.leaves[i % 7] for i in range(105)}
    folds = folds_by_case(labels, folds=5, seed=3)
    assert sorted(c for f in folds for c in f.test) == sorted(labels)
    for fold in folds:
        assert sorted((*fold.train, *fold.validation, *fold.test)) == sorted(labels)
        counts = [sum(labels[c] == leaf for c in fold.test) for leaf in TREE.leaves]
        assert max(counts) - min(counts) <= 1
        assert 8 <= len(fold.validation) <= 16
    assert folds == folds_by_case(dict(reversed(labels.items())), folds=5, seed=3)
    assert folds != folds_by_case(labels, folds=5, seed=4)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=5, max_size=40), st.integers(0, 99))
def test_rare_labels_never_hinder_a_split(nodes, seed):
    labels = {str(i): node for i, node in enumerate(nodes)}
    folds = folds_by_case(labels, folds=5, seed=seed)
    assert sorted(c for f in folds for c in f.test) == sorted(labels)
    split = split_by_case(labels, test=0, validation=0.2, seed=seed)
    assert not split.test
    assert split.validation


def test_bad_splits_are_refused():
    with pytest.raises(LabelError, match="2 cases are too few for 5 folds"):
        folds_by_case({"a": 1, "b": 2})
    with pytest.raises(LabelError, match="no case to train on"):
        Split(())
    with pytest.raises(LabelError, match="'a' stands in two parts"):
        Split(("a", "b"), ("a",))


def test_cases_join_their_bags_without_mixing_cells():
    cases, truths = cohort(2)
    one, two = (c.bags[0] for c in cases)
    tiles = truths["case-001"]
    features, cells, target = TrainingCase("p", (one, two), Target(6), (None, tiles)).joined()
    assert len(features) == len(one) + len(two)
    assert len({tuple(c) for c in cells.tolist()}) == len(cells)
    assert target.slide == 6
    assert not target.tiles[: len(one)].any()
    np.testing.assert_array_equal(target.tiles[len(one) :], tiles)
    with pytest.raises(BagError, match="no bag"):
        TrainingCase("p", ())
    with pytest.raises(BagError, match="3 tile labels do not fit a bag of 40"):
        TrainingCase("p", (one,), tiles=(np.zeros(3, np.int32),))
    with pytest.raises(BagError, match="1 bags and 2 lists"):
        TrainingCase("p", (one,), tiles=(None, None))


def _record(truth, score, called, case="a"):
    leaf = {k: TREE.node(k) for k in ("N", "ADH", "IC")} | {"-": 0}
    as_nodes = [np.array([leaf[t] for t in column], np.int32) for column in (truth, called)]
    numbers = np.asarray(score, np.float32)
    return TileRecord(case, as_nodes[0], numbers, numbers[::-1], as_nodes[1])


def test_figures_of_tiles_by_hand():
    records = [
        _record(["ADH", "ADH", "N", "N"], [4, 3, 2, 1], ["ADH", "IC", "IC", "-"]),
        _record(["N", "N", "N", "N"], [1, 2, 3, 4], ["-", "N", "-", "ADH"], "b"),
    ]
    found = {k: v[0] for k, v in tile_metrics(records, TREE, resamples=20).items()}
    assert found == {
        "tile/auc": 1.0,
        "tile/auc_pooled": 1.0,
        "tile/attention_auc": 0.0,
        "tile/attention_auc_pooled": 0.0,
        "calls/lesion": 1.0,
        "calls/right_leaf": 0.5,
        "calls/normal_negative": 0.25,
        "calls/normal_positive": 0.5,
    }
    assert tile_metrics([], TREE) == {}


def test_attention_is_pooled_over_slides_of_any_size():
    """A lesion tile looked at ten times as much as its neighbours is so on a slide of many tiles as well."""
    records = []
    for tiles in (10, 1000):
        truth = np.full(tiles, TREE.node("N"), np.int32)
        truth[0] = TREE.node("IC")
        looked = np.where(truth == TREE.node("IC"), 10.0, 1.0)[:, None]
        p = np.full((tiles, 7), 1 / 7, np.float32)
        said = Answer((TREE.lift(p[0], 0), p[0]), p, np.float32(looked / looked.sum()), {})
        records.append(TileRecord.of(f"{tiles}", said, truth, TREE))
    found = tile_metrics(records, TREE, resamples=10)
    assert found["tile/attention_auc_pooled"][0] == found["tile/auc_pooled"][0] == 1.0


def test_calls_of_groups_by_hand():
    def record(truth, group, case="a"):
        nodes = [np.array([TREE.node(t) for t in column], np.int32) for column in (truth, group)]
        zeros = np.zeros(len(truth), np.float32)
        return TileRecord(case, nodes[0], zeros, zeros, np.zeros(len(truth), np.int32), nodes[1])

    truth = ["DCIS", "DCIS", "UDH", "UDH", "N", "N"]
    positive = record(truth, ["Malignant", "Benign", "Benign", "", "Malignant", "Benign"])
    negative = record(["N", "N", "N", "N"], ["Benign", "Atypical", "", ""], "b")
    found = {k: v[0] for k, v in tile_metrics([positive, negative], TREE, resamples=20).items()}
    assert found["groups/lesion"] == 0.75
    assert found["groups/right"] == pytest.approx(2 / 3)
    assert found["groups/normal_negative"] == 0.25  # a benign group holds normal tiles too
    assert found["groups/normal_positive"] == 0.5


def test_what_is_not_defined_is_left_out():
    found = tile_metrics([_record(["ADH", "N"], [2, 1], ["-", "-"])], TREE, resamples=20)
    assert found["tile/auc_pooled"] == (1.0, 1.0, 1.0)
    assert "calls/right_leaf" not in found
    assert "calls/normal_negative" not in found


def test_a_tree_without_normal_leaves_has_no_lesions():
    from napari_mil.labeltree import LabelTree

    tree = LabelTree.from_paths(["LUAD", "LUSC"])
    p = np.array([[0.2, 0.8]], np.float32)
    said = Answer((p[0],), p, np.ones((1, 1), np.float32), {})
    with pytest.raises(LabelError, match="which leaves are normal"):
        TileRecord.of("a", said, np.array([1], np.int32), tree)
    cases, _ = cohort(4, tree=tree)
    model = methods.create("mean", in_features=24, tree=tree)
    assert set(evaluate(model, cases, resamples=10)) == {
        f"fine/{m}" for m in ("auc", "balanced_accuracy", "macro_f1", "ece")
    }


def test_obedience_counts_at_the_level_of_the_label():
    adh = np.eye(7)[TREE.leaves.index(TREE.node("ADH"))]
    p = np.stack([adh] * 5)
    said = ["ADH", "Atypical", "FEA", None, "Malignant"]
    tiles = np.array([TREE.node(s) for s in said], np.int32)
    assert obeyed(p, tiles, TREE).tolist() == [True, True, False, False]


def test_the_score_that_chooses_prefers_better_answers():
    nodes = list(TREE.leaves) * 2
    right = [np.eye(7)[TREE.leaves.index(n)] * 0.5 + 0.5 / 7 for n in nodes]
    same = [np.full(7, 1 / 7)] * len(nodes)
    scores = [
        selection_metrics(nodes, [(TREE.lift(p, 0), p) for p in said], TREE)["score"]
        for said in (right, same)
    ]
    assert scores[0] > scores[1] + 0.4
    one = selection_metrics(nodes[:1], [(TREE.lift(right[0], 0), right[0])], TREE)
    assert {"score", "loss", "fine/balanced_accuracy"} <= set(one)  # an AUC needs two classes
    assert not any(name.endswith("auc") for name in one)
    assert "score" not in selection_metrics([0, 0], [(np.ones(3) / 3, np.ones(7) / 7)] * 2, TREE)


def test_evaluating_a_model_gives_slides_and_tiles():
    cases, _ = cohort(6, tree=FLAT, labelled=True)
    model = methods.create("abmil", in_features=24, tree=FLAT)
    found = evaluate(model, cases, resamples=20)
    assert {"fine/auc", "lesion/auc", "tile/auc", "calls/lesion"} <= set(found)
    assert found == evaluate(model, cases, resamples=20)


def test_tiles_are_judged_slide_by_slide_also_in_a_case_of_several():
    """A slide without a lesion is a negative one, whatever else its case has, and tiles of other slides are
    no rivals.
    """
    (one, a), (two, b), (three, c) = (bag(TREE.node(x), seed=i) for i, x in enumerate(("IC", "N", "ADH")))
    target = Target(TREE.node("IC"))
    joined = TrainingCase("p", (one, two, three), target, (a, b, c))
    model = methods.create("abmil", {"hidden": 16, "attention_width": 8}, in_features=24, tree=TREE)
    found = evaluate(model, [joined], resamples=10)
    said = answers(model, [joined])["p"]
    score, called = lesion(said, TREE), call(said, TREE)
    areas = [
        metrics.roc_auc_score(truth != TREE.node("N"), score[at : at + 40]) for truth, at in ((a, 0), (c, 80))
    ]
    assert found["tile/auc"][0] == pytest.approx(np.mean(areas))
    assert found["calls/normal_negative"][0] == np.isin(called[40:80], TREE.leaves[1:]).mean()
    apart = [TrainingCase("p", (one, two, three), target, (a, None, c))]
    assert "calls/normal_negative" not in evaluate(model, apart, resamples=10)


def test_figures_say_on_how_many_cases_they_stand_where_not_on_all():
    cases, truths = cohort(8)
    cases[0] = replace(cases[0], target=Target(TREE.node("Benign")))  # no leaf, and may be normal
    cases[1] = replace(cases[1], tiles=(truths[cases[1].case],))
    known = np.where(np.arange(40) < 20, truths[cases[2].case], 0)  # too few for false alarms
    cases[2] = replace(cases[2], tiles=(np.where(known == TREE.node("N"), 0, known),))
    model = methods.create("abmil", {"hidden": 16, "attention_width": 8}, in_features=24, tree=TREE)
    found = evaluate(model, cases, resamples=10)
    fewer = {name: n for name, n in found.items() if name.endswith("/cases")}
    assert fewer == {
        "fine/cases": 7,
        "lesion/cases": 7,
        "tile/cases": 1,
        "froc/cases": 1,
        "calls/cases": 2,
        "groups/cases": 2,
    }
