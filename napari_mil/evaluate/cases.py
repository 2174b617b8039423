"""Cases to learn from and to be judged on, and how they are split: always by case."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_mil.bag import Bag
from napari_mil.correction import Target
from napari_mil.errors import BagError, LabelError


@dataclass(frozen=True, slots=True, eq=False)
class TrainingCase:
    """What carries one label: the bags of a patient or specimen.

    Attributes
    ----------
    case : id of the case
    bags : its slides' bags, at least one, all of the same encoder
    target : what is known of the case; its `tiles` stay None, tile labels stand in `tiles` below
    tiles : per bag (N,) int32 node per tile, 0 = unknown, or None; () when no tile is labelled
    """

    case: str
    bags: tuple[Bag, ...]
    target: Target = field(default_factory=Target)
    tiles: tuple[NDArray[np.int32] | None, ...] = ()

    def __post_init__(self) -> None:
        if not self.bags:
            raise BagError(f"Case {self.case!r} has no bag; leave it out or embed its slides.")
        if self.tiles and len(self.tiles) != len(self.bags):
            raise BagError(
                f"Case {self.case!r} has {len(self.bags)} bags and {len(self.tiles)} lists of tile labels."
            )
        for bag, nodes in zip(self.bags, self.tiles, strict=False):
            if nodes is not None and len(nodes) != len(bag):
                raise BagError(
                    f"Case {self.case!r}: {len(nodes)} tile labels do not fit a bag of {len(bag)} tiles."
                )

    def joined(self) -> tuple[NDArray[Any], NDArray[np.int32], Target]:
        """Features (N, D), and what `placed` says."""
        features = self.bags[0].features  # that of a single bag is not copied
        if len(self.bags) > 1:
            features = np.concatenate([bag.features for bag in self.bags])
        return features, *self.placed()

    def placed(self) -> tuple[NDArray[np.int32], Target]:
        """Cells (N, 2) with each bag below the one before, and the target with tile labels (N,)."""
        above = np.cumsum([0, *(bag.grid.shape[0] for bag in self.bags[:-1])])
        cells = [bag.grid.cells + np.array((row, 0)) for bag, row in zip(self.bags, above, strict=True)]
        tiles = None
        if any(nodes is not None for nodes in self.tiles):
            known = zip(self.bags, self.tiles, strict=True)
            tiles = np.concatenate([np.zeros(len(b), np.int32) if t is None else t for b, t in known])
        target = Target(self.target.slide, tiles, self.target.time, self.target.event)
        return np.concatenate(cells).astype(np.int32), target


@dataclass(frozen=True, slots=True)
class Split:
    """Ids of the cases to learn from, to decide with, and to report on; no case stands twice."""

    train: tuple[str, ...]
    validation: tuple[str, ...] = ()
    test: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        every = (*self.train, *self.validation, *self.test)
        if not self.train:
            raise LabelError("There is no case to train on; give some cases the split 'train'.")
        if len(set(every)) != len(every):
            twice = min(c for c in every if every.count(c) > 1)
            raise LabelError(
                f"Case {twice!r} stands in two parts of the split; a case belongs to exactly one."
            )


def without_leaks(split: Split, cases: Sequence[TrainingCase]) -> tuple[Split, tuple[tuple[str, str], ...]]:
    """The split less the cases to learn from that show a picture which is held out, too, and (case, held-out
    case) of each; LabelError when no case is left to learn from.

    The same picture may stand in a study under two names, copied or converted: `Bag.pixel_hash` tells.
    """
    pictures = {c.case: {b.pixel_hash for b in c.bags if b.pixel_hash} for c in cases}
    held = {h: case for case in (*split.validation, *split.test) for h in pictures.get(case, ())}
    leaks = {case: held[min(both)] for case in split.train if (both := pictures.get(case, set()) & set(held))}
    kept = tuple(case for case in split.train if case not in leaks)
    return replace(split, train=kept) if leaks else split, tuple(leaks.items())


def folds_by_case(
    labels: Mapping[str, int], *, folds: int = 5, validation: float = 0.15, seed: int = 0
) -> tuple[Split, ...]:
    """Splits in which every case is tested once, with about the same mixture of labels in every part.

    `labels` gives each case's node; `validation` is the share of the cases left to learn from that is held
    out for decisions. LabelError when there are fewer cases than folds.
    """
    cases = sorted(labels)
    if len(cases) < max(folds, 2):
        raise LabelError(
            f"{len(cases)} cases are too few for {folds} folds; add cases or ask for fewer folds."
        )
    nodes = np.array([labels[c] for c in cases])
    return tuple(
        _held_out(cases, nodes, rest, test, validation, seed) for rest, test in _deal(nodes, folds, seed)
    )


def split_by_case(
    labels: Mapping[str, int], *, test: float = 0.2, validation: float = 0.15, seed: int = 0
) -> Split:
    """One split with about a share `test` of the cases to report on and `validation` of the rest to decide
    with. Where the cases are too few for that share, none is left to report on.
    """
    cases = sorted(labels)
    nodes = np.array([labels[c] for c in cases])
    folds = max(2, round(1 / test)) if test > 0 else 0
    if not folds or len(cases) < folds:
        return _held_out(cases, nodes, np.arange(len(cases)), np.array([], int), validation, seed)
    return folds_by_case(labels, folds=folds, validation=validation, seed=seed)[0]


def _held_out(
    cases: Sequence[str], nodes: NDArray[Any], rest: NDArray[Any], test: NDArray[Any], share: float, seed: int
) -> Split:
    train, held = rest, np.array([], int)
    if share > 0 and len(rest) >= 2:
        parts = min(max(2, round(1 / share)), len(rest))
        a, b = _deal(nodes[rest], parts, seed + 1)[0]
        train, held = rest[a], rest[b]
    return Split(*(tuple(cases[i] for i in part) for part in (train, held, test)))


def _deal(nodes: NDArray[Any], folds: int, seed: int) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """Stratified folds; labels rarer than the folds are dealt together, as scikit-learn cannot stratify
    them.
    """
    from sklearn.model_selection import KFold, StratifiedKFold  # two seconds of a start that may need none

    values, counts = np.unique(nodes, return_counts=True)
    strata = np.where(np.isin(nodes, values[counts < folds]), -1, nodes)
    if np.max(np.unique(strata, return_counts=True)[1]) < folds:
        return list(KFold(folds, shuffle=True, random_state=seed).split(nodes))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class")  # the pooled stratum may still be rare
        return list(StratifiedKFold(folds, shuffle=True, random_state=seed).split(nodes, strata))
