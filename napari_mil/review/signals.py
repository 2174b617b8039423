"""What makes a place of one slide worth a question, each criterion with its published source.

unsure
    The model wavers: entropy of its answer, each level of the tree over its own maximum, mean over the
    levels, so that wavering between groups counts at every level and wavering inside a group at the finest
    alone (Shannon 1948; uncertainty sampling: Lewis & Gale, SIGIR 1994). A tile's entropy is weighed by its
    share in the slide's answer, its attention (multiple-instance uncertainty: Settles, Craven & Ray, NeurIPS
    2008).
rests
    The slide's answer rests on a tile that nobody has looked at: its attention (the influence on the bag's
    answer, by which Settles, Craven & Ray, NeurIPS 2008, weigh instances).
label
    The label given contradicts the model: 1 − p of a slide's label that no person has confirmed
    (self-confidence: Northcutt, Jiang & Chuang, JAIR 2021); of a tile the chance of a lesion that its slide
    is not labelled with, weighed by attention.
teacher
    Teacher and student disagree, a committee of two (Seung, Opper & Sompolinsky, COLT 1992) as MHIM-MIL has
    them (Tang et al., ICCV 2023): of a tile the difference of its two places, in doublings, so that the order
    among thousands of tiles that neither looks at does not count; of a slide the share of the teacher's top
    tiles that are not the student's.
levels
    Coarse and fine answers contradict each other (HMIL: Jin et al., 2024): of a slide half of Σ |p_coarse −
    p_lifted|, of a tile the map `disagreement`, where the model attends at all. Only where the method has a
    head of its own for the coarser level.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_mil.bag import Bag
from napari_mil.errors import BagError, ModelError
from napari_mil.labeltree import LIFTED, LabelTree, class_names, level_names
from napari_mil.prediction import Prediction
from napari_mil.review import words
from napari_mil.review.measures import TOP, Floats, chance, entropy, places_of, shared_top
from napari_mil.review.places import OWN, WHOLE, Places

Indices = NDArray[np.intp]

#: tiles kept of a slide: so many of the highest of each criterion, so many far from each other, so many drawn
#: at random of each class, so many labelled ones of each label
HIGHEST, SPREAD, DRAWN, LABELLED = 16, 16, 2, 32
#: tiles whose features are looked at at once
ROWS = 4096


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What is known of one slide.

    Attributes
    ----------
    answer : of the model, with its maps of N tiles
    bag : the same N tiles with their features
    tiles : (N,) int32 node that people gave each tile, 0: nothing
    given : node of the slide's label, 0: none
    confirmed : whether a person gave that label, and not a manifest: then the slide is not asked about
    aside : cells that are not to be asked about, `WHOLE` for the slide itself
    teacher : (N,) float32 the teacher's score, where the model has a teacher
    """

    answer: Prediction
    bag: Bag
    tiles: NDArray[np.int32]
    given: int = 0
    confirmed: bool = False
    aside: frozenset[tuple[int, int]] = frozenset()
    teacher: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        lengths = {len(m.values) for m in self.answer.maps} | {len(self.tiles)}
        lengths |= set() if self.teacher is None else {len(self.teacher)}
        if lengths != {len(self.bag)}:
            raise BagError(
                f"The slide has {len(self.bag)} tiles, but maps or labels of {sorted(lengths)}; run the "
                "model on it again."
            )

    @property
    def attention(self) -> NDArray[np.float32]:
        """(N,) the answer's attention over the tiles, summing to 1."""
        return self.answer.map("attention").values


