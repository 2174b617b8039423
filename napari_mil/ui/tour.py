"""The main job in a real window, step by step, as a person would do it: what `napari-mil demo` shows."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from napari_mil.errors import MILError
from napari_mil.ui.workbench import Workbench, open_workbench

Echo = Callable[[str], Any]
#: Seconds that one step of the tour may take at most.
PATIENCE_S = 300.0
SIZE_PX = (1600, 1000)


def tour(project: str | Path, output: str | Path, echo: Echo = print, *, keep_open: bool = False) -> None:
    """Open a sample slide, run MHIM and HMIL, look at their maps, correct, review, retrain, compare, export.

    Parameters
    ----------
    project : folder of a project with slides and a model of each method
    output : folder for the numbered pictures 01-….png and the exported files
    echo : takes one line per step: what, and how many seconds
    keep_open : leave the window to the person; ignored on a virtual screen

    Raises
    ------
    MILError
        when the project lacks a model of one of the methods, or a step does not end
    """
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    bench = open_workbench(project)
    try:
        bench.resize_window(*SIZE_PX)
        Guide(bench, output, echo).go()
        if keep_open and not os.environ.get("NAPARI_MIL_VIRTUAL_SCREEN"):
            import napari

            napari.run()
    finally:
        bench.viewer.close()


class Guide:
    """Does one step after the other through the workbench, takes a picture after each and says how long it
    took.
    """

    def __init__(
        self, bench: Workbench, output: Path, echo: Echo, *, recipe: Mapping[str, Any] | None = None
    ) -> None:
        self.bench, self.output, self.echo, self.recipe = bench, output, echo, recipe
        self._number = 0

    def go(self) -> None:
        """The whole tour."""
        for step in (self.look, self.run_mhim, self.hidden, self.run_hmil, self.classes):
            step()
        for step in (self.correct, self.queue, self.contradict, self.retrain, self.export):
            step()

    def look(self) -> None:
        """Open the first slide with a lesion."""
        with self._step("open a slide", "slide"):
            self._wait()
            project = self.bench.desk.state.project
            records = project.slides
            normal = {project.tree.path(n) for n in project.tree.normal}
            wanted = next((r for r in records if r.label and r.label not in normal), records[0])
            self.bench.slides.open(wanted.id)
            self._wait()
            self.bench.viewer.reset_view()  # wherever one looked last

    def run_mhim(self) -> None:
        """Run MHIM; its attention is shown."""
        self.bench.unfold("Model")
        with self._step("run MHIM", "mhim-answer"):
            self._run("mhim")
        self.bench.unfold("Instances")
        with self._step("see MHIM's attention", "mhim-attention"):
            self._show("attention")

    def hidden(self) -> None:
        """The tiles that the teacher hides, and what a higher mask ratio does."""
        hidden = self.bench.instances.hidden
        with self._step("see the tiles that MHIM hides", "mhim-hidden-tiles"):
            hidden.on.setChecked(True)
        with self._step("hide more of them", "mhim-mask-ratio"):
            hidden.mask_ratio.setValue(min(3 * hidden.mask_ratio.value(), hidden.mask_ratio.maximum()))
            self._wait()
        hidden.on.setChecked(False)

    def run_hmil(self) -> None:
        """Run HMIL on the same features."""
        self.bench.unfold("Model")
        with self._step("run HMIL", "hmil-answer"):
            self._run("hmil")

    def classes(self) -> None:
        """Coarse and fine class of each tile."""
        self.bench.unfold("Instances")
        for level in ("coarse", "fine"):
            with self._step(f"see the {level} class of each tile", f"hmil-{level}-classes"):
                self._show(f"class/{level}")
                if not self.bench.desk.state.answer.map(f"class/{level}").values.any():
                    self._show(f"class/{level} without the slide's answer")

    def correct(self) -> None:
        """Say what some tiles are, and what the slide is."""
        bench = self.bench
        with self._step("go back to MHIM's answer, class of each tile", "mhim-fine-classes"):
            bench.unfold("Model")
            self._run("mhim")
            bench.unfold("Instances")
            self._show("class/fine")
        bench.unfold("Review")
        state = bench.desk.state
        with self._step("correct tiles and the slide's label", "correction"):
            label = state.record.label or state.project.tree.path(state.project.tree.leaves[-1])
            self._paint(label, self._suspect())
            bench.review.label_slide()
            self._wait()
        if len(bench.desk.state.corrections) < 2:
            raise MILError("The corrections were not kept; the project folder may be read-only.")

    def queue(self) -> None:
        """Go to the place where a word tells most, and answer."""
        queue = self.bench.review.queue
        with self._step("go to what to review next, and see why", "next-to-review"):
            self._press("Alt+N")
        if queue.question is None:
            raise MILError("The review queue is empty; run the model on the slides first.")
        with self._step("accept it and go on", "reviewed"):
            self._press("Alt+Return")

    def contradict(self) -> None:
        """Call a tile of a normal slide a lesion, go there from another slide, and withdraw it."""
        bench, front = self.bench, self.bench.desk.state.record
        project, tree = bench.desk.state.project, bench.desk.state.project.tree
        normal = {tree.path(n) for n in tree.normal}
        other = next((r for r in project.slides if r.label in normal and r.id != front.id), None)
        if other is None:
            return
        with self._step("go to what contradicts itself", "contradiction"):
            self._go(other.id)
            rows, cols = bench.desk.state.lattice.shape
            self._paint(tree.path(tree.leaves[-1]), [(rows // 2, cols // 2)])
            self._go(front.id)
            known = len(bench.review.contradictions.found)
            for _ in range(known):
                self._press("Alt+D")
                if bench.desk.state.record.id == other.id:
                    break
            else:
                raise MILError(f"The contradiction on {other.name} was not found.")
        with self._step("see its history and withdraw it", "settled"):
            self._press("Alt+X")
            if len(bench.review.contradictions.found) >= known:
                raise MILError("What was withdrawn still contradicts the slide's label.")
        self._go(front.id)

    def retrain(self) -> None:
        """Train a child on what was said; before and after; keep or adopt."""
        self.bench.unfold("Retrain")
        with self._step("retrain on the corrections", "before-after"):
            job = self.bench.retrain.start(recipe=self.recipe)
            self._wait()
            if job is None or job.error is not None:
                why = job.error if job else "it did not start"
                raise MILError(f"The retraining did not end well: {why}.")
        with self._step("decide", "decided"):
            decision = self.bench.retrain.decision
            (decision.keep if decision.result.worse else decision.adopt)()

    def export(self) -> None:
        """Write the labels of the slide for QuPath, and of all slides as a table."""
        export, record = self.bench.export, self.bench.desk.state.record
        self.bench.unfold("Export")
        for choice, name in ((0, f"{record.name}.geojson"), (2, "labels.csv")):
            with self._step(f"export {name}", f"export-{name.rsplit('.', 1)[-1]}"):
                export.what.setCurrentIndex(choice)
                export.write(self.output / name)
                self._wait()
            if not (self.output / name).exists():
                raise MILError(f"{self.output / name} was not written; the folder may be read-only.")

    def _paint(self, label: str, cells: Sequence[tuple[int, int]]) -> None:
        """Paint tiles in one stroke."""
        self.bench.review.choose(label)
        self.bench.review.paint()
        layer = self.bench.desk.layer("corrections")
        with layer.block_history():
            for cell in cells:
                layer.paint(cell, layer.selected_label)
        self._wait()
        self.bench.review.look()

    def _go(self, slide_id: str) -> None:
        self.bench.slides.open(slide_id)
        self._wait()

    def _press(self, key: str) -> None:
        self.bench.desk.keys[key].activated.emit()
        self._wait()

    def _run(self, method: str) -> None:
        project = self.bench.desk.state.project
        cards = [c for c in project.cards if c.method == method]
        if not cards:
            raise MILError(f"The project has no {method} model; train one with napari-mil train.")
        self.bench.model.choose(cards[0].id)
        self._wait()
        job = self.bench.model.run(region=False)
        self._wait()
        if job is None or job.error is not None:
            raise MILError(f"{cards[0].name} did not answer: {job.error if job else 'nothing to run on'}.")

    def _show(self, name: str) -> None:
        if self.bench.desk.state.shown != (name,):
            self.bench.instances.show_map(name)

    def _suspect(self, tiles: int = 5) -> list[tuple[int, int]]:
        """Cells to correct: lesion tiles that the model did not call, by the truth kept beside sample slides.

        Where a slide has no truth, the tiles that look most like a lesion to the model on show.
        """
        state = self.bench.desk.state
        names = [m.name for m in state.answer.maps]
        scores = state.answer.map("lesion" if "lesion" in names else "attention").values
        cells = [(int(row), int(col)) for row, col in state.answer_grid.cells]
        order = [cells[i] for i in np.argsort(-scores, kind="stable")]
        truth = Path(state.record.path).parent / "truth" / f"{state.record.name}.npz"
        if truth.exists():
            from napari_mil.samples import read_truth

            node = state.project.tree.node(state.record.label)
            said = dict(zip(cells, state.answer.map("class/fine").values.tolist(), strict=True))
            where, what = read_truth(truth)
            lesion = {(int(row), int(col)) for (row, col) in where[what == node]}
            order = sorted((c for c in order if c in lesion), key=lambda c: said[c] == node)
        return order[:tiles]

    def _wait(self) -> None:
        if not self.bench.wait(PATIENCE_S):
            raise MILError(f"A step took longer than {PATIENCE_S:.0f} s; the computer may be too busy.")

    @contextmanager
    def _step(self, words: str, picture: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self._wait()
        seconds = time.monotonic() - began
        self._number += 1
        path = self.output / f"{self._number:02d}-{picture}.png"
        self.bench.screenshot(path)
        self.echo(f"{self._number:02d} {words}: {seconds:.1f} s ({path.name})")
