"""Make what is in this folder: `python sample_data/make_samples.py [slides] [labels] [tree] [models]`.

Without an argument, slides, labels and tree are made: some ten seconds. The models take minutes, since three
cohorts are drawn and embedded and two models are trained on them.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from napari_mil.grid import TileGrid
from napari_mil.interop import csv_labels
from napari_mil.samples import SAMPLE_SLIDES, SAMPLE_TREE, SampleTruth, make_sample_slide
from napari_mil.slides import open_slide
from napari_mil.steps import drain

HERE = Path(__file__).resolve().parent
MODELS = HERE.parent / "napari_mil" / "sample_models"


def slides(folder: Path = HERE) -> None:
    """Draw the sample slides, and write the truth as arrays beside them."""
    for sample in SAMPLE_SLIDES:
        path = folder / "slides" / f"{sample.name}.tif"
        make_sample_slide(path, sample).save(folder / "labels" / f"{sample.name}.npz")
        print(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB")


def labels(folder: Path = HERE) -> None:
    """Write the truth as tables that can be imported, and the manifest with the slides' labels."""
    rows = ["slide,case,label"]
    for sample in SAMPLE_SLIDES:
        truth = SampleTruth.load(folder / "labels" / f"{sample.name}.npz")
        with open_slide(folder / "slides" / f"{sample.name}.tif") as slide:
            grid = TileGrid.full(slide.shape_px, slide.mpp, tile_px=256, mpp=0.5)
            known = truth.nodes > 0
            kept = grid.with_cells(truth.cells[known])
            csv_labels.write_tiles(
                folder / "labels" / f"{sample.name}.csv",
                slide.fingerprint,
                kept,
                truth.nodes[known],
                SAMPLE_TREE,
            )
        rows.append(f"slides/{sample.name}.tif,{sample.name},{sample.label}")
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n", encoding="utf-8", newline="\n")


def tree(folder: Path = HERE) -> None:
    """Write the label tree."""
    (folder / "labeltree.json").write_text(SAMPLE_TREE.to_json() + "\n", encoding="utf-8", newline="\n")


def models(folder: Path = MODELS) -> None:
    """Train the sample models on the sample cohort and two more, and pack them into the package."""
    from napari_mil.workflow.sample import sample_models_steps

    work = Path(tempfile.mkdtemp(prefix="sample-models-"))
    try:
        for card in drain(
            sample_models_steps(work, folder), lambda p: print(p.stage, p.done, p.total, p.note)
        ):
            print(f"{card.name}: {folder / card.name}")
    finally:
        shutil.rmtree(work, ignore_errors=True)


PARTS: dict[str, Callable[[], None]] = {"slides": slides, "labels": labels, "tree": tree, "models": models}


def main(wanted: list[str]) -> int:
    """Make the wanted parts, in order."""
    unknown = sorted(set(wanted) - set(PARTS))
    if unknown:
        print(f"There is no part {', '.join(unknown)}; choose from {', '.join(PARTS)}.", file=sys.stderr)
        return 2
    for name in wanted or ["slides", "labels", "tree"]:
        PARTS[name]()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
