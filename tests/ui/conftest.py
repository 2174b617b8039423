"""Fixtures of the window's tests."""

from __future__ import annotations

import gc
import os
from contextlib import contextmanager

import numpy as np
import pytest

os.environ.setdefault("QT_API", "pyqt5")
if not os.environ.get("DISPLAY") and os.name == "posix":
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

from qtpy.QtCore import QCoreApplication, QEvent

from napari_mil.grid import TileGrid
from napari_mil.labeltree import LabelTree


@pytest.fixture(scope="session", autouse=True)
def _settled_garbage() -> None:
    """What a window imports stays as well (see the collection's end in ../conftest.py)."""
    import napari_mil.infer
    import napari_mil.train
    import napari_mil.ui.workbench  # noqa: F401  with all that they import

    gc.collect()
    gc.freeze()


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


@contextmanager
def _one_viewer():
    """A viewer, not shown, and afterwards nothing that the next one would stumble over."""
    import napari
    from app_model import Application
    from napari._qt._qapp_model.qactions import init_qactions
    from napari.plugins import _initialize_plugins

    from napari_mil.ui import compat

    made = napari.Viewer(show=False)
    yield made
    if compat.is_open(made):
        made.close()
    Application.destroy("napari")  # the next viewer makes its menus anew
    init_qactions.cache_clear()
    _initialize_plugins.cache_clear()
    gc.collect()


@pytest.fixture(scope="module")
def viewer(qapp):
    """One viewer for all tests of a file: making one takes a second. `make_napari_viewer` wants to be the
    only one who makes any, so a file uses either.
    """
    with _one_viewer() as made:
        yield made


@pytest.fixture
def own_viewer(qapp):
    """A viewer for one test, which may close it."""
    with _one_viewer() as made:
        yield made


@pytest.fixture
def docked(viewer, qtbot):
    """Open a project, or none, in a workbench docked in the file's viewer: docked(folder, by=name)."""
    from napari_mil.ui.workbench import Workbench

    made = []

    def dock(folder=None, by="ann"):
        bench = Workbench(viewer)
        made.append(bench)
        viewer.window.add_dock_widget(bench, area="right", add_vertical_stretch=False)
        if folder is not None:
            bench.open_project(folder, by=by)
        assert bench.wait(60)
        gc.freeze()  # napari collects garbage whenever a layer goes: what was there before stays
        return bench

    yield dock
    for bench in made:
        bench.shut()
        viewer.layers.clear()
        viewer.window.remove_dock_widget(bench)
        bench.deleteLater()
    made.clear()
    # no event loop does so in a test; the slots of its widgets would hold it, and all it refers to, for good
    QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)


@pytest.fixture
def quick_bench(docked, tmp_path):
    """A workbench of "ann" on two tiny slides; what it tells and says is kept in `told` and `heard`."""
    from quickstudy import study

    with study(tmp_path, 2) as project:
        folder = project.path
    made = docked(folder, by="ann")
    made.told, made.heard = [], []
    made.desk.tell = lambda what: made.told.append(str(what))
    made.desk.said.connect(made.heard.append)
    return made
