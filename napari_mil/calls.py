"""Which tiles are called, and as what: only where the model looked and the slide's own answer agrees.

Shape letters: N tiles, C classes of a level. Everything here is numpy; docs/methods.md has the definitions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_mil.errors import BagError
from napari_mil.labeltree import LabelTree

_AT_ONCE = 8192  # tiles
_ROUNDING = 1e-6  # of a lift: 1 / N in float32, N times, may be a little less than 1


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
    [called] = calls(
        tile_probability,
        lift,
        [slide_probability],
        tree,
        level=level,
        min_lift=min_lift,
        min_probability=min_probability,
    )
    return called


def calls(
    tile_probability: Any,
    lift: Any,
    slide_probabilities: Sequence[Any | None],
    tree: LabelTree,
    *,
    level: int = -1,
    min_lift: float = 1.0,
    min_probability: float = 0.5,
) -> list[NDArray[np.int32]]:
    """`call_tiles` with each of several answers for the slide, for little more than the time of one."""
    at = level % tree.levels
    p, raised = _rows(tile_probability, "tile_probability"), _rows(lift, "lift")
    _columns(p, tree, at, "tile_probability")
    if len(raised) != len(p):
        raise BagError(f"lift has {len(raised)} rows for {len(p)} tiles; one per tile is expected.")
    if raised.shape[1] > 1:
        _columns(raised, tree, at, "lift")
    slides = [None if one is None else np.asarray(one, np.float64) for one in slide_probabilities]
    for slide in slides:
        if slide is not None:
            _columns(slide, tree, at, "slide_probability")
    nodes, under = np.asarray(tree.nodes_at(at), np.int32), tree.lift_matrix(at).astype(bool).T
    called = [np.empty(len(p), np.int32) for _ in slides]
    for some in _chunks(len(p)):
        mine = _by_class(p[some])
        best, chance = _highest(_to_level(mine, under, np.add))
        looked = _looked(_by_class(raised[some]), best, under) >= min_lift * (1 - _ROUNDING)
        sure = (chance >= min_probability) & looked
        for slide, made in zip(slides, called, strict=True):
            agrees = True if slide is None else _agreed(mine, slide, best, under) >= min_probability
            np.multiply(nodes[best], sure & agrees, out=made[some])
    return called


def lesion_score(tile_probability: Any, lift: Any, tree: LabelTree) -> NDArray[np.float32]:
    """(N,) how much a tile speaks for a lesion: lift · probability of the lesion leaves (what the normal ones
    leave of 1 would be nothing but rounding where a model is sure).

    With class-wise attention (N, C), which already says where each class is looked for, it is the highest
    lift of any lesion leaf. BagError when the tree names no normal leaf, or names all.
    """
    normal = tree.normal_classes()
    if normal.all() or not normal.any():
        raise BagError(f"{int(normal.sum())} of {len(normal)} leaves are normal; a lesion needs both kinds.")
    p, raised = _rows(tile_probability, "tile_probability"), _rows(lift, "lift")
    score = np.empty(len(raised), np.float32)
    for some in _chunks(len(raised)):
        mine = _by_class(raised[some])
        if len(mine) > 1:
            score[some] = mine[~normal].max(0)
        else:
            score[some] = mine[0] * _by_class(p[some])[~normal].sum(0)
    return score


def _rows(values: Any, name: str) -> NDArray[Any]:
    array = np.asarray(values)
    array = array[:, None] if array.ndim == 1 else array
    if array.ndim != 2:
        raise BagError(f"{name} has shape {array.shape}; (tiles, classes) is expected.")
    return array


def _columns(array: NDArray[Any], tree: LabelTree, level: int, name: str) -> None:
    leaves, here = len(tree.leaves), len(tree.nodes_at(level))
    if array.shape[-1] not in (leaves, here):
        raise BagError(
            f"{name} has {array.shape[-1]} columns; the tree has {leaves} leaves and {here} labels here."
        )


def _chunks(count: int) -> Iterator[slice]:
    """So many tiles at a time that what is made of them stays in the processor's cache."""
    for begin in range(0, count, _AT_ONCE):
        yield slice(begin, begin + _AT_ONCE)


def _by_class(rows: NDArray[Any]) -> NDArray[np.float64]:
    """(C, n) of (n, C): a few long rows instead of many short ones."""
    return np.ascontiguousarray(rows.T, np.float64)


def _to_level(values: NDArray[np.float64], under: NDArray[np.bool_], how: np.ufunc) -> NDArray[np.float64]:
    """(C_level, n) values of the leaves that are under each class put together; those of the level are left
    alone.
    """
    if len(values) != under.shape[1] or under.shape[0] == under.shape[1]:
        return values
    return np.stack([how.reduce(values[leaves], axis=0) for leaves in under])


def _highest(values: NDArray[np.float64]) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """(n,) the row in which each of the columns (C, n) is highest, the first of equals, and how high."""
    best, top = np.zeros(values.shape[1], np.intp), values[0].copy()
    for k, row in enumerate(values[1:], 1):
        np.copyto(best, k, where=row > top)
        np.maximum(top, row, out=top)
    return best, top


def _agreed(
    p: NDArray[np.float64],
    slide: NDArray[np.float64],
    best: NDArray[np.intp],
    under: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """(n,) softmax(t_i + log p_slide) of the class called: at the leaves where both speak there, else at the
    level.
    """
    if len(p) == len(slide):
        weighed = _to_level(p * slide[:, None], under, np.add)
    else:
        weighed = _to_level(p, under, np.add) * _to_level(slide[:, None], under, np.add)
    total = weighed.sum(0)
    shares: NDArray[np.float64] = np.divide(
        _picked(weighed, best), total, out=np.zeros_like(total), where=total > 0
    )
    return shares


def _looked(
    raised: NDArray[np.float64], best: NDArray[np.intp], under: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """(n,) attention lift of the class called; a coarse class has the highest of its leaves."""
    alone = len(raised) == 1
    looked: NDArray[np.float64] = raised[0] if alone else _picked(_to_level(raised, under, np.maximum), best)
    return looked


def _picked(values: NDArray[np.float64], best: NDArray[np.intp]) -> NDArray[np.float64]:
    """(n,) of each column (C, n) the row that is best."""
    picked: NDArray[np.float64] = np.take_along_axis(values, best[None], 0)[0]
    return picked
