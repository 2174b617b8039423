"""Bags with planted lesions: real input for the engine, made in milliseconds."""

from __future__ import annotations

import numpy as np

from napari_mil.bag import Bag
from napari_mil.correction import Target
from napari_mil.evaluate import TrainingCase
from napari_mil.grid import TileGrid
from napari_mil.labeltree import LabelTree

TREE = LabelTree.from_paths(
    [
        *("Benign/N", "Benign/PB", "Benign/UDH"),
        *("Atypical/FEA", "Atypical/ADH"),
        *("Malignant/DCIS", "Malignant/IC"),
    ],
    normal=["Benign/N"],
)
FLAT = LabelTree.from_paths(["none", "lesion"], normal=["none"])


def bag(
    node: int,
    *,
    seed: int,
    tree: LabelTree = TREE,
    n: int = 40,
    width: int = 24,
    share: float = 0.15,
    signal: float = 3.0,
):
    """A bag of `n` tiles of which about `share` carry the slide's leaf, and the truth per tile (n,)."""
    rng = np.random.default_rng((seed, node))
    directions = np.random.default_rng(7).normal(size=(len(tree), width))
    directions *= signal / np.linalg.norm(directions, axis=1, keepdims=True)
    normal = tree.normal[0] if tree.normal else tree.leaves[0]
    truth = np.full(n, normal, np.int32)
    truth[: max(1, round(n * share))] = node
    truth = rng.permutation(truth)
    features = rng.normal(size=(n, width)) + directions[truth]
    cells = np.stack(np.divmod(np.arange(n), 10), 1)
    grid = TileGrid((256 * (n // 10 + 1), 2560), (0.5, 0.5), 256, 0.5, cells)
    return Bag(f"slide-{seed}-{node}", grid, features.astype(np.float16), "planted"), truth


def cohort(cases_n: int = 42, *, seed: int = 0, tree: LabelTree = TREE, labelled: bool = False, **options):
    """`cases_n` cases of one bag each, the leaves in turn, and the truth per case."""
    cases, truths = [], {}
    for i in range(cases_n):
        node = tree.leaves[i % len(tree.leaves)]
        one, truth = bag(node, seed=seed * 1000 + i, tree=tree, **options)
        name = f"case-{i:03d}"
        cases.append(TrainingCase(name, (one,), Target(node), (truth,) if labelled else ()))
        truths[name] = truth
    return cases, truths
