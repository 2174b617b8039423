"""The order in which places are asked about, and the reasons that are told.

The criteria are combined by places, not by values, which have different units: reciprocal rank fusion
(Cormack, Clarke & Büttcher, SIGIR 2009), so that a place which one criterion puts first is not drowned by the
others. Two of them depend on the other places:

far
    How far a place lies, in feature space, from what was labelled or asked before, brought forward after
    every choice: the greedy k-centre of core-sets (Gonzalez 1985; for active learning Sener & Savarese, ICLR
    2018). Who calls a slide normal labels all its tiles: what lies far from them is what makes the others
    not normal, whatever the model has learned so far.
alike
    Slides that look like it are labelled otherwise: 1 − the chance of its label by ridge regression on all
    other slides (leave one out in closed form: Allen, Technometrics 1974). A model gives a wrong label that
    it was trained on too high a chance; what was learned without it does not (Northcutt, Jiang & Chuang, JAIR
    2021, ask for such out-of-sample chances).

A share of the places is drawn at random instead, each from the class with the fewest labels so far: what a
model is sure of and wrong about is found by chance alone (Beygelzimer, Dasgupta & Langford, ICML 2009), and
classes that the model hardly sees are not starved.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_mil.errors import LabelError
from napari_mil.labeltree import LabelTree
from napari_mil.review.measures import Floats, fused, left_out, squared_distances
from napari_mil.review.places import CRITERIA, OWN, Places
from napari_mil.review.words import percent

#: share of the places that is drawn at random
RANDOM_SHARE = 0.1
#: how steeply a place counts: the first of a criterion counts (CONSTANT + 2) / (CONSTANT + 1) times the
#: second
CONSTANT = 10
#: what a criterion counts beside the others, of a slide and of a tile: 1 where nothing is said. A model that
#: knows little attends anywhere, so what its answer rests on counts less than what is new. Set on seeds 100
#: to 112 of benchmarks/review.py, which reports on others
SLIDES: Mapping[str, float] = {"alike": 4.0}
TILES: Mapping[str, float] = {"far": 4.0}
#: penalty of the regression that judges a slide's label by the other slides'
RIDGE = 3.0
#: to judge a slide by the others, so many must be labelled, and so many of the others as this one
LEAST, PEERS = 8, 3
#: a reason is told of a place that lies in this top share of its criterion; the best one always is
TELLING = 0.1
#: reasons told of one place at most
REASONS = 2

Why = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Item:
    """A place to look at next.

    Attributes
    ----------
    slide_id : of its slide
    cell : (row, col) of the tile, None: the slide as a whole
    node, sure : what the model says there and its probability; to accept is to state this node
    why : criterion → its sentence, the strongest first
    score : its fused score when it was chosen; 0 where it was drawn at random
    """

    slide_id: str
    cell: tuple[int, int] | None
    node: int
    sure: float
    why: Why
    score: float

    @property
    def reason(self) -> str:
        """Why, in sentences."""
        return " ".join(sentence for _, sentence in self.why)


def queue(
    places: Places,
    tree: LabelTree,
    n: int,
    *,
    criteria: Collection[str] = tuple(CRITERIA),
    random_share: float = RANDOM_SHARE,
    seed: int = 0,
) -> tuple[Item, ...]:
    """The next n places among those that nobody has labelled: slides and tiles by turns, as far as there are.

    Parameters
    ----------
    places : shortlists of all slides, joined; the labelled ones tell what is known already
    criteria : names of CRITERIA that count
    random_share : share of the places that is drawn at random, where "random" counts

    Deterministic for a seed. LabelError when a criterion is unknown, or none is given.
    """
    unknown = sorted(set(criteria) - set(CRITERIA))
    if unknown or not criteria:
        what = f"{unknown[0]!r} is no criterion" if unknown else "No criterion is given"
        raise LabelError(f"{what} of the queue; there are {', '.join(CRITERIA)}.")
    share = 0.0 if "random" not in criteria else 1.0 if len(set(criteria)) == 1 else random_share
    rng = np.random.default_rng([seed, 1])
    kinds = ((places.whole, SLIDES), (~places.whole, TILES))
    lanes = [_Lane(places.take(at), tree, criteria, weights, share, rng) for at, weights in kinds]
    made: list[Item] = []
    while len(made) < n and any(lane.open for lane in lanes):
        turn = len(made) % 2 if lanes[len(made) % 2].open else (len(made) + 1) % 2
        made.append(lanes[turn].next())
    return tuple(made)


def thinned(places: Places, n: int) -> Places:
    """The shortlist of one slide with about n of its tiles, so that those of thousands of slides fit in
    memory.

    The slide itself stays; of the tiles the best by their own criteria, and up to a quarter of n each of
    those drawn at random and of those labelled, one of each label at least, which then stand for the others.
    """
    quarter = max(1, n // 4)
    tiles = ~places.whole
    known = np.flatnonzero(tiles & (places.said > 0))
    drawn = np.flatnonzero(tiles & places.drawn)[:quarter]
    rest = np.setdiff1d(np.flatnonzero(tiles & (places.said == 0)), drawn)
    table = np.stack([places.signals[name][rest] for name in OWN], 1)
    score = fused(table, [TILES.get(name, 1.0) for name in OWN], constant=CONSTANT)
    best = rest[np.argsort(-score, kind="stable")[: max(n - len(drawn), 0)]]
    labels = np.unique(places.said[known])
    each = max(1, quarter // max(len(labels), 1))
    few = np.concatenate([known[:0], *(known[places.said[known] == node][:each] for node in labels)])
    made = places.take(np.sort(np.concatenate([np.flatnonzero(places.whole), drawn, best, few])))
    return made.standing_for(places) if len(few) < len(known) else made


class _Lane:
    """Places of one kind, slides or tiles, and what was chosen of them so far."""

    def __init__(
        self,
        places: Places,
        tree: LabelTree,
        criteria: Collection[str],
        weights: Mapping[str, float],
        share: float,
        rng: np.random.Generator,
    ) -> None:
        self.places, self.tree, self.share, self.rng = places, tree, share, rng
        self.weights = weights
        self.free = places.said == 0
        self.signals: dict[str, NDArray[Any]] = {
            name: values for name, values in places.signals.items() if name in criteria
        }
        self.odd = _odd(places, tree)
        if "alike" in criteria:
            self.signals["alike"] = self.odd
        self.x = _comparable(places.features, self.free)
        self.nearest = squared_distances(self.x, self.x[~self.free])
        self.usual = float(np.sqrt(np.median(self.nearest[self.free]))) if self.free.any() else 0.0
        if "far" in criteria:
            self.signals["far"] = self.nearest
        self.labelled = np.bincount(places.said, places.stands_for, len(tree))
        self.chosen = 0

    @property
    def open(self) -> bool:
        """Whether there is a place left."""
        return bool(self.free.any())

    def next(self) -> Item:
        """Choose a place; others that look like it become less urgent."""
        self.chosen += 1
        drawn = int(self.chosen * self.share) > int((self.chosen - 1) * self.share)
        able = np.flatnonzero(self.free & self.places.drawn) if drawn else np.empty(0, np.intp)
        row, why, score = self._random(able) if len(able) else self._best()
        self.free[row] = False
        np.minimum(self.nearest, squared_distances(self.x, self.x[row : row + 1]), out=self.nearest)
        p = self.places
        cell = None if p.whole[row] else (int(p.cells[row, 0]), int(p.cells[row, 1]))
        return Item(p.slides[row], cell, int(p.node[row]), float(p.sure[row]), why, score)

    def _best(self) -> tuple[int, Why, float]:
        able = np.flatnonzero(self.free)
        signals = {name: values[able] for name, values in self.signals.items()}
        table = np.stack([*signals.values(), np.zeros(len(able))], 1)
        weights = [*(self.weights.get(name, 1.0) for name in signals), 0.0]
        score = fused(_finite(table), weights, constant=CONSTANT)
        at = int(score.argmax())
        return int(able[at]), self._reasons(int(able[at]), signals, at), float(score[at])

    def _random(self, able: NDArray[np.intp]) -> tuple[int, Why, float]:
        """One of the drawn places, of the class with the fewest labels, counting what was asked already."""
        p = self.places
        asked = np.bincount(p.node[(p.said == 0) & ~self.free], minlength=len(self.tree))
        nodes = np.unique(p.node[able])
        node = int(nodes[np.argmin(self.labelled[nodes] + asked[nodes])])
        row = int(self.rng.choice(able[p.node[able] == node]))
        known, kind = f"{self.labelled[node]:.0f}", "slides" if p.whole[row] else "tiles"
        sentence = (
            f"Drawn at random among the {kind} that look like {self.tree.path(node)} to the model; "
            f"{known} {'is' if known == '1' else 'are'} labelled so yet."
        )
        return row, (("random", sentence),), 0.0

    def _reasons(self, row: int, signals: Mapping[str, NDArray[Any]], at: int) -> Why:
        """The criteria that put this place highest, with their sentences."""
        words = {**self.places.words[row], "far": self._far_words(row), "alike": self._odd_words(row)}
        known = [n for n, values in signals.items() if words.get(n) and not np.isnan(values[at])]
        above = {n: float((signals[n] >= signals[n][at]).mean()) for n in known}
        known.sort(key=lambda n: above[n] / self.weights.get(n, 1.0))
        told = [n for i, n in enumerate(known) if i == 0 or above[n] <= TELLING]
        return tuple((n, words[n]) for n in told[:REASONS])

    def _far_words(self, row: int) -> str:
        """How far a place lies from the nearest that was labelled or asked."""
        if not np.isfinite(self.nearest[row]):
            return "Nothing was labelled yet, so every place is new."
        if not np.isfinite(self.usual) or not self.usual:
            return "It looks unlike what was asked before."
        times = np.sqrt(self.nearest[row]) / self.usual
        return (
            f"It looks unlike what was labelled: {times:.1f} times the median distance to the nearest label."
        )

    def _odd_words(self, row: int) -> str:
        """What the other slides say of this one's label."""
        given = int(self.places.given[row])
        chance = percent(max(0.0, 1 - float(self.odd[row])))
        return (
            "Slides that look like it are labelled otherwise: by the other "
            f"{(self.places.given > 0).sum() - 1} labelled slides alone, its label {self.tree.path(given)} "
            f"has {chance}."
        )


