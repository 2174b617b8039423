"""Trainings to be killed: `python -m killed FOLDER WHAT` says a line per epoch."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from planted import TREE, cohort

from napari_mil.card import Recipe
from napari_mil.evaluate import split_by_case
from napari_mil.steps import drain
from napari_mil.train import Log, config_for, parts_of, study_steps, train_steps


def train(folder: Path, what: str, tell: Callable[[Any], None]) -> str:
    """Train ("train") or make a study ("study") in a folder, or go on there; a digest of what was made."""
    cases, truths = cohort(20, n=20)
    cases[0] = replace(cases[0], tiles=(truths[cases[0].case],))
    nodes = {c.case: c.target.slide for c in cases}
    split = split_by_case(nodes, test=0.25, validation=0.3)
    small = {"hidden": 32, "attention_width": 16, "heads": 2, "mask_ratio": 0.2}
    recipe = Recipe(epochs=5, min_epochs=5, stage1_epochs=2, lr=2e-3)
    about = {"method": "mhim", "config": config_for("mhim", small), "tree": TREE, "device": "cpu"}
    if what == "train":
        rich = replace(
            recipe,
            batch_bags=3,
            stopping="official",
            select_by="official",
            schedule="plateau",
            precision="bf16",
            record=(cases[1].case, split.test[0]),
            class_weights=True,
        )
        made = drain(
            train_steps(cases, split, recipe=rich, resume=folder / "run.ckpt", log=Log(folder), **about), tell
        )
        rest = (made.history, hashlib.sha256(made.recorded).hexdigest(), made.metrics)
        sha = hashlib.sha256(repr(rest).encode())
        for name, values in sorted(made.model.state_dict().items()):
            sha.update(name.encode() + values.numpy().tobytes())
        return sha.hexdigest()
    parts = parts_of(nodes, folds=2, seeds=(0,), validation=0.3)
    grid = {"keep_ratio": [0.5, 0.9]}
    study = drain(study_steps(cases, parts, recipe=recipe, grid=grid, folder=folder, **about), tell)
    return f"{hashlib.sha256(study.to_csv().encode()).hexdigest()} {[dict(r.settings) for r in study.runs]}"


def main(folder: str, what: str) -> None:
    """The child."""

    def tell(now: Any) -> None:
        if now.payload:
            sys.stdout.write(f"{now.stage} {now.done}\n")
            sys.stdout.flush()

    train(Path(folder), what, tell)


if __name__ == "__main__":
    main(*sys.argv[1:])
