"""The part of slides.py that needs a window: one script of pans and zooms, in a process of its own.

    scripts/with_screen python benchmarks/slideview.py jpeg '{"jpeg": "slide.svs"}' 0.5

The last line printed is JSON. `bare` shows arrays in memory of the same shapes in napari without us.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from typing import Any

import napari
import numpy as np
import psutil
from qtpy.QtWidgets import QApplication

from napari_mil.slides import cache, open_slide
from napari_mil.ui import compat
from napari_mil.ui.activation import spare_the_window
from napari_mil.ui.layers import slide_layer
from napari_mil.ui.slicing import place_levels, sharpening_of

SIZE = (1600, 1000)
BOUND_MB = 256
MPP = 0.25
REST_S = 0.7  #: somebody looks before moving on


def camera_steps(side_um: float, count: int = 40) -> Iterator[tuple[float, float, float]]:
    """(y, x, zoom) of a walk: pans of a third of a window, and zooms by 1.5 that cross every level."""
    rng = np.random.default_rng(4)
    y = x = side_um / 2
    zoom = 4.0  # screen pixels per µm: level 0
    for i in range(count):
        if i % 4 == 3:
            zoom = float(np.clip(zoom * rng.choice([1 / 1.5, 1.5]), 0.3, 5))
        angle = rng.uniform(0, 2 * np.pi)
        y = float(np.clip(y + np.sin(angle) * SIZE[1] / 3 / zoom, 0.2 * side_um, 0.8 * side_um))
        x = float(np.clip(x + np.cos(angle) * SIZE[0] / 3 / zoom, 0.2 * side_um, 0.8 * side_um))
        yield y, x, zoom


def look(viewer: Any, y: float, x: float, zoom: float) -> tuple[float, float, float]:
    """Go there; the ms that the window was blocked by the first painting and until the canvas had nothing
    more to paint, and those its thread computed in all. Bare napari paints a new view twice, the second time
    with what the first found to be in it.
    """
    canvas = compat.main_window(viewer)._qt_viewer.canvas._scene_canvas  # noqa: SLF001
    began, spent = time.perf_counter(), time.thread_time()
    camera = compat.camera(viewer)
    camera.center, camera.zoom = (0, y, x), zoom
    QApplication.processEvents()
    first = time.perf_counter()
    while canvas._update_pending:  # noqa: SLF001
        QApplication.processEvents()
    end = time.perf_counter()
    return (first - began) * 1000, (end - began) * 1000, (time.thread_time() - spent) * 1000


def settle(layer: Any, seconds: float = 20.0) -> float:
    """Let tiles arrive until the picture is sharp and painted; ms."""
    began = time.perf_counter()
    sharpening = sharpening_of(layer)
    while sharpening is not None and time.perf_counter() - began < seconds:
        QApplication.processEvents()
        if sharpening.picture.sharp and not sharpening.pending:
            break
        time.sleep(0.001)
    return (time.perf_counter() - began) * 1000


class Slow:
    """A source each of whose tiles takes 80 ms longer, as over a network."""

    def __init__(self, source: Any) -> None:
        self._source, self.info = source, source.info

    def tile(self, level: int, row: int, col: int) -> Any:
        time.sleep(0.08)
        return self._source.tile(level, row, col)

    def close(self) -> None:
        self._source.close()


def viewer_with(what: str, path: str) -> tuple[Any, Any, Any]:
    viewer = napari.Viewer()
    compat.main_window(viewer).resize(*SIZE)
    slide = open_slide(path)
    if what == "bare":
        rng = np.random.default_rng(0)
        noise = rng.integers(60, 240, (1024, 1024, 3), dtype=np.uint8)
        data = [np.tile(noise, (s.shape_px[0] // 1024, s.shape_px[1] // 1024, 1)) for s in slide.drawn_levels]
        layer = viewer.add_image(data, rgb=True, multiscale=True, contrast_limits=(0, 255), scale=(MPP, MPP))
    else:
        spare_the_window(viewer)
        compat.slice_before_painting(viewer)
        compat.watch_layers(viewer, place_levels)
        levels, options, _ = slide_layer(slide)
        layer = viewer.add_image(levels, **options)
        if what == "remote":
            slide.engine.source = Slow(slide.engine.source)
    for _ in range(20):
        QApplication.processEvents()
        time.sleep(0.02)
    return viewer, layer, slide


def steps(what: str, path: str) -> dict[str, Any]:
    """Blocked ms per step, ours within it, and how long until sharp, after pans and after zooms."""
    viewer, layer, slide = viewer_with(what, path)
    own: list[float] = []
    sharpening = sharpening_of(layer)
    if sharpening is not None:
        draw = sharpening.picture.draw

        def counted(*args: Any) -> Any:
            began = time.perf_counter()
            made = draw(*args)
            own.append((time.perf_counter() - began) * 1000)
            return made

        sharpening.picture.draw = counted
    side = slide.shape_px[0] * MPP
    first, blocked, computed, pan, zoom, last = [], [], [], [], [], 4.0
    for i, (y, x, z) in enumerate(camera_steps(side)):
        painted, spent, own_cpu = look(viewer, y, x, z)
        if i >= 2:
            first.append(painted)
            blocked.append(spent)
            computed.append(own_cpu)
        rest = 0.0 if what == "remote" and i % 3 else settle(layer)
        (zoom if z != last else pan).append(spent + rest)
        last = z
    rested = rests(viewer, layer, side) if sharpening is not None else [0.0]
    viewer.close()
    return {
        "rested": rested,
        "rest": REST_S,
        "first": first,
        "steps": blocked,
        "cpu": computed,
        "ours": own or [0.0],
        "pan": pan,
        "zoom": zoom or [0.0],
    }


def rests(viewer: Any, layer: Any, side_um: float, count: int = 12) -> list[float]:
    """Ms until sharp after pans of a third of the window at full resolution, each after a rest, as when
    somebody looks at what is there.
    """
    rng, y, x, found = np.random.default_rng(6), side_um / 3, side_um / 3, []
    for _ in range(count):
        angle = rng.uniform(0, 2 * np.pi)
        y += np.sin(angle) * SIZE[1] / 3 / 4
        x += np.cos(angle) * SIZE[0] / 3 / 4
        _, spent, _ = look(viewer, y, x, 4.0)
        found.append(spent + settle(layer))
        end = time.monotonic() + REST_S
        while time.monotonic() < end:
            QApplication.processEvents()
            time.sleep(0.002)
    return found[1:]  # the first comes from elsewhere


def memory(path: str, minutes: float) -> dict[str, float]:
    """Resident MB over the empty viewer while the view wanders."""
    cache.set_cache_mb(BOUND_MB)
    process, viewer = psutil.Process(), napari.Viewer()
    compat.main_window(viewer).resize(*SIZE)
    for _ in range(20):
        QApplication.processEvents()
        time.sleep(0.02)
    empty = process.memory_info().rss
    compat.watch_layers(viewer, place_levels)
    slide = open_slide(path)
    levels, options, _ = slide_layer(slide)
    layer = viewer.add_image(levels, **options)
    end, seen = time.monotonic() + 60 * minutes, []
    rng, side = np.random.default_rng(5), slide.shape_px[0] * MPP
    while time.monotonic() < end:
        y, x = rng.uniform(0.1, 0.9, 2) * side
        look(viewer, float(y), float(x), float(np.exp(rng.uniform(np.log(0.05), np.log(5)))))
        settle(layer)
        seen.append((process.memory_info().rss - empty) / 2**20)
    viewer.close()
    half = len(seen) // 2
    return {
        "bound": BOUND_MB,
        "most": max(seen),
        "first": max(seen[:half]),
        "second": max(seen[half:]),
        "minutes": minutes,
    }


def main(what: str, paths: dict[str, str], minutes: float) -> None:
    if what == "memory":
        made: dict[str, Any] = memory(paths["long"], minutes)
    else:
        made = steps(what, paths["jpeg2000" if what == "jpeg2000" else "jpeg"])
    print(json.dumps(made))


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]), float(sys.argv[3]))
