"""What a model answers with: a tree of labels, or intervals of time.

A label is a node, coarse or fine; node 0 says "unlabelled". Survival is a flat tree of intervals.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_mil.errors import LabelError, reason

#: Okabe and Ito's colour-blind-safe hues first, then Tol's; used in order of the nodes unless colours are
# given.
PALETTE = (
    "#0072B2", "#E69F00", "#D55E00", "#56B4E9", "#009E73", "#66CCEE", "#F0E442",
    "#CC79A7", "#AA3377", "#EE6677", "#882255", "#4477AA", "#228833", "#BBBBBB",
)  # fmt: skip
#: what a time can be counted in
UNITS = ("days", "weeks", "months", "years")
#: coarser answers that lie nearer than this to the lifted finest one are that one, but for rounding
LIFTED = 1e-4


@dataclass(frozen=True, slots=True)
class LabelTree:
    """Labels in levels, every leaf at the same depth.

    Attributes
    ----------
    names : name of each node; names[0] is "unlabelled"
    parent : parent node of each node; top nodes have parent 0, and so has node 0 itself
    colours : "#rrggbb" per node; node 0 is transparent on every map
    normal : leaves that are no lesion (empty where the question makes no sense)

    >>> tree = LabelTree.from_paths(["Benign/N", "Benign/UDH", "Malignant/IC"], normal=["Benign/N"])
    >>> tree.nodes_at(0), tree.nodes_at(1), tree.path(5)
    ((1, 2), (3, 4, 5), 'Malignant/IC')
    >>> tree.lift([0.5, 0.2, 0.3], level=0).tolist()
    [0.7, 0.3]
    """

    names: tuple[str, ...]
    parent: tuple[int, ...]
    colours: tuple[str, ...]
    normal: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        n = len(self.names)
        if n < 2 or len(self.parent) != n or len(self.colours) != n:
            raise LabelError(
                f"A label tree needs at least one label and one parent and colour per node; got {self.names}."
            )
        if any(not 0 <= p < max(i, 1) for i, p in enumerate(self.parent)):
            raise LabelError(f"Parents must stand before their children; got parents {self.parent}.")
        if any(not name or "/" in name for name in self.names):
            raise LabelError(f"Label names must be non-empty and without '/'; got {self.names}.")
        if len({self.path(i) for i in range(n)}) != n:
            raise LabelError("Two labels of the tree have the same path.")
        if len({self._depth(leaf) for leaf in self._childless()}) > 1:
            raise LabelError("Every leaf of a label tree must have the same depth.")
        if set(self.normal) - set(self._childless()):
            raise LabelError("`normal` must name leaves of the tree.")

    @classmethod
    def from_paths(
        cls, paths: Iterable[str], *, normal: Iterable[str] = (), colours: Mapping[str, str] | None = None
    ) -> LabelTree:
        """A tree from leaf paths such as "Atypical/ADH"; nodes are numbered level by level, in the order
        given.
        """
        split = [tuple(p.split("/")) for p in paths]
        prefixes = sorted(
            {s[:d]: None for s in split for d in range(1, len(s) + 1)}, key=len
        )  # stable: keeps order
        order = {(): 0} | {p: i for i, p in enumerate(prefixes, 1)}
        given = dict(colours or {})
        return cls(
            names=("unlabelled", *(p[-1] for p in prefixes)),
            parent=(0, *(order[p[:-1]] for p in prefixes)),
            colours=(
                "#000000",
                *(given.get("/".join(p), PALETTE[i % len(PALETTE)]) for i, p in enumerate(prefixes)),
            ),
            normal=tuple(order[tuple(p.split("/"))] for p in normal),
        )

    def _childless(self) -> tuple[int, ...]:
        inner = set(self.parent)
        return tuple(i for i in range(1, len(self.names)) if i not in inner)

    def _depth(self, node: int) -> int:
        return len(self.ancestors(node))

    def __len__(self) -> int:
        return len(self.names)

    @property
    def levels(self) -> int:
        """L, the number of levels; the last is the finest."""
        return 1 + self._depth(self._childless()[0])

    @property
    def leaves(self) -> tuple[int, ...]:
        """Nodes of the finest level."""
        return self.nodes_at(self.levels - 1)

    def nodes_at(self, level: int) -> tuple[int, ...]:
        """Nodes of a level (0 = coarsest) in class order: class k of that level is the k-th of them."""
        return tuple(i for i in range(1, len(self.names)) if self._depth(i) == level)

    def level_of(self, node: int) -> int:
        """Level of a node (0 = coarsest); −1 for node 0."""
        return self._depth(node) if node else -1

    def ancestors(self, node: int) -> tuple[int, ...]:
        """Parent, grandparent, … of a node, without node 0."""
        above: list[int] = []
        while node and self.parent[node]:
            node = self.parent[node]
            above.append(node)
        return tuple(above)

    def leaves_under(self, node: int) -> tuple[int, ...]:
        """Leaves below a node (a leaf itself for a leaf; every leaf for node 0)."""
        return tuple(leaf for leaf in self.leaves if node in (0, leaf, *self.ancestors(leaf)))

    def at_level(self, node: int, level: int) -> int:
        """The node itself or its ancestor at `level`; 0 when the node is coarser than that."""
        return next((n for n in (node, *self.ancestors(node)) if n and self.level_of(n) == level), 0)

    def class_index(self, node: int, level: int) -> int:
        """Class index of a node at a level, −1 when unknown there."""
        at = self.at_level(node, level)
        return self.nodes_at(level).index(at) if at else -1

    def path(self, node: int) -> str:
        """Label text, such as "Atypical/ADH"; "" for node 0."""
        if not node:
            return ""
        return "/".join(self.names[n] for n in (*reversed(self.ancestors(node)), node))

    def node(self, label: str | None) -> int:
        """The node of a label text: a path, or a name that is unique in the tree; LabelError naming the
        labels there are.
        """
        if not label:
            return 0
        hits = [i for i in range(1, len(self)) if self.path(i) == label]
        hits = hits or [i for i in range(1, len(self)) if self.names[i] == label]
        if len(hits) == 1:
            return hits[0]
        known = ", ".join(self.path(i) for i in range(1, len(self)))
        raise LabelError(
            f"{label!r} is {'no' if not hits else 'more than one'} label of the tree; it has {known}."
        )

    def lift_matrix(self, level: int) -> NDArray[np.float32]:
        """(C_fine, C_level) one-hot rows: which class of `level` each leaf belongs to."""
        matrix = np.zeros((len(self.leaves), len(self.nodes_at(level))), np.float32)
        for row, leaf in enumerate(self.leaves):
            matrix[row, self.class_index(leaf, level)] = 1
        return matrix

    def lift(self, probabilities: Any, level: int) -> NDArray[Any]:
        """(…, C_fine) probabilities of the leaves summed up to (…, C_level)."""
        p = np.asarray(probabilities)
        lifted: NDArray[Any] = p @ self.lift_matrix(level).astype(p.dtype)
        return lifted

    def normal_classes(self) -> NDArray[np.bool_]:
        """(C_fine,) True for leaves that are no lesion."""
        return np.array([leaf in self.normal for leaf in self.leaves], bool)

    def to_json(self) -> str:
        """The tree as JSON text; `from_json` is its inverse."""
        return json.dumps({f.name: getattr(self, f.name) for f in fields(self)}, indent=1)

    @classmethod
    def from_json(cls, text: str | bytes) -> LabelTree:
        """A tree from `to_json`'s text; LabelError when it is none."""
        try:
            d = json.loads(text)
            names, parent, colours, normal = (tuple(d[k]) for k in ("names", "parent", "colours", "normal"))
            if "edges" in d:
                return Survival(names, parent, colours, normal, tuple(d["edges"]), d["unit"])
            return LabelTree(names, parent, colours, normal)
        except LabelError:
            raise
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise LabelError(f"This is no label tree: {reason(error)}.") from error


