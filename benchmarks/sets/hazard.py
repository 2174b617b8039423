"""Cases of several slides whose time depends on a share of planted tiles; some are censored."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from napari_mil.correction import Target
from sets import NARROW, Arm, Drawn, Set, case, in_turn, mhim

WIDTH, KINDS = 64, 5
TRAIN, VALIDATION, TEST = 90, 30, 150
#: log hazard per standard deviation of the planted share; the share of cases that are censored; how many
#: standard deviations an aggressive tile lies off
STRENGTH, CENSORED, FAR = 1.5, 0.4, 6.0


def draw(seed: int, data: Path | None = None) -> Drawn:  # noqa: ARG001
    """One to three slides of 40 to 80 tiles per case; 0–30 % of a case's tiles are aggressive, unevenly
    spread over its slides. Times are exponential, censoring falls uniformly before the time of so many cases.
    """
    rng = np.random.default_rng([seed, 3])
    centres = 0.5 * rng.normal(size=(KINDS, WIDTH))
    way = np.linalg.qr(rng.normal(size=(WIDTH, 1)))[0][:, 0]
    n = TRAIN + VALIDATION + TEST
    share = 0.3 * rng.beta(0.7, 1.5, n)
    risk = STRENGTH * (share - share.mean()) / share.std()
    event = np.ones(n, bool)
    event[rng.permutation(n)[: round(CENSORED * n)]] = False
    times = 24 * rng.exponential(np.exp(-risk))
    times = np.where(event, times, times * rng.uniform(0.1, 1, n)) + 0.1
    cases, risks = {}, {}
    for i in range(n):
        name, bags = f"{seed}/{i:03d}", []
        uneven = rng.dirichlet(np.ones(3))[: rng.integers(1, 4)]
        for part in uneven / uneven.mean():
            tiles = int(rng.integers(40, 81))
            kind = rng.choice(KINDS, tiles, p=rng.dirichlet(np.full(KINDS, 3.0)))
            features = centres[kind] + rng.normal(size=(tiles, WIDTH))
            features[: round(min(1.0, share[i] * part) * tiles)] += FAR * way
            bags.append(rng.permutation(features).astype(np.float32))
        cases[name] = case(name, bags, Target(time=float(times[i]), event=bool(event[i])))
        risks[name] = float(risk[i])
    return Drawn(cases, (in_turn(list(cases), TRAIN, VALIDATION),), risk=risks)


ARMS = {
    "true risk": Arm("true risk"),
    "mean": Arm("mean", NARROW),
    "pure (attn)": mhim(pure=True),
    "mhim (attn)": mhim(),
}
AGAINST = {"pure (attn)": ("mean",), "mhim (attn)": ("pure (attn)", "mean")}
SETS = {
    "hazard": Set(
        title="Planted hazard",
        about="Cases of one to three slides of 40–80 tiles; the logarithm of the hazard is linear in the "
        f"share of aggressive tiles of the case (0–30 %). {CENSORED:.0%} of the cases are censored. {TRAIN} "
        f"cases to learn from, {VALIDATION} to decide with, {TEST} to report on, drawn anew by each seed; 4 "
        "intervals of time from the training cases. The true risk itself is the ceiling.",
        draw=draw,
        tree=None,
        arms=ARMS,
        against=AGAINST,
        figures=("c-index",),
        edition=(2, WIDTH, KINDS, TRAIN, VALIDATION, TEST, STRENGTH, CENSORED, FAR),
    )
}
