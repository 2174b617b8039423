"""Which tiles are called, and as what: only where the model looked and the slide's own answer agrees.

Shape letters: N tiles, C classes of a level. Everything here is numpy; docs/methods.md has the definitions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_mil.errors import BagError
from napari_mil.labeltree import LabelTree


def call_tiles(
    tile_probability: Any,
    lift: Any,
    slide_probability: Any | None,
    tree: LabelTree,
    *,
    level: int = -1,
    min_lift: float = 1.0,
    min_probability: float = 0.5,
) -> NDArray[np.int32]:
    """(N,) int32 node per tile, 0 where there is no call.

    A tile is called class k when k is its most probable class with at least `min_probability`, k is also
    the most probable with at least `min_probability` once the slide's own answer is multiplied in, and the
    attention there is at least `min_lift` times the uniform one.

    Parameters
    ----------
    tile_probability : (N, C) softmax of the tile's class scores, over the leaves; lifted here to a coarser
        `level`. A method with a head of its own at a coarser level may give (N, C_level) instead
    lift : (N,) or (N, 1) attention · N, or class-wise with the columns of either level. Class-wise
        attention counts for the class called; a coarse class has the highest of its leaves
    slide_probability : (C,) or (C_level,) the slide's answer, or None: the map without it
    tree : the label tree
    level : level of the call, −1 the finest
    """
    at = level % tree.levels
    p = _rows(tile_probability, "tile_probability")
    _columns(p, tree, at, "tile_probability")
    here = _to_level(p, tree, at)
    best = here.argmax(1)
    rows = np.arange(len(p))
    sure = here[rows, best] >= min_probability
    if slide_probability is not None:
        agreed = _agreed(p, here, np.asarray(slide_probability, np.float64), tree, at)
        sure &= agreed[rows, best] >= min_probability
    sure &= _looked(lift, best, tree, at, len(p)) >= min_lift
    nodes = np.asarray(tree.nodes_at(at), np.int32)
    return np.where(sure, nodes[best], 0).astype(np.int32)


def lesion_score(tile_probability: Any, lift: Any, tree: LabelTree) -> NDArray[np.float32]:
    """(N,) how much a tile speaks for a lesion: lift · (1 − probability of the normal leaves).

    With class-wise attention (N, C), which already says where each class is looked for, it is the highest
    lift of any lesion leaf. BagError when the tree names no normal leaf, or names all.
    """
    normal = tree.normal_classes()
    if normal.all() or not normal.any():
        raise BagError(f"{int(normal.sum())} of {len(normal)} leaves are normal; a lesion needs both kinds.")
    p = _rows(tile_probability, "tile_probability")
    raised = _rows(lift, "lift")
    wise = raised.shape[1] > 1
    score = raised[:, ~normal].max(1) if wise else raised[:, 0] * (1 - p[:, normal].sum(1))
    return np.asarray(score, np.float32)


def _rows(values: Any, name: str) -> NDArray[np.float64]:
    array = np.asarray(values, np.float64)
    array = array[:, None] if array.ndim == 1 else array
    if array.ndim != 2:
        raise BagError(f"{name} has shape {array.shape}; (tiles, classes) is expected.")
    return array


def _columns(array: NDArray[np.float64], tree: LabelTree, level: int, name: str) -> None:
    leaves, here = len(tree.leaves), len(tree.nodes_at(level))
    if array.shape[-1] not in (leaves, here):
        raise BagError(
            f"{name} has {array.shape[-1]} columns; the tree has {leaves} leaves and {here} labels here."
        )


def _to_level(p: NDArray[np.float64], tree: LabelTree, level: int) -> NDArray[np.float64]:
    """Probabilities of the leaves summed up to the level; those of the level itself are left alone."""
    if p.shape[-1] != len(tree.leaves):
        return p
    lifted: NDArray[np.float64] = tree.lift(p, level)
    return lifted


def _agreed(
    p: NDArray[np.float64],
    here: NDArray[np.float64],
    slide: NDArray[np.float64],
    tree: LabelTree,
    level: int,
) -> NDArray[np.float64]:
    """softmax(t_i + log p_slide): at the leaves where both speak there, else at the level."""
    _columns(slide, tree, level, "slide_probability")
    if p.shape[1] == len(slide):
        return _to_level(_normalised(p * slide), tree, level)
    return _normalised(here * _to_level(slide, tree, level))


def _normalised(p: NDArray[np.float64]) -> NDArray[np.float64]:
    total = p.sum(1, keepdims=True)
    shares: NDArray[np.float64] = np.divide(p, total, out=np.zeros_like(p), where=total > 0)
    return shares


def _looked(
    lift: Any, best: NDArray[np.intp], tree: LabelTree, level: int, tiles: int
) -> NDArray[np.float64]:
    """(N,) attention lift of the class called."""
    raised = _rows(lift, "lift")
    if len(raised) != tiles:
        raise BagError(f"lift has {len(raised)} rows for {tiles} tiles; one per tile is expected.")
    if raised.shape[1] == 1:
        return np.asarray(raised[:, 0], np.float64)
    _columns(raised, tree, level, "lift")
    if raised.shape[1] == len(tree.leaves):
        under = tree.lift_matrix(level).astype(bool)
        raised = np.stack([raised[:, column].max(1) for column in under.T], axis=1)
    picked: NDArray[np.float64] = raised[np.arange(tiles), best]
    return picked
