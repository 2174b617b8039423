"""The dock *MIL workbench*: six sections, what runs now, and the last thing that was said."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import QApplication, QFrame, QScrollArea, QWidget

from napari_mil.slides.address import SlidePath
from napari_mil.ui import acts, compat, opening, reader
from napari_mil.ui.canvaslegend import CanvasLegend
from napari_mil.ui.company import Company
from napari_mil.ui.desk import Desk
from napari_mil.ui.hover import TileReader
from napari_mil.ui.keysheet import KeySheet
from napari_mil.ui.layers import opened_path
from napari_mil.ui.magnify import Magnification
from napari_mil.ui.overview import Overview
from napari_mil.ui.pointing import Pointing
from napari_mil.ui.sections.export import ExportSection
from napari_mil.ui.sections.instances import InstancesSection
from napari_mil.ui.sections.model import ModelSection
from napari_mil.ui.sections.retrain import RetrainSection
from napari_mil.ui.sections.review import ReviewSection
from napari_mil.ui.sections.slides import SlidesSection
from napari_mil.ui.state import State
from napari_mil.ui.tilecard import TileCard
from napari_mil.ui.widgets import Fold, JobBar, column, hint

#: Width that fits beside the canvas on a screen of 1366 px.
WIDTH_PX = 360


class Workbench(QWidget):
    """The workbench of one viewer.

    Attributes
    ----------
    desk : state and lanes
    slides, model, instances, review, retrain, export : the sections; their methods are the acts a person can
    do
    legend : what the colours on the canvas mean
    card : what is known of the tile that was clicked
    company : brings what other people say
    jobs, files : what runs now of models, and of files that are written
    folds : the foldable headings by section name
    """

    def __init__(self, napari_viewer: Any) -> None:  # napari recognises the parameter by its name
        super().__init__()
        viewer = compat.plain(napari_viewer)
        self.setObjectName("MIL workbench")
        self.setMinimumWidth(WIDTH_PX)
        self.viewer = viewer
        self.desk = Desk(viewer, self)
        self._reader, self._pointer = TileReader(State()), compat.Pointer(viewer)
        self.slides = SlidesSection(self.desk)
        self.model = ModelSection(self.desk)
        self.instances = InstancesSection(self.desk)
        self.review = ReviewSection(self.desk)
        self.retrain = RetrainSection(self.desk, lambda: self.model.run(region=False))
        self.export = ExportSection(self.desk)
        self.folds = {
            "Slides": Fold("1  Slides", self.slides),
            "Model": Fold("2  Model", self.model),
            "Instances": Fold("3  Instances", self.instances),
            "Review": Fold("4  Review", self.review, open_=False),
            "Retrain": Fold("5  Retrain", self.retrain, open_=False),
            "Export": Fold("6  Export", self.export, open_=False),
        }
        self.said = hint()
        self.said.setContentsMargins(8, 2, 8, 2)
        self.said.hide()
        self.jobs, self.files = JobBar(self.desk), JobBar(self.desk, self.desk.files)
        self.magnification = Magnification(self.desk)
        self.overview = Overview(self.desk)
        self.magnification.map.clicked.connect(self.overview.switch)
        parts = (self.magnification, _scrolled(*self.folds.values()), self.said, self.jobs, self.files)
        column(self, *parts, margins=(0, 0, 0, 0), spacing=0)
        self.desk.said.connect(self._say)
        self.desk.changed.connect(self._changed)
        self.desk.jobs.began.connect(lambda _job: self._say(""))
        self._is_shut = False
        reader.TAKERS.insert(0, self.slides.take)
        self._stop_watching = compat.when_closing(viewer, self.shut)
        compat.show_scale_bar(viewer)
        self.desk.layer_added.connect(self._layer_added)
        self.legend = CanvasLegend(self.desk)
        self.card = TileCard(self.desk, self._read_tile)
        self.company = Company(self.desk)
        self.instances.legend.toggled.connect(self.legend.switch)
        self.desk.key("Alt+O", self.instances.legend.toggle, "Show the legend, or take it away")
        self.pointing = Pointing(self.desk, self._pointer, self.review.history, self.folds["Review"].unfold)
        self.desk.key("F1", self.show_keys, "Show these keys")

    def open_project(
        self, path: str | Path, *, by: str = "", then: Callable[[], None] = lambda: None
    ) -> None:
        """Open or make a project folder; `then()` is called when it is open."""
        acts.open_project(self.desk, path, by=by, then=then)

    def show_keys(self) -> KeySheet:
        """Open the table of keys."""
        sheet = KeySheet(self.desk)
        sheet.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        sheet.open()
        return sheet

    def unfold(self, name: str) -> None:
        """Fold a section out, and the others in where the screen is small."""
        for other, fold in self.folds.items():
            fold.heading.setChecked(other == name)

    def wait(self, timeout_s: float = 60.0) -> bool:
        """Process events until the lanes are idle and what follows has followed; False when they are still
        busy after `timeout_s`.
        """
        end = time.monotonic() + timeout_s
        application = QApplication.instance()
        quiet = 0
        while quiet < 3 and time.monotonic() < end:
            application.processEvents()
            busy = self.desk.busy
            quiet = 0 if busy else quiet + 1
            if busy:
                time.sleep(0.005)
        return quiet >= 3

    def screenshot(self, path: str | Path) -> Path:
        """Write a picture of the whole window as PNG, without notifications that happen to be up."""
        compat.dismiss_notifications(self.viewer)
        for _ in range(5):  # layouts settle over a few turns of the event loop
            QApplication.instance().processEvents()
        taken = self.viewer.screenshot(canvas_only=False, flash=False)
        # napari's own way packs tightly, which takes a third of a second
        Image.fromarray(taken).save(path, "PNG", compress_level=1)
        return Path(path)

    def resize_window(self, width_px: int, height_px: int) -> None:
        """Give the whole window a size, for pictures."""
        compat.main_window(self.viewer).resize(width_px, height_px)

    def shut(self) -> None:
        """End the work that runs and close the project; everything is kept already. Twice is once."""
        if self._is_shut:
            return
        self._is_shut = True
        reader.TAKERS.remove(self.slides.take)
        self._stop_watching()
        self._pointer.forget()
        self.magnification.stop()
        self.overview.stop()
        self.company.stop()
        self.desk.close()
        self.card.stop()
        self.pointing.stop()
        for panel in (self.legend, self.card, self.overview):
            panel.hide()
            panel.deleteLater()

    def _say(self, sentence: str) -> None:
        self.said.setText(sentence)
        self.said.setVisible(bool(sentence))

    def _changed(self, before: State, after: State) -> None:
        if before.record is not after.record and before.record is not None:
            self._say("")
            self._pointer.clear()
        watched = ("lattice", "answer", "answer_grid", "simulated", "bag", "nodes", "blind", "second")
        if any(getattr(before, n) is not getattr(after, n) for n in watched):
            self._reader = TileReader(after)
        self._pointer.refresh()

    def _read_tile(self, y: float, x: float) -> str:
        return self._reader.text(y, x)

    def _layer_added(self, layer: Any) -> None:
        if "napari-mil" in layer.metadata:
            compat.describe_cursor(layer, self._read_tile, self._pointer)
        if opened_path(layer) is not None and self.desk.state.project is None:
            QTimer.singleShot(0, self.desk.views.bring_back)


def open_workbench(
    project: str | Path | None = None, *, viewer: Any = None, show: bool = True, by: str = ""
) -> Workbench:
    """Dock a workbench in a viewer (a new one when none is given) and open a project in it."""
    import napari

    viewer = viewer or napari.Viewer(show=show, title="napari-mil")
    made = Workbench(viewer)
    viewer.window.add_dock_widget(made, name="MIL workbench", area="right", add_vertical_stretch=False)
    if project is not None:
        made.open_project(project, by=by)
    return made


def run_window(slides: Sequence[SlidePath] = (), *, project: Path | None = None, by: str = "") -> None:
    """Open the window and stay until it is closed; slides go into the project where one is given."""
    import napari

    from napari_mil.ui.activation import activate

    made = open_workbench()
    activate()  # napari does so by itself where it is asked to open a file
    if project is not None:
        made.open_project(project, by=by, then=lambda: made.slides.add(list(slides)) if slides else None)
    for path in () if project is not None else slides:
        opening.show(made.viewer, path)
    napari.run()


def _scrolled(*parts: QWidget) -> QScrollArea:
    inner = QWidget()
    column(inner, *parts, None, margins=(0, 0, 0, 0), spacing=0)
    area = QScrollArea()
    area.setWidget(inner)
    area.setWidgetResizable(True)
    area.setFrameShape(QFrame.Shape.NoFrame)
    area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
    return area
