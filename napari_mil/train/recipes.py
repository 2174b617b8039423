"""How to train: recipes for a first training and for going on with corrections."""

from __future__ import annotations

import dataclasses

from napari_mil.card import Recipe


def retrain_recipe(parent: Recipe, *, seed: int = 0) -> Recipe:
    """The recipe for going on from a model with new labels: its parent's, gentler and shorter.

    The old cases are all met again in every epoch, so that nothing is unlearned; corrected tiles are
    rehearsed until the model follows them.
    """
    return dataclasses.replace(
        parent,
        epochs=20,
        lr=parent.lr / 2,
        min_epochs=5,
        patience=8,
        stage1_epochs=0,
        tile_share=0.3,
        seed=seed,
    )
