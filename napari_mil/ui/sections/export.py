"""Export: labels, maps and answers out, with a preview of what will be written, and labels in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QComboBox, QFileDialog, QWidget

from napari_mil.errors import MILError
from napari_mil.ui import acts, commandline, compat, writing
from napari_mil.ui.desk import Desk
from napari_mil.ui.dialogs import MappingDialog
from napari_mil.ui.exporting import KINDS, SLIDE_FIRST, Kind
from napari_mil.ui.filewriter import FileWriter
from napari_mil.ui.labelfile import read_as, unknown_classes
from napari_mil.ui.state import State
from napari_mil.ui.widgets import allow, button, column, hint, row, text
from napari_mil.ui.words import PROJECT_FIRST, read_words

if TYPE_CHECKING:
    from napari_mil.ui.job import Job


class ExportSection(QWidget):
    """Write labels, maps or answers to a file, or read labels from one."""

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self.desk = desk
        self.what = QComboBox()
        self.what.setToolTip("What is written, and as what kind of file")
        self.what.addItems([kind.words for kind in KINDS])
        self.what.currentIndexChanged.connect(lambda _i: self._anew(desk.state))
        self.preview = text()
        self.done = hint()
        self.files = FileWriter(desk, self._say)
        self.export_button = button(
            "Export…", self.choose_target, "Choose a file and write it", key="Ctrl+Shift+E"
        )
        self.import_button = button(
            "Import labels…", self.choose_source, "Read a GeoJSON or CSV file of this slide"
        )
        self.copy = commandline.copier(desk, lambda: self.kind.line(desk.state), self._why_not)
        buttons = row(self.export_button, self.import_button)
        column(self, self.what, self.preview, buttons, self.copy, self.done)
        desk.key("Ctrl+Shift+E", self.choose_target, "Export what is chosen in section 6")
        acts.whenever(desk, ("project",), self._arrive)
        acts.whenever(desk, ("record", "corrections", "blind", "second"), self._anew)
        acts.whenever(desk, ("card", "answer", "partial", "bag", "heard"), self._preview)

    @property
    def kind(self) -> Kind:
        """What is chosen."""
        return KINDS[self.what.currentIndex()]

    def write(self, path: str | Path) -> Job | None:
        """Write what is chosen to `path`, when everything that was said is kept. Returns the Job, or None
        when it cannot be written; the person is told why.
        """
        return self.files.write(self.kind, self.desk.state, str(path))

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

    def choose_target(self) -> QFileDialog | None:
        """Let the person choose the file to write; None where there is nothing, and they are told why."""
        kind, state = self.kind, self.desk.state
        if why := kind.why_not(state):
            self.desk.tell(why)
            return None
        dialog = QFileDialog(compat.main_window(self.desk.viewer), kind.words)
        dialog.setAcceptMode(QFileDialog.AcceptMode.AcceptSave)
        dialog.setNameFilter(kind.filter)
        dialog.setDefaultSuffix(kind.suffixes[0].lstrip("."))
        dialog.selectFile(kind.name(state))
        dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        dialog.fileSelected.connect(lambda path: self.files.write(kind, state, path))
        dialog.open()
        return dialog

    def choose_source(self) -> None:
        """Let the person choose the file to read."""
        window = compat.main_window(self.desk.viewer)
        path, _ = QFileDialog.getOpenFileName(
            window, "Import labels", "", "Labels (*.geojson *.geojson.gz *.csv)"
        )
        if path:
            self.read(path)

    def _why_not(self) -> str:
        return self.kind.why_not(self.desk.state)

    def _arrive(self, state: State) -> None:
        """Another project is in front: what is being written of the one before is not gone on with."""
        self.files.cancel()
        self._anew(state)

    def _say(self, words: str) -> None:
        """Say what becomes of a file, here and, where this is folded away, below."""
        self.done.setText(words)
        if words and not self.isVisible():
            self.desk.said.emit(words)

    def _anew(self, state: State) -> None:
        """What was written last is no longer what would be written now."""
        self.done.setText("")
        self._preview(state)

    def _preview(self, state: State) -> None:
        why = self._why_not()
        allow(self.export_button, why)
        allow(
            self.import_button,
            PROJECT_FIRST if state.project is None else "" if state.record else SLIDE_FIRST,
        )
        try:
            self.preview.setText(why or self.kind.preview(state))
        except MILError as error:
            self.preview.setText(str(error))
