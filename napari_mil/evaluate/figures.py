"""Figures of slides' answers, with intervals by case.

They are written for weighted cases, because an interval is the same figure under a thousand weightings of
the cases at once; tests hold them equal to scikit-learn's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_mil.labeltree import LIFTED, LabelTree, level_names

Figure = tuple[float, float, float]  #: value, low, high: a metric and its 95 % bootstrap interval
Floats = NDArray[np.float64]
Draws = dict[str, Floats]  #: figures by name, (R,) one value per weighting of the cases


def case_weights(cases: Sequence[str], *, resamples: int = 1000, seed: int = 0) -> Floats:
    """(1 + R, n) weights of n rows: first all ones, then R bootstrap draws of whole cases."""
    names, inverse = np.unique(np.asarray(cases), return_inverse=True)
    draws = np.random.default_rng(seed).multinomial(
        len(names), np.full(len(names), 1 / len(names)), resamples
    )
    return np.concatenate([np.ones((1, len(inverse))), draws[:, inverse].astype(np.float64)])


def interval(values: Floats) -> Figure:
    """(1 + R,) a figure and its bootstrap repetitions → value and 95 % percentile interval; NaN when
    undefined.
    """
    known = values[1:][np.isfinite(values[1:])]
    low, high = np.percentile(known, [2.5, 97.5]) if len(known) else (np.nan, np.nan)
    return float(values[0]), float(low), float(high)


def auc(positive: NDArray[Any], score: NDArray[Any], weights: Floats | None = None) -> Floats:
    """(R,) area under the ROC curve for each row of weights (R, n); ties count half, NaN when a class is
    missing.
    """
    w = np.ones((1, len(score))) if weights is None else weights
    _, group = np.unique(np.asarray(score, np.float64), return_inverse=True)
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    is_positive = np.asarray(positive, bool)[order]
    w = w[:, order]
    hit = np.add.reduceat(w * is_positive, starts, axis=1)
    miss = np.add.reduceat(w * ~is_positive, starts, axis=1)
    below = np.cumsum(miss, axis=1) - miss / 2
    with np.errstate(invalid="ignore"):
        area: Floats = (hit * below).sum(1) / (hit.sum(1) * miss.sum(1))
    return area


def macro_auc(classes: NDArray[Any], probability: NDArray[Any], weights: Floats | None = None) -> Floats:
    """(R,) mean over the classes that occur, and are not alone, of one-against-rest AUC; classes (n,),
    probability (n, C).

    A class that is likelier than all others together is ranked by what these leave of 1: float32 holds their
    1e-9, and not the 1 − 1e-9 beside it.
    """
    others = probability @ (1 - np.eye(probability.shape[1]))
    score = np.where(probability > others, 1 - others, probability)
    kept = [auc(classes == k, score[:, k], weights) for k in np.unique(classes)]
    if len(kept) < 2:
        return np.full(1 if weights is None else len(weights), np.nan)
    stack = np.stack(kept)
    found = np.isfinite(stack)
    with np.errstate(invalid="ignore"):
        mean: Floats = np.where(found, stack, 0).sum(0) / found.sum(0)
    return mean


def confusion(truth: NDArray[Any], said: NDArray[Any], n: int, weights: Floats | None = None) -> Floats:
    """(R, n, n) weighted counts, truth by row."""
    w = np.ones((1, len(truth))) if weights is None else weights
    cell = np.zeros((len(truth), n * n))
    cell[np.arange(len(truth)), truth * n + said] = 1
    counts: Floats = (w @ cell).reshape(-1, n, n)
    return counts


def balanced_accuracy(counts: Floats) -> Floats:
    """(R,) mean recall of the classes that occur, NaN when none does; counts (R, n, n)."""
    return _mean_share(np.diagonal(counts, axis1=1, axis2=2), counts.sum(2))


def macro_f1(counts: Floats) -> Floats:
    """(R,) mean F1 of the classes that occur or were said, NaN when none is; counts (R, n, n)."""
    return _mean_share(2 * np.diagonal(counts, axis1=1, axis2=2), counts.sum(1) + counts.sum(2))


def _mean_share(part: Floats, whole: Floats) -> Floats:
    """(R,) mean of part / whole (R, n) where there is a whole, NaN where there is none."""
    known = whole > 0
    with np.errstate(invalid="ignore"):
        mean: Floats = (part / np.where(known, whole, np.inf)).sum(1) / known.sum(1)
    return mean


def slide_metrics(
    cases: Sequence[str],
    nodes: Sequence[int],
    probabilities: Sequence[tuple[NDArray[Any], ...]],
    tree: LabelTree,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Figure]:
    """Figures of slides' answers: per level `auc` (macro, one against rest), `balanced_accuracy`, `macro_f1`.

    Further `lesion/auc` (Σ p over lesion leaves) where the tree names normal leaves, and with more than
    one level `hierarchy` and what else `hierarchy_draws` says. Nodes are the truth, 0 = unknown; a level
    coarser than the label counts, a finer one does not.
    """
    weights = case_weights(cases, resamples=resamples, seed=seed) if len(cases) else np.zeros((0, 0))
    drawn = slide_draws(nodes, probabilities, tree, weights)
    return {name: interval(draws) for name, draws in drawn.items()}


def slide_draws(
    nodes: Sequence[int], probabilities: Sequence[tuple[NDArray[Any], ...]], tree: LabelTree, weights: Floats
) -> Draws:
    """The figures of `slide_metrics` as (R,) arrays, one value per row of weights (R, n); those that the
    cases as they are (row 0) do not tell are left out.
    """
    found: Draws = {}
    if not len(nodes):
        return found
    stacked = [
        np.stack([np.asarray(p[level], np.float64) for p in probabilities]) for level in range(tree.levels)
    ]
    for level, name in enumerate(level_names(tree)):
        truth = np.array([tree.class_index(node, level) for node in nodes])
        known = truth >= 0
        if not known.any():
            continue
        found |= _class_draws(name, truth[known], stacked[level][known], weights[:, known])
    found |= _lesion_auc(nodes, stacked[-1], tree, weights)
    found |= hierarchy_draws(nodes, stacked, tree, weights)
    return {name: draws for name, draws in found.items() if np.isfinite(draws[0])}


def _class_draws(name: str, truth: NDArray[Any], p: Floats, weights: Floats) -> Draws:
    counts = confusion(truth, p.argmax(1), p.shape[1], weights)
    return {
        f"{name}/auc": macro_auc(truth, p, weights),
        f"{name}/balanced_accuracy": balanced_accuracy(counts),
        f"{name}/macro_f1": macro_f1(counts),
    }


def hierarchy_draws(
    nodes: Sequence[int], stacked: Sequence[Floats], tree: LabelTree, weights: Floats
) -> Draws:
    """Do the levels of an answer agree? `stacked` holds (n, C_l) probabilities per level, coarse first.

    `hierarchy`: share of answers whose best class of every level lies under the best of the level above.
    For a method with a head of its own at a coarser level also `hierarchy/heads`, the share whose heads
    have the same best class as the lifted finest answer; `hierarchy/distance`, half of Σ |p_head − p_lifted|,
    mean over the coarser levels; and the figures of the lifted answer itself as `coarse_lifted/auc` and so
    on (methods.md §4.5, §4.6). Where coarser answers are lifted by construction these would say nothing.
    """
    found: Draws = {}
    if tree.levels < 2:
        return found
    best = np.stack([np.array(tree.nodes_at(lv))[p.argmax(1)] for lv, p in enumerate(stacked)], 1)
    agree = np.all(np.array(tree.parent)[best[:, 1:]] == best[:, :-1], axis=1)
    found["hierarchy"] = weights @ agree / weights.sum(1)
    lifted = [tree.lift(stacked[-1], level) for level in range(tree.levels - 1)]
    apart = np.stack([np.abs(a - b).sum(1) / 2 for a, b in zip(stacked, lifted, strict=False)], 1)
    if apart.max(initial=0) < LIFTED:
        return found
    same = np.stack([a.argmax(1) == b.argmax(1) for a, b in zip(stacked, lifted, strict=False)], 1).all(1)
    found["hierarchy/heads"] = weights @ same / weights.sum(1)
    found["hierarchy/distance"] = weights @ apart.mean(1) / weights.sum(1)
    for level, p in enumerate(lifted):
        truth = np.array([tree.class_index(node, level) for node in nodes])
        known = truth >= 0
        if known.any():
            name = f"{level_names(tree)[level]}_lifted"
            found |= _class_draws(name, truth[known], p[known], weights[:, known])
    return found


def _lesion_auc(nodes: Sequence[int], fine: NDArray[Any], tree: LabelTree, weights: Floats) -> Draws:
    truth = np.array([lesion_of(tree, node) for node in nodes])
    if not tree.normal or not (truth == 0).any() or not (truth == 1).any():
        return {}
    known = truth >= 0
    score = fine[:, ~tree.normal_classes()].sum(1)
    return {"lesion/auc": auc(truth[known] == 1, score[known], weights[:, known])}


def lesion_of(tree: LabelTree, node: int) -> int:
    """1 when everything under a node is a lesion, 0 when it is normal, −1 when the node does not say."""
    under = {leaf in tree.normal for leaf in tree.leaves_under(node)} if node else {True, False}
    return -1 if len(under) > 1 else int(not under.pop())


def selection_metrics(
    nodes: Sequence[int], probabilities: Sequence[tuple[NDArray[Any], ...]], tree: LabelTree
) -> dict[str, float]:
    """Figures of held-out answers that choose an epoch, as far as the cases define them; `score`, the larger
    the better, is the one that counts.

    `score` is the mean of the AUCs there are: macro AUC of every level and lesion against normal, less the
    loss' small share that breaks their many ties on few cases. Besides `loss` (mean −log p of the deepest
    known level).
    """
    found: dict[str, float] = {}
    stacked = [
        np.stack([np.asarray(p[level], np.float64) for p in probabilities]) for level in range(tree.levels)
    ]
    for level, name in enumerate(level_names(tree)):
        truth = np.array([tree.class_index(node, level) for node in nodes])
        known = truth >= 0
        if known.any():
            found[f"{name}/auc"] = float(macro_auc(truth[known], stacked[level][known])[0])
            counts = confusion(truth[known], stacked[level][known].argmax(1), stacked[level].shape[1])
            found[f"{name}/balanced_accuracy"] = float(balanced_accuracy(counts)[0])
            p = np.clip(stacked[level][known, truth[known]], 1e-12, 1)
            found["loss"] = float(-np.log(p).mean())
    found |= {
        k: float(v[0]) for k, v in _lesion_auc(nodes, stacked[-1], tree, np.ones((1, len(nodes)))).items()
    }
    areas = [v for k, v in found.items() if k.endswith("auc") and np.isfinite(v)]
    if "loss" in found:
        found["score"] = (float(np.mean(areas)) if areas else 0.0) - 0.05 * found["loss"]
    return {name: value for name, value in found.items() if np.isfinite(value)}
