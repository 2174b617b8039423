"""Did a model become better or worse? Differences of figures on the same cases, with paired intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from napari_mil.evaluate.cases import TrainingCase
from napari_mil.evaluate.figures import Figure, Floats, case_weights, interval, slide_draws
from napari_mil.evaluate.survival import survival_draws
from napari_mil.infer import Answer
from napari_mil.labeltree import LabelTree, Survival

#: how the names of the figures end that a guard looks at
GUARDED = ("/auc", "/c_index", "/balanced_accuracy")
#: going on without any correction costs so much at times: a certain fall of less is no reason to warn
TOLERATED = 0.01


def changes(
    cases: Sequence[TrainingCase],
    before: Mapping[str, Answer],
    after: Mapping[str, Answer],
    tree: LabelTree,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Figure]:
    """After − before of every slide figure that both answers tell: value and 95 % interval.

    Both models are judged on the same resampled cases (paired bootstrap by case), so that what is hard about
    a case cancels out and the interval is that of the change alone.
    """
    if not cases:
        return {}
    weights = case_weights([c.case for c in cases], resamples=resamples, seed=seed)
    was, now = (_draws(cases, said, tree, weights) for said in (before, after))
    return {name: interval(now[name] - was[name]) for name in was if name in now}


def _draws(
    cases: Sequence[TrainingCase], said: Mapping[str, Answer], tree: LabelTree, weights: Floats
) -> dict[str, Floats]:
    if isinstance(tree, Survival):
        hazards = [h for c in cases if (h := said[c.case].hazards) is not None]
        return survival_draws([c.target for c in cases], hazards, weights)
    nodes = [c.target.slide for c in cases]
    return slide_draws(nodes, [said[c.case].probabilities for c in cases], tree, weights)


def worse(changed: Mapping[str, Figure]) -> tuple[str, ...]:
    """Names of the figures that fell by more than `TOLERATED` and beyond noise, the whole interval of the
    change lying below 0: AUCs and the c-index, which see the order of the answers, and balanced accuracy,
    which sees what is answered.
    """
    guarded = (n for n in changed if n.endswith(GUARDED) and "_lifted/" not in n)
    return tuple(name for name in guarded if changed[name][0] < -TOLERATED and changed[name][2] < 0)