def _odd(places: Places, tree: LabelTree) -> Floats:
    """(M,) 1 − the chance of each slide's label by all other labelled slides; NaN for tiles, for slides
    without a label, and where there are too few labels to tell.
    """
    odd = np.full(len(places), np.nan)
    known = np.flatnonzero(places.whole & (places.given > 0))
    nodes, classes = np.unique(places.given[known], return_inverse=True)
    if len(known) < LEAST or len(nodes) < 2:
        return odd
    said = left_out(np.asarray(places.features[known], np.float64), classes, len(nodes), ridge=RIDGE)
    lines = np.array([[m in (n, *tree.ancestors(n), *tree.leaves_under(n)) for m in nodes] for n in nodes])
    chance = (said * lines[classes]).sum(1)  # a coarse label agrees with a finer one
    peers = lines[:, classes].sum(1)[classes] - 1
    odd[known] = np.where(peers >= PEERS, np.clip(1 - chance, 0, 1), np.nan)
    return odd


def _comparable(features: NDArray[np.float32], free: NDArray[np.bool_]) -> NDArray[np.float32]:
    """(M, D) features over their deviation, so that every number counts alike."""
    width = features[free].std(0, dtype=np.float64) if free.any() else np.ones(features.shape[1])
    scale = np.where(width > 1e-9, width, 1) * np.sqrt(max(features.shape[1], 1))
    scaled: NDArray[np.float32] = features / scale.astype(np.float32)
    return scaled


def _finite(signals: NDArray[Any]) -> Floats:
    """Signals with the largest number for infinite distances: where nothing was labelled, all are as far."""
    return np.where(np.isposinf(signals), np.finfo(np.float64).max, np.asarray(signals, np.float64))
