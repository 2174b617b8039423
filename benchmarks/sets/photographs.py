"""Photographs without positions, many of the same: what was photographed often is not what counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from napari_mil.correction import Target
from sets import NARROW, SHORT, Arm, Drawn, Set, case, in_turn
from sets.planted import TREE

WIDTH, KINDS, VIEWS = 64, 12, 8
TRAIN, VALIDATION, TEST = 80, 20, 150
#: views of a positive case that show a lesion, at most; how alike the photographs of one view are
LESIONS, NOISE, FAR = 2, 0.15, 4.0


def photographs(
    rng: np.random.Generator, centres: np.ndarray, way: np.ndarray, *, positive: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Features (N, D) of a case's photographs and the view (N,) that each shows. Each of its VIEWS fields is
    photographed 1 to 24 times, most of them once or twice.
    """
    views = centres[rng.choice(KINDS, VIEWS)] + 0.5 * rng.normal(size=(VIEWS, WIDTH))
    if positive:
        views[: rng.integers(1, LESIONS + 1)] += FAR * way
    often = np.minimum(rng.geometric(0.5, VIEWS), 6)
    often[rng.integers(VIEWS)] = rng.integers(12, 25)
    view = np.repeat(np.arange(VIEWS), often)
    features = views[view] + NOISE * rng.normal(size=(len(view), WIDTH))
    order = rng.permutation(len(view))
    return features[order].astype(np.float32), view[order]


def draw(seed: int, data: Path | None = None) -> Drawn:  # noqa: ARG001
    rng = np.random.default_rng([seed, 4])
    centres = rng.normal(size=(KINDS, WIDTH))
    way = np.linalg.qr(rng.normal(size=(WIDTH, 1)))[0][:, 0]
    none, lesion = TREE.leaves
    cases, once = {}, {}
    for i in range(TRAIN + VALIDATION + TEST):
        name, node = f"{seed}/{i:03d}", (none, lesion)[i % 2]
        features, view = photographs(rng, centres, way, positive=node == lesion)
        cases[name] = case(name, features, Target(node))
        once[name] = np.unique(view, return_index=True)[1]
    return Drawn(cases, (in_turn(list(cases), TRAIN, VALIDATION),), once=once)


LONG = SHORT | {"epochs": 30, "patience": 10}
ARMS = {
    "mean": Arm("mean", NARROW),
    "abmil": Arm("abmil", NARROW),
    "micromil": Arm("micromil", {}, LONG | {"lr": 1e-3}),
    "micromil, lr=1e-4": Arm("micromil", {}, LONG | {"lr": 1e-4}),
}
AGAINST = {"micromil": ("mean", "micromil, lr=1e-4"), "micromil, lr=1e-4": ("mean",)}
SETS = {
    "photographs": Set(
        title="Redundant photographs",
        about=f"Cases of {VIEWS} fields of view, each photographed once to six times and one of them 12–24 "
        f"times, whichever it is; in positive cases 1–{LESIONS} fields show a lesion. {TRAIN} cases to "
        f"learn from, {VALIDATION} to decide with, {TEST} to report on, drawn anew by each seed. *Moved*: "
        "mean change of the probability when each field is shown once instead.",
        draw=draw,
        tree=TREE,
        arms=ARMS,
        against=AGAINST,
        figures=("slide AUC", "moved"),
        edition=(WIDTH, KINDS, VIEWS, TRAIN, VALIDATION, TEST, LESIONS, NOISE, FAR),
    )
}
