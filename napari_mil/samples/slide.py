"""One synthetic slide, from a seed to a file and its truth."""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import NDArray

from napari_mil.errors import LabelError
from napari_mil.labeltree import LabelTree
from napari_mil.samples.canvas import Canvas, Stain
from napari_mil.samples.drawing import (
    draw_anatomy,
    draw_fat,
    draw_fold,
    draw_inflammation,
    draw_lesion,
    draw_look_alike,
    draw_pen,
    draw_stroma,
)
from napari_mil.samples.lesions import LESIONS
from napari_mil.samples.scene import LEAST, Difficulty, Plan, choose_foci, make_plan
from napari_mil.samples.writing import SampleTruth, write_pyramid

#: The label tree of all samples: seven leaves in three groups; only N is no lesion.
SAMPLE_TREE = LabelTree.from_paths(
    ["Benign/N", "Benign/PB", "Benign/UDH", "Atypical/FEA", "Atypical/ADH", "Malignant/DCIS", "Malignant/IC"],
    normal=["Benign/N"],
    # no pinks and purples: a map lies over H&E; darker within a group means worse
    colours={
        "Benign": "#0072B2",
        "Atypical": "#E69F00",
        "Malignant": "#D55E00",
        "Benign/N": "#BBBBBB",
        "Benign/PB": "#009E73",
        "Benign/UDH": "#56B4E9",
        "Atypical/FEA": "#F0E442",
        "Atypical/ADH": "#9A6A00",
        "Malignant/DCIS": "#A50026",
        "Malignant/IC": "#1A1A1A",
    },
)


def draw_slide(
    *,
    seed: int,
    label: str = "Benign/N",
    shape_px: tuple[int, int] = (2560, 3072),
    difficulty: Difficulty | None = None,
    hard: bool | None = None,
    pen: bool | None = None,
    fold: bool | None = None,
) -> tuple[NDArray[np.uint8], SampleTruth]:
    """Draw a slide: (H, W, 3) uint8 pixels and the truth; parameters as in `make_slide`."""
    leaf = _leaf(label)
    if min(shape_px) < 1024:
        raise LabelError(f"A sample slide needs at least 1024 × 1024 px; got {shape_px[0]} × {shape_px[1]}.")
    difficulty = difficulty or Difficulty()
    rng = np.random.default_rng([seed, 4711])
    stain, plan, canvas = Stain.draw(rng), make_plan(rng, shape_px), Canvas(shape_px)
    hard = bool(rng.random() < difficulty.hard_slides) if hard is None else hard
    draw_stroma(canvas, rng, plan)
    draw_fat(canvas, rng, plan)
    if leaf in LESIONS:
        _lesion(canvas, rng, plan, leaf, difficulty, hard=hard)
    for _ in range(int(rng.poisson(difficulty.look_alikes))):
        draw_look_alike(canvas, rng, plan)
    draw_anatomy(canvas, rng, plan)
    draw_inflammation(canvas, rng, plan)
    if fold if fold is not None else rng.random() < 0.10:
        draw_fold(canvas, rng, plan)
    pixels = canvas.colours(stain)
    if pen if pen is not None else rng.random() < 0.06:
        draw_pen(pixels, rng, plan)
    return pixels, _truth(plan, leaf)


def _lesion(
    canvas: Canvas, rng: np.random.Generator, plan: Plan, leaf: str, difficulty: Difficulty, *, hard: bool
) -> None:
    """Choose the lesion's cells and draw it there."""
    tissue_tiles = int((plan.share(plan.tissue) >= LEAST).sum())
    if hard:
        tiles = int(rng.integers(1, 4))
    else:
        tiles = max(2, round(tissue_tiles * rng.uniform(*difficulty.lesion_fraction)))
    weak = 1.0 if hard else difficulty.hard_tiles
    foci = choose_foci(rng, plan, tiles=tiles, hard=weak, expression=difficulty.hard_expression)
    draw_lesion(canvas, rng, plan, leaf, foci)


def make_slide(
    path: str | os.PathLike[str],
    *,
    seed: int,
    label: str = "Benign/N",
    shape_px: tuple[int, int] = (2560, 3072),
    difficulty: Difficulty | None = None,
    hard: bool | None = None,
    pen: bool | None = None,
    fold: bool | None = None,
) -> SampleTruth:
    """Write a synthetic H&E slide as a tiled JPEG pyramid of 0.5 µm/px, the same for the same arguments.

    Parameters
    ----------
    path : the TIFF file; written under a temporary name and renamed when whole
    seed : decides everything that is random
    label : leaf of SAMPLE_TREE, as a path or a name; tissue is normal but for the lesion of this name
    shape_px : (H, W), at least 1024 each
    difficulty : how much lesion there is and how weak; the tuned defaults when None
    hard : one to three weak lesion tiles only (True), an ordinary share of mostly textbook tiles (False);
        drawn when None
    pen, fold : force or forbid a pen's line and a fold; drawn (rare) when None

    Returns
    -------
    The truth per cell of the 256 px lattice.

    Raises
    ------
    LabelError
        When the label is no leaf of SAMPLE_TREE or the slide would be too small.
    """
    pixels, truth = draw_slide(
        seed=seed, label=label, shape_px=shape_px, difficulty=difficulty, hard=hard, pen=pen, fold=fold
    )
    write_pyramid(path, pixels, description=f"Synthetic H&E, {truth.label}, seed {seed}")
    return truth


def _leaf(label: str) -> str:
    node = SAMPLE_TREE.node(label)
    if node not in SAMPLE_TREE.leaves:
        leaves = ", ".join(SAMPLE_TREE.path(n) for n in SAMPLE_TREE.leaves)
        raise LabelError(f"{label!r} is no leaf of the sample tree; a sample slide is one of {leaves}.")
    return SAMPLE_TREE.names[node]


def _truth(plan: Plan, leaf: str) -> SampleTruth:
    tissue = plan.share(plan.tissue)
    covered = plan.share(plan.lesion & plan.tissue)
    nodes = np.where(tissue >= LEAST, SAMPLE_TREE.node("Benign/N"), 0)
    lesion = (covered >= LEAST) & (tissue >= LEAST)
    nodes = np.where(lesion, SAMPLE_TREE.node(leaf), nodes)
    strength = np.where(lesion, plan.share(plan.expression) / np.maximum(covered, 1e-6), 0)  # type: ignore[arg-type]
    return SampleTruth(
        label=SAMPLE_TREE.path(SAMPLE_TREE.node(leaf)),
        cells=np.indices(nodes.shape).reshape(2, -1).T.astype(np.int32),
        nodes=nodes.ravel().astype(np.int32),
        expression=np.clip(strength, 0, 1).ravel().astype(np.float32),
        tissue=plan.tissue,
    )


def read_truth(path: str | os.PathLike[str]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Cells (n, 2) and nodes (n,) of a truth file: "truth per tile"; 0 where there is no tissue.

    Raises
    ------
    LabelError
        When the file holds no truth.
    """
    truth = SampleTruth.load(path)
    return truth.cells, truth.nodes
