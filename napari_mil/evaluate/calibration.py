"""Do probabilities mean what they say? Temperature, calibration error, and the reliability diagram.

Guo et al.: On calibration of modern neural networks. ICML 2017. The bins are fixed, so that figures of
different models can be compared: `BINS` of equal width over the confidence, the probability of the best
class; bin k holds confidences in (k / BINS, (k + 1) / BINS]. With few cases the error is biased upwards, and
every resampling adds the same bias again: intervals are shifted by what it adds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_mil.evaluate.figures import Figure, Floats, case_weights, interval
from napari_mil.infer import log_of, said_at, tempered
from napari_mil.labeltree import LabelTree, Survival, level_names

BINS = 10
#: temperatures outside are not sought
COLDEST, HOTTEST = 0.25, 10.0
#: fewer held-out cases with a known class do not tell a temperature
CALIBRATE_FROM = 10


def fit_temperature(classes: NDArray[Any], probability: NDArray[Any]) -> float:
    """The temperature in [0.25, 10] at which held-out answers (n, C) are most likely; 1.0 without any known
    class.
    """
    from scipy.optimize import minimize_scalar  # half a second of a start that mostly needs none

    known = np.asarray(classes) >= 0
    if not known.any():
        return 1.0
    logits = log_of(np.asarray(probability)[known])
    truth = np.asarray(classes)[known]

    def loss(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        peak = scaled.max(1)
        total = peak + np.log(np.exp(scaled - peak[:, None]).sum(1))
        return float((total - scaled[np.arange(len(truth)), truth]).mean())

    best = minimize_scalar(loss, bounds=(np.log(COLDEST), np.log(HOTTEST)), method="bounded")
    return float(np.exp(best.x))


def told_temperature(classes: NDArray[Any], probability: NDArray[Any]) -> float | None:
    """The temperature that held-out answers tell, or None when they tell none.

    That is so with fewer than `CALIBRATE_FROM` known classes, and where no temperature is the best one: when
    all answers are right, surer ones are always likelier, and when they are no better than chance, less sure
    ones.
    """
    if np.count_nonzero(np.asarray(classes) >= 0) < CALIBRATE_FROM:
        return None
    found = fit_temperature(classes, probability)
    return found if COLDEST * 1.01 < found < HOTTEST * 0.99 else None


def _bins(classes: NDArray[Any], probability: NDArray[Any]) -> tuple[NDArray[np.intp], Floats, Floats]:
    """(n,) bin, confidence, and whether the best class is right."""
    p = np.asarray(probability, np.float64)
    confidence = p.max(1)
    at = np.clip(np.ceil(confidence * BINS).astype(np.intp) - 1, 0, BINS - 1)
    return at, confidence, (p.argmax(1) == classes).astype(np.float64)


def calibration_error(
    classes: NDArray[Any], probability: NDArray[Any], weights: Floats | None = None
) -> Floats:
    """(R,) expected calibration error: Σ over the bins of their share · |share right − mean confidence|."""
    w = np.ones((1, len(classes))) if weights is None else weights
    at, confidence, right = _bins(classes, probability)
    gap = np.zeros((len(classes), BINS))
    gap[np.arange(len(classes)), at] = right - confidence
    return np.asarray(np.abs(w @ gap).sum(1) / w.sum(1))


def reliability_table(classes: NDArray[Any], probability: NDArray[Any]) -> dict[str, list[float]]:
    """The bins of a reliability diagram: `count`, mean `confidence` and share `right`, 0 in empty bins."""
    at, confidence, right = _bins(classes, probability)
    count = np.bincount(at, minlength=BINS)
    means = {
        name: np.bincount(at, values, BINS) / np.maximum(count, 1)
        for name, values in (("confidence", confidence), ("right", right))
    }
    return {"count": count.tolist(), **{k: np.round(v, 6).tolist() for k, v in means.items()}}


def _known(
    nodes: Sequence[int], probabilities: Sequence[tuple[NDArray[Any], ...]], tree: LabelTree, level: int
) -> tuple[NDArray[np.bool_], NDArray[Any], Floats]:
    truth = np.array([tree.class_index(node, level) for node in nodes], np.intp)
    known = truth >= 0
    p = np.array([np.asarray(p[level], np.float64) for p in probabilities])
    return known, truth[known], p[known]


def calibration_metrics(
    cases: Sequence[str],
    nodes: Sequence[int],
    probabilities: Sequence[tuple[NDArray[Any], ...]],
    tree: LabelTree,
    *,
    temperature: float | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Figure]:
    """Per level `ece`, the calibration error of the answers as they are said, with an interval by case.

    `probabilities` are those of temperature 1. With a `temperature` the answers are said at that one, and
    `ece_before` is the error without it.
    """
    found: dict[str, Figure] = {}
    warm = probabilities
    if temperature is not None:
        warm = [said_at(p, tree, temperature) for p in probabilities]
    weights = case_weights(cases, resamples=resamples, seed=seed) if len(cases) else np.ones((1, 0))
    for level, name in enumerate(level_names(tree)):
        known, truth, p = _known(nodes, probabilities, tree, level)
        if not known.any():
            continue
        w = weights[:, known]
        w = w[w.sum(1) > 0]
        said = _known(nodes, warm, tree, level)[2]
        found[f"{name}/ece"] = _centred(calibration_error(truth, said, w))
        if temperature is not None:
            found[f"{name}/ece_before"] = _centred(calibration_error(truth, p, w))
    return found


def _centred(errors: Floats) -> Figure:
    """The interval of (1 + R,) errors, less the bias of resampling."""
    bias = errors[1:].mean() - errors[0] if len(errors) > 1 else 0.0
    return interval(np.append(errors[:1], np.maximum(errors[1:] - bias, 0)))


def reliability(
    nodes: Sequence[int],
    probabilities: Sequence[tuple[NDArray[Any], ...]],
    tree: LabelTree,
    *,
    temperature: float | None = None,
) -> Mapping[str, Any]:
    """The reliability diagram of the finest level for a card: `edges` (BINS + 1), `said`, and `before` where
    a temperature was applied; {} without a known class, or where the task is time.
    """
    if isinstance(tree, Survival):
        return {}
    known, truth, p = _known(nodes, probabilities, tree, tree.levels - 1)
    if not known.any():
        return {}
    table: dict[str, Any] = {"edges": [round(k / BINS, 6) for k in range(BINS + 1)]}
    if temperature is None:
        return table | {"said": reliability_table(truth, p)}
    said = reliability_table(truth, tempered(p, temperature))
    return table | {"said": said, "before": reliability_table(truth, p)}
