"""What a model said about a slide: probabilities per level of the tree, or hazards, and maps of its tiles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from napari_mil.arrays import frozen
from napari_mil.errors import BagError
from napari_mil.labeltree import LabelTree, risk, survival_curve

Kind = Literal["score", "mask", "nodes", "groups"]
Scope = Literal["slide", "region", "case"]


@dataclass(frozen=True, slots=True, eq=False)
class TileMap:
    """One value per tile.

    Attributes
    ----------
    name : path-like, `attention`, `attention/fine/ADH`, `probability/fine/ADH`, `class/coarse`, `hidden`
    kind : score (a number), mask (bool), nodes (node of the label tree, 0 = no call), groups (role or
        cluster id)
    values : (N,) float32 for score, bool for mask, int32 for nodes and groups
    span : (low, high) the range a legend shows, or None: that of the values
    legend : what the codes of a `groups` map mean, {code: words}
    note : what a reader must know ("simulated", "approximate", "this region only"), shown in the legend
    """

    name: str
    kind: Kind
    values: NDArray[Any]
    span: tuple[float, float] | None = None
    legend: Mapping[int, str] = field(default_factory=dict)
    note: str = ""

    def __post_init__(self) -> None:
        dtype = {"score": np.float32, "mask": np.bool_, "nodes": np.int32, "groups": np.int32}[self.kind]
        object.__setattr__(self, "values", frozen(self.values, dtype, shape=(None,), name=f"map {self.name}"))


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """A model's answer for one slide, one region of it, or the slides of a case as one.

    Attributes
    ----------
    slide_id, grid_id, model_id : what it was computed for; of a case "" and ""
    scope : "slide", "region" or "case"; a region's answer never becomes the slide's
    probabilities : per level of the tree, coarse first, (C_l,) summing to 1; () where the task is time
    hazards : (K,) chance of the event in each interval when it did not come before, or None
    calibrated : whether the model's temperature was fitted on held-out data
    maps : TileMaps over the same grid
    at : when, UTC
    heads : whether a coarser level is answered by a head of its own, and otherwise than the finest adds up to
    """

    slide_id: str
    grid_id: str
    model_id: str
    scope: Scope
    probabilities: tuple[NDArray[np.float32], ...]
    maps: tuple[TileMap, ...] = ()
    calibrated: bool = False
    hazards: NDArray[np.float32] | None = None
    at: datetime = field(default_factory=lambda: datetime.now(UTC))
    heads: bool = False

    def __post_init__(self) -> None:
        if len({len(m.values) for m in self.maps}) > 1:
            raise BagError(
                "The maps of a prediction have different lengths; all must hold one value per tile."
            )
        probabilities = tuple(
            frozen(p, np.float32, shape=(None,), name="probabilities") for p in self.probabilities
        )
        object.__setattr__(self, "probabilities", probabilities)
        if self.hazards is not None:
            hazards = frozen(self.hazards, np.float32, shape=(None,), name="hazards")
            object.__setattr__(self, "hazards", hazards)

    def map(self, name: str) -> TileMap:
        """The map called `name`; KeyError naming the maps there are."""
        for m in self.maps:
            if m.name == name:
                return m
        raise KeyError(f"no map {name!r}; there are {', '.join(m.name for m in self.maps)}")

    @property
    def survival(self) -> NDArray[np.float64] | None:
        """(K,) S: the chance that the event has not come by the end of each interval, or None."""
        return None if self.hazards is None else survival_curve(self.hazards)

    @property
    def risk(self) -> float | None:
        """−Σ S, in [−K, 0], the higher, the sooner the event; None without hazards."""
        return None if self.hazards is None else float(risk(self.hazards))

    @property
    def has_heads(self) -> bool:
        """Whether the method has a head of its own for a coarser level; else that level is lifted from the
        finest. (In answers of earlier versions it could differ from that by the temperature.)
        """
        return self.heads or any(m.name == "disagreement" for m in self.maps)

    def heads_apart(self, tree: LabelTree) -> tuple[int, int] | None:
        """(node, node) at the coarsest level where a method's own head says the one, and its finest answer
        adds up to the other; None where they agree, or where the method has no such head.
        """
        if not self.has_heads:
            return None
        for level, p in enumerate(self.probabilities[:-1]):
            own, sums = int(np.argmax(p)), int(np.argmax(tree.lift(self.probabilities[-1], level)))
            if own != sums:
                return tree.nodes_at(level)[own], tree.nodes_at(level)[sums]
        return None

    def best(self, tree: LabelTree) -> tuple[tuple[int, float], ...]:
        """(node, probability) of the most likely class of each level, coarse first."""
        return tuple(
            (tree.nodes_at(level)[int(np.argmax(p))], float(np.max(p)))
            for level, p in enumerate(self.probabilities)
        )
