"""Tiles drawn for these tests alone: nuclei and lumens on stroma, no file needed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

WHITE, STROMA, NUCLEUS = np.array([245.0, 244, 246]), np.array([222.0, 160, 190]), np.array([92.0, 58, 140])


def draw_tile(seed: int, *, nuclei: int = 60, radius: float = 7.0, lumens: int = 2) -> NDArray[np.uint8]:
    """(256, 256, 3) uint8."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:256, :256].astype(float)
    image = STROMA + 14 * np.sin((x + 2 * y) / 9)[..., None] + rng.normal(0, 4, (256, 256, 1))
    for _ in range(lumens):
        cy, cx, r = rng.uniform(30, 226), rng.uniform(30, 226), rng.uniform(14, 30)
        image[(y - cy) ** 2 + (x - cx) ** 2 < r * r] = WHITE
    for _ in range(nuclei):
        cy, cx, r, squeeze = *rng.uniform(0, 256, 2), radius * rng.uniform(0.7, 1.3), rng.uniform(0.6, 1)
        inside = (y - cy) ** 2 + ((x - cx) / squeeze) ** 2 < r * r
        image[inside] = NUCLEUS + rng.normal(0, 10)
    return np.clip(np.round(image), 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def tiles() -> torch.Tensor:
    """(11, 256, 256, 3) uint8: stroma with few and many, small and large nuclei."""
    kinds = [(n, r, k) for n in (8, 50, 130) for r in (5.0, 9.0, 13.0) for k in (1,)] + [
        (0, 5.0, 0),
        (40, 7.0, 5),
    ]
    return torch.from_numpy(
        np.stack([draw_tile(i, nuclei=n, radius=r, lumens=k) for i, (n, r, k) in enumerate(kinds)])
    )
