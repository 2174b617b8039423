"""Which labels cannot hold for the place at hand, and why. Pure."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from napari_mil.labeltree import LabelTree, excluded
from napari_mil.ui.state import State


def impossible(state: State) -> dict[int, str]:
    """Node → a sentence that says why the place at hand cannot be called so.

    Of a tile that is what the slide's label excludes, and everything while what was said of it is locked.
    While no tile is at hand it is also what the labels of tiles exclude of the slide.
    """
    if state.project is None or state.veiled:
        return {}
    tree = state.project.tree
    if state.cell is not None and (locked := _locked(state)):
        return dict.fromkeys(range(len(tree)), locked)
    label = state.slide_label
    found = {
        node: f"The slide is labelled {label}, so no tile of it can be {tree.path(node)}."
        for node in _excluded(tree, tree.node(label))
    }
    if state.cell is not None or state.nodes is None:
        return found
    counts = np.bincount(state.nodes, minlength=len(tree))
    for said in np.flatnonzero(counts[1:]) + 1:
        n, path = int(counts[said]), tree.path(int(said))
        tiles = "1 tile is" if n == 1 else f"{n:,} tiles are"
        for node in range(1, len(tree)):
            if said in _excluded(tree, node):
                words = f"{tiles} labelled {path}, so the slide as a whole cannot be {tree.path(node)}."
                found.setdefault(node, words)
    return found


def implied(tree: LabelTree, node: int | None) -> dict[int, str]:
    """Ancestor of a node → a sentence that says that it is said too: fine implies coarse."""
    return {
        above: f"{tree.path(node or 0)} says {tree.path(above)} too." for above in tree.ancestors(node or 0)
    }


def _locked(state: State) -> str:
    """Why nothing can be said of the tile at hand, "" where it can."""
    event, counts = next(iter(state.said_of(state.cell)), (0, None))
    if counts is None or event not in state.locked:
        return ""
    what = counts.label or "having no label"
    return f"This place is locked as {what}; unlock it first (Alt+K)."


@lru_cache(maxsize=256)
def _excluded(tree: LabelTree, slide: int) -> frozenset[int]:
    return excluded(tree, slide)
