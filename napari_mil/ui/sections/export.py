"""Export: labels out as GeoJSON or CSV with a preview of what will be written, and labels in."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtWidgets import QComboBox, QFileDialog, QWidget

from napari_mil.errors import MILError
from napari_mil.ui import acts, commandline, compat, writing
from napari_mil.ui.desk import Desk
from napari_mil.ui.dialogs import MappingDialog
from napari_mil.ui.labelfile import read_as, unknown_classes
from napari_mil.ui.state import State
from napari_mil.ui.widgets import allow, button, column, hint, row, text
from napari_mil.ui.words import PROJECT_FIRST, amounts_by_label, hidden_words, is_whole, read_words

if TYPE_CHECKING:
    from napari_mil.ledger import SlideRecord

#: What can be written: (words, suffix, of one slide or of all).
CHOICES = (
    ("This slide for QuPath (GeoJSON)", ".geojson", True),
    ("This slide as a table (CSV)", ".csv", True),
    ("All slides as a table (CSV)", ".csv", False),
)


class ExportSection(QWidget):
    """Write labels to a file, or read them from one."""

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self.desk = desk
        self.what = QComboBox()
        self.what.addItems([words for words, _, _ in CHOICES])
        self.what.currentIndexChanged.connect(lambda _i: self._preview(desk.state))
        self.preview = text()
        self.done = hint()
        self.export_button = button(
            "Export…", self.choose_target, "Choose a file and write it", key="Ctrl+Shift+E"
        )
        self.import_button = button(
            "Import labels…", self.choose_source, "Read a GeoJSON or CSV file of this slide"
        )
        self.copy = commandline.copier(desk, self._line, self._why_not)
        column(
            self, self.what, self.preview, row(self.export_button, self.import_button), self.copy, self.done
        )
        desk.key("Ctrl+Shift+E", self.choose_target, "Export labels")
        acts.whenever(desk, ("project", "record", "corrections", "blind", "second"), self._preview)
        acts.whenever(desk, ("heard",), self._preview_of_all)

    def write(self, path: str | Path) -> None:
        """Write what is chosen to `path`; the suffix decides the format. Done in the interactive lane, when
        everything that was said is kept.
        """
        state = self.desk.state
        if state.project is None:
            return
        project = state.project
        slide = state.slide if CHOICES[self.what.currentIndex()][2] else None

        def begin() -> None:
            work = partial(project.export, path, slide=slide)
            self.desk.asks.ask(f"export {path}", work, self._written, failed=self._failed)

        if self.desk.writes.busy:
            self.done.setText("Written as soon as everything that you said is kept.")
        writing.after(self.desk, begin)

    def read(self, path: str | Path) -> None:
        """Read a label file of the slide in front into the ledger: all of it, or nothing."""
        project, slide = self.desk.state.project, self.desk.state.slide
        if project is None or slide is None:
            self.desk.tell("Open the slide that the labels belong to first.")
            return

        source = Path(path)

        def show(unknown: Any) -> None:
            if self.desk.state.slide is not slide:
                return
            if unknown:
                self.ask_meaning(source, unknown)
            else:
                self._import(source, {})

        self.desk.asks.ask(f"import {path}", lambda: unknown_classes(source, project.tree), show)

    def ask_meaning(self, path: Path, unknown: Mapping[str, int]) -> MappingDialog:
        """Ask which labels the unknown classes of a file mean, then read it."""
        project, window = self.desk.state.project, compat.main_window(self.desk.viewer)
        dialog = MappingDialog(path.name, unknown, project.tree, window)
        dialog.accepted.connect(lambda: self._import(path, dialog.value()))
        dialog.open()
        return dialog

    def _import(self, path: Path, mapping: Mapping[str, str | None]) -> None:
        project, slide = self.desk.state.project, self.desk.state.slide

        def work() -> Any:
            if mapping:
                return read_as(project, path, slide, mapping)
            return project.import_labels(path, slide), []

        def show(found: tuple[Any, list[str]]) -> None:
            read, remarks = found
            if self.desk.state.slide is slide:
                self.desk.apply(**acts.said(project, slide, self.desk.state))
            here = self.desk.state.lattice if self.desk.state.slide is slide else None
            words = read_words(path.name, read, here)
            self.done.setText(" ".join([words, *remarks]))

        if self.desk.writes.busy:
            self.done.setText("Read as soon as everything that you said is kept.")
        writing.do(self.desk, work, show)  # behind what was said before, and tried again as that is

    def choose_target(self) -> None:
        """Let the person choose the file to write."""
        state = self.desk.state
        if state.project is None:
            return
        words, suffix, one = CHOICES[self.what.currentIndex()]
        name = self._name(state.record if one else None, suffix)
        window = compat.main_window(self.desk.viewer)
        path, _ = QFileDialog.getSaveFileName(window, words, name, f"*{suffix}")
        if path:
            self.write(path if path.endswith(suffix) else path + suffix)

    def choose_source(self) -> None:
        """Let the person choose the file to read."""
        window = compat.main_window(self.desk.viewer)
        path, _ = QFileDialog.getOpenFileName(
            window, "Import labels", "", "Labels (*.geojson *.geojson.gz *.csv)"
        )
        if path:
            self.read(path)

    def _line(self) -> str:
        _, suffix, one = CHOICES[self.what.currentIndex()]
        record = self.desk.state.record if one else None
        return commandline.export_line(self.desk.state.project, record, self._name(record, suffix))

    def _why_not(self) -> str:
        state = self.desk.state
        slide_first = "" if state.record else "Choose a slide first (1 Slides)."
        return PROJECT_FIRST if state.project is None else slide_first

    def _name(self, record: SlideRecord | None, suffix: str) -> str:
        """What a file is called unless somebody says otherwise."""
        return f"{self.desk.state.project.path.name if record is None else record.name}{suffix}"

    def _failed(self, error: BaseException) -> None:
        self.done.setText("")
        self.desk.tell(error)

    def _written(self, path: Path) -> None:
        self.done.setText(f"Written: {path} ({path.stat().st_size:,} bytes).")

    def _preview_of_all(self, state: State) -> None:
        """Any event may change what a table of all slides holds."""
        if not CHOICES[self.what.currentIndex()][2]:
            self._preview(state)

    def _preview(self, state: State) -> None:
        self.done.setText("")
        why = self._why_not()
        allow(self.export_button, PROJECT_FIRST if state.project is None else "")
        allow(self.import_button, why)
        if why:
            self.preview.setText(why)
            return
        try:
            self.preview.setText(preview_words(state, one=CHOICES[self.what.currentIndex()][2]))
        except MILError as error:
            self.preview.setText(str(error))


def preview_words(state: State, *, one: bool) -> str:
    """What a file would hold: slide label, and labels by place."""
    project, record = state.project, state.record
    if project is None or record is None:
        return ""
    from napari_mil.workflow import slide_label

    if one and state.veiled:
        return f"<b>{record.name}</b>: {hidden_words(state, 'what it is labelled')}"
    if not one:
        corrections = project.ledger.corrections()
        labelled = sum(slide_label(project, r) is not None for r in project.slides)
        slides = len(project.slides)
        return f"{labelled:,} slide labels and {len(corrections):,} corrections of {slides:,} slides."
    lines = [f"<b>{record.name}</b>: slide label {state.slide_label or 'none'}"]
    said = amounts_by_label(c for c in state.corrections if not is_whole(c))
    lines += [f"{amount} → {label}" for label, amount in said.items()]
    return "<br>".join(lines if len(lines) > 1 else [*lines, "no tiles or regions are labelled yet"])
