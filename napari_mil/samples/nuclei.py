"""Nuclei as stamps: a few hundred small drawings per process, turned and varied, put down by the thousand."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Stamp = tuple[int, NDArray[np.float32], NDArray[np.float32]]

#: Directions in which every kind of nucleus is drawn, over half a turn.
TURNS = 12
#: Different drawings per direction.
VARIANTS = 6


@dataclass(frozen=True, slots=True)
class Nucleus:
    """How one kind of nucleus looks: half axes in pixels at 0.5 µm/px, their spread, and its staining.

    Attributes
    ----------
    long, short : half axes, px
    spread : relative deviation of both
    irregular : relative deviation of the outline
    dark : amount of haematoxylin; `dark_spread` its deviation between nuclei
    coarse : contrast of the chromatin; `rim` extra stain of the membrane; `nucleoli` their mean number
    """

    long: float
    short: float
    spread: float = 0.1
    irregular: float = 0.06
    dark: float = 0.9
    dark_spread: float = 0.08
    coarse: float = 0.15
    rim: float = 0.15
    nucleoli: float = 0.0


KINDS = {
    "luminal": Nucleus(7.0, 5.8, 0.10, 0.06, 0.92, 0.10, 0.18, 0.15, 0.2),
    "myo": Nucleus(7.5, 2.9, 0.15, 0.08, 1.10, 0.10, 0.10, 0.05),
    "columnar": Nucleus(9.2, 4.7, 0.07, 0.04, 1.02, 0.06, 0.10, 0.12),
    "hyperplastic": Nucleus(7.8, 5.2, 0.22, 0.14, 0.80, 0.20, 0.22, 0.15, 0.3),
    "monotonous": Nucleus(7.6, 7.2, 0.035, 0.02, 1.00, 0.04, 0.09, 0.10),
    "highgrade": Nucleus(12.5, 10.5, 0.20, 0.11, 0.92, 0.22, 0.38, 0.30, 1.4),
    "invasive": Nucleus(11.5, 8.0, 0.28, 0.17, 1.18, 0.22, 0.25, 0.15, 0.5),
    "lymphocyte": Nucleus(5.5, 5.2, 0.08, 0.04, 1.38, 0.08, 0.30, 0.10),
    "fibroblast": Nucleus(12.0, 2.5, 0.25, 0.12, 1.00, 0.15, 0.10, 0.05),
    "plump": Nucleus(11.0, 4.2, 0.2, 0.1, 0.80, 0.12, 0.18, 0.15, 0.3),
    "debris": Nucleus(2.6, 2.0, 0.4, 0.2, 1.25, 0.25, 0.05, 0.0),
    "crushed": Nucleus(21.0, 3.0, 0.35, 0.3, 1.30, 0.15, 0.05, 0.0),
    "redcell": Nucleus(5.8, 5.2, 0.08, 0.07, 0.0),
}


def _draw(rng: np.random.Generator, kind: Nucleus, angle: float) -> Stamp:
    long = kind.long * float(np.clip(1 + kind.spread * rng.standard_normal(), 0.5, 1.7))
    short = kind.short * float(np.clip(1 + kind.spread * rng.standard_normal(), 0.5, 1.7))
    half = int(np.ceil(max(long, short) * 1.25 + 2))
    y, x = np.mgrid[-half : half + 1, -half : half + 1].astype(np.float32)
    y, x = y + rng.uniform(-0.5, 0.5), x + rng.uniform(-0.5, 0.5)
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    around = np.arctan2(v / short, u / long)
    edge = 1 + sum(
        kind.irregular / k**0.7 * rng.standard_normal() * np.cos(k * around + rng.uniform(0, 2 * np.pi))
        for k in (2, 3, 4, 5)
    )
    inside = (edge - np.hypot(u / long, v / short)) * min(long, short)
    alpha = np.clip(inside / 1.5 + 0.5, 0, 1)
    chromatin = ndimage.gaussian_filter(rng.standard_normal(y.shape), 1.3) * 3
    dark = max(0.25, kind.dark + kind.dark_spread * rng.standard_normal())
    value = dark * (1 + kind.coarse * chromatin + kind.rim * np.exp(-((inside - 1.3) ** 2)))
    for _ in range(rng.poisson(kind.nucleoli)):
        ny, nx = rng.normal(0, short / 3, 2)
        value += 0.8 * dark * np.exp(-((y - ny) ** 2 + (x - nx) ** 2) / 3.2)
    stain = np.stack([np.clip(value, 0.1, 1.9), np.full_like(value, 0.30)])
    if kind.dark == 0:  # red cells carry eosin only
        stain = np.stack([np.full_like(value, 0.04), 1.05 - 0.25 * np.exp(-(inside**2) / 8)])
    alpha = np.asarray(0.94 * alpha, np.float32)
    return half, 1 - alpha, np.asarray(alpha * stain, np.float32)


@cache
def stamps(kind: str) -> tuple[tuple[Stamp, ...], ...]:
    """Stamps of one kind, [turn][variant] = (half side, what stays (s, s), what is added (2, s, s))."""
    rng = np.random.default_rng([77, *kind.encode()])
    look = KINDS[kind]
    return tuple(
        tuple(_draw(rng, look, turn * np.pi / TURNS + rng.uniform(-0.1, 0.1)) for _ in range(VARIANTS))
        for turn in range(TURNS)
    )
