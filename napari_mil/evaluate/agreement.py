"""Do two readers agree? Cohen's κ per node of the label tree, with intervals by case.

κ = (agreed − by chance) / (1 − by chance) (Cohen 1960): 1 full agreement, 0 what chance would give. A test
holds it equal to scikit-learn's; here it is written for weighted cases, because an interval is the same
figure under a thousand weightings of the cases at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_mil.evaluate.figures import Figure, Floats, case_weights, confusion, interval
from napari_mil.labeltree import LabelTree, level_names


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far two readers agree about one node, or about all labels of a level.

    Attributes
    ----------
    what : label text of the node, or the name of the level
    n : places that both have labelled at that level
    agreed : share of them where both say the same
    first, second : share of them that each reader puts under the node; NaN for a level
    kappa : value and 95 % interval by case; NaN where chance leaves nothing to agree on
    """

    what: str
    n: int
    agreed: float
    first: float
    second: float
    kappa: Figure


def kappa(one: NDArray[Any], other: NDArray[Any], weights: Floats | None = None) -> Floats:
    """(R,) Cohen's κ of two (n,) labellings for each row of weights (R, n); NaN where both readers gave one
    and the same label throughout.
    """
    _, at = np.unique(np.concatenate([one, other]), return_inverse=True)
    first, second = at[: len(one)], at[len(one) :]
    counts = confusion(first, second, int(at.max(initial=0)) + 1, weights)
    total = counts.sum((1, 2))
    with np.errstate(invalid="ignore", divide="ignore"):
        agreed = np.trace(counts, axis1=1, axis2=2) / total
        chance = (counts.sum(1) * counts.sum(2)).sum(1) / total**2
        said: Floats = (agreed - chance) / np.where(chance < 1 - 1e-12, 1 - chance, np.nan)
    return said


def agreement(
    cases: Sequence[str],
    one: Sequence[int],
    other: Sequence[int],
    tree: LabelTree,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> list[Agreement]:
    """How two readers' nodes of the same places agree: per level over all its labels, and for every node that
    either has given. A label that is coarser than a level says nothing there; intervals resample the `cases`.
    """
    found: list[Agreement] = []
    if not len(cases):
        return found
    weights = case_weights(cases, resamples=resamples, seed=seed)
    for level, name in enumerate(level_names(tree)):
        classes = np.array([[tree.class_index(node, level) for node in said] for said in (one, other)])
        known = (classes >= 0).all(0)
        if not known.any():
            continue
        a, b = classes[:, known]
        w = weights[:, known]
        found.append(_told(f"all labels ({name})", a, b, w, of_node=False))
        for k, node in enumerate(tree.nodes_at(level)):
            if (a == k).any() or (b == k).any():
                found.append(_told(tree.path(node), a == k, b == k, w, of_node=True))
    return found


def _told(what: str, a: NDArray[Any], b: NDArray[Any], weights: Floats, *, of_node: bool) -> Agreement:
    shares = (float(a.mean()), float(b.mean())) if of_node else (float("nan"), float("nan"))
    return Agreement(what, len(a), float((a == b).mean()), *shares, interval(kappa(a, b, weights)))
