"""Lesions found at false alarms per slide."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import TREE, bag, cohort

from napari_mil import methods
from napari_mil.correction import Target
from napari_mil.evaluate import Detections, TrainingCase, evaluate, froc
from napari_mil.evaluate.froc import RATES

CELLS = np.stack(np.divmod(np.arange(35), 7), 1)


def _slide(lesion_at=(), score=(), case="a", unknown=()):
    """A 5 × 7 lattice; `score` {cell: value}."""
    lesion, values = np.zeros((5, 7), int), np.zeros((5, 7))
    for cell in lesion_at:
        lesion[cell] = 1
    for cell in unknown:
        lesion[cell] = -1
    values += np.random.default_rng(0).random((5, 7)) * 1e-6  # no plateaus
    for cell, value in dict(score).items():
        values[cell] = value
    return Detections.of(case, CELLS, lesion.ravel(), values.ravel())


def test_touching_tiles_are_one_lesion_and_the_highest_detection_finds_it():
    found = _slide([(0, 0), (1, 1), (4, 6)], {(1, 1): 3.0, (0, 0): 5.0})
    assert len(found.found) == 2
    assert max(found.found) == 5.0
    assert min(found.found) < 1e-5  # only the floor of the map


def test_a_detection_beside_a_lesion_finds_it_and_is_no_false_alarm():
    found = _slide([(2, 2)], {(2, 3): 4.0})
    assert found.found.tolist() == [4.0]
    assert found.false.max(initial=0) < 1
    far = _slide([(2, 2)], {(2, 4): 4.0})
    assert far.false.max() == 4.0


def test_neighbours_of_a_peak_are_no_alarms_of_their_own_and_plateaus_are_one():
    blob = {(2, 2): 5.0, (2, 3): 4.0, (1, 2): 4.5}
    assert (_slide((), blob).false > 1).sum() == 1
    plateau = {(2, 2): 5.0, (2, 3): 5.0, (2, 4): 5.0}
    assert (_slide((), plateau).false > 1).sum() == 1


def test_an_alarm_where_nobody_knows_does_not_count():
    assert _slide((), {(0, 0): 5.0}, unknown=[(0, 0)]).false.max() < 1
    assert _slide((), {}, unknown=[(i, j) for i in range(2) for j in range(7)]) is None


def test_sensitivity_by_hand():
    positive = Detections("a", np.array([9.0, 4.0, -np.inf]), np.array([8.0, 3.0]))
    negative = Detections("b", np.array([]), np.array([5.0, 2.0]))
    found = {k: v[0] for k, v in froc([positive, negative, None], resamples=20).items()}
    # 0.25 alarms a slide: none allowed, so above 8; 0.5: one, above 5; 1: two, above 3; 2: all four
    assert [found[f"froc/{rate:g}"] for rate in RATES] == pytest.approx([1 / 3, 1 / 3, *[2 / 3] * 4])
    assert found["froc"] == pytest.approx(np.mean([1 / 3, 1 / 3, *[2 / 3] * 4]))
    assert froc([negative]) == {}
    assert froc([]) == {}


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 9999), st.integers(1, 6))
def test_more_alarms_never_find_fewer_lesions_and_intervals_hold_their_value(seed, slides):
    rng = np.random.default_rng(seed)
    rows = [
        Detections(str(i % 4), rng.normal(1, 1, rng.integers(0, 4)), rng.normal(0, 1, rng.integers(0, 30)))
        for i in range(slides)
    ]
    found = froc(rows, resamples=40, seed=seed)
    values = [found[f"froc/{rate:g}"][0] for rate in RATES] if found else []
    assert values == sorted(values)
    assert all(0 <= low <= high <= 1 for _, low, high in found.values())


def test_evaluation_counts_slides_whose_tiles_are_known():
    cases, truths = cohort(6, labelled=True)
    model = methods.create("abmil", {"hidden": 16, "attention_width": 8}, in_features=24, tree=TREE)
    found = evaluate(model, cases, resamples=20)
    assert {"froc", "froc/0.25", "froc/8", "tile/auc"} <= set(found)
    few = [
        dataclasses.replace(c, tiles=(np.where(np.arange(40) < 5, t, 0),)) for c, t in _with(cases, truths)
    ]
    assert "froc" not in evaluate(model, few, resamples=20)
    (one, a), (two, b) = bag(TREE.node("IC"), seed=1), bag(TREE.node("N"), seed=2)
    both = TrainingCase("p", (one, two), Target(TREE.node("IC")), (a, b))
    assert "froc" in evaluate(model, [both], resamples=20)


def _with(cases, truths):
    return [(c, truths[c.case]) for c in cases]
