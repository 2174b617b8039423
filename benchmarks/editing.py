"""How long one edit takes in the window at 1,000,000 tiles: a stroke, undo and redo, after 2,000 strokes.

    scripts/with_screen .venv/bin/python benchmarks/editing.py [postgresql://SERVER/DATABASE]

Times are ms: median, 95th percentile, longest, over 40 steps. *The act* is the call that a key or the end of
a stroke makes: for a stroke state, layers and every list of the workbench. *The turn* are the event loop's
turns after it until the ledger has kept it: napari draws, and what was kept is shown. Beside it is bare
napari: a Labels layer of the same shape that is given a new array in each step. *Ours* is the difference of
both whole steps, paired by rank; its bound is 16 ms. The second line is the same in processor time of the
window's thread, which other work on the machine does not lengthen. With an address the ledger lies there.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import napari
import numpy as np
import tifffile
from qtpy.QtCore import QEventLoop
from qtpy.QtWidgets import QApplication

from napari_mil.card import ModelCard
from napari_mil.correction import Cells, Correction
from napari_mil.ui import writing
from napari_mil.ui.workbench import open_workbench
from napari_mil.workflow import Project, share

SIDE, STROKES, STEPS = 1000, 2000, 40
#: One tile is one pixel, so that a small slide has as many tiles as a very large one.
PITCH = (1.0, 1.0)


def main() -> None:
    print(f"load before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores, {SIDE * SIDE:,} tiles")
    with tempfile.TemporaryDirectory() as work:
        folder = make_study(Path(work))
        if len(sys.argv) > 1:
            share(folder, sys.argv[1])
        bench = open_workbench(folder, by="bench")
        bench.resize_window(1600, 1000)
        bench.wait(120)
        bare = bare_steps()
        report("bare napari, new labels: the call", [s.act for s in bare])
        report("bare napari, new labels: the turn", [s.turn for s in bare])
        for words in ("undo", "redo", "stroke"):
            taken = [step(doing(bench, words, n), lambda: bench.desk.writes.busy) for n in range(STEPS)]
            report(f"{words}: the act", [s.act for s in taken])
            report(f"{words}: the turn", [s.turn for s in taken])
            report(
                f"{words}: ours", difference([s.act + s.turn for s in taken], [s.act + s.turn for s in bare])
            )
            report(
                f"{words}: ours, processor time", difference([s.cpu for s in taken], [s.cpu for s in bare])
            )
        bench.viewer.close()


def make_study(work: Path) -> Path:
    """A project with one slide, a model whose tiles are single pixels, and many strokes."""
    path = work / "slide.tif"
    pixels = np.full((SIDE, SIDE, 3), 230, np.uint8)
    tifffile.imwrite(
        path, pixels, tile=(256, 256), photometric="rgb", compression="zlib",
        resolution=(20000, 20000), resolutionunit="CENTIMETER",
    )  # fmt: skip
    with Project(work / "study", by="bench") as project:
        slide = project.add(path)
        card = ModelCard("m-1", "m", "mean", {}, "builtin-1", 3, 1, 0.5, project.tree)
        project.store.save_model(card, b"weights")
        strokes = [Correction(slide.fingerprint, blob(n), label(n), by="bench") for n in range(STROKES)]
        for one in strokes:
            project.ledger.correct(one)
    return work / "study"


def blob(n: int) -> Cells:
    """A stroke of a round brush, some 40 tiles long and 9 wide, at a place of its own."""
    draw = np.random.default_rng(n)
    y, x = draw.integers(30, SIDE - 60, 2)
    along = np.indices((9, 40)).reshape(2, -1).T + np.array([y, x])
    return Cells(along.astype(np.int32), PITCH)


def label(n: int) -> str:
    return ("Benign/UDH", "Atypical/ADH", "Malignant/IC")[n % 3]


def doing(bench: Any, words: str, n: int) -> Callable[[], Any]:
    """What a key does, or the end of a stroke that napari has painted."""
    if words != "stroke":
        return lambda: getattr(writing, words)(bench.desk)
    layer, tree = bench.desk.layer("corrections"), bench.desk.state.project.tree
    with layer.events.paint.blocker():
        layer.data_setitem(tuple(blob(10_000 + n).cells.T), tree.node(label(n)))
    QApplication.processEvents()
    return bench.review.brush.stroke


class Step(NamedTuple):
    """Milliseconds of a call, of the event loop's turn after it, and of the thread's processor for both."""

    act: float
    turn: float
    cpu: float


def step(act: Callable[[], Any], busy: Callable[[], bool] = lambda: False) -> Step:
    cpu, started = time.thread_time(), time.perf_counter()
    act()
    done = time.perf_counter()
    QApplication.processEvents()
    while busy():  # sleeps until something happens
        QEventLoop().processEvents(QEventLoop.ProcessEventsFlag.WaitForMoreEvents)
    QApplication.processEvents()  # what was kept is drawn in this step, not in the next
    times = (done - started, time.perf_counter() - done, time.thread_time() - cpu)
    return Step(*(1000 * seconds for seconds in times))


def difference(ours: list[float], bare: list[float]) -> list[float]:
    """Paired by rank."""
    return (np.sort(ours) - np.sort(bare)).tolist()


def bare_steps() -> list[Step]:
    """The same for a bare viewer."""
    viewer = napari.Viewer()
    viewer.window.resize(1600, 1000)
    viewer.add_image(np.full((SIDE, SIDE, 3), 230, np.uint8), rgb=True)
    layer = viewer.add_labels(np.zeros((SIDE, SIDE), np.int32))
    raster = np.zeros((SIDE, SIDE), np.int32)
    for n in range(STROKES):
        raster[tuple(blob(n).cells.T)] = n % 3 + 1
    taken = []
    for n in range(STEPS + 2):
        raster = raster.copy()
        raster[tuple(blob(n).cells.T)] = 0
        taken.append(step(lambda raster=raster: setattr(layer, "data", raster)))
    viewer.close()
    return taken[2:]


def report(words: str, values: list[float]) -> None:
    median, high = np.percentile(values, [50, 95])
    print(f"{words:40s} {median:7.1f} {high:7.1f} {max(values):7.1f}")


if __name__ == "__main__":
    main()
