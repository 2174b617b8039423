"""Fixtures of the window's tests."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import numpy as np
import pytest

os.environ.setdefault("QT_API", "pyqt5")
if not os.environ.get("DISPLAY") and os.name == "posix":
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

from napari_mil.grid import TileGrid
from napari_mil.labeltree import LabelTree


@pytest.fixture(scope="module", autouse=True)
def _settled_garbage() -> Iterator[None]:
    """What was imported before stays out of collections: napari asks for one whenever a layer goes, and the
    fixture of its viewer for several.
    """
    import napari_mil.infer
    import napari_mil.train
    import napari_mil.ui.workbench  # noqa: F401  with all that they import

    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


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


@pytest.fixture
def quick_bench(make_napari_viewer, tmp_path):
    """A workbench of "ann" on two tiny slides; what it tells and says is kept in `told` and `heard`."""
    from quickstudy import study

    from napari_mil.ui.workbench import Workbench

    with study(tmp_path, 2) as project:
        folder = project.path
    viewer = make_napari_viewer(show=False)
    made = Workbench(viewer)
    viewer.window.add_dock_widget(made, area="right")
    made.open_project(folder, by="ann")
    assert made.wait(60)
    made.told, made.heard = [], []
    made.desk.tell = lambda what: made.told.append(str(what))
    made.desk.said.connect(made.heard.append)
    yield made
    made.shut()
