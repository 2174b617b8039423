"""A study: the same training over seeds and folds, as papers report it, resumed run by run.

Every case is tested once per seed; what decides anything (epoch, temperature, a grid's choice) is the
validation part of the fold.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from napari_mil.card import Recipe
from napari_mil.errors import LabelError, ModelError
from napari_mil.evaluate import (
    Figure,
    Split,
    TrainingCase,
    answers,
    calibration_metrics,
    folds_by_case,
    said_at,
    slide_metrics,
)
from napari_mil.labeltree import LabelTree
from napari_mil.steps import Progress, Steps, part_of, told_as
from napari_mil.train.files import replace_whole
from napari_mil.train.key import run_key
from napari_mil.train.log import Log
from napari_mil.train.run import Trained, Training
from napari_mil.train.search import Grid, search_steps, with_settings


@dataclass(frozen=True, slots=True)
class Part:
    """One run to do: its seed, the number of its fold, and the fold's split."""

    seed: int
    fold: int
    split: Split

    @property
    def name(self) -> str:
        """What its files are called."""
        return f"seed{self.seed}-fold{self.fold}"


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """What one run gave.

    Attributes
    ----------
    seed, fold : which
    settings : what a grid's search chose, {} without a grid
    metrics : figures of the fold's test cases, {name: (value, low, high)} or {name: value}
    answers : case → probabilities per level, coarse first, of the fold's test cases, at temperature 1
    temperature : as fitted on the validation cases, or None where they told none
    best_epoch, epochs : the epoch whose weights answered, and how many there were in all stages
    seconds : wall time of the training since it was last gone on with
    """

    seed: int
    fold: int
    settings: Mapping[str, Any]
    metrics: Mapping[str, Any]
    answers: Mapping[str, Sequence[Sequence[float]]]
    temperature: float | None
    best_epoch: int
    epochs: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Line:
    """One figure of a study: mean and standard deviation over the runs that define it, and the figure of all
    test answers pooled with its interval by case, where pooling makes sense.
    """

    mean: float
    sd: float
    runs: int
    pooled: Figure | None


