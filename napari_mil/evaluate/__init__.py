"""How good is a model? Splits by case, figures of slides and of tiles, each with an interval by case."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from napari_mil.bag import Bag
from napari_mil.calls import lesion_score
from napari_mil.correction import Target
from napari_mil.evaluate.calibration import (
    calibration_metrics,
    fit_temperature,
    reliability,
    told_temperature,
)
from napari_mil.evaluate.cases import Split, TrainingCase, folds_by_case, split_by_case, without_leaks
from napari_mil.evaluate.change import changes, worse
from napari_mil.evaluate.figures import Figure, lesion_of, selection_metrics, slide_metrics
from napari_mil.evaluate.froc import Detections, froc
from napari_mil.evaluate.survival import (
    Curve,
    c_index,
    halves_by_risk,
    kaplan_meier,
    survival_metrics,
    survival_selection,
    survival_table,
)
from napari_mil.evaluate.tiles import TileRecord, obeyed, tile_cases, tile_metrics
from napari_mil.infer import Answer, answer, said_at, tempered
from napari_mil.labeltree import LabelTree, Survival, level_names
from napari_mil.mil import MILModel

__all__ = [
    "Curve",
    "Detections",
    "Figure",
    "Split",
    "TileRecord",
    "TrainingCase",
    "answers",
    "c_index",
    "calibration_metrics",
    "changes",
    "evaluate",
    "fit_temperature",
    "folds_by_case",
    "froc",
    "halves_by_risk",
    "kaplan_meier",
    "lesion_of",
    "obeyed",
    "reliability",
    "said_at",
    "selection",
    "selection_metrics",
    "slide_metrics",
    "split_by_case",
    "stratum",
    "survival_metrics",
    "survival_table",
    "tempered",
    "tile_metrics",
    "told_temperature",
    "without_leaks",
    "worse",
]


def selection(targets: Sequence[Target], said: Sequence[Answer], tree: LabelTree) -> dict[str, float]:
    """Figures of held-out answers that choose an epoch; `score`, the larger the better, is what counts."""
    if isinstance(tree, Survival):
        return survival_selection(targets, [h for a in said if (h := a.hazards) is not None], tree)
    return selection_metrics([t.slide for t in targets], [a.probabilities for a in said], tree)


def stratum(target: Target, *, survival: bool) -> int:
    """What splits are balanced by: the slide's label, or where the task is time whether an event was
    observed.
    """
    return 1 + int(bool(target.event)) if survival else target.slide


def answers(
    model: MILModel,
    cases: Iterable[TrainingCase],
    *,
    temperature: float = 1.0,
    device: torch.device | str | None = None,
) -> dict[str, Answer]:
    """What a model says about each case, its bags joined."""
    said = {}
    for case in cases:
        features, cells, _ = case.joined()
        said[case.case] = answer(model, features, cells, temperature=temperature, device=device)
    return said


def evaluate(
    model: MILModel,
    cases: Sequence[TrainingCase],
    *,
    temperature: float | None = None,
    said: Mapping[str, Answer] | None = None,
    resamples: int = 1000,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> dict[str, Any]:
    """Every figure (value, low, high) of slides, and of tiles where cases carry tile labels, on cases the
    model has not learned from; and "<group>/cases", on how many of them those of a group stand, where that
    is not on all.

    Calibration errors are those of the answers at `temperature`, all other figures those of the answers as
    the network gives them. `said` holds answers that are at hand already.
    """
    tree = model.tree
    said = answers(model, cases, device=device) if said is None else said
    names, nodes = [c.case for c in cases], [c.target.slide for c in cases]
    drawn = {"resamples": resamples, "seed": seed}
    stand = _known(cases, tree)
    if isinstance(tree, Survival):
        hazards = [h for c in cases if (h := said[c.case].hazards) is not None]
        found = survival_metrics(names, [c.target for c in cases], hazards, **drawn)
        return found | _fewer(found, stand, len(cases))
    probabilities = [said[c.case].probabilities for c in cases]
    found = slide_metrics(names, nodes, probabilities, tree, **drawn)
    found |= calibration_metrics(names, nodes, probabilities, tree, temperature=temperature, **drawn)
    if tree.normal_classes().any() and not tree.normal_classes().all():
        slides = ((c.case, *one) for c in cases for one in _slides(c, said[c.case]))
        records = [TileRecord.of(case, mine, tiles, tree) for case, _, tiles, mine in slides]
        detections = [d for c in cases for d in _detections(c, said[c.case], tree) if d is not None]
        found |= tile_metrics(records, tree, **drawn) | froc(detections, **drawn)
        stand |= tile_cases(records, tree) | {"froc": {d.case for d in detections}}
    return found | _fewer(found, stand, len(cases))


def _known(cases: Sequence[TrainingCase], tree: LabelTree) -> dict[str, set[str]]:
    """The cases that each group of figures of slides stands on."""
    if isinstance(tree, Survival):
        return {"survival": {c.case for c in cases if c.target.says(tree)}}
    levels = {
        name: {c.case for c in cases if tree.class_index(c.target.slide, level) >= 0}
        for level, name in enumerate(level_names(tree))
    }
    lesion = {c.case for c in cases if lesion_of(tree, c.target.slide) >= 0}
    return {**levels, **{f"{name}_lifted": known for name, known in levels.items()}, "lesion": lesion}


def _fewer(found: Mapping[str, Figure], stand: Mapping[str, set[str]], cases: int) -> dict[str, int]:
    """Of the groups of figures found, on how many cases those stand that stand on fewer than all."""
    groups = dict.fromkeys(name.rpartition("/")[0] or name for name in found)
    return {f"{g}/cases": len(stand[g]) for g in groups if g in stand and len(stand[g]) < cases}


def _slides(case: TrainingCase, said: Answer) -> Iterator[tuple[Bag, NDArray[np.int32], Answer]]:
    """The bag, tile labels and share of the case's answer of each slide whose tiles are labelled."""
    owner = np.repeat(np.arange(len(case.bags)), [len(bag) for bag in case.bags])
    for k, (bag, tiles) in enumerate(zip(case.bags, case.tiles, strict=False)):
        if tiles is not None:
            yield bag, tiles, said.rows(owner == k)


def _detections(case: TrainingCase, said: Answer, tree: LabelTree) -> Iterator[Detections | None]:
    """The lesions and false alarms of each slide of a case whose tiles are labelled."""
    kind = np.array([lesion_of(tree, node) for node in range(len(tree))])
    sure = float(said.probabilities[-1][~tree.normal_classes()].sum())
    for bag, tiles, mine in _slides(case, said):
        score = lesion_score(mine.tile_probability, mine.lift, tree)
        yield Detections.of(case.case, bag.grid.cells, kind[tiles], score * sure)
