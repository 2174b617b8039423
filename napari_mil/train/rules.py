"""What a run decides from epoch to epoch: the learning rate, which epoch is the best, when to stop.

All are functions of the recipe and of what the epochs so far gave, so that a resumed run decides the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from napari_mil.card import Recipe
from napari_mil.labeltree import LabelTree, Survival, level_names

#: where each cosine ends (methods.md §3.8.5, 3.12)
LAST_RATE = {"cosine": 1e-7, "cosine-to-0": 0.0}
#: of the plateau schedule: factor, epochs of patience, relative gain that counts (methods.md §4.5)
FACTOR, STILL, GAIN = 0.1, 5, 1e-4


def learning_rate(recipe: Recipe, losses: Sequence[float]) -> float:
    """The rate of the epoch that follows those whose training losses are given.

    cosine, cosine-to-0: half a cosine over all the recipe's epochs, however early the run stops, that ends
    at 1e-7, or at 0 as in version 1 of MHIM.
    plateau: a tenth after more than 5 epochs without a training loss below the best so far (§4.5).
    """
    if recipe.schedule in LAST_RATE:
        share, last = len(losses) / recipe.epochs, LAST_RATE[recipe.schedule]
        return last + (recipe.lr - last) * (1 + math.cos(math.pi * share)) / 2
    rate, best, waited = recipe.lr, math.inf, 0
    for loss in losses if recipe.schedule == "plateau" else ():
        best, waited = (loss, 0) if loss < best * (1 - GAIN) else (best, waited + 1)
        if waited > STILL:
            rate, waited = rate * FACTOR, 0
    return rate


def tired(recipe: Recipe, scores: Sequence[float]) -> bool:
    """Whether a run whose epochs scored so should stop before its last epoch.

    plain: the best epoch lies `patience` epochs back, and `min_epochs` are done. official (methods.md
    §3.8.6): so many epochs in a row scored strictly below the best, one that equals it starts anew, and the
    index of the last epoch, counted from 0, exceeds `min_epochs`.
    """
    if not scores:
        return False
    best = max(scores)
    if recipe.stopping == "official":
        waited = next(i for i, score in enumerate(reversed(scores)) if score == best)
        return waited >= recipe.patience and len(scores) - 1 > recipe.min_epochs
    waited = len(scores) - 1 - list(scores).index(best)
    return waited >= recipe.patience and len(scores) >= recipe.min_epochs


def epoch_score(recipe: Recipe, found: Mapping[str, float], tree: LabelTree) -> float | None:
    """What chooses an epoch, of its validation figures (`evaluate.selection_metrics`); None without any.

    A figure that the validation cases do not define, such as the AUC of one class or of times, leaves it to
    `score`.
    """
    if recipe.select_by == "score":
        return found.get("score")
    wanted = found.get(_decisive(tree, official=recipe.select_by == "official"), math.nan)
    return wanted if math.isfinite(wanted) else found.get("score")


def _decisive(tree: LabelTree, *, official: bool) -> str:
    """The figure that chooses: the finest macro AUC, or as published (methods.md §3.8.7, 3.9)."""
    if official and isinstance(tree, Survival):
        return "c_index"
    many = official and len(tree.leaves) > 2
    return f"{level_names(tree)[-1]}/{'balanced_accuracy' if many else 'auc'}"