@dataclass(frozen=True, slots=True, eq=False)
class Study:
    """The runs of a study and the truth they are judged by.

    Attributes
    ----------
    method : what was trained
    runs : in order of seed and fold
    nodes : case → node of its label
    tree : the labels, or None where every run had intervals of time of its own, whose risks do not compare
    """

    method: str
    runs: tuple[Run, ...]
    nodes: Mapping[str, int]
    tree: LabelTree | None

    def table(self, *, resamples: int = 1000, seed: int = 0) -> dict[str, Line]:
        """Every figure that a run has an interval for, and no p-values.

        Standard deviations are between runs (of seeds and folds). Pooled figures take the answers of all
        folds and seeds together, resampling whole cases with all their answers; they are left out of tile
        figures.
        """
        pooled = self._pooled(resamples, seed)
        found: dict[str, list[float]] = {}
        for run in self.runs:
            for name, value in run.metrics.items():
                if name.endswith("logrank_p"):  # p-values of several runs have no mean
                    continue
                if not isinstance(value, int | float) and np.isfinite(value[0]):
                    found.setdefault(name, []).append(float(value[0]))
        return {
            name: Line(
                float(np.mean(values)),
                float(np.std(values, ddof=1)) if len(values) > 1 else float("nan"),
                len(values),
                pooled.get(name),
            )
            for name, values in found.items()
        }

    def _pooled(self, resamples: int, seed: int) -> dict[str, Figure]:
        names = [case for run in self.runs for case in run.answers]
        if not names or self.tree is None:
            return {}
        nodes = [self.nodes[case] for case in names]
        plain = [tuple(map(np.array, p)) for run in self.runs for p in run.answers.values()]
        said = [
            said_at([np.array(level) for level in p], self.tree, run.temperature or 1.0)
            for run in self.runs
            for p in run.answers.values()
        ]
        drawn = {"resamples": resamples, "seed": seed}
        found = slide_metrics(names, nodes, plain, self.tree, **drawn)
        return found | calibration_metrics(names, nodes, said, self.tree, **drawn)

    def in_words(self) -> str:
        """The table for a person."""
        seeds, folds = ({getattr(run, key) for run in self.runs} for key in ("seed", "fold"))
        many = {"run": len(self.runs), "seed": len(seeds), "fold": len(folds)}
        runs, dealt, parts = (f"{n} {what}{'' if n == 1 else 's'}" for what, n in many.items())
        lines = [f"{self.method}: {runs}, {dealt} × {parts}"]
        for name, line in self.table().items():
            text = f"  {name}: {line.mean:.3f} ± {line.sd:.3f}"
            if line.pooled is not None:
                value, low, high = line.pooled
                text += f", pooled {value:.3f} [{low:.3f}, {high:.3f}]"
            lines.append(text + ("" if line.runs == len(self.runs) else f" ({line.runs} runs)"))
        lines += [
            f"  seed {run.seed}, fold {run.fold}: chose "
            + ", ".join(f"{key} {value}" for key, value in run.settings.items())
            for run in self.runs
            if run.settings
        ]
        return "\n".join(lines)

    def to_csv(self) -> str:
        """The table as CSV text."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["figure", "mean", "sd", "runs", "pooled", "low", "high"])
        for name, line in self.table().items():
            writer.writerow([name, line.mean, line.sd, line.runs, *(line.pooled or ("", "", ""))])
        return text.getvalue()


def parts_of(
    nodes: Mapping[str, int], *, folds: int, seeds: Sequence[int], validation: float = 0.15
) -> tuple[Part, ...]:
    """Every seed with folds of its own, dealt by that seed; LabelError when they cannot be dealt."""
    if folds < 2:
        raise LabelError(
            f"A study of {folds} fold{'' if folds == 1 else 's'} tests nothing; ask for at least 2."
        )
    return tuple(
        Part(seed, fold, split)
        for seed in seeds
        for fold, split in enumerate(folds_by_case(nodes, folds=folds, validation=validation, seed=seed))
    )


def study_steps(
    cases: Sequence[TrainingCase],
    parts: Sequence[Part],
    *,
    method: str,
    config: Mapping[str, Any],
    recipe: Recipe,
    tree: LabelTree | Callable[[Split], LabelTree],
    folder: Path,
    grid: Grid | None = None,
    device: str | None = None,
    keep: Callable[[Part, Trained, Mapping[str, Any], Recipe], None] | None = None,
    tensorboard: bool = False,
) -> Steps[Study]:
    """Train and judge every part, each with its own seed.

    Parameters
    ----------
    cases, parts : bags with their targets, and the runs to do (`parts_of`)
    method, config, recipe, tree : as `train_steps`; the recipe's seed is the part's. `tree` may be asked for
        each split, since intervals of time come of the training cases
    folder : where runs are kept, one JSON file and one folder of logs each; a run that stands there is not
        done again, and one that was killed goes on from its last epoch
    grid : options to search in every part by its own validation cases; None: no search
    keep : called with every new model, its configuration and its recipe before its run counts as done

    ModelError when a kept run is of other cases, options or labels.
    """
    done: list[Run] = []
    folder.mkdir(parents=True, exist_ok=True)
    for n, part in enumerate(parts):
        own = dataclasses.replace(recipe, seed=part.seed)
        task = tree(part.split) if callable(tree) else tree
        key = run_key(cases, part.split, method=method, config=config, recipe=own, tree=task)
        key += f" {json.dumps({k: list(v) for k, v in (grid or {}).items()})}"
        file = folder / f"{part.name}.json"
        run = _read(file, key)
        if run is None:
            about = {"method": method, "tree": task, "device": device, "tensorboard": tensorboard}
            work = _train(cases, part, config, own, grid, folder / part.name, about)
            began = time.monotonic()
            name = part_of("runs", n, len(parts), f"seed {part.seed}, fold {part.fold}")
            trained, settings = yield from told_as(work, name)
            seconds = time.monotonic() - began
            options, own = with_settings(method, config, own, settings)
            if keep is not None:
                keep(part, trained, options, own)
            made = dataclasses.asdict(_run(part, trained, settings, cases, seconds))
            text = json.dumps({"key": key, "run": made}, indent=1)
            run = Run(**json.loads(text)["run"])  # as a later call will read it
            replace_whole(file, text.encode(), "The run")
            for left in (folder / part.name).rglob("*.ckpt"):
                left.unlink()
        done.append(run)
        yield Progress("runs", n + 1, len(parts), f"seed {part.seed}, fold {part.fold}")
    labels = None if callable(tree) else tree
    study = Study(method, tuple(done), {c.case: c.target.slide for c in cases}, labels)
    replace_whole(folder / "table.csv", study.to_csv().encode(), "The table")
    return study


def _train(
    cases: Sequence[TrainingCase],
    part: Part,
    config: Mapping[str, Any],
    recipe: Recipe,
    grid: Grid | None,
    folder: Path,
    about: Mapping[str, Any],
) -> Steps[tuple[Trained, Mapping[str, Any]]]:
    """One part: trained as it is, or the choice of a search."""
    shared: dict[str, Any] = {k: v for k, v in about.items() if k != "tensorboard"}
    shared |= {"config": config, "recipe": recipe}
    if grid:
        search = search_steps(
            cases, part.split, grid=grid, folder=folder, tensorboard=about["tensorboard"], **shared
        )
        found = yield from search
        return found.trained, found.settings
    log = Log(folder, tensorboard=about["tensorboard"])
    training = Training(cases, part.split, resume=folder / "run.ckpt", log=log, **shared)
    trained = yield from training.steps()
    return trained, {}


def _run(
    part: Part, trained: Trained, settings: Mapping[str, Any], cases: Sequence[TrainingCase], seconds: float
) -> Run:
    held = [c for c in cases if c.case in set(part.split.test)]
    said = answers(trained.model, held)
    return Run(
        part.seed,
        part.fold,
        dict(settings),
        dict(trained.metrics),
        {case: [p.tolist() for p in one.probabilities] for case, one in said.items()},
        trained.temperature if trained.calibrated else None,
        trained.best_epoch,
        len(trained.history),
        round(seconds, 2),
    )


def _read(file: Path, key: str) -> Run | None:
    if not file.exists():
        return None
    kept = json.loads(file.read_bytes())
    if kept["key"] != key:
        raise ModelError(
            f"{file} belongs to another study (other cases, labels, method, recipe, grid); "
            "delete its folder, or choose another name."
        )
    return Run(**kept["run"])
