"""Figures of tiles (methods.md §6.11): are lesions found, called, called rightly? Are tile labels obeyed?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_mil.errors import LabelError
from napari_mil.evaluate.figures import Figure, Floats, auc, case_weights, interval, lesion_of
from napari_mil.infer import Answer, call, lesion
from napari_mil.labeltree import LabelTree

#: figures of calls: of the leaves, then of the groups one level up
CALLS = (
    *("calls/lesion", "calls/right_leaf", "calls/normal_negative", "calls/normal_positive"),
    *("groups/lesion", "groups/right", "groups/normal_negative", "groups/normal_positive"),
)


@dataclass(frozen=True, slots=True, eq=False)
class TileRecord:
    """One slide's tiles beside their truth: nodes (N,), lesion score (N,), attention over its uniform share
    (N,), so that slides of any size compare, called leaf (N,), and the called group: the node (N,) called at
    the level above the leaves, None without such a level.
    """

    case: str
    truth: NDArray[np.int32]
    score: NDArray[np.float32]
    attention: NDArray[np.float32]
    called: NDArray[np.int32]
    group: NDArray[np.int32] | None = None

    @classmethod
    def of(cls, case: str, said: Answer, truth: NDArray[np.int32], tree: LabelTree) -> TileRecord:
        """The record of an answer; LabelError when the tree has no normal leaves, so that nothing is a
        lesion.
        """
        score = lesion(said, tree)
        if score is None:
            raise LabelError(
                "The label tree does not say which leaves are normal, so tiles cannot be lesions."
            )
        group = call(said, tree, level=tree.levels - 2) if tree.levels > 1 else None
        attention = said.overall_attention * len(said.attention)
        return cls(case, np.asarray(truth), score, attention, call(said, tree), group)


def tile_metrics(
    records: Iterable[TileRecord], tree: LabelTree, *, resamples: int = 1000, seed: int = 0
) -> dict[str, Figure]:
    """Figures of tiles (methods.md §6.11), resampled by case.

    `tile/auc` and `tile/attention_auc`: mean over the slides that hold both lesion and normal tiles; the same
    names with `_pooled`: their tiles together. `calls/lesion`: share of lesion tiles
    called a lesion; `calls/right_leaf`: of those, the share with the right leaf; `calls/normal_negative` and
    `calls/normal_positive`: share of normal tiles called a lesion on slides without and with lesion tiles.
    `groups/…` are the same one level up: `groups/lesion`, lesion tiles called any group; `groups/right`: of
    those, in their own; on normal tiles only a group of nothing but lesions counts.
    What is not defined, such as the right leaf when nothing is called, is left out.
    """
    rows = list(records)
    if not rows:
        return {}
    weights = case_weights([r.case for r in rows], resamples=resamples, seed=seed)
    kind = np.array([lesion_of(tree, node) for node in range(len(tree))])
    lesion = [kind[r.truth] for r in rows]
    mixed = [i for i, k in enumerate(lesion) if (k == 1).any() and (k == 0).any()]
    found: dict[str, Figure] = {}
    for name, column in (("tile/auc", "score"), ("tile/attention_auc", "attention")):
        if not mixed:
            break
        parts = [(lesion[i][lesion[i] >= 0] == 1, getattr(rows[i], column)[lesion[i] >= 0]) for i in mixed]
        single = np.array([auc(*part)[0] for part in parts])
        w = weights[:, mixed]
        with np.errstate(invalid="ignore"):
            found[name] = interval((w * single).sum(1) / w.sum(1))
        found[f"{name}_pooled"] = interval(_pooled(parts, w))
    leaves = [call_counts(r, k, kind, tree) for r, k in zip(rows, lesion, strict=True)]
    groups = [group_counts(r, k, kind, tree) for r, k in zip(rows, lesion, strict=True)]
    counts = np.array([[*a, *b] for a, b in zip(leaves, groups, strict=True)], np.float64)
    total = weights @ counts
    for k, name in enumerate(CALLS):
        with np.errstate(invalid="ignore", divide="ignore"):
            found[name] = interval(total[:, 2 * k] / total[:, 2 * k + 1])
    return {name: figure for name, figure in found.items() if np.isfinite(figure[0])}


def tile_cases(records: Iterable[TileRecord], tree: LabelTree) -> dict[str, set[str]]:
    """The cases that each group of `tile_metrics` stands on."""
    kind = np.array([lesion_of(tree, node) for node in range(len(tree))])
    rows = [(r.case, set(kind[r.truth])) for r in records]
    known = {case for case, kinds in rows if kinds - {-1}}
    return {"tile": {case for case, kinds in rows if kinds >= {0, 1}}, "calls": known, "groups": known}


def _pooled(parts: Sequence[tuple[NDArray[Any], NDArray[Any]]], weights: Floats) -> Floats:
    """(R,) AUC over the tiles of several slides together, each weighed as its slide: weights (R, slides)."""
    positive, score = (np.concatenate(column) for column in zip(*parts, strict=True))
    owner = np.repeat(np.arange(len(parts)), [len(score) for _, score in parts])
    rows = max(1, 10_000_000 // len(score))  # bounds the memory that the weights of all tiles take
    chunks = range(0, len(weights), rows)
    return np.concatenate([auc(positive, score, weights[i : i + rows][:, owner]) for i in chunks])


def call_counts(record: TileRecord, lesion: NDArray[Any], kind: NDArray[Any], tree: LabelTree) -> list[int]:
    """Numerator and denominator of the four call figures for one slide."""
    called = kind[record.called] == 1
    hit, missed = (lesion == 1) & called, (lesion == 0) & called
    leaf = np.isin(record.truth, tree.leaves)
    right = hit & leaf & (record.called == record.truth)
    positive, normal = bool((lesion == 1).any()), int((lesion == 0).sum())
    on_negative, on_positive = int(missed.sum()) * (not positive), int(missed.sum()) * positive
    return [
        *(int(hit.sum()), int((lesion == 1).sum())),
        *(int(right.sum()), int((hit & leaf).sum())),
        *(on_negative, normal * (not positive)),
        *(on_positive, normal * positive),
    ]


def group_counts(record: TileRecord, lesion: NDArray[Any], kind: NDArray[Any], tree: LabelTree) -> list[int]:
    """Numerator and denominator of the four group figures for one slide; zeros without groups."""
    if record.group is None:
        return [0] * 8
    own = np.array([tree.at_level(node, tree.levels - 2) if node else 0 for node in range(len(tree))])
    hit = (lesion == 1) & (record.group > 0)
    right = hit & (record.group == own[record.truth])
    told = hit & (own[record.truth] > 0)
    wrong, normal = int(((lesion == 0) & (kind[record.group] == 1)).sum()), int((lesion == 0).sum())
    positive = bool((lesion == 1).any())
    return [
        *(int(hit.sum()), int((lesion == 1).sum())),
        *(int(right.sum()), int(told.sum())),
        *(wrong * (not positive), normal * (not positive)),
        *(wrong * positive, normal * positive),
    ]


def obeyed(tile_probability: NDArray[Any], tiles: NDArray[np.int32], tree: LabelTree) -> NDArray[np.bool_]:
    """(n,) for the n labelled tiles in order: is the label's node the most likely one of its level
    (§6.12)?
    """
    level_of = np.array([tree.level_of(node) for node in range(len(tree))])
    out = np.zeros(len(tiles), bool)
    for level in range(tree.levels):
        here = (tiles > 0) & (level_of[tiles] == level)
        if here.any():
            best = tree.lift(tile_probability[here], level).argmax(1)
            out[here] = np.array(tree.nodes_at(level))[best] == tiles[here]
    return out[tiles > 0]
