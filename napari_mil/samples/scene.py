"""Where things lie: the outline of the tissue, fat, foci of a lesion, normal anatomy and what disturbs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_mil.samples.textures import Field, cloud

#: Pixels per sample of the plan's rasters (8 µm).
PLAN = 16
#: Side of the cells for which truth is told: 256 px at 0.5 µm/px.
CELL = 256
#: A cell is told by the lesion that covers at least this share of it, and is tissue from this share on.
LEAST = 0.25


@dataclass(frozen=True, slots=True)
class Difficulty:
    """How hard the lesions of a slide or cohort are to find.

    Attributes
    ----------
    lesion_fraction : least and largest share of lesion among the tissue tiles of an ordinary positive slide
    hard_slides : share of positive slides that carry only one to three tiles, all hard
    hard_tiles : share of hard tiles on the other positive slides
    hard_expression : range of the expression strength of hard tiles (textbook tiles have 0.85 … 1)
    look_alikes : mean number, on every slide, of small structures like the weakest lesion that are none
    """

    lesion_fraction: tuple[float, float] = (0.04, 0.10)
    hard_slides: float = 0.55
    hard_tiles: float = 0.30
    hard_expression: tuple[float, float] = (0.02, 0.15)
    look_alikes: float = 1.2


@dataclass(slots=True, eq=False)
class Plan:
    """What lies where, as rasters (h, w) of PLAN px.

    `inside`: px from the tissue's edge, negative outside; `fat`, `taken` (by ducts and the like), `lesion`;
    `expression`: how strongly the lesion shows there, 0–1.
    """

    shape_px: tuple[int, int]
    inside: Field
    fat: NDArray[np.bool_]
    taken: NDArray[np.bool_]
    lesion: NDArray[np.bool_]
    expression: Field

    @property
    def tissue(self) -> NDArray[np.bool_]:
        """Where tissue is."""
        return self.inside > 0

    def mark(self, y: float, x: float, radius: float, raster: NDArray[np.bool_] | None = None) -> None:
        """Take a disc."""
        rows, cols, disc = self._disc(y, x, radius)
        target = self.taken if raster is None else raster
        target[rows, cols] |= disc

    def is_free(self, y: float, x: float, radius: float) -> bool:
        """Whether a disc lies in tissue, outside fat and on nothing that is already there."""
        rows, cols, disc = self._disc(y, x, radius)
        blocked = self.taken[rows, cols] | self.fat[rows, cols] | (self.inside[rows, cols] <= 0)
        return not bool((blocked & disc).any())

    def solid(self, points: NDArray[np.floating]) -> NDArray[np.bool_]:
        """(n,) whether points (n, 2) lie in tissue and outside fat."""
        at = np.floor(points / PLAN).astype(int)
        h, w = self.inside.shape
        within = (at >= 0).all(1) & (at < (h, w)).all(1)
        y, x = np.clip(at, 0, (h - 1, w - 1)).T
        firm: NDArray[np.bool_] = within & (self.inside[y, x] > 8) & ~self.fat[y, x]
        return firm

    def place(self, rng: np.random.Generator, radius: float, tries: int = 25) -> tuple[float, float] | None:
        """A place for a disc, taken from now on; None when none was found."""
        y, x = np.nonzero((self.inside > 0.7 * radius) & ~self.taken & ~self.fat)
        if not len(y):
            return None
        for i in rng.integers(0, len(y), tries):
            at = (float(y[i] * PLAN + PLAN / 2), float(x[i] * PLAN + PLAN / 2))
            if self.is_free(*at, radius):
                self.mark(*at, radius)
                return at
        return None

    def _disc(self, y: float, x: float, radius: float) -> tuple[slice, slice, NDArray[np.bool_]]:
        height, width = self.inside.shape
        y0, y1 = max(0, int((y - radius) // PLAN)), min(height, int((y + radius) // PLAN) + 1)
        x0, x1 = max(0, int((x - radius) // PLAN)), min(width, int((x + radius) // PLAN) + 1)
        rows, cols = slice(min(y0, height), max(y1, 0)), slice(min(x0, width), max(x1, 0))
        cy, cx = np.arange(height)[rows] * PLAN + PLAN / 2 - y, np.arange(width)[cols] * PLAN + PLAN / 2 - x
        return rows, cols, cy[:, None] ** 2 + cx[None] ** 2 <= radius**2

    def share(self, raster: NDArray[np.bool_]) -> Field:
        """(rows, cols) share of every lattice cell that a raster covers."""
        rows, cols = -(-self.shape_px[0] // CELL), -(-self.shape_px[1] // CELL)
        per = CELL // PLAN
        full = np.zeros((rows * per, cols * per), np.float32)
        full[: raster.shape[0], : raster.shape[1]] = raster
        covered: Field = full.reshape(rows, per, cols, per).mean((1, 3))
        return covered


def make_plan(rng: np.random.Generator, shape_px: tuple[int, int]) -> Plan:
    """The outline of the tissue and its fat; nothing is taken yet."""
    h, w = -(-shape_px[0] // PLAN), -(-shape_px[1] // PLAN)
    y, x = (np.arange(n, dtype=np.float32)[:, None] / (n - 1) * 2 - 1 for n in (h, w))
    turn = rng.uniform(-0.25, 0.25)
    u, v = y * np.cos(turn) + x.T * np.sin(turn), x.T * np.cos(turn) - y * np.sin(turn)
    ry, rx = rng.uniform(0.80, 0.94, 2)
    wide = min(h, w)
    height = 1 - (np.abs(u / ry) ** 2.6 + np.abs(v / rx) ** 2.6)
    height = height + 0.20 * cloud(rng, (h, w), wide * 0.25) + 0.06 * cloud(rng, (h, w), wide * 0.07)
    border = np.minimum.outer(
        np.minimum(np.arange(h), np.arange(h)[::-1]), np.minimum(np.arange(w), np.arange(w)[::-1])
    )
    mask = (height > 0) & (border >= 2)
    labels, n = ndimage.label(mask)
    if n > 1:  # keep the one piece of tissue
        mask = labels == 1 + np.argmax(ndimage.sum_labels(mask, labels, np.arange(1, n + 1)))
    mask = ndimage.binary_fill_holes(mask)
    inside = ndimage.distance_transform_edt(mask) - ndimage.distance_transform_edt(~mask)
    fat = cloud(rng, (h, w), 28) > rng.uniform(0.9, 1.7)
    fat &= inside > 3
    nothing = np.zeros((h, w), bool)
    return Plan(
        shape_px,
        np.asarray(inside * PLAN, np.float32),
        fat,
        nothing,
        nothing.copy(),
        np.zeros((h, w), np.float32),
    )


@dataclass(frozen=True, slots=True)
class Focus:
    """One lattice cell that a lesion should take: (row, col) and how strongly it is expressed there, 0–1."""

    cell: tuple[int, int]
    expression: float


def choose_foci(
    rng: np.random.Generator, plan: Plan, *, tiles: int, hard: float, expression: tuple[float, float]
) -> list[Focus]:
    """Cells for a lesion of about `tiles` cells in one to three foci, away from fat and edge.

    `hard` is the share of weak cells, `expression` the range of their strength.
    """
    solid = plan.share(plan.tissue & ~plan.fat & (plan.inside > PLAN * 4))
    good = solid > 0.9 if (solid > 0.9).sum() >= tiles else solid >= np.sort(solid, axis=None)[-tiles]
    foci = 1 if tiles < 4 else int(rng.integers(1, 4))
    chosen: list[tuple[int, int]] = []
    while len(chosen) < tiles:
        near = [
            c
            for c in map(tuple, np.argwhere(good).tolist())
            if c not in chosen and any(abs(c[0] - d[0]) + abs(c[1] - d[1]) == 1 for d in chosen)
        ]
        free = [c for c in map(tuple, np.argwhere(good).tolist()) if c not in chosen]
        if not free:
            break
        start_new = not near or (len(chosen) * foci / tiles >= len({*chosen}) and rng.random() < foci / tiles)
        pool = free if start_new else near
        chosen.append(pool[int(rng.integers(len(pool)))])  # type: ignore[arg-type]
    weak = rng.random(len(chosen)) < hard
    return [
        Focus(cell, float(rng.uniform(*expression) if is_weak else rng.uniform(0.85, 1.0)))
        for cell, is_weak in zip(chosen, weak, strict=True)
    ]
