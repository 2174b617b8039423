"""Calibration: temperatures, errors in fixed bins, reliability tables."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import TREE

from napari_mil.evaluate import (
    calibration_metrics,
    fit_temperature,
    reliability,
    tempered,
    told_temperature,
)
from napari_mil.evaluate.calibration import BINS, CALIBRATE_FROM, calibration_error, reliability_table


def _answers(n, seed=0, sharp=1.0):
    """Answers that are right as often as they say, then sharpened."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, 7)) * 2
    p = tempered(np.exp(logits) / np.exp(logits).sum(1, keepdims=True), 1.0)
    truth = np.array([rng.choice(7, p=row) for row in p])
    return truth, tempered(p, 1 / sharp)


def test_temperature_finds_what_spoiled_the_answers():
    truth, sharp = _answers(4000, sharp=2.0)
    assert fit_temperature(truth, sharp) == pytest.approx(2, abs=0.15)
    assert fit_temperature(np.full(4, -1), np.full((4, 3), 1 / 3)) == 1.0


def test_the_surest_answers_count_by_how_sure_they_are():
    logits = np.array([[0.0, 12.0]] * 40 + [[70.0, 0.0]])  # the last one is wrong, and as sure as can be
    p = (np.exp(logits - logits.max(1, keepdims=True))).astype(np.float32)
    p /= p.sum(1, keepdims=True)

    def loss(temperature):
        return np.logaddexp(0, (logits[:, 0] - logits[:, 1]) / temperature).mean()

    found = fit_temperature(np.ones(len(p), int), p)
    assert loss(found) == pytest.approx(min(loss(t) for t in np.geomspace(0.25, 10, 400)), abs=1e-5)


def test_answers_that_tell_no_temperature_leave_a_model_uncalibrated():
    truth, p = _answers(200)
    assert told_temperature(truth, p) == pytest.approx(1, abs=0.2)
    assert told_temperature(truth[: CALIBRATE_FROM - 1], p[: CALIBRATE_FROM - 1]) is None
    assert told_temperature(p.argmax(1), p) is None  # all right: the surer the likelier
    assert told_temperature((p.argmax(1) + 1) % 7, p) is None  # all wrong: the less sure the likelier
    assert told_temperature(np.full(50, -1), p[:50]) is None


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 9999), st.floats(0.3, 5))
def test_a_temperature_changes_no_best_class_and_one_changes_nothing(seed, temperature):
    p = np.random.default_rng(seed).dirichlet(np.ones(5), 20)
    said = tempered(p, temperature)
    np.testing.assert_allclose(said.sum(1), 1)
    assert (said.argmax(1) == p.argmax(1)).all()
    assert (np.sign(said.max(1) - p.max(1)) * np.sign(1 - temperature) >= -1e-9).all()
    np.testing.assert_allclose(tempered(p, 1.0), p, atol=1e-9)


def test_the_error_by_hand():
    p = np.array([[0.9, 0.1], [0.95, 0.05], [0.4, 0.6], [0.35, 0.65]])
    truth = np.array([0, 1, 1, 1])
    # bins (0.8, 0.9]: right 1, said 0.9; (0.9, 1]: 0, 0.95; (0.5, 0.6]: 1, 0.6; (0.6, 0.7]: 1, 0.65
    assert calibration_error(truth, p)[0] == pytest.approx((0.1 + 0.95 + 0.4 + 0.35) / 4)
    weights = np.array([[1, 1, 1, 1], [2, 0, 1, 1]], float)
    assert calibration_error(truth, p, weights)[1] == pytest.approx((0.2 + 0.4 + 0.35) / 4)
    table = reliability_table(truth, p)
    assert table["count"] == [0, 0, 0, 0, 0, 1, 1, 0, 1, 1]
    assert table["confidence"][8:] == [0.9, 0.95]
    assert table["right"][8:] == [1, 0]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 9999), st.integers(1, 50))
def test_a_table_holds_every_answer_and_gives_the_error(seed, n):
    rng = np.random.default_rng(seed)
    p, truth = rng.dirichlet(np.ones(3), n), rng.integers(0, 3, n)
    table = {k: np.array(v) for k, v in reliability_table(truth, p).items()}
    assert table["count"].sum() == n
    assert len(table["count"]) == BINS
    error = (table["count"] * abs(table["right"] - table["confidence"])).sum() / n
    assert calibration_error(truth, p)[0] == pytest.approx(error, abs=1e-5)


def test_calibrated_answers_have_a_smaller_error_and_both_are_told():
    truth, sharp = _answers(600, sharp=3.0)
    nodes = [TREE.leaves[k] for k in truth]
    answers = [(TREE.lift(p, 0), p) for p in sharp]
    cases = [str(i) for i in range(len(nodes))]
    found = calibration_metrics(cases, nodes, answers, TREE, temperature=3.0, resamples=50)
    assert set(found) == {f"{level}/{k}" for level in ("coarse", "fine") for k in ("ece", "ece_before")}
    value, low, high = found["fine/ece"]
    assert low <= value <= high < found["fine/ece_before"][0]
    plain = calibration_metrics(cases, nodes, answers, TREE, resamples=50)
    assert plain["fine/ece"] == found["fine/ece_before"]
    assert set(plain) == {"coarse/ece", "fine/ece"}
    table = reliability(nodes, answers, TREE, temperature=3.0)
    assert sum(table["said"]["count"]) == sum(table["before"]["count"]) == 600
    assert (table["edges"][0], table["edges"][-1]) == (0, 1)
    assert "before" not in reliability(nodes, answers, TREE)


def test_the_error_of_groups_is_that_of_what_their_leaves_have_together():
    truth, sharp = _answers(200, sharp=3.0)
    nodes, cases = [TREE.leaves[k] for k in truth], [str(i) for i in range(200)]
    answers = [(TREE.lift(p, 0), p) for p in sharp]
    found = calibration_metrics(cases, nodes, answers, TREE, temperature=3.0, resamples=10)
    groups = np.array([TREE.class_index(node, 0) for node in nodes])
    said = TREE.lift(tempered(sharp, 3.0), 0)
    assert found["coarse/ece"][0] == pytest.approx(calibration_error(groups, said)[0], abs=1e-6)
    assert found["coarse/ece"][0] < found["coarse/ece_before"][0]


def test_without_known_classes_nothing_is_said():
    p = np.full(7, 1 / 7)
    assert calibration_metrics(["a"], [0], [(TREE.lift(p, 0), p)], TREE) == {}
    assert reliability([0], [(TREE.lift(p, 0), p)], TREE) == {}
    assert calibration_metrics([], [], [], TREE) == {}
    assert reliability([], [], TREE) == {}