@dataclass(frozen=True, slots=True)
class Survival(LabelTree):
    """Discrete-time survival: K intervals of time as the leaves of a flat tree (methods.md §3.9).

    A model answers with one hazard per interval: the chance that the event falls into it when it did not come
    before. Interval j is [edges[j], edges[j + 1]).

    Attributes
    ----------
    edges : (K + 1,) increasing times
    unit : what a time is counted in, such as "months"; "" where nobody said

    >>> task = Survival.from_times([3, 9, 14, 30, 40], [True, True, True, True, False], unit="months")
    >>> task.names[1:], task.bin_of(14.0)
    (('0–7.5 months', '7.5–11.5 months', '11.5–18 months', 'after 18 months'), 2)
    """

    edges: tuple[float, ...] = ()
    unit: str = ""

    def __post_init__(self) -> None:
        LabelTree.__post_init__(self)
        if len(self.edges) != len(self.names) or any(np.diff(self.edges) <= 0):
            raise LabelError(
                f"{len(self.names) - 1} intervals of time need as many increasing edges and one more; "
                f"got {self.edges}."
            )

    @classmethod
    def from_times(
        cls, times: Sequence[float], events: Sequence[bool], *, bins: int = 4, unit: str = ""
    ) -> Survival:
        """Intervals with equally many events in each: quantiles of the times of observed events.

        times, events : of the training cases alone, follow-up time and whether the event was observed.
        unit : one of UNITS, or "" where nobody said
        LabelError when there are too few different times for that many intervals, or the unit is none.
        """
        _check_unit(unit)
        known, happened = np.asarray(times, np.float64), np.asarray(events, bool)
        seen = known[happened]
        edges: NDArray[Any] = np.full(bins + 1, np.nan)
        if len(seen):
            edges[:] = np.quantile(seen, np.linspace(0, 1, bins + 1))
            edges[0], edges[-1] = known.min() - 1e-6, known.max() + 1e-6
        if not np.isfinite(edges).all() or (np.diff(edges) <= 0).any():
            some = f"{len(seen)} observed event{'' if len(seen) == 1 else 's'}"
            of, do = f"{len(known)} case{'' if len(known) == 1 else 's'}", "does" if len(seen) == 1 else "do"
            raise LabelError(
                f"{some} among {of} {do} not give {bins} intervals of time; "
                "give more cases with an observed event, or fewer intervals."
            )
        return cls._named(tuple(float(e) for e in edges), unit)

    @classmethod
    def from_edges(cls, edges: Sequence[float], *, intervals: int, unit: str = "") -> Survival:
        """So many intervals between times that somebody chose.

        edges : (K − 1,) times between the K intervals, or (K + 1,) with both ends; from 0 on and rising.
            Without its ends time begins at 0, and the last interval is as long as the one before: only where
            a curve ends depends on it.
        unit : one of UNITS, or "" where nobody said
        LabelError when they are no such times, not so many, or the unit is none.

        >>> task = Survival.from_edges([12, 24], intervals=3, unit="months")
        >>> task.names[1:], task.edges
        (('0–12 months', '12–24 months', 'after 24 months'), (0.0, 12.0, 24.0, 36.0))
        """
        given = tuple(float(e) for e in edges)
        _check_unit(unit)
        if intervals < 2 or len(given) not in (intervals - 1, intervals + 1):
            raise LabelError(
                f"{len(given)} times do not bound {intervals} intervals of time; {max(intervals - 1, 1)} "
                f"between them are expected, or {max(intervals, 2) + 1} with both ends."
            )
        inner = len(given) < intervals
        lengths = np.diff((0.0, *given) if inner else given)
        if not np.isfinite(given).all() or given[0] < 0 or (lengths <= 0).any():
            raise LabelError(
                f"{', '.join(f'{t:g}' for t in given)} are no bounds of intervals of time; numbers "
                f"{'above 0' if inner else 'from 0 on'} are expected, each greater than the one before."
            )
        return cls._named((0.0, *given, given[-1] + float(lengths[-1])) if inner else given, unit)

    @classmethod
    def _named(cls, edges: tuple[float, ...], unit: str) -> Survival:
        said: list[str] = []
        for digits in (3, 6, 17):  # as few as tell the edges apart
            said = ["0", *(f"{e:.{digits}g}" for e in edges[1:-1])]
            if len(set(said)) == len(said):
                break
        after = f" {unit}" if unit else ""
        names = [f"{a}–{b}{after}" for a, b in itertools.pairwise(said)] + [f"after {said[-1]}{after}"]
        flat = LabelTree.from_paths(names)
        return cls(flat.names, flat.parent, flat.colours, (), edges, unit)

    def bin_of(self, time: float) -> int:
        """The interval that a time falls into; the first or the last for one outside all of them."""
        return int(np.clip(np.searchsorted(self.edges, time, side="right") - 1, 0, len(self.edges) - 2))