@dataclass(frozen=True, slots=True, eq=False)
class Tiles:
    """What the criteria say of the N tiles of a slide.

    Attributes
    ----------
    levels : per level (N, C_l) their probabilities
    lift, place : (N,) attention over its uniform share, and its place, 1 the highest
    signals : criterion → (N,), NaN where it has nothing to say
    other : (C,) leaves that are a lesion and not the slide's; none where either is unknown
    ranks : (N,) places in the teacher's order and in the student's, or None
    apart : (N,) how far coarse and fine attention differ, in [0, 1], or None
    """

    levels: list[Floats]
    lift: NDArray[np.float32]
    place: Indices
    signals: dict[str, Floats]
    other: NDArray[np.bool_]
    ranks: tuple[Indices, Indices] | None
    apart: NDArray[np.float32] | None

    @classmethod
    def of(cls, seen: Seen, tree: LabelTree) -> Tiles:
        """The criteria of every tile."""
        named = {m.name: m.values for m in seen.answer.maps}
        levels = [
            np.stack([named[f"probability/{name}/{c}"] for c in class_names(tree, n)], 1).astype(np.float64)
            for n, name in enumerate(level_names(tree))
        ]
        lift, other = seen.attention * len(seen.bag), _other_lesions(tree, seen.given)
        apart, teacher = named.get("disagreement"), seen.teacher
        place = places_of(seen.attention)
        ranks = None if teacher is None else (places_of(teacher), place)
        found = {name: np.full(len(lift), np.nan) for name in OWN}
        found["unsure"] = np.mean([entropy(p) for p in levels], 0) * lift
        found["rests"] = np.asarray(lift, np.float64)
        if other.any():
            found["label"] = levels[-1][:, other].sum(1) * lift
        if ranks is not None:
            found["teacher"] = np.abs(np.log2(ranks[0] / ranks[1]))
        if apart is not None:
            found["levels"] = apart * np.minimum(lift, 1.0)
        return cls(levels, lift, place, found, other, ranks, apart)


@dataclass(frozen=True, slots=True, eq=False)
class Whole:
    """What the criteria say of a slide as a whole: its probabilities per level, a signal per criterion, and
    how many of the teacher's top tiles are the student's, of how many (None without a teacher).
    """

    levels: list[Floats]
    signals: dict[str, float]
    shared: tuple[int, int] | None

    @classmethod
    def of(cls, seen: Seen, tree: LabelTree, ranks: tuple[Indices, Indices] | None) -> Whole:
        """The criteria of a slide, whose tiles have these places in the teacher's and the student's order."""
        levels = [np.asarray(p, np.float64) for p in seen.answer.probabilities]
        found = dict.fromkeys(OWN, np.nan)
        found["unsure"] = float(np.mean([entropy(p) for p in levels]))
        if seen.given:
            found["label"] = 1 - chance(levels[-1], tree, seen.given)
        apart = [float(np.abs(p - tree.lift(levels[-1], n)).sum() / 2) for n, p in enumerate(levels[:-1])]
        if seen.answer.has_heads and max(apart, default=0) > LIFTED:
            found["levels"] = float(np.mean(apart))
        shared = None if ranks is None else shared_top(*ranks)
        if shared is not None:
            found["teacher"] = 1 - shared[0] / shared[1]
        return cls(levels, found, shared)


def refuse_risk(answer: Prediction) -> None:
    """ModelError when a model answers with a risk, so that there is no label to ask about."""
    if not answer.probabilities:
        raise ModelError(
            "This model answers with a risk, and nobody can say of a place whether that is right; choose a "
            "model that answers with labels."
        )


def shortlist(seen: Seen, tree: LabelTree, *, seed: int = 0) -> Places:
    """The places of a slide that may be worth a question: the slide itself, and a few of its tiles.

    Tiles that people labelled are kept as well, at most LABELLED of each label, so that others can be
    compared with them. Deterministic for a seed. ModelError when the model answers with a risk, not with
    labels.
    """
    refuse_risk(seen.answer)
    rng = np.random.default_rng([seed, *seen.answer.slide_id.encode()[:32]])
    tiles, told = Tiles.of(seen, tree), _told(seen, tree)
    free = _free(seen, told)
    leaf = np.asarray(tree.leaves, np.int32)[tiles.levels[-1].argmax(1)]
    drawn = _drawn(leaf, free, rng)
    high = [_highest(np.where(free, values, np.nan)) for values in tiles.signals.values()]
    asked = np.unique(np.concatenate([drawn, *high, _spread(seen.bag, np.flatnonzero(free), rng)]))
    known, stands_for = _labelled(told, rng)
    rows = np.concatenate([asked, known])
    made = Places(
        slides=(seen.answer.slide_id,) * len(rows),
        cells=seen.bag.grid.cells[rows],
        node=leaf[rows],
        sure=tiles.levels[-1].max(1)[rows],
        given=np.full(len(rows), seen.given, np.int32),
        said=told[rows],
        stands_for=np.concatenate([np.zeros(len(asked)), stands_for]),
        drawn=np.concatenate([np.isin(asked, drawn), np.zeros(len(known), bool)]),
        signals={name: values[rows] for name, values in tiles.signals.items()},
        features=seen.bag.features[rows],
        words=(*(words.of_tile(tiles, seen.given, tree, int(i)) for i in asked), *({} for _ in known)),
    )
    return Places.join([_whole(seen, tree, tiles.ranks), made])


