"""A study in no time, for tests of what surrounds models: tiny slides whose features are made up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from slidefiles import picture, write_pyramid

from napari_mil import encoders
from napari_mil.bag import Bag
from napari_mil.grid import TileGrid
from napari_mil.workflow import Project

LABELS = ("Benign/N", "Malignant/IC")
QUICK = {"epochs": 2, "min_epochs": 1, "stage1_epochs": 1}


def tiny(path: Path, seed: int = 0, mpp: tuple[float, float] | None = (0.5, 0.5)) -> Path:
    """A slide of a few tiles; another seed, another slide."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_pyramid(path, picture(300, 400, seed), "zlib", mpp=mpp)


def add(project: Project, n: int, *, bag: bool = True, **about: object) -> str:
    """Slide number n, of case n, labelled by turns; its id."""
    about = {"case": f"c{n}", "label": LABELS[n % 2]} | about
    slide = project.add(tiny(project.path.parent / "slides" / f"s{n}.tif", n), **about)
    if bag:
        project.store.save_bag(made_up(slide.fingerprint, n))
    return slide.fingerprint


def made_up(slide_id: str, n: int, tiles: int = 12) -> Bag:
    """Features that tell the two labels apart."""
    machine = encoders.create("builtin")
    grid = TileGrid.full((256 * 3, 256 * 4), (0.5, 0.5), tile_px=machine.tile_px, mpp=machine.mpp)
    rng = np.random.default_rng(n)
    features = rng.normal(n % 2, 0.3, (len(grid), machine.width)).astype(np.float16)
    return Bag(slide_id, grid.with_cells(grid.cells[:tiles]), features[:tiles], machine.id)


def study(folder: Path, slides: int, **about: object) -> Project:
    """A project with so many slides, all with features."""
    project = Project(folder / "study", by="tester")
    for n in range(slides):
        add(project, n, **about)
    return project
