"""Answers and bags made up for the queue: what a model says of a slide, tile by tile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from napari_mil.bag import Bag
from napari_mil.grid import TileGrid
from napari_mil.labeltree import LabelTree, class_names, level_names
from napari_mil.prediction import Prediction, TileMap
from napari_mil.review import Seen

TREE = LabelTree.from_paths(["Benign/N", "Benign/UDH", "Malignant/DCIS", "Malignant/IC"], normal=["Benign/N"])
N, UDH, DCIS, IC = TREE.leaves


def grid(n: int) -> TileGrid:
    cells = np.stack(np.divmod(np.arange(n), 10), 1)
    return TileGrid((256 * (n // 10 + 1), 2560), (0.5, 0.5), 256, 0.5, cells)


def answer(
    slide: str,
    tiles: Any,
    attention: Any,
    *,
    fine: Sequence[float] = (0.7, 0.1, 0.1, 0.1),
    coarse: Sequence[float] | None = None,
    apart: Any = None,
) -> Prediction:
    """An answer whose tiles have these probabilities of the leaves (N, 4) and this attention (N,)."""
    p, a = np.asarray(tiles, np.float64), np.asarray(attention, np.float64)
    p, a = p / p.sum(1, keepdims=True), a / a.sum()
    maps = [TileMap("attention", "score", a)]
    maps.append(TileMap("lesion", "score", a * len(a) * (1 - p[:, TREE.normal_classes()].sum(1))))
    for level, name in enumerate(level_names(TREE)):
        lifted = TREE.lift(p, level)
        for k, c in enumerate(class_names(TREE, level)):
            maps.append(TileMap(f"probability/{name}/{c}", "score", lifted[:, k]))
    if apart is not None:
        maps.append(TileMap("disagreement", "score", apart))
    top = TREE.lift(np.asarray(fine), 0) if coarse is None else np.asarray(coarse)
    return Prediction(slide, grid(len(a)).id, "m", "slide", (top, np.asarray(fine)), tuple(maps))


def seen(slide: str = "s", n: int = 40, *, seed: int = 0, **about: Any) -> Seen:
    """A slide of n tiles that all look normal, with even attention, where nothing else is said."""
    rng = np.random.default_rng(seed)
    sure = np.tile([0.97, 0.01, 0.01, 0.01], (n, 1))
    told = {k: about.pop(k) for k in ("fine", "coarse", "apart") if k in about}
    said = answer(slide, about.pop("tiles_p", sure), about.pop("attention", np.ones(n)), **told)
    features = about.pop("features", rng.normal(size=(n, 6)).astype(np.float32))
    bag = Bag(slide, grid(n), np.asarray(features, np.float32), "made up")
    return Seen(said, bag, np.asarray(about.pop("tiles", np.zeros(n, np.int32))), **about)
