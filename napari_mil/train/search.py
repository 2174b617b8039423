"""Search a grid of options: every combination is trained, the validation part of the split chooses.

The test part is shown to nobody until the choice is made; then it is asked once, about the chosen model.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from napari_mil import methods
from napari_mil.card import Recipe
from napari_mil.device import pick
from napari_mil.errors import LabelError, ModelError
from napari_mil.evaluate import Split, TrainingCase
from napari_mil.labeltree import LabelTree
from napari_mil.options import build, check_heard, unknown_option
from napari_mil.steps import Steps, part_of, told_as
from napari_mil.train.files import replace_whole
from napari_mil.train.key import run_key
from napari_mil.train.log import Log
from napari_mil.train.run import Trained, Training, judged

Grid = Mapping[str, Sequence[Any]]


@dataclass(frozen=True, slots=True)
class Tried:
    """One combination: its settings {option: value}, its validation score, the epoch that reached it."""

    settings: Mapping[str, Any]
    score: float
    best_epoch: int


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """What a search found: the chosen settings and model, and everything that was tried, in order."""

    settings: Mapping[str, Any]
    trained: Trained
    tried: tuple[Tried, ...]


def published_grid(method: str) -> Grid:
    """The grid that a method declares; ModelError when it declares none."""
    grid = methods.get(method).grid
    if not grid:
        raise ModelError(f"{method} has no published grid; name options and values to search.")
    return grid


def combinations(method: str, grid: Grid) -> list[dict[str, Any]]:
    """Every combination of a grid, the last option varying fastest; ModelError when one is not allowed."""
    if not grid or not all(grid.values()):
        raise ModelError("A grid needs at least one option, and at least one value for each.")
    made = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    for settings in made:
        with_settings(method, {}, Recipe(), settings)
    return made


def with_settings(
    method: str, config: Mapping[str, Any], recipe: Recipe, settings: Mapping[str, Any]
) -> tuple[dict[str, Any], Recipe]:
    """A configuration and a recipe with some options set; a name that both have is the method's."""
    known, ours = ([f.name for f in dataclasses.fields(k)] for k in (methods.get(method).Config, Recipe))
    for key in settings:
        if key not in (*known, *ours):
            raise unknown_option(f"A search of {method}", key, [*known, *ours])
    mine = {k: v for k, v in settings.items() if k in known}
    rest = {k: v for k, v in settings.items() if k not in known}
    asked: Any = build(methods.get(method).Config, {**config, **mine}, method)
    return dataclasses.asdict(asked), build(
        Recipe, {**dataclasses.asdict(recipe), **rest}, f"{method} and the recipe"
    )


def search_steps(
    cases: Sequence[TrainingCase],
    split: Split,
    *,
    method: str,
    config: Mapping[str, Any],
    recipe: Recipe,
    grid: Grid,
    tree: LabelTree,
    folder: Path,
    device: str | None = None,
    tensorboard: bool = False,
) -> Steps[Found]:
    """Train every combination of a grid and choose by the validation score; the first of equals.

    What was tried stands in `folder`, with the log of every training and the checkpoint of the best so far:
    the same call goes on where it was killed. Of test cases nothing is recorded. LabelError without
    validation cases.
    """
    if not split.validation:
        raise LabelError("A search chooses by validation cases, and this split has none; add cases.")
    seen = Split(split.train, split.validation)  # nobody sees the test part before the choice
    hidden = {name for c in cases if c.case in split.test for name in (c.case, *(b.slide_id for b in c.bags))}
    key = run_key(cases, split, method=method, config=config, recipe=recipe, tree=tree)
    whole = hashlib.sha256(f"{key} {json.dumps({k: list(v) for k, v in grid.items()})}".encode()).hexdigest()
    tried = _read(folder / "search.json", whole)
    every = combinations(method, grid)
    for settings in every:  # two that differ by nothing that counts would be trained twice
        options, _ = with_settings(method, config, recipe, settings)
        check_heard(build(methods.get(method).Config, options, method), settings, method)

    def trying(n: int) -> Steps[Trained]:
        options, own = with_settings(method, config, recipe, every[n])
        own = dataclasses.replace(own, record=tuple(name for name in own.record if name not in hidden))
        training = Training(
            cases,
            seen,
            method=method,
            config=options,
            recipe=own,
            tree=tree,
            device=device,
            resume=_checkpoint(folder, n),
            log=Log(folder / f"try-{n}", tensorboard=tensorboard),
        )
        words = ", ".join(f"{k} {v}" for k, v in every[n].items())
        return told_as(training.steps(), part_of("search", n, len(every), words))

    for n in range(len(tried), len(every)):
        trained = yield from trying(n)
        tried = [*tried, Tried(every[n], trained.score, trained.best_epoch)]
        _write(folder / "search.json", whole, tried)
        for k in range(n + 1):
            if k != _best(tried):
                _checkpoint(folder, k).unlink(missing_ok=True)
    best = _best(tried)
    trained = yield from trying(best)  # at hand in its checkpoint, unless that was removed since
    made = judged(trained, {c.case: c for c in cases}, split, pick(device))
    return Found(tried[best].settings, made, tuple(tried))


def _best(tried: Sequence[Tried]) -> int:
    return max(range(len(tried)), key=lambda k: (tried[k].score, -k))


def _checkpoint(folder: Path, n: int) -> Path:
    return folder / f"try-{n}" / "run.ckpt"


def _read(path: Path, whole: str) -> list[Tried]:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        return []
    kept = json.loads(path.read_bytes())
    if kept["run"] != whole:
        raise ModelError(
            f"{path} belongs to another search (other cases, labels, method, recipe); delete its folder, "
            "or choose another name."
        )
    return [Tried(**one) for one in kept["tried"]]


def _write(path: Path, whole: str, tried: Sequence[Tried]) -> None:
    text = json.dumps({"run": whole, "tried": [dataclasses.asdict(t) for t in tried]}, indent=1)
    replace_whole(path, text.encode(), "The search")
