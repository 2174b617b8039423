"""Bags with planted lesion tiles, easy ones far from the background and hard ones near it."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from napari_mil.correction import Target
from napari_mil.labeltree import LabelTree
from sets import NARROW, SHORT, Arm, Drawn, Set, case, in_turn, mhim

TREE = LabelTree.from_paths(["none", "lesion"], normal=["none"])
TILES, WIDTH, KINDS = 300, 64, 6
TRAIN, VALIDATION, TEST = 80, 20, 120


@dataclass(frozen=True, slots=True)
class Difficulty:
    """How hard it is to tell.

    Attributes
    ----------
    share : of the tiles of a positive bag that carry a lesion, one tile at least
    easy : share of those that are easy, one tile at least where the bag has any
    only_hard : share of the positive bags without an easy tile
    far, near : how many standard deviations easy and hard tiles lie from the background, each in a direction
        of its own
    """

    share: float
    easy: float
    only_hard: float
    far: float = 6.0
    near: float = 3.0


DIFFICULTIES = {
    "10 %": Difficulty(0.10, easy=0.5, only_hard=0.3),
    "2 %": Difficulty(0.02, easy=0.4, only_hard=0.3, far=10.0, near=6.0),
    "0.5 %": Difficulty(0.005, easy=0.5, only_hard=0.3, far=12.0, near=8.0),
}


def world(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Centres of the kinds of background (KINDS, WIDTH), and unit directions of easy and hard tiles and of
    look-alikes (3, WIDTH).
    """
    rng = np.random.default_rng([seed, 1])
    centres = rng.normal(size=(KINDS, WIDTH))
    ways = np.linalg.qr(rng.normal(size=(WIDTH, 3)))[0].T
    return centres, ways


def tiles(
    rng: np.random.Generator, seed: int, difficulty: Difficulty, *, positive: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Features (N, D) of a bag, and per tile 0 normal, 1 easy, 2 hard. Every bag has its own mixture of the
    background, its own shift, and look-alikes: as far out as easy tiles, elsewhere.
    """
    centres, ways = world(seed)
    kind = rng.choice(KINDS, TILES, p=rng.dirichlet(np.full(KINDS, 0.7)))
    features = centres[kind] + rng.normal(size=(TILES, WIDTH)) + 0.3 * rng.normal(size=WIDTH)
    role = np.zeros(TILES, int)
    wanted = max(1, round(difficulty.share * TILES)) if positive else 0
    if wanted:
        chosen = rng.permutation(TILES)[:wanted]
        easy = 0 if rng.random() < difficulty.only_hard else max(1, round(difficulty.easy * wanted))
        role[chosen] = 2
        role[chosen[:easy]] = 1
    alike = rng.permutation(np.flatnonzero(role == 0))[: rng.integers(0, 1 + TILES // 50)]
    features[alike] += difficulty.far * ways[2]
    features[role == 1] += difficulty.far * ways[0]
    features[role == 2] += difficulty.near * ways[1]
    return features.astype(np.float32), role


def draw(difficulty: Difficulty, seed: int, data: Path | None = None) -> Drawn:  # noqa: ARG001
    rng = np.random.default_rng([seed, 2])
    none, lesion = TREE.leaves
    cases, truth = {}, {}
    for i in range(TRAIN + VALIDATION + TEST):
        name, node = f"{seed}/{i:03d}", (none, lesion)[i % 2]
        features, role = tiles(rng, seed, difficulty, positive=node == lesion)
        cases[name] = case(name, features, Target(node))
        truth[name] = np.where(role > 0, lesion, none).astype(np.int32)
    return Drawn(cases, (in_turn(list(cases), TRAIN, VALIDATION),), truth)


ARMS = {
    "mean": Arm("mean", NARROW),
    "pure (attn)": mhim(pure=True),
    "mhim (attn)": mhim(),
    "mhim (attn), init_student=none": mhim(init_student="none"),
}
GATED = {
    "pure (gated)": mhim("gated", pure=True),
    "mhim (gated)": mhim("gated"),
}
DSMIL = {
    "pure (dsmil)": mhim("dsmil", pure=True),
    "mhim (dsmil)": mhim("dsmil"),
}
SELFATTENTION = {
    "pure (selfattn)": mhim("selfattn", pure=True),
    "mhim (selfattn)": mhim("selfattn"),
}
MORE = {"10 %": GATED | SELFATTENTION, "2 %": DSMIL}
AGAINST = {
    "mhim (attn)": ("pure (attn)", "mhim (attn), init_student=none"),
    "mhim (attn), init_student=none": ("pure (attn)",),
    "mhim (gated)": ("pure (gated)",),
    "mhim (dsmil)": ("pure (dsmil)",),
    "mhim (selfattn)": ("pure (selfattn)",),
}
#: what a sweep asks: is it the time, the start, the recycled, the hidden, or the teacher?
TRIED = {
    "pure, as many epochs as mhim": Arm("mhim", {**NARROW, "pure": True}, SHORT | {"epochs": 21}),
    "init_student=none, no recycling": mhim(init_student="none", recycle_tokens=0),
    "no recycling": mhim(recycle_tokens=0),
    "mask_ratio=0": mhim(mask_ratio=0.0),
    "keep_ratio=0.2": mhim(keep_ratio=0.2),
    "teacher as published": mhim(compat="official"),
    "pure, as many epochs as with a long stage 1": Arm(
        "mhim", {**NARROW, "pure": True}, SHORT | {"epochs": 30}
    ),
    "stage 1 of 15 epochs": Arm("mhim", NARROW, SHORT | {"stage1_epochs": 15}),
    "stage 1 of 15 epochs, no recycling": Arm(
        "mhim", {**NARROW, "recycle_tokens": 0}, SHORT | {"stage1_epochs": 15}
    ),
}


def told(d: Difficulty) -> str:
    return (
        f"{TILES} tiles of {WIDTH} numbers from {KINDS} kinds of background; {d.share:.1%} of the tiles of a "
        f"positive bag carry a lesion, {d.easy:.0%} of these easy ({d.far:g} standard deviations off), the "
        f"rest hard ({d.near:g}, another direction); {d.only_hard:.0%} of the positive bags have hard ones "
        f"alone. {TRAIN} bags to learn from, {VALIDATION} to decide with, {TEST} to report on, drawn anew by "
        "each seed."
    )


SETS = {
    f"planted {name}": Set(
        title=f"Planted lesion tiles, {name}",
        about=told(difficulty),
        draw=partial(draw, difficulty),
        tree=TREE,
        arms=ARMS | MORE.get(name, {}),
        against=AGAINST,
        figures=("slide AUC", "tile AUC"),
        tried=TRIED if name == "10 %" else {},
        edition=(astuple(difficulty), TILES, WIDTH, KINDS, TRAIN, VALIDATION, TEST),
    )
    for name, difficulty in DIFFICULTIES.items()
}
