"""How lively the window is: heartbeat while work runs, and the sliders of hidden tiles at 50,000 tiles.

    scripts/with_screen .venv/bin/python benchmarks/window.py PROJECT

PROJECT is a folder such as demo-output/project; a copy is used. Times are ms: median, 95th percentile,
longest. The figures
for the sliders are beside those of bare napari given new labels of the same shape.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import napari
import numpy as np
from qtpy.QtCore import QEventLoop, QTimer
from qtpy.QtWidgets import QApplication

from napari_mil import methods
from napari_mil.bag import Bag
from napari_mil.grid import TileGrid
from napari_mil.masks import ROLES, Simulator
from napari_mil.prediction import TileMap
from napari_mil.samples import SAMPLE_TREE
from napari_mil.ui.layers import map_layer, sync
from napari_mil.ui.workbench import open_workbench

TILES = 50_000


def main(project: Path) -> None:
    print(f"load before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as work:
        heartbeats(Path(shutil.copytree(project, Path(work) / "project")))
    sliders()


def heartbeats(project: Path) -> None:
    """A 10 ms timer while nothing runs, while tiles are embedded, and while a model is trained."""
    for part in ("bags", "maps"):
        shutil.rmtree(project / part, ignore_errors=True)
    bench = open_workbench(project)
    bench.resize_window(1600, 1000)
    bench.wait(120)
    report("gap, at rest", beat(None))
    report("gap, embedding", beat(bench.model.run()))
    bench.wait(60)
    report("gap, training", beat(bench.retrain.start(recipe={"epochs": 6, "min_epochs": 1})))
    bench.viewer.close()


def beat(job: Any, rest_ms: int = 3000) -> list[float]:
    """Gaps between ticks until the job has finished, or for a while."""
    gaps: list[float] = []
    last = [time.perf_counter()]

    def tick() -> None:
        now = time.perf_counter()
        gaps.append((now - last[0]) * 1000)
        last[0] = now

    loop, timer = QEventLoop(), QTimer()
    timer.timeout.connect(tick)
    timer.start(10)
    if job is None:
        QTimer.singleShot(rest_ms, loop.quit)
    else:
        job.finished.connect(loop.quit)
    loop.exec_()  # qtpy gives every binding this name
    timer.stop()
    return gaps


def sliders(steps: int = 20) -> None:
    """One step of the mask ratio's slider: simulating, making the layer, handing it to napari."""
    lattice = TileGrid.full((230 * 512, 220 * 512), (0.25, 0.25), tile_px=256, mpp=0.5)
    grid = lattice.with_cells(lattice.cells[:TILES])
    features = np.random.default_rng(0).standard_normal((TILES, 342)).astype(np.float16)
    model = methods.create("mhim", None, in_features=342, tree=SAMPLE_TREE).eval()
    simulator = Simulator(model, Bag("bench", grid, features, "builtin-1"))
    viewer = napari.Viewer()
    ours: list[tuple[float, float]] = []
    bare: list[float] = []
    plain = viewer.add_labels(np.zeros(grid.shape, np.int32))
    for ratio in np.linspace(0.01, 0.4, steps + 1):
        started = time.perf_counter()
        masks = simulator(mask_ratio=float(ratio), keep_ratio=0.7)
        simulated = time.perf_counter()
        sync(viewer, [map_layer(TileMap("hidden", "groups", masks.role, legend=ROLES), grid, SAMPLE_TREE)])
        ours.append(((simulated - started) * 1000, (time.perf_counter() - simulated) * 1000))
        QApplication.processEvents()
        raster = np.random.default_rng(1).integers(0, 4, grid.shape).astype(np.int32)
        started = time.perf_counter()
        plain.data = raster
        bare.append((time.perf_counter() - started) * 1000)
        QApplication.processEvents()
    report(f"slider, simulate {TILES:,} tiles (in a thread)", [a for a, _ in ours[1:]])
    report("slider, layer (in the window)", [b for _, b in ours[1:]])
    report("bare napari, new labels", bare[1:])
    viewer.close()


def report(words: str, values: list[float]) -> None:
    median, high = np.percentile(values, [50, 95])
    print(f"{words:45s} {median:7.1f} {high:7.1f} {max(values):7.1f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
