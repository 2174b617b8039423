"""The sample cohort as bags with their truth: drawn, embedded with the built-in encoder, and kept in a
folder.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from napari_mil import encoders, samples
from napari_mil.bag import Bag
from napari_mil.correction import Target
from napari_mil.encode import encode_steps
from napari_mil.evaluate import TrainingCase, lesion_of
from napari_mil.grid import TileGrid
from napari_mil.slides import open_slide
from napari_mil.steps import drain
from napari_mil.tissue import tissue_grid

TREE = samples.SAMPLE_TREE


@dataclass(frozen=True, slots=True, eq=False)
class Cohort:
    """Cases without tile labels, and the true node of each case's tiles (N,), its bags joined; 0 =
    unknown.
    """

    cases: dict[str, TrainingCase]
    truth: dict[str, np.ndarray]

    @property
    def labels(self) -> dict[str, int]:
        """The node of each case."""
        return {name: case.target.slide for name, case in self.cases.items()}


def load(
    work: Path,
    *,
    slides: int = 120,
    seed: int = 0,
    workers: int = 2,
    difficulty: samples.Difficulty | None = None,
) -> Cohort:
    """The cohort kept in `work`; what is missing is made."""
    told = (samples.cohort.EDITION, dataclasses.astuple(difficulty or samples.Difficulty()))
    folder = work / f"cohort-{slides}-{seed}-{hashlib.sha256(repr(told).encode()).hexdigest()[:6]}"
    options = {"slides": slides, "seed": seed, "workers": workers, "difficulty": difficulty}
    manifest = drain(samples.make_cohort(folder, **options))
    with manifest.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    paths = [folder / row["slide"] for row in rows]
    kept = [work / "bags" / f"{folder.name}-{path.stem}.npz" for path in paths]
    missing = [pair for pair in zip(paths, kept, strict=True) if not pair[1].exists()]
    if len(missing) > 1 and workers > 1:
        with ProcessPoolExecutor(workers, get_context("spawn"), _alone) as pool:
            list(pool.map(_embed, missing))
    bags: dict[str, list[Bag]] = {}
    nodes: dict[str, list[np.ndarray]] = {}
    labels: dict[str, int] = {}
    for row, path, file in zip(rows, paths, kept, strict=True):
        bag = _bag(path, file)
        bags.setdefault(row["case"], []).append(bag)
        nodes.setdefault(row["case"], []).append(_truth(folder / "truth" / f"{path.stem}.npz", bag.grid))
        labels[row["case"]] = TREE.node(row["label"])
    cases = {c: TrainingCase(c, tuple(bags[c]), Target(labels[c])) for c in sorted(bags)}
    return Cohort(cases, {c: np.concatenate(nodes[c]) for c in cases})


def one(path: Path, truth: Path, work: Path, name: str, node: int) -> tuple[TrainingCase, np.ndarray]:
    """A slide outside the cohort as a case, and the true node of each of its tiles (N,)."""
    bag = _bag(path, work / "bags" / f"{name}.npz")
    return TrainingCase(name, (bag,), Target(node)), _truth(truth, bag.grid)


def lesion(node: int) -> int:
    """1 a lesion, 0 normal, −1 unknown."""
    return lesion_of(TREE, node)


def _alone() -> None:
    torch.set_num_threads(1)


def _embed(pair: tuple[Path, Path]) -> None:
    _bag(*pair)


def _bag(path: Path, kept: Path) -> Bag:
    encoder = encoders.create("builtin")
    with open_slide(path) as slide:
        if kept.exists():
            found = np.load(kept)
            if str(found["encoder"]) == encoder.id and str(found["slide"]) == slide.fingerprint:
                grid = TileGrid(slide.shape_px, slide.mpp, encoder.tile_px, encoder.mpp, found["cells"])
                return Bag(slide.fingerprint, grid, found["features"], encoder.id)
        grid = tissue_grid(slide, tile_px=encoder.tile_px, mpp=encoder.mpp)
        bag = drain(encode_steps(slide, grid, encoder, device="cpu"))
    kept.parent.mkdir(parents=True, exist_ok=True)
    part = kept.with_suffix(".tmp.npz")
    np.savez(part, features=bag.features, cells=grid.cells, encoder=encoder.id, slide=bag.slide_id)
    part.replace(kept)
    return bag


def _truth(path: Path, grid: TileGrid) -> np.ndarray:
    cells, nodes = samples.read_truth(path)
    raster = np.zeros(
        (max(grid.shape[0], cells[:, 0].max() + 1), max(grid.shape[1], cells[:, 1].max() + 1)), np.int32
    )
    raster[cells[:, 0], cells[:, 1]] = nodes
    return raster[grid.cells[:, 0], grid.cells[:, 1]]


def paired(values: Iterator[tuple[float, float]]) -> tuple[float, float, float]:
    """Mean difference of pairs with its 95 % interval from 10,000 bootstrap draws of the pairs."""
    difference = np.array([a - b for a, b in values])
    draws = np.random.default_rng(0).choice(difference, (10_000, len(difference))).mean(1)
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(difference.mean()), float(low), float(high)
