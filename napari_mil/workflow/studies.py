"""Studies on a project: folds, seeds and grids, composed once for command line and Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from napari_mil.card import ModelCard, Recipe
from napari_mil.errors import LabelError
from napari_mil.steps import Steps
from napari_mil.workflow.cases import apart, as_it_stands, cases_steps
from napari_mil.workflow.learn import enough, keep_model, next_name, split_of, task_of
from napari_mil.workflow.project import Project
from napari_mil.workflow.runs import run_folder, with_recorded_ids

if TYPE_CHECKING:
    from napari_mil.train import Part, Study, Trained


def cross_validate_steps(
    project: Project,
    method: str,
    *,
    config: Mapping[str, Any] | None = None,
    recipe: Mapping[str, Any] | Recipe | None = None,
    preset: str | None = None,
    folds: int = 5,
    seeds: Sequence[int] | None = None,
    grid: Mapping[str, Sequence[Any]] | None = None,
    name: str | None = None,
    keep_models: bool = False,
    encoder: str = "builtin",
    tensorboard: bool = False,
    survival: bool = False,
    bins: int = 4,
    unit: str = "",
) -> Steps[Study]:
    """Train a method on every fold of every seed (None: the recipe's one) and report the figures of the cases
    left out.

    Cases that the manifest calls `test` take no part. With a `grid` every fold searches it by its own
    validation cases. Runs stand in runs/<name>/, one JSON file each, with table.csv at the end; the same line
    again goes on where it was killed. `keep_models` stores every fold's model, named <name>-s<seed>-f<fold>.
    """
    from napari_mil.evaluate import stratum
    from napari_mil.train import config_for, parts_of, recipe_for, study_steps

    chosen = with_recorded_ids(project, recipe_for(method, recipe, preset=preset))
    options = config_for(method, config, preset=preset)
    known = as_it_stands(project)
    cases = yield from cases_steps(known, encoder, survival=survival)
    set_aside = {r.case for r in known.slides if r.split == "test"}
    used = enough([c for c in cases if c.case not in set_aside], project.tree, survival=survival)
    each = (chosen.seed,) if seeds is None else seeds
    labels = {c.case: stratum(c.target, survival=survival) for c in used}
    dealt = parts_of(labels, folds=folds, seeds=each)
    aside: list[str] = []
    parts = [replace(part, split=apart(part.split, used, aside)) for part in dealt]
    label = name or f"{method}-study"

    def keep(part: Part, trained: Trained, own: Mapping[str, Any], with_seed: Recipe) -> None:
        title = f"{label}-s{part.seed}-f{part.fold}"
        note = "; ".join(dict.fromkeys(aside))
        keep_model(known, trained, used, part.split, own, with_seed, method, title, preset=preset, note=note)

    return (
        yield from study_steps(
            used,
            parts,
            method=method,
            config=options,
            recipe=chosen,
            tree=partial(task_of, project, used, survival=True, bins=bins, unit=unit)
            if survival
            else project.tree,
            folder=run_folder(project, label),
            grid=grid,
            keep=keep if keep_models else None,
            tensorboard=tensorboard,
        )
    )


def search_model_steps(
    project: Project,
    method: str,
    grid: Mapping[str, Sequence[Any]],
    *,
    config: Mapping[str, Any] | None = None,
    recipe: Mapping[str, Any] | Recipe | None = None,
    preset: str | None = None,
    name: str | None = None,
    encoder: str = "builtin",
    tensorboard: bool = False,
    survival: bool = False,
    bins: int = 4,
    unit: str = "",
) -> Steps[ModelCard]:
    """Search a grid on the project's split and store the chosen model; its card's figures are of the test
    cases, which were asked about no other.
    """
    from napari_mil.train import combinations, config_for, recipe_for, search_steps
    from napari_mil.train.search import with_settings

    chosen = with_recorded_ids(project, recipe_for(method, recipe, preset=preset))
    options = config_for(method, config, preset=preset)
    tries = len(combinations(method, grid))
    aside: list[str] = []
    known = as_it_stands(project)
    found_here = cases_steps(known, encoder, survival=survival, aside=aside)
    cases = enough((yield from found_here), project.tree, survival=survival)
    split = split_of(known, cases, chosen.seed, aside, survival=survival)
    if not split.validation:
        raise LabelError("A search chooses by validation cases, and there are none; label more cases.")
    label = name or next_name(project, method)
    found = yield from search_steps(
        cases,
        split,
        method=method,
        config=options,
        recipe=chosen,
        grid=grid,
        tree=task_of(project, cases, split, survival=survival, bins=bins, unit=unit),
        folder=run_folder(project, label),
        tensorboard=tensorboard,
    )
    own, with_choice = with_settings(method, options, chosen, found.settings)
    picked = ", ".join(f"{key} {value}" for key, value in found.settings.items())
    note = "; ".join([f"chosen of {tries} combinations by validation cases: {picked}", *aside])
    card = keep_model(
        known, found.trained, cases, split, own, with_choice, method, label, preset=preset, note=note
    )
    for left in run_folder(project, label).rglob("*.ckpt"):
        left.unlink()
    return card
