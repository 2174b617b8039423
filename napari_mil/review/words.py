"""Why a place is worth a question: one sentence for each criterion, with its figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_mil.labeltree import LabelTree
from napari_mil.review.measures import Floats, chance, entropy

if TYPE_CHECKING:
    from napari_mil.review.signals import Tiles, Whole


def percent(p: float) -> str:
    """A probability in percent; one that was only rounded to 0 or 100 is not called so."""
    return ">99%" if 0.995 <= p < 1 else "<1%" if 0 < p < 0.005 else f"{100 * p:.0f}%"


def label(tree: LabelTree, node: int, p: float) -> str:
    """A label with its probability."""
    return f"{tree.path(node)} ({percent(p)})"


def between(levels: Sequence[Floats], tree: LabelTree) -> str:
    """The two labels that an answer wavers between, at the level where it does so most, else the coarsest."""
    wavers = [float(entropy(p)) - 1e-9 * n if len(p) > 1 else -1.0 for n, p in enumerate(levels)]
    at = int(np.argmax(wavers))
    p, nodes = levels[at], tree.nodes_at(at)
    first, second = np.argsort(-p, kind="stable")[:2]
    return f"{label(tree, nodes[first], p[first])} and {label(tree, nodes[second], p[second])}"


def of_tile(tiles: Tiles, given: int, tree: LabelTree, i: int) -> dict[str, str]:
    """Criterion → its sentence for tile i."""
    said: dict[str, str] = {}
    here = [p[i] for p in tiles.levels]
    weighs = f"{tiles.lift[i]:.1f} times the average attention"
    said["rests"] = (
        f"The slide's answer rests on this tile, that nobody has looked at: {weighs} "
        f"(place {tiles.place[i]:,} of {len(tiles.lift):,})."
    )
    if len(tree.leaves) > 1:
        said["unsure"] = f"The model wavers between {between(here, tree)} here, at {weighs}."
    if tiles.other.any():
        k = int(np.where(tiles.other, here[-1], -1).argmax())
        looks = label(tree, tree.leaves[k], here[-1][k])
        said["label"] = (
            f"The slide is labelled {tree.path(given)}, but this tile looks like {looks}, at {weighs}."
        )
    if tiles.ranks is not None:
        taught, learned = (f"{rank[i]:,}" for rank in tiles.ranks)
        said["teacher"] = (
            f"Teacher and student disagree: of {len(tiles.lift):,} tiles the teacher puts this one in place "
            f"{taught}, the student in place {learned}."
        )
    if tiles.apart is not None:
        said["levels"] = f"Coarse and fine attention contradict each other here ({tiles.apart[i]:.2f} of 1)."
    return said


def of_slide(whole: Whole, given: int, tree: LabelTree) -> dict[str, str]:
    """Criterion → its sentence for the slide as a whole."""
    said: dict[str, str] = {}
    if len(tree.leaves) > 1:
        said["unsure"] = f"The model wavers between {between(whole.levels, tree)} for this slide."
    if given:
        best = int(whole.levels[-1].argmax())
        mine, says = chance(whole.levels[-1], tree, given), tree.leaves[best]
        agrees = says in tree.leaves_under(given)
        said["label"] = f"Nobody has confirmed the label {tree.path(given)}, to which the model gives " + (
            f"{percent(mine)}."
            if agrees
            else f"{percent(mine)}; it says {_best(tree, whole.levels[-1], -1)}."
        )
    if len(whole.levels) > 1:
        above = len(whole.levels) - 2
        adds = _best(tree, np.asarray(tree.lift(whole.levels[-1], above)), above)
        own = _best(tree, whole.levels[above], above)
        said["levels"] = f"The coarse answer is {own}, the fine one adds up to {adds}."
    if whole.shared is not None:
        shared, top = whole.shared
        said["teacher"] = f"Of the teacher's {top} top tiles {shared} are among the student's {top}."
    return said


def _best(tree: LabelTree, p: NDArray[Any], level: int) -> str:
    k = int(p.argmax())
    return label(tree, tree.nodes_at(level % tree.levels)[k], float(p[k]))
