"""Slides: the project's slides; open a project, add slides, next, previous."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtWidgets import QFileDialog, QWidget

from napari_mil.errors import MILError
from napari_mil.slides.address import SlidePath
from napari_mil.ui import acts, compat
from napari_mil.ui.arrivals import Arrivals, Batch
from napari_mil.ui.desk import Desk
from napari_mil.ui.dialogs import PHOTOGRAPHED, SCANNED, MppDialog
from napari_mil.ui.layers import opened_path, remove
from napari_mil.ui.selectedslides import SelectedSlides
from napari_mil.ui.slidelist import SlideList
from napari_mil.ui.state import State
from napari_mil.ui.widgets import allow, button, column, row, soon, text
from napari_mil.ui.words import PROJECT_FIRST

if TYPE_CHECKING:
    from napari_mil.slides import Slide

NO_PROJECT = "No project is open. A project is a folder that keeps slides, labels and models."
KEPT = "Your answer is kept in the project. Cancel shows the slide in pixels."


class SlidesSection(QWidget):
    """The project's slides. One click brings a slide to the front; files can be dropped here."""

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self.desk = desk
        self.setAcceptDrops(True)
        self.arrivals = Arrivals(desk, self._added)
        self.project = text(NO_PROJECT)
        self.list = SlideList(desk)
        self.list.chosen.connect(self.open)
        self.bulk = SelectedSlides(desk, self.list)
        self.add_button = button("Add slides…", self.choose_slides, "Take slide files into the project")
        self.previous = button("◀ Previous", lambda: self.step(-1), "The slide before", key="Page Up")
        self.next = button("Next ▶", lambda: self.step(1), "The slide after", key="Page Down")
        open_button = button("Open project…", self.choose_project, "Open a project folder, or make a new one")
        column(
            self,
            self.project,
            row(open_button, self.add_button),
            self.list,
            self.bulk,
            row(self.previous, self.next),
        )
        desk.key("PgUp", lambda: self.step(-1), "Go to the slide before")
        desk.key("PgDown", lambda: self.step(1), "Go to the next slide")
        desk.key("Alt+Shift+G", self.bulk.label, "Label the slides that are selected in the list")
        take = soon(self, self.take_opened)
        desk.layer_added.connect(lambda _layer: take())
        acts.whenever(desk, ("project",), lambda _state: take())
        acts.whenever(desk, ("project", "record"), self._show)

    def open(self, which: str) -> None:
        """Bring the slide with this id or name to the front."""
        from napari_mil.workflow import find_record

        if self.desk.state.project is None:
            return
        try:
            acts.open_slide(self.desk, find_record(self.desk.state.project, which))
        except MILError as error:
            self.desk.tell(error)

    def step(self, by: int) -> None:
        """The next (1) or previous (−1) slide."""
        if self.desk.state.project is not None:
            acts.step_slide(self.desk, by)

    def add(self, paths: list[str | SlidePath], *, mpp: float | None = None, within: bool = False) -> None:
        """Take files into the project; the first of them comes to the front.

        Where a file does not say how large its pixels are, the person is asked. `within`: folders are
        searched for slides.
        """
        project = self.desk.state.project
        if project is None:
            self.desk.tell("Open a project first: a folder that keeps slides, labels and models.")
            return
        self.arrivals.take(Batch(project, paths, mpp, within))

    def take(self, path: SlidePath) -> bool:
        """Take a slide that napari is about to open in this viewer into the open project, if there is one."""
        if self.desk.state.project is None or compat.current_viewer() is not self.desk.viewer:
            return False
        self.add([path])
        return True

    def take_opened(self) -> None:
        """Take slides that were opened before there was a project into it."""
        opened = [layer for layer in self.desk.viewer.layers if opened_path(layer) is not None]
        if not opened:
            return
        if self.desk.state.project is None:
            self.desk.said.emit("Open or make a project to analyse and label this slide.")
            return
        paths = [opened_path(layer) for layer in opened]
        remove(self.desk.viewer, opened)
        self.add(paths)

    def ask_mpp(self, slides: list[Slide]) -> MppDialog:
        """Ask once how large a pixel is; the answer is kept in the project. Without one, pixels are shown."""
        window = compat.main_window(self.desk.viewer)
        known = SCANNED if any(s.montage is None for s in slides) else PHOTOGRAPHED
        dialog = MppDialog([s.path.name for s in slides], window, after=KEPT, known=known)
        dialog.accepted.connect(lambda: self.add([s.path for s in slides], mpp=dialog.value()))
        dialog.rejected.connect(lambda: self.open(slides[0].fingerprint))
        dialog.open()
        return dialog

    def choose_project(self) -> None:
        """Let the person choose a project folder."""
        window = compat.main_window(self.desk.viewer)
        if folder := QFileDialog.getExistingDirectory(window, "Open or make a project folder"):
            acts.open_project(self.desk, folder)

    def choose_slides(self) -> None:
        """Let the person choose slide files."""
        window = compat.main_window(self.desk.viewer)
        files, _ = QFileDialog.getOpenFileNames(window, "Add slides to the project")
        if files:
            self.add(list(files))

    def dragEnterEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Files may be dropped here."""
        if event.mimeData().hasUrls():
            event.acceptProposedAction()

    def dropEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Open a folder that is a project; take anything else into the project."""
        paths = [Path(url.toLocalFile()) for url in event.mimeData().urls()]
        if len(paths) == 1 and (paths[0] / "project.json").exists():
            acts.open_project(self.desk, paths[0])
        else:
            self.add(list(paths), within=True)

    def _added(self, found: list[Slide], sentences: list[MILError]) -> None:
        for sentence in sentences:
            self.desk.tell(sentence)
        if len(sentences) > 1:
            self.desk.said.emit("\n".join(map(str, sentences)))
        self.list.refresh(self.desk.state)
        self._show(self.desk.state)
        unknown = [slide for slide in found if slide.mpp is None]
        if unknown:
            self.ask_mpp(unknown)
        elif found:
            self.open(found[0].fingerprint)

    def _show(self, state: State) -> None:
        self.list.setEnabled(state.project is not None)
        for part in (self.add_button, self.previous, self.next):
            allow(part, PROJECT_FIRST if state.project is None else "")
        if state.project is None:
            self.project.setText(NO_PROJECT)
            return
        n = len(state.project.slides)
        self.project.setText(f"<b>{state.project.path.name}</b> · {n} slide{'' if n == 1 else 's'}")
