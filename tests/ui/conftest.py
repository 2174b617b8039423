"""Fixtures of the window's tests."""

from __future__ import annotations

import os

import numpy as np
import pytest

os.environ.setdefault("QT_API", "pyqt5")
if not os.environ.get("DISPLAY") and os.name == "posix":
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

from napari_mil.grid import TileGrid
from napari_mil.labeltree import LabelTree


@pytest.fixture
def tree() -> LabelTree:
    paths = ["Benign/N", "Benign/UDH", "Atypical/ADH", "Malignant/IC"]
    return LabelTree.from_paths(paths, normal=["Benign/N"])


@pytest.fixture
def grid() -> TileGrid:
    """30 tissue tiles on a lattice of 6 × 8 over a slide of odd size."""
    full = TileGrid.full((1501, 2011), (0.5, 0.5), tile_px=256, mpp=0.5)
    chosen = np.sort(np.random.default_rng(0).permutation(len(full))[:30])
    return full.with_cells(full.cells[chosen])
