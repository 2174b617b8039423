"""What makes two runs the same run, so that one can go on where the other was killed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from napari_mil.card import Recipe
from napari_mil.evaluate import Split, TrainingCase
from napari_mil.labeltree import LabelTree


def run_key(
    cases: Iterable[TrainingCase],
    split: Split,
    *,
    method: str,
    config: Mapping[str, Any],
    recipe: Recipe,
    tree: LabelTree,
    start: Mapping[str, torch.Tensor] | None = None,
) -> str:
    """64 hex digits over everything that decides a run: the cases of the split with their labels and the
    shape of their bags, method, options, recipe, tree, and the weights that it starts from.
    """
    digest = hashlib.sha256()
    digest.update(repr((method, sorted(config.items()), recipe, split, tree)).encode())
    chosen = {*split.train, *split.validation, *split.test}
    for case in sorted((c for c in cases if c.case in chosen), key=lambda c: c.case):
        bags = [(bag.slide_id, bag.encoder, *bag.features.shape) for bag in case.bags]
        known = case.target
        digest.update(repr((case.case, bags, known.slide, known.time, known.event)).encode())
        for tiles in case.tiles:
            digest.update(b"none" if tiles is None else tiles.tobytes())
    for name, values in sorted((start or {}).items()):
        digest.update(name.encode())
        digest.update(values.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
