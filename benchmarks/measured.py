"""One run: an arm of a set, trained on one fold of one seed, and asked about the cases left out."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sets import Arm, Drawn, Set, hazard, hierarchy, photographs, planted, real
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from napari_mil.evaluate import Split, TileRecord, TrainingCase, figures, lesion_of
from napari_mil.infer import Answer, answer
from napari_mil.labeltree import LabelTree, Survival, risk
from napari_mil.mil import MILModel
from napari_mil.steps import drain
from napari_mil.train import Training, recipe_for

SETS: dict[str, Set] = {
    **planted.SETS,
    **hazard.SETS,
    **photographs.SETS,
    **hierarchy.SETS,
    **real.SETS,
}


@dataclass(frozen=True)
class Job:
    """Which run, and where the real data lie."""

    set: str
    arm: str
    seed: int
    fold: int
    data: Path | None


@cache
def drawn(name: str, seed: int, data: Path | None) -> Drawn:
    return SETS[name].draw(seed, data)


def settings(name: str, arm: str) -> str:
    """What a kept run must agree on to count."""
    known = SETS[name]
    chosen = {**known.arms, **known.tried}[arm]
    recipe = () if chosen.method in PLAIN else recipe_for(chosen.method, chosen.recipe)
    return hashlib.sha256(repr((known.identity(arm), recipe)).encode()).hexdigest()[:12]


def do(job: Job) -> dict[str, Any]:
    """Train and ask; what the table needs of every case left out."""
    torch.set_num_threads(1)
    known = SETS[job.set]
    arm = {**known.arms, **known.tried}[job.arm]
    made = drawn(job.set, job.seed, job.data)
    split = made.folds[job.fold]
    cases = standardised(made.cases, split) if known.standardise else dict(made.cases)
    tree = intervals(cases, split) if known.tree is None else known.tree
    began, epochs = time.process_time(), 0
    if arm.method in PLAIN:
        told = PLAIN[arm.method](made, split)
    else:
        model, epochs = trained(arm, cases, split, tree, 1000 * job.seed + job.fold)
        told = {name: told_of(model, cases[name], made) for name in split.test}
    seconds = round(time.process_time() - began, 2)
    run = {"set": job.set, "arm": job.arm, "seed": job.seed, "fold": job.fold}
    return run | {
        "settings": settings(job.set, job.arm),
        "seconds": seconds,
        "epochs": epochs,
        "cases": {name: truth_of(cases[name], tree) | told[name] for name in split.test},
    }


def trained(
    arm: Arm, cases: Mapping[str, TrainingCase], split: Split, tree: LabelTree, seed: int
) -> tuple[MILModel, int]:
    """The model of the best epoch, and how many there were; the cases left out are not shown to it."""
    seen = [cases[name] for name in (*split.train, *split.validation)]
    made = drain(
        Training(
            seen,
            Split(split.train, split.validation),
            method=arm.method,
            config=dict(arm.config),
            recipe=recipe_for(arm.method, {**arm.recipe, "seed": seed}),
            tree=tree,
            device="cpu",
        ).steps()
    )
    return made.model, len(made.history)


def standardised(cases: Mapping[str, TrainingCase], split: Split) -> dict[str, TrainingCase]:
    """Features less the mean, over the deviation, of the tiles of the training part."""
    tiles = np.concatenate([bag.features for name in split.train for bag in cases[name].bags])
    middle, width = tiles.mean(0), tiles.std(0)
    width = np.where(width > 1e-6, width, 1)

    def one(case: TrainingCase) -> TrainingCase:
        bags = (replace(b, features=((b.features - middle) / width).astype(np.float32)) for b in case.bags)
        return replace(case, bags=tuple(bags))

    return {name: one(case) for name, case in cases.items()}


def intervals(cases: Mapping[str, TrainingCase], split: Split) -> Survival:
    """The intervals of time of a fold: quantiles of the events of its training part."""
    targets = [cases[name].target for name in split.train]
    return Survival.from_times([t.time or 0.0 for t in targets], [bool(t.event) for t in targets])


def truth_of(case: TrainingCase, tree: LabelTree) -> dict[str, Any]:
    target = case.target
    if isinstance(tree, Survival):
        return {"time": target.time, "event": bool(target.event)}
    classes = target.classes(tree)
    return {"y": classes[-1]} | ({"coarse_y": classes[-2]} if len(classes) > 1 else {})


def told_of(model: MILModel, case: TrainingCase, made: Drawn) -> dict[str, Any]:
    """Answers of a case, and its tile AUC where its tiles are known."""
    features, cells, _ = case.joined()
    said = answer(model, features, cells)
    if said.hazards is not None:
        return {"risk": round(float(risk(said.hazards)), 6)}
    told: dict[str, Any] = {"fine": rounded(said.probabilities[-1])}
    if len(said.probabilities) > 1:
        told["coarse"] = rounded(said.probabilities[-2])
    if case.case in made.truth:
        told["area"] = area(case.case, said, made.truth[case.case], model.tree)
    if case.case in made.once:
        rows = np.sort(made.once[case.case])
        alone = answer(model, features[rows], cells[rows])
        told["moved"] = round(float(np.abs(alone.probabilities[-1] - said.probabilities[-1]).sum() / 2), 5)
    return told


def area(name: str, said: Answer, truth: np.ndarray, tree: LabelTree) -> float | None:
    """Tile AUC of a slide that holds both lesion and normal tiles."""
    lesion = np.array([lesion_of(tree, node) for node in range(len(tree))])[truth] == 1
    if lesion.all() or not lesion.any():
        return None
    return round(float(figures.auc(lesion, TileRecord.of(name, said, truth, tree).score)[0]), 5)


def rounded(values: np.ndarray) -> list[float]:
    return [round(float(v), 6) for v in values]


def logistic(made: Drawn, split: Split) -> dict[str, dict[str, Any]]:
    """Logistic regression on the mean of a case's features."""

    def means(names: tuple[str, ...]) -> np.ndarray:
        return np.stack([made.cases[n].joined()[0].mean(0) for n in names])

    names = (*split.train, *split.validation)
    labels = [made.cases[n].target.slide for n in names]
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000)).fit(means(names), labels)
    return {
        n: {"fine": rounded(p)}
        for n, p in zip(split.test, model.predict_proba(means(split.test)), strict=True)
    }


def true_risk(made: Drawn, split: Split) -> dict[str, dict[str, Any]]:
    """The risk that the times were drawn with: nobody can know more."""
    return {n: {"risk": made.risk[n]} for n in split.test}


#: baselines that no method of the project is
PLAIN: dict[str, Callable[[Drawn, Split], dict[str, dict[str, Any]]]] = {
    "logistic on the mean": logistic,
    "true risk": true_risk,
}
