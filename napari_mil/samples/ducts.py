"""Ducts and their epithelium: one wobbly outline, and what can line or fill it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_mil.samples.canvas import Canvas, grain
from napari_mil.samples.textures import Field, enlarge

Points = NDArray[np.float64]

#: Outlines are computed at a quarter of the resolution and enlarged.
COARSE = 4

_TURN = np.linspace(0, 2 * np.pi, 48)


@dataclass(frozen=True, slots=True, eq=False)
class Outline:
    """A closed wobbly outline around (y, x).

    `radius`: the mean one in px; `aspect` ≥ 1, long axis at `angle`; rows of `harmonics` are
    (frequency, amplitude relative to the radius, phase).
    """

    y: float
    x: float
    radius: float
    aspect: float
    angle: float
    harmonics: NDArray[np.float64]

    @classmethod
    def draw(
        cls,
        rng: np.random.Generator,
        at: tuple[float, float],
        radius: float,
        *,
        wobble: float = 0.08,
        aspect: float = 1.25,
    ) -> Outline:
        """A random outline; `aspect` is the largest."""
        k = np.arange(2, 8)
        amplitude = wobble * rng.standard_normal(len(k)) / (k / 2) ** 0.8
        harmonics = np.stack([k, amplitude, rng.uniform(0, 2 * np.pi, len(k))], axis=1)
        return cls(*at, radius, rng.uniform(1, aspect), rng.uniform(0, np.pi), harmonics)

    def reach(self, around: NDArray[np.floating]) -> NDArray[np.floating]:
        """Radius at the polar angle `around`, in the outline's own stretched frame, px."""
        k, amplitude, phase = self.harmonics.T
        reach: NDArray[np.floating] = self.radius * (1 + np.cos(around[..., None] * k + phase) @ amplitude)
        return reach

    def depth(self, y: NDArray[np.floating], x: NDArray[np.floating]) -> NDArray[np.floating]:
        """How far points lie inside the outline, px; negative outside."""
        dy, dx = y - self.y, x - self.x
        c, s, stretch = np.cos(self.angle), np.sin(self.angle), np.sqrt(self.aspect)
        u, v = (dx * c + dy * s) / stretch, (dy * c - dx * s) * stretch
        depth: NDArray[np.floating] = self.reach(np.arctan2(v, u)) - np.hypot(u, v)
        return depth

    def at(
        self, around: NDArray[np.floating], depth: NDArray[np.floating] | float
    ) -> tuple[Points, NDArray[np.floating]]:
        """Points (n, 2) at a depth inside the outline and the direction (n,) that points outwards there."""
        c, s, stretch = np.cos(self.angle), np.sin(self.angle), np.sqrt(self.aspect)
        reach = self.reach(around) - depth
        u, v = reach * np.cos(around) * stretch, reach * np.sin(around) / stretch
        outwards = np.arctan2(np.sin(around) * stretch, np.cos(around) / stretch) + self.angle
        return np.stack([self.y + u * s + v * c, self.x + u * c - v * s], axis=1), outwards

    def rim(
        self, rng: np.random.Generator, depth: float, spacing: float, jitter: float = 0.25
    ) -> tuple[Points, NDArray[np.floating]]:
        """Points every `spacing` px along the line at `depth`, and the direction outwards."""
        n = int(2 * np.pi * max(self.radius - depth, 0) * (1 + (self.aspect - 1) * 0.15) / spacing)
        around = (np.arange(n) + jitter * rng.standard_normal(n)) * (2 * np.pi / max(n, 1)) + rng.uniform(
            0, 6.3
        )
        # equal steps along the outline rather than in angle
        around = around - 0.5 * (np.sqrt(self.aspect) - 1) * np.sin(2 * around)
        return self.at(around, depth + jitter * spacing * 0.4 * rng.standard_normal(n))

    def box(self, beyond: float = 24) -> tuple[int, int, int]:
        """Top, left and side (a multiple of COARSE) of a box around the outline and `beyond` px more."""
        widest = float(self.reach(_TURN).max())
        half = widest * np.sqrt(self.aspect) + beyond
        side = COARSE * int(np.ceil(2 * half / COARSE))
        return int(self.y) - side // 2, int(self.x) - side // 2, side

    def field(self, beyond: float = 24) -> tuple[int, int, Field]:
        """Top, left and the depth (side, side) in a box around the outline."""
        y0, x0, side = self.box(beyond)
        steps = (np.arange(side // COARSE) + 0.5) * COARSE - 0.5
        return y0, x0, enlarge(self.depth(steps[:, None] + y0, steps[None] + x0), COARSE)


def soft(distance: NDArray[np.floating], width: float = 1.5) -> Field:
    """An edge at distance 0, `width` px soft: 0 outside, 1 inside."""
    edge = np.asarray(distance / width, np.float32)
    edge += 0.5
    return np.clip(edge, 0, 1, out=edge)


def fill_points(
    rng: np.random.Generator, outline: Outline, spacing: float, jitter: float, depth: float
) -> Points:
    """Points (n, 2) of a jittered triangular lattice, at least `depth` inside the outline."""
    y0, x0, side = outline.box(0)
    rows, cols = int(side / spacing / 0.866) + 1, int(side / spacing) + 1
    r, c = np.meshgrid(np.arange(rows), np.arange(cols), indexing="ij")
    y, x = r * spacing * 0.866, (c + 0.5 * (r % 2)) * spacing
    turn = rng.uniform(0, np.pi)
    y, x = y - side / 2, x - side / 2
    points = np.stack(
        [y * np.cos(turn) + x * np.sin(turn), x * np.cos(turn) - y * np.sin(turn)], axis=-1
    ).reshape(-1, 2)
    points += jitter * spacing * rng.standard_normal(points.shape) + [y0 + side / 2, x0 + side / 2]
    inside: Points = points[outline.depth(points[:, 0], points[:, 1]) > depth]
    return inside


@dataclass(frozen=True, slots=True)
class Lining:
    """What an epithelium is made of.

    `cytoplasm`: amounts of haematoxylin and eosin, `mottle` their unevenness; `collar`: eosin of the rim of
    collagen around it, `collar_px` its width; `halo`: how pale the cleft inside the rim is.
    """

    cytoplasm: tuple[float, float] = (0.30, 0.30)
    mottle: float = 0.05
    collar: float = 0.42
    collar_px: float = 7.0
    halo: float = 0.35


def epithelium(
    canvas: Canvas, rng: np.random.Generator, outline: Outline, lining: Lining
) -> tuple[int, int, Field]:
    """Draw collar, cleft and cytoplasm of a solid duct; returns its box's top, left and depth field."""
    y0, x0, depth = outline.field(lining.collar_px * 2.5 + 8)
    mottle = lining.mottle * grain(rng, depth.shape, coarse=True) + 0.4 * lining.mottle * grain(
        rng, depth.shape
    )
    rim = np.exp(-(((depth + lining.collar_px) / lining.collar_px) ** 2)) * soft(-depth - 1, 4)
    canvas.blend(y0, x0, 0.75 * rim.astype(np.float32), 0.08, lining.collar + mottle)
    canvas.blend(y0, x0, lining.halo * np.exp(-((depth + 1.5) ** 2) / 5), 0.02, 0.05)
    canvas.blend(
        y0,
        x0,
        soft(depth, 2.5),
        lining.cytoplasm[0] * (1 + 2 * mottle),
        lining.cytoplasm[1] * (1 + 3 * mottle),
    )
    return y0, x0, depth


def hollow(
    canvas: Canvas,
    rng: np.random.Generator,
    box: tuple[int, int, Field],
    thickness: float,
    *,
    scallop: float = 2.0,
    secretion: float = 0.0,
) -> None:
    """Open a lumen `thickness` px inside the outline; `secretion` 0–1 is how much of it is filled."""
    y0, x0, depth = box
    inner = depth - thickness - scallop * grain(rng, depth.shape, coarse=True)
    canvas.blend(y0, x0, soft(inner, 2.5), 0.0, 0.015)
    brush = np.exp(-((inner + 1.0) ** 2) / 6) * 0.30
    canvas.blend(y0, x0, brush.astype(np.float32), 0.30, 0.50)
    if secretion > 0:
        curd = soft(
            grain(rng, depth.shape, coarse=True) + 0.5 * grain(rng, depth.shape) + 2.2 * secretion - 1.2, 1.2
        )
        canvas.blend(
            y0, x0, (soft(inner - 9, 12) * curd * 0.85).astype(np.float32), 0.06, 0.25 + 0.25 * secretion
        )


def holes(
    canvas: Canvas,
    rng: np.random.Generator,
    centres: Points,
    radii: NDArray[np.floating],
    *,
    wobble: float,
    aspect: float,
) -> list[Outline]:
    """Punch white spaces into an epithelium; returns their outlines."""
    spaces = []
    for (y, x), radius in zip(centres, radii, strict=True):
        space = Outline.draw(rng, (y, x), radius, wobble=wobble, aspect=aspect)
        y0, x0, depth = space.field(6)
        canvas.blend(y0, x0, np.exp(-((depth + 1.5) ** 2) / 7).astype(np.float32) * 0.35, 0.30, 0.45)
        canvas.blend(y0, x0, soft(depth, 2), 0.0, 0.02)
        spaces.append(space)
    return spaces


def outside(points: Points, spaces: list[Outline], beyond: float) -> NDArray[np.bool_]:
    """(n,) True for points at least `beyond` px away from every space."""
    clear = np.ones(len(points), bool)
    for space in spaces:
        clear &= space.depth(points[:, 0], points[:, 1]) < -beyond
    return clear


def spaced(rng: np.random.Generator, candidates: Points, distance: float, most: int) -> Points:
    """Up to `most` of the candidates, no two nearer than `distance`."""
    kept: list[NDArray[np.float64]] = []
    for point in rng.permutation(candidates):
        if len(kept) >= most:
            break
        if all(np.hypot(*(point - other)) >= distance for other in kept):
            kept.append(point)
    return np.array(kept, float).reshape(-1, 2)