def _whole(seen: Seen, tree: LabelTree, ranks: tuple[Indices, Indices] | None) -> Places:
    """The slide itself: to be asked about, or labelled; no row where it is set aside."""
    whole = Whole.of(seen, tree, ranks)
    best, sure = seen.answer.best(tree)[-1]
    made = Places(
        slides=(seen.answer.slide_id,),
        cells=np.array([WHOLE], np.int32),
        node=np.array([best], np.int32),
        sure=np.array([sure]),
        given=np.array([seen.given], np.int32),
        said=np.array([seen.given if seen.confirmed else 0], np.int32),
        stands_for=np.array([float(seen.confirmed)]),
        drawn=np.array([not seen.confirmed]),
        signals={name: np.array([value]) for name, value in whole.signals.items()},
        features=_signature(seen)[None],
        words=(words.of_slide(whole, seen.given, tree),),
    )
    return made.take(np.array([seen.confirmed or WHOLE not in seen.aside]))


def _told(seen: Seen, tree: LabelTree) -> NDArray[np.int32]:
    """(N,) node that people gave each tile, 0: nothing; who calls a slide normal says it of all its tiles."""
    if seen.confirmed and seen.given and set(tree.leaves_under(seen.given)) <= set(tree.normal):
        return np.where(seen.tiles, seen.tiles, np.int32(seen.given))
    return seen.tiles


def _free(seen: Seen, told: NDArray[np.int32]) -> NDArray[np.bool_]:
    """(N,) tiles that may be asked about."""
    free = np.asarray(told == 0)
    if seen.aside:
        cells = seen.bag.grid.cells.tolist()
        free &= np.fromiter((tuple(cell) not in seen.aside for cell in cells), bool, len(cells))
    return free


def _other_lesions(tree: LabelTree, given: int) -> NDArray[np.bool_]:
    """(C,) leaves that are a lesion and not under the slide's label; none where either is unknown."""
    mine = set(tree.leaves_under(given)) if given else set(tree.leaves)
    return np.array(
        [bool(tree.normal) and leaf not in mine and leaf not in tree.normal for leaf in tree.leaves]
    )


def _highest(values: Floats) -> Indices:
    """Indices of the HIGHEST largest, NaN and zeros left out."""
    able = np.flatnonzero(np.nan_to_num(values) > 0)
    if len(able) > HIGHEST:
        able = able[np.argpartition(-values[able], HIGHEST)[:HIGHEST]]
    return able


def _drawn(leaf: NDArray[np.int32], free: NDArray[np.bool_], rng: np.random.Generator) -> Indices:
    """DRAWN tiles at random of each class that the model sees."""
    picked = [
        rng.permutation(np.flatnonzero(free & (leaf == node)))[:DRAWN] for node in np.unique(leaf[free])
    ]
    return np.concatenate([np.empty(0, np.intp), *picked])


def _spread(bag: Bag, able: Indices, rng: np.random.Generator) -> Indices:
    """SPREAD tiles far from each other, of at most ROWS drawn ones: greedy k-centre (Gonzalez 1985)."""
    if not len(able):
        return able
    able = rng.permutation(able)[:ROWS]
    x = np.asarray(bag.features[able], np.float32)
    picked = [0]
    nearest = ((x - x[0]) ** 2).sum(1)
    for _ in range(min(SPREAD, len(able)) - 1):
        picked.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, ((x - x[picked[-1]]) ** 2).sum(1))
    return able[picked]


def _labelled(tiles: NDArray[np.int32], rng: np.random.Generator) -> tuple[Indices, Floats]:
    """At most LABELLED labelled tiles of each label, and how many tiles each stands for."""
    rows, stands = [np.empty(0, np.intp)], [np.empty(0)]
    for node in np.unique(tiles[tiles > 0]):
        every = np.flatnonzero(tiles == node)
        rows.append(np.sort(rng.permutation(every)[:LABELLED]))
        stands.append(np.full(len(rows[-1]), len(every) / len(rows[-1])))
    return np.concatenate(rows), np.concatenate(stands)


def _signature(seen: Seen) -> NDArray[np.float32]:
    """(D,) what a slide looks like: the mean of the tiles that speak most for its answer."""
    named = {m.name: m.values for m in seen.answer.maps}
    score = named.get("lesion", seen.attention)
    top = np.argsort(-score, kind="stable")[: max(5, round(TOP * len(score)))]
    mean: NDArray[np.float32] = np.asarray(seen.bag.features[np.sort(top)], np.float32).mean(0)
    return mean
