"""Seven kinds of lesion in three groups, planted: does a hierarchical method beat a flat classifier?"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from napari_mil import samples
from napari_mil.correction import Target
from sets import NARROW, SHORT, Arm, Drawn, Set, case, in_turn

TREE = samples.SAMPLE_TREE
TILES, WIDTH, KINDS = 150, 64, 6
TRAIN, VALIDATION, TEST = 105, 35, 210
#: of the tiles; how far a group's tiles lie off, and how far its kinds lie apart from each other
SHARE, GROUP, KIND = 0.08, 3.0, 2.5


def draw(seed: int, data: Path | None = None) -> Drawn:  # noqa: ARG001
    rng = np.random.default_rng([seed, 5])
    centres = rng.normal(size=(KINDS, WIDTH))
    ways = np.linalg.qr(rng.normal(size=(WIDTH, len(TREE))))[0].T
    cases, truth = {}, {}
    normal = TREE.normal[0]
    for i in range(TRAIN + VALIDATION + TEST):
        name, node = f"{seed}/{i:03d}", TREE.leaves[i % len(TREE.leaves)]
        kind = rng.choice(KINDS, TILES, p=rng.dirichlet(np.full(KINDS, 0.7)))
        features = centres[kind] + rng.normal(size=(TILES, WIDTH)) + 0.3 * rng.normal(size=WIDTH)
        said = np.full(TILES, normal, np.int32)
        if node != normal:
            chosen = rng.permutation(TILES)[: round(SHARE * TILES)]
            said[chosen] = node
            features[chosen] += GROUP * ways[TREE.parent[node]] + KIND * ways[node]
        cases[name] = case(name, features.astype(np.float32), Target(node))
        truth[name] = said
    return Drawn(cases, (in_turn(list(cases), TRAIN, VALIDATION),), truth)


#: its own width, and its own 25 epochs at its own rate where no other is named
PRESENT = {"presence_weight": 1.0}
ARMS = {
    "abmil": Arm("abmil", NARROW, SHORT | {"epochs": 25}),
    "hmil": Arm("hmil", {}, {}),
    "hmil, presence": Arm("hmil", PRESENT, {}),
    "hmil, lr=3e-4": Arm("hmil", {}, {"lr": 3e-4}),
    "hmil, lr=3e-4, presence": Arm("hmil", PRESENT, {"lr": 3e-4}),
    "hmil, lr=1e-3, presence": Arm("hmil", PRESENT, {"lr": 1e-3}),
}
AGAINST = {
    "hmil": ("abmil",),
    "hmil, presence": ("abmil", "hmil"),
    "hmil, lr=3e-4": ("abmil", "hmil"),
    "hmil, lr=3e-4, presence": ("abmil", "hmil, lr=3e-4"),
    "hmil, lr=1e-3, presence": ("abmil",),
}
SETS = {
    "hierarchy": Set(
        title="Planted hierarchy",
        about=f"Seven leaves in three groups; {SHARE:.0%} of a bag's {TILES} tiles lie {GROUP:g} standard "
        f"deviations off in the direction of their group and {KIND:g} in that of their leaf. {TRAIN} bags to "
        f"learn from, {VALIDATION} to decide with, {TEST} to report on, drawn anew by each seed. The flat "
        "classifiers learn the leaves; their coarse answer is summed up the tree. *Consistency*: share of "
        "answers whose best leaf lies under the best group.",
        draw=draw,
        tree=TREE,
        arms=ARMS,
        against=AGAINST,
        figures=("fine macro F1", "coarse macro F1", "consistency", "fine AUC", "tile AUC"),
        edition=(TILES, WIDTH, KINDS, TRAIN, VALIDATION, TEST, SHARE, GROUP, KIND),
    )
}
