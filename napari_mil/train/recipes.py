"""How to train: recipes for a first training and for going on with corrections."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from napari_mil import methods
from napari_mil.card import Recipe
from napari_mil.errors import ModelError
from napari_mil.options import build, check_heard


def recipe_for(
    method: str, given: Mapping[str, Any] | Recipe | None = None, *, preset: str | None = None
) -> Recipe:
    """The recipe of a first training: the defaults, what the method asks for instead (or a preset of a paper,
    see `methods.presets`), and what a person gave.

    A whole Recipe is taken as it is. ModelError when an option is unknown or out of bounds.
    """
    if isinstance(given, Recipe):
        return build(Recipe, given, "the recipe")
    usual = methods.preset(method, preset).recipe if preset else methods.get(method).recipe
    _belong(
        given or {}, Recipe, methods.get(method).Config, f"an option of {method}, not of the training: -s"
    )
    return build(Recipe, {**usual, **(given or {})}, "the recipe")


def config_for(
    method: str, given: Mapping[str, Any] | None = None, *, preset: str | None = None
) -> dict[str, Any]:
    """All options of a method as a mapping: the defaults, or a preset's, and what a person gave instead."""
    usual = methods.preset(method, preset).config if preset else {}
    _belong(
        given or {}, methods.get(method).Config, Recipe, f"an option of the training, not of {method}: -r"
    )
    config: Any = build(methods.get(method).Config, {**usual, **(given or {})}, method)
    check_heard(config, given or {}, method)
    return dataclasses.asdict(config)


def _belong(given: Mapping[str, Any], here: type, there: type, words: str) -> None:
    """ModelError when an option was given to the method that is the training's, or the other way round."""
    where = "recipe" if there is Recipe else "config"
    mine, theirs = ({f.name for f in dataclasses.fields(kind)} for kind in (here, there))
    for key, value in given.items():
        if key in theirs - mine:
            raise ModelError(f"{key} is {words} {key}={value} (in Python `{where}`).")


def retrain_recipe(parent: Recipe, *, seed: int = 0) -> Recipe:
    """The recipe for going on from a model with new labels: its parent's, but gentler and shorter.

    The old cases are all met again in every epoch, so that nothing is unlearned; corrected tiles are
    rehearsed until the model follows them, and that also chooses the epoch, whatever rule the parent had.
    """
    return dataclasses.replace(
        parent,
        epochs=15,
        lr=parent.lr * 0.1,
        min_epochs=5,
        patience=8,
        schedule="cosine",
        stopping="plain",
        select_by="score",
        stage1_epochs=0,
        tile_share=0.3,
        record=(),
        seed=seed,
    )
