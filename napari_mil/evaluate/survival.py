"""Figures of risks: Harrell's c-index with an interval by case, survival of the two halves by risk.

The c-index is written for weighted cases, because an interval is the same figure under a thousand weightings
of the cases at once; tests hold it equal to lifelines'. Curves and the log-rank test are scipy's.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_mil.correction import Target
from napari_mil.evaluate.figures import Figure, Floats, case_weights, interval
from napari_mil.labeltree import LabelTree, Survival, risk

#: risks closer than this count as equal
TIED = 1e-8


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """A Kaplan–Meier estimate.

    Attributes
    ----------
    times, survival : (m,) where the curve steps, and the share still without the event from there on
    low, high : (m,) 95 % log-log interval
    at_risk : (m,) int64, cases whose time is not over before each of these
    cases : how many cases it stands on
    """

    times: Floats
    survival: Floats
    low: Floats
    high: Floats
    at_risk: NDArray[np.int64]
    cases: int


def c_index(
    times: NDArray[Any], events: NDArray[Any], risks: NDArray[Any], weights: Floats | None = None
) -> Floats:
    """(R,) share of comparable pairs in which the earlier event has the higher risk, ties half (Harrell).

    times, risks (n,), events (n,) bool, weights (R, n). A pair is comparable when the earlier time is an
    observed event; at equal times an event comes before a censoring. NaN without a comparable pair.
    """
    w = np.ones((1, len(times))) if weights is None else weights
    t, e, r = np.asarray(times, np.float64), np.asarray(events, bool), np.asarray(risks, np.float64)
    earlier = (t[:, None] < t[None]) | ((t[:, None] == t[None]) & ~e[None])
    comparable = e[:, None] & earlier
    apart = r[:, None] - r[None]
    points = comparable * np.where(np.abs(apart) <= TIED, 0.5, (apart > 0).astype(np.float64))
    with np.errstate(invalid="ignore"):
        share: Floats = ((w @ points) * w).sum(1) / ((w @ comparable.astype(np.float64)) * w).sum(1)
    return share


def kaplan_meier(times: NDArray[Any], events: NDArray[Any]) -> Curve:
    """The share of cases (n,) still without the event over time."""
    from scipy.stats import CensoredData, ecdf  # a second of a start that mostly needs none

    t, e = np.asarray(times, np.float64), np.asarray(events, bool)
    estimate = ecdf(CensoredData(uncensored=t[e], right=t[~e])).sf
    share = estimate.probabilities
    with np.errstate(divide="ignore", invalid="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the interval is undefined where the share is 0 or 1
        bounds = estimate.confidence_interval(method="log-log")
    low, high = (
        np.where(np.isfinite(b.probabilities), b.probabilities, share) for b in (bounds.low, bounds.high)
    )
    at_risk = len(t) - np.searchsorted(np.sort(t), estimate.quantiles)
    return Curve(estimate.quantiles, share, low, high, at_risk, len(t))


def halves_by_risk(
    times: NDArray[Any], events: NDArray[Any], risks: NDArray[Any]
) -> tuple[Curve, Curve, float]:
    """Kaplan–Meier curves of the lower and the higher half by risk, and the log-rank p between them.

    p is NaN where one half is empty, or no event was seen while cases of both were at risk.
    """
    t, e = np.asarray(times, np.float64), np.asarray(events, bool)
    upper = np.asarray(risks) > np.median(risks)
    halves = [(t[part], e[part]) for part in (~upper, upper)]
    p = np.nan
    if all(len(a) for a, _ in halves):
        from scipy.stats import CensoredData, logrank

        data = [CensoredData(uncensored=a[b], right=a[~b]) for a, b in halves]
        with np.errstate(invalid="ignore"):  # without such an event it is 0 / 0
            p = float(logrank(*data).pvalue)
    return (*(kaplan_meier(a, b) for a, b in halves), p)  # type: ignore[return-value]


def survival_table(
    targets: Sequence[Target], hazards: Sequence[NDArray[Any]], tree: LabelTree
) -> Mapping[str, Any]:
    """The Kaplan–Meier curves of the halves by risk for a card: `lower` and `higher`, each with `times`,
    `survival` and `at_risk` (m,) and `cases`, and `logrank_p` where it can be told; {} where the task is not
    time, or a half is empty.
    """
    if not isinstance(tree, Survival):
        return {}
    _, times, events, risks = _told(targets, hazards)
    if not len(risks) or risks.max() <= np.median(risks):
        return {}
    lower, higher, p = halves_by_risk(times, events, risks)
    table = {"lower": _curve_table(lower), "higher": _curve_table(higher)}
    return table | ({"logrank_p": p} if np.isfinite(p) else {})


def _curve_table(curve: Curve) -> dict[str, Any]:
    return {
        "times": [float(t) for t in curve.times],
        "survival": [round(float(s), 6) for s in curve.survival],
        "at_risk": curve.at_risk.tolist(),
        "cases": curve.cases,
    }


def survival_metrics(
    cases: Sequence[str],
    targets: Sequence[Target],
    hazards: Sequence[NDArray[Any]],
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Figure]:
    """`survival/c_index` with its interval by case, and `survival/logrank_p` between the halves by risk."""
    known, times, events, risks = _told(targets, hazards)
    if not known:
        return {}
    weights = case_weights([cases[i] for i in known], resamples=resamples, seed=seed)
    p = halves_by_risk(times, events, risks)[2]
    found = {
        "survival/c_index": interval(c_index(times, events, risks, weights)),
        "survival/logrank_p": (p, p, p),
    }
    return {name: figure for name, figure in found.items() if np.isfinite(figure[0])}


def survival_draws(
    targets: Sequence[Target], hazards: Sequence[NDArray[Any]], weights: Floats
) -> dict[str, Floats]:
    """The c-index as (R,) values, one per row of weights (R, n); {} where no pair can be compared."""
    known, times, events, risks = _told(targets, hazards)
    index = c_index(times, events, risks, weights[:, known]) if known else np.array([np.nan])
    return {"survival/c_index": index} if np.isfinite(index[0]) else {}


def _told(
    targets: Sequence[Target], hazards: Sequence[NDArray[Any]]
) -> tuple[list[int], Floats, NDArray[np.bool_], Floats]:
    """The cases whose time is known: their places, times, events and risks (n,)."""
    known = [i for i, t in enumerate(targets) if t.time is not None]
    times = np.array([targets[i].time for i in known], np.float64)
    events = np.array([targets[i].event for i in known], bool)
    risks = risk(np.stack([hazards[i] for i in known])) if known else np.zeros(0)
    return known, times, events, risks


def survival_selection(
    targets: Sequence[Target], hazards: Sequence[NDArray[Any]], task: Survival
) -> dict[str, float]:
    """Figures that choose an epoch: `c_index`, `loss` (mean −log likelihood) and `score`, which counts."""
    known = [i for i, t in enumerate(targets) if t.time is not None]
    if not known:
        return {}
    times = np.array([targets[i].time for i in known], np.float64)
    events = np.array([targets[i].event for i in known], bool)
    h = np.clip(np.stack([hazards[i] for i in known]).astype(np.float64), 1e-12, 1 - 1e-12)
    at = np.array([task.bin_of(t) for t in times])
    rows = np.arange(len(at))
    survived = np.cumsum(np.log1p(-h), axis=1)[rows, at]
    hit = survived - np.log1p(-h[rows, at]) + np.log(h[rows, at])
    loss = float(-np.where(events, hit, survived).mean())
    index = float(c_index(times, events, risk(h))[0])
    found = {"loss": loss, "score": (index if np.isfinite(index) else 0.0) - 0.05 * loss}
    return found | ({"c_index": index} if np.isfinite(index) else {})
