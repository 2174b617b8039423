"""Small measures of answers and scores that the criteria are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_mil.labeltree import LabelTree

Floats = NDArray[np.float64]

#: the top of a slide is this share of its tiles, ten at least
TOP = 0.05


def entropy(p: Floats) -> Floats:
    """(…, C) probabilities → (…,) entropy over its maximum log C, in [0, 1]; 0 where there is one class."""
    if p.shape[-1] < 2:
        return np.zeros(p.shape[:-1])
    spoken = np.where(p > 0, p, 1)
    said: Floats = -(spoken * np.log(spoken)).sum(-1) / np.log(p.shape[-1])
    return said


def chance(p: Floats, tree: LabelTree, node: int) -> float:
    """The probability of a node, from (C,) probabilities of the leaves."""
    under = set(tree.leaves_under(node))
    return float(p[[leaf in under for leaf in tree.leaves]].sum())


def places_of(score: NDArray[Any]) -> NDArray[np.intp]:
    """(N,) place of each score, 1 the highest; equal ones in their order."""
    place = np.empty(len(score), np.intp)
    place[np.argsort(-np.asarray(score), kind="stable")] = np.arange(1, len(score) + 1)
    return place


def shared_top(one: NDArray[np.intp], other: NDArray[np.intp]) -> tuple[int, int]:
    """How many of the top tiles of one order are the other's too, and how many are top."""
    top = min(len(one), max(10, round(TOP * len(one))))
    return int(((one <= top) & (other <= top)).sum()), top


def fused(signals: NDArray[Any], weights: Sequence[float], *, constant: float) -> Floats:
    """(M, S) signals, the larger the better, NaN where one has nothing to say, and S weights → (M,)
    Σ weight / (constant + place).

    Reciprocal rank fusion (Cormack, Clarke & Büttcher, SIGIR 2009). Equal signals share their best place.
    """
    score = np.zeros(len(signals))
    for column, weight in zip(np.asarray(signals, np.float64).T, weights, strict=True):
        known = np.flatnonzero(np.isfinite(column))
        _, at, counts = np.unique(-column[known], return_inverse=True, return_counts=True)
        place = 1 + (np.cumsum(counts) - counts)[at]
        score[known] += weight / (constant + place)
    return score


def squared_distances(x: NDArray[Any], to: NDArray[Any], *, rows: int = 2048) -> Floats:
    """(M,) least squared distance of each row of x (M, D) to any row of `to` (L, D), in chunks of both; inf
    where L is 0.
    """
    nearest = np.full(len(x), np.inf)
    for a in range(0, len(x), rows):
        part = np.asarray(x[a : a + rows], np.float64)
        own = (part**2).sum(1)[:, None]
        for b in range(0, len(to), rows):
            other = np.asarray(to[b : b + rows], np.float64)
            between = own - 2 * part @ other.T + (other**2).sum(1)[None]
            nearest[a : a + rows] = np.minimum(nearest[a : a + rows], between.min(1))
    squared: Floats = np.maximum(nearest, 0)
    return squared


def left_out(x: NDArray[Any], classes: NDArray[np.intp], count: int, *, ridge: float) -> Floats:
    """(n, C) what ridge regression on all other rows says of the class of each row: leave one out, in closed
    form (Allen, Technometrics 1974). x (n, D), classes (n,) in 0 … C − 1; clipped to [0, 1].
    """
    n = len(x)
    width = x.std(0)
    z = (x - x.mean(0)) / np.where(width > 1e-9, width, 1)
    y = np.eye(count)[classes]
    middle = y.mean(0)
    penalty = ridge * max(z.shape[1], 1)
    if n <= z.shape[1]:
        kernel = z @ z.T
        back = np.linalg.solve(kernel + penalty * np.eye(n), np.concatenate([kernel, y - middle], 1))
        own, fit = np.diag(back[:, :n]), kernel @ back[:, n:]
    else:
        back = np.linalg.solve(z.T @ z + penalty * np.eye(z.shape[1]), z.T)
        own, fit = (z * back.T).sum(1), z @ (back @ (y - middle))
    own = np.clip(own + 1 / n, 0, 1 - 1e-6)[:, None]
    said: Floats = np.clip(middle + (fit - own * (y - middle)) / (1 - own), 0, 1)
    return said
