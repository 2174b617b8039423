"""How to train: recipes for a first training and for going on with corrections."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from napari_mil import methods
from napari_mil.card import Recipe
from napari_mil.options import build


def recipe_for(method: str, given: Mapping[str, Any] | Recipe | None = None) -> Recipe:
    """The recipe of a first training: the defaults, what the method asks for instead, and what a person gave.

    A whole Recipe is taken as it is. ModelError when an option is unknown or out of bounds.
    """
    if isinstance(given, Recipe):
        return build(Recipe, given, "the recipe")
    return build(Recipe, {**methods.get(method).recipe, **(given or {})}, "the recipe")


def retrain_recipe(parent: Recipe, *, seed: int = 0) -> Recipe:
    """The recipe for going on from a model with new labels: its parent's, but gentler and shorter.

    The old cases are all met again in every epoch, so that nothing is unlearned; corrected tiles are
    rehearsed until the model follows them.
    """
    return dataclasses.replace(
        parent,
        epochs=15,
        lr=parent.lr * 0.1,
        min_epochs=5,
        patience=8,
        stage1_epochs=0,
        tile_share=0.3,
        seed=seed,
    )
