"""The pictures of README and docs, taken from the real window: scripts/screenshots.py [folder]."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image

from napari_mil.steps import drain
from napari_mil.ui.tour import tour
from napari_mil.ui.workbench import open_workbench
from napari_mil.workflow import sample_project_steps

SAMPLE = Path("demo-output/project")
COLOURS = 256


def main(output: Path) -> None:
    """Do the tour on a copy of the sample project, then show the light theme on a small screen."""
    drain(sample_project_steps(SAMPLE))
    with tempfile.TemporaryDirectory() as work:
        project = Path(shutil.copytree(SAMPLE, Path(work) / "sample project"))
        tour(project, output, print)
        small_and_light(project, output / "small-light.png")
    for picture in sorted(output.glob("*.png")):
        few = Image.open(picture).convert("RGB").quantize(COLOURS, method=Image.Quantize.MEDIANCUT)
        few.save(picture, optimize=True)
        print(picture, f"{picture.stat().st_size / 1024:.0f} KiB")


def small_and_light(project: Path, path: Path) -> None:
    """The workbench on a screen of 1366 × 768, light theme, a map on show and the card of its top tile."""
    bench = open_workbench(project)
    try:
        bench.viewer.theme = "light"
        bench.resize_window(1366, 768)
        bench.wait(60)
        bench.model.run()
        bench.wait(120)
        bench.unfold("Instances")
        best = bench.desk.state.answer.map("attention").values.argmax()
        bench.card.show_cell(tuple(bench.desk.state.answer_grid.cells[best].tolist()))
        bench.wait(10)
        bench.screenshot(path)
    finally:
        bench.viewer.close()


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/images"))
