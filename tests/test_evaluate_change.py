"""Better or worse: paired differences, the guard, and pictures that stand on both sides of a split."""

import dataclasses

import numpy as np
import planted
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_mil.correction import Target
from napari_mil.errors import LabelError
from napari_mil.evaluate import Split, TrainingCase, answers, changes, evaluate, without_leaks, worse
from napari_mil.infer import Answer
from napari_mil.labeltree import Survival
from napari_mil.steps import drain
from napari_mil.train import Training, recipe_for, retrain_recipe

TREE = planted.TREE
ABMIL = {"hidden": 32, "attention_width": 16, "dropout": 0.0}


def said(p):
    nothing = np.zeros((1, 7), np.float32)
    return Answer((TREE.lift(p[None], 0)[0], p), nothing, nothing, {})


def told(sharp, seed=0):
    """Cases of every leaf and answers that know them the better the larger `sharp` is."""
    cases = planted.cohort(42)[0]
    rng = np.random.default_rng(seed)
    answers = {}
    for case in cases:
        logits = rng.normal(size=7)
        logits[TREE.class_index(case.target.slide, 1)] += sharp
        answers[case.case] = said((np.exp(logits) / np.exp(logits).sum()).astype(np.float32))
    return cases, answers


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.floats(0, 4))
def test_the_same_answers_are_no_change_and_exchange_turns_the_sign(seed, sharp):
    cases, one = told(sharp, seed)
    other = told(sharp / 2, seed + 1)[1]
    assert all(figure == (0, 0, 0) for figure in changes(cases, one, one, TREE, resamples=20).values())
    there, back = (changes(cases, *pair, TREE, resamples=50) for pair in ((one, other), (other, one)))
    for name, (value, low, high) in there.items():
        assert back[name] == pytest.approx((-value, -high, -low))


def test_a_change_is_the_difference_of_the_figures_and_its_interval_is_narrower_than_theirs():
    cases, one = told(2.0)
    rng = np.random.default_rng(0)
    near = {k: said(np.float32(0.98) * a.probabilities[1] + np.float32(0.02 / 7)) for k, a in one.items()}
    for case in rng.choice(cases, 4, replace=False):
        near[case.case] = said(np.full(7, 1 / 7, np.float32))
    found = changes(cases, one, near, TREE)["fine/auc"]
    model = type("Known", (), {"tree": TREE})
    was, now = (evaluate(model, cases, said=a)["fine/auc"] for a in (one, near))
    assert found[0] == pytest.approx(now[0] - was[0])
    assert found[2] - found[1] < (was[2] - was[1]) + (now[2] - now[1])


def test_worse_is_what_fell_beyond_noise():
    cases, good = told(4.0)
    bad = told(0.0, 1)[1]
    assert "fine/auc" in worse(changes(cases, good, bad, TREE))
    assert worse(changes(cases, bad, good, TREE)) == ()
    assert worse({"fine/auc": (-0.1, -0.3, 0.0), "hierarchy": (-1, -1, -1)}) == ()
    assert worse({"fine/auc": (-0.009, -0.012, -0.004)}) == ()
    assert worse({"fine/balanced_accuracy": (-0.1, -0.2, -0.01)}) == ("fine/balanced_accuracy",)
    assert worse({"coarse_lifted/auc": (-0.1, -0.2, -0.1)}) == ()
    assert changes((), good, bad, TREE) == {}


def test_risks_change_too():
    task = Survival.from_times([1.0, 2, 3, 4] * 3, [True] * 12, bins=2)
    base = planted.cohort(12)[0]
    cases = [dataclasses.replace(c, target=Target(time=float(i + 1), event=True)) for i, c in enumerate(base)]
    rising = {
        c.case: Answer((), np.zeros((1, 2), np.float32), np.ones((1, 1), np.float32), {}, np.float32([h, h]))
        for c, h in zip(cases, np.linspace(0.1, 0.9, 12), strict=True)
    }
    falling = dict(zip(rising, reversed(rising.values()), strict=True))
    found = changes(cases, falling, rising, task)
    assert found["survival/c_index"][0] == pytest.approx(-1)
    assert worse(found) == ("survival/c_index",)


def pictured(name, *hashes):
    one = planted.bag(TREE.leaves[0], seed=1)[0]
    return TrainingCase(name, tuple(dataclasses.replace(one, pixel_hash=h) for h in hashes))


def test_a_picture_that_is_held_out_is_not_learned_from_under_another_name():
    cases = [
        pictured("a", "p"),
        pictured("b", "q", "r"),
        pictured("c", ""),
        pictured("d", "r"),
        pictured("e", ""),
    ]
    split = Split(("a", "b", "c"), ("d",), ("e",))
    clean, leaks = without_leaks(split, cases)
    assert clean == Split(("a", "c"), ("d",), ("e",))
    assert leaks == (("b", "d"),)
    assert without_leaks(clean, cases) == (clean, ())
    with pytest.raises(LabelError, match="no case to train on"):
        without_leaks(Split(("b",), ("d",)), cases)


def _changed(seed, before, after):
    """Changes of held-out figures when a parent that learned the labels `before` is retrained on `after`;
    both give (case, its true node) → node, for all cases but those held out.
    """
    cases = planted.cohort(238, seed=seed, signal=2.2)[0]
    names = [c.case for c in cases]
    split = Split(tuple(names[:70]), tuple(names[70:98]), tuple(names[98:]))
    held = [c for c in cases if c.case in split.test]

    def labelled(by):
        return held + [dataclasses.replace(c, target=Target(by(c.case, c.target.slide))) for c in cases[:98]]

    about = {"method": "abmil", "config": ABMIL, "tree": TREE, "device": "cpu"}
    recipe = recipe_for("abmil", {"seed": seed, "lr": 2e-3})
    parent = drain(Training(labelled(before), split, recipe=recipe, **about).steps()).model
    start = {k: v.clone() for k, v in parent.state_dict().items()}
    # at the parent's rate: at a tenth of it even poison does little harm
    going_on = dataclasses.replace(retrain_recipe(recipe, seed=seed), lr=recipe.lr)
    child = drain(Training(labelled(after), split, recipe=going_on, start=start, **about).steps()).model
    return changes(held, answers(parent, held), answers(child, held), TREE)


def _turned(node):
    """A person who takes every leaf for the next one."""
    leaves = TREE.leaves
    return leaves[(leaves.index(node) + 1) % len(leaves)]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, *(pytest.param(i, marks=pytest.mark.soak) for i in range(1, 10))])
def test_the_guard_catches_poisoned_corrections_and_lets_helpful_ones_pass(seed):
    rng = np.random.default_rng(seed)
    wrong = {f"case-{i:03d}": int(rng.choice(TREE.leaves)) for i in range(98) if rng.random() < 0.5}

    def true(_case, node):
        return node

    poisoned = _changed(seed, true, lambda _case, node: _turned(node))
    helped = _changed(seed, wrong.get, true)
    assert worse(poisoned), {name: figure for name, figure in poisoned.items() if "auc" in name}
    assert not worse(helped)
    assert helped["fine/auc"][1] > 0
