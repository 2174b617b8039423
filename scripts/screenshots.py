"""The pictures of README and docs, taken from the real window: scripts/screenshots.py [folder]."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image

from napari_mil.correction import WholeSlide
from napari_mil.samples import SAMPLE_TREE
from napari_mil.steps import drain
from napari_mil.ui.tour import tour
from napari_mil.ui.workbench import open_workbench
from napari_mil.workflow import Project, sample_project_steps

SAMPLE = Path("demo-output/project")
#: Colours for what fills the picture, and for what is small in it; those of the labels are kept as they are.
FREQUENT, RARE = 64, 256 - 64 - len(SAMPLE_TREE)


def main(output: Path) -> None:
    """Do the tour on a copy of the sample project, then show a small and light screen, and two readers."""
    os.environ["LOGNAME"] = "Dr Reader"  # who speaks in the pictures
    drain(sample_project_steps(SAMPLE))
    with tempfile.TemporaryDirectory() as work:
        project = Path(shutil.copytree(SAMPLE, Path(work) / "sample project"))
        tour(project, output, print)
        small_and_light(project, output / "small-light.png")
        two_readers(project, output / "second-reading.png", output / "agreement.png")
    for picture in sorted(output.glob("*.png")):
        few_colours(Image.open(picture).convert("RGB")).save(picture, optimize=True)
        print(picture, f"{picture.stat().st_size / 1024:.0f} KiB")


def few_colours(picture: Image.Image) -> Image.Image:
    """The picture in 256 colours: without speckles on the glass, and with the right hue in every legend."""
    cut = {FREQUENT: Image.Quantize.MEDIANCUT, RARE: Image.Quantize.FASTOCTREE}
    colours = [value for n, how in cut.items() for value in picture.quantize(n, how).getpalette()[: 3 * n]]
    colours += [value for colour in SAMPLE_TREE.colours for value in bytes.fromhex(colour.lstrip("#"))]
    palette = Image.new("P", (1, 1))
    palette.putpalette(colours)
    return picture.quantize(palette=palette, dither=Image.Dither.NONE)


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


def two_readers(project: Path, reading: Path, report: Path) -> None:
    """A second reading on a small screen, and how far both readers agree."""
    with Project(project, by="Dr Second") as other:
        for record in other.slides[:12]:
            other.correct(record.id, WholeSlide(), record.label, tool="slide label")
    bench = open_workbench(project)
    try:
        bench.resize_window(1366, 768)
        bench.wait(60)
        bench.unfold("Review")
        bench.review.second.setChecked(True)
        queue, leaves = bench.review.queue, SAMPLE_TREE.leaves
        queue.next()
        bench.wait(60)
        bench.screenshot(reading)
        while queue.question is not None:
            truth = SAMPLE_TREE.node(queue.question.record.label)
            wrong = int(queue.question.record.id, 16) % 4 == 0  # now and then the readers differ
            bench.review.choose(leaves[(leaves.index(truth) + wrong) % len(leaves)])
            queue.relabel()
            bench.wait(60)
        bench.review.second.setChecked(False)
        shown = bench.review.reading.compare()
        bench.wait(60)
        shown.step(1)
        bench.wait(60)
        shown.grab().save(str(report))
    finally:
        bench.viewer.close()


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/images"))
