"""How good is a model? Splits by case, figures of slides and of tiles, each with an interval by case."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from napari_mil.correction import Target
from napari_mil.evaluate.cases import Split, TrainingCase, folds_by_case, split_by_case
from napari_mil.evaluate.figures import Figure, fit_temperature, lesion_of, selection_metrics, slide_metrics
from napari_mil.evaluate.survival import (
    Curve,
    c_index,
    halves_by_risk,
    kaplan_meier,
    survival_metrics,
    survival_selection,
)
from napari_mil.evaluate.tiles import TileRecord, obeyed, tile_metrics
from napari_mil.infer import Answer, answer
from napari_mil.labeltree import LabelTree, Survival
from napari_mil.mil import MILModel

__all__ = [
    "Curve",
    "Figure",
    "Split",
    "TileRecord",
    "TrainingCase",
    "answers",
    "c_index",
    "evaluate",
    "fit_temperature",
    "folds_by_case",
    "halves_by_risk",
    "kaplan_meier",
    "lesion_of",
    "obeyed",
    "selection",
    "selection_metrics",
    "slide_metrics",
    "split_by_case",
    "stratum",
    "survival_metrics",
    "tile_metrics",
]


def selection(targets: Sequence[Target], said: Sequence[Answer], tree: LabelTree) -> dict[str, float]:
    """Figures of held-out answers that choose an epoch; `score`, the larger the better, is what counts."""
    if isinstance(tree, Survival):
        return survival_selection(targets, [h for a in said if (h := a.hazards) is not None], tree)
    return selection_metrics([t.slide for t in targets], [a.probabilities for a in said], tree)


def stratum(target: Target) -> int:
    """What splits are balanced by: the slide's label, or whether an event was observed."""
    return target.slide if target.event is None else 1 + int(target.event)


def answers(
    model: MILModel, cases: Iterable[TrainingCase], *, device: torch.device | str | None = None
) -> dict[str, Answer]:
    """What a model says about each case, its bags joined."""
    said = {}
    for case in cases:
        features, cells, _ = case.joined()
        said[case.case] = answer(model, features, cells, device=device)
    return said


def evaluate(
    model: MILModel,
    cases: Sequence[TrainingCase],
    *,
    resamples: int = 1000,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> dict[str, Figure]:
    """Every figure of slides, and of tiles where cases carry tile labels, on cases the model has not
    learned from.
    """
    tree = model.tree
    said = answers(model, cases, device=device)
    if isinstance(tree, Survival):
        return survival_metrics(
            [c.case for c in cases],
            [c.target for c in cases],
            [h for c in cases if (h := said[c.case].hazards) is not None],
            resamples=resamples,
            seed=seed,
        )
    nodes, probabilities = [c.target.slide for c in cases], [said[c.case].probabilities for c in cases]
    found = slide_metrics([c.case for c in cases], nodes, probabilities, tree, resamples=resamples, seed=seed)
    if not tree.normal_classes().any() or tree.normal_classes().all():
        return found
    targets = [(c.case, c.joined()[2].tiles) for c in cases]
    records = [TileRecord.of(case, said[case], tiles, tree) for case, tiles in targets if tiles is not None]
    return found | tile_metrics(records, tree, resamples=resamples, seed=seed)