def _check_unit(unit: str) -> None:
    if unit and unit not in UNITS:
        raise LabelError(f"{unit!r} is no unit of time; one of {', '.join(UNITS)} is expected.")


def survival_curve(hazards: Any) -> NDArray[np.float64]:
    """(…, K) hazards → (…, K) S: the chance that the event has not come by the end of each interval."""
    return np.asarray(np.cumprod(1 - np.asarray(hazards, np.float64), axis=-1), np.float64)


def risk(hazards: Any) -> NDArray[np.float64]:
    """(…, K) hazards → (…,) risk −Σ S, in [−K, 0]; the higher, the sooner the event."""
    score: NDArray[np.float64] = -survival_curve(hazards).sum(-1)
    return score


def agree(tree: LabelTree, nodes: Sequence[int]) -> bool:
    """Whether all nodes lie on one line from the top to a leaf (fine implies coarse)."""
    known = [n for n in nodes if n]
    deepest = max(known, key=tree.level_of, default=0)
    line = {deepest, *tree.ancestors(deepest)}
    return all(n in line for n in known)


def excluded(tree: LabelTree, slide: int) -> frozenset[int]:
    """Nodes that no tile of a slide can have when the slide as a whole is called `slide`.

    A slide is called by the gravest that is in it. So one that is called normal has no lesion, and one that
    is called by a node of a group with normal leaves has no lesion of another group. Other slides exclude
    nothing: beside a tumour lies everything else.

    >>> tree = LabelTree.from_paths(["Benign/N", "Benign/UDH", "Malignant/IC"], normal=["Benign/N"])
    >>> [sorted(tree.path(n) for n in excluded(tree, tree.node(s))) for s in ("Benign", "Benign/N", "IC")]
    [['Malignant', 'Malignant/IC'], ['Benign/UDH', 'Malignant', 'Malignant/IC'], []]
    """
    normal, group = set(tree.normal), (slide, *tree.ancestors(slide))[-1]
    if not slide or not normal & set(tree.leaves_under(group)):
        return frozenset()
    only_normal = set(tree.leaves_under(slide)) <= normal
    left = normal if only_normal else normal | set(tree.leaves_under(group))
    return frozenset(n for n in range(1, len(tree)) if not left & set(tree.leaves_under(n)))


def level_names(tree: LabelTree) -> tuple[str, ...]:
    """What the levels are called in names of maps, coarse first.

    >>> level_names(LabelTree.from_paths(["Benign/N", "Malignant/IC"]))
    ('coarse', 'fine')
    >>> level_names(LabelTree.from_paths(["LUAD", "LUSC"]))
    ('fine',)
    """
    if isinstance(tree, Survival):
        return ("time",)
    few: dict[int, tuple[str, ...]] = {1: ("fine",), 2: ("coarse", "fine")}
    return few.get(tree.levels, tuple(f"level{i + 1}" for i in range(tree.levels)))


def class_names(tree: LabelTree, level: int) -> tuple[str, ...]:
    """What the classes of a level are called in names of maps: name, or path where the name is not unique."""
    names = [tree.names[n] for n in tree.nodes_at(level)]
    return tuple(
        name if names.count(name) == 1 else tree.path(node)
        for name, node in zip(names, tree.nodes_at(level), strict=True)
    )
