"""Cohorts whose labels are poor: slides called wrongly, or lesion tiles that nobody has marked."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from napari_mil.correction import Target
from napari_mil.evaluate import TrainingCase
from napari_mil.labeltree import LabelTree
from sets import case

TREE = LabelTree.from_paths(["none", "lesion"], normal=["none"])
TILES, WIDTH, KINDS = 60, 32, 6


@dataclass(frozen=True, slots=True)
class Noise:
    """A cohort with poor labels.

    Attributes
    ----------
    train, test : how many slides to learn from, and to report on; half of them carry a lesion
    wrong : share of the slides to learn from that are labelled wrongly
    share : of the tiles of a slide with a lesion that carry it
    far : how many standard deviations these lie from the background
    alike : share of the tiles of every slide that lie as far off in another direction
    """

    train: int
    test: int
    wrong: float
    share: float
    far: float
    alike: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Cohort:
    """Cases to learn from with what their labels say, and cases to report on; per case the truth of its
    tiles.
    """

    train: tuple[TrainingCase, ...]
    test: tuple[TrainingCase, ...]
    given: dict[str, int]
    truth: dict[str, np.ndarray]

    def right(self, name: str) -> int:
        """The node that a reader would give the slide."""
        none, lesion = TREE.leaves
        return lesion if (self.truth[name] == lesion).any() else none


def draw(noise: Noise, seed: int) -> Cohort:
    rng = np.random.default_rng([seed, 11])
    none, lesion = TREE.leaves
    centres = rng.normal(size=(KINDS, WIDTH))
    ways = np.linalg.qr(rng.normal(size=(WIDTH, 2)))[0].T
    made, truth = [], {}
    for i in range(noise.train + noise.test):
        name, node = f"{seed}/{i:03d}", (none, lesion)[i % 2]
        kind = rng.choice(KINDS, TILES, p=rng.dirichlet(np.full(KINDS, 0.7)))
        features = centres[kind] + rng.normal(size=(TILES, WIDTH)) + 0.3 * rng.normal(size=WIDTH)
        order = rng.permutation(TILES)
        some, others = round(noise.share * TILES), round(noise.alike * TILES)
        said = np.full(TILES, none, np.int32)
        if node == lesion:
            said[order[:some]] = lesion
            features[order[:some]] += noise.far * ways[0]
        features[order[some : some + others]] += noise.far * ways[1]
        made.append(case(name, features.astype(np.float32), Target(node)))
        truth[name] = said
    train, test = made[: noise.train], made[noise.train :]
    flipped = set(rng.permutation(noise.train)[: round(noise.wrong * noise.train)].tolist())
    given = {
        c.case: (none + lesion - c.target.slide if i in flipped else c.target.slide)
        for i, c in enumerate(train)
    }
    return Cohort(tuple(train), tuple(test), given, truth)
