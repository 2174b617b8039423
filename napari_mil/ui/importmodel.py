"""Published checkpoints into the project: what a file does not say is asked, and the rest is assumed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from qtpy.QtWidgets import QFileDialog, QSizePolicy, QWidget

from napari_mil.ui import acts, commandline, compat
from napari_mil.ui.checkpointform import CheckpointDialog
from napari_mil.ui.desk import Desk
from napari_mil.ui.state import State
from napari_mil.ui.widgets import allow, button, column
from napari_mil.ui.words import PROJECT_FIRST

if TYPE_CHECKING:
    from napari_mil.card import ModelCard
    from napari_mil.workflow import Project, Question

FILES = "Checkpoints (*.pth *.pt *.ckpt *.bin *.safetensors *.tar);;All files (*)"
#: What has an option of its own on the command line; the rest are options of the method.
OPTIONS = (
    "classes",
    "edges",
    "unit",
    "encoder",
    "encoder_weights",
    "tile_px",
    "mpp",
    "method",
    "part",
    "name",
)
TIP = "Take a published checkpoint in as a model: PyTorch (weights only) or safetensors"
NO_WORKBENCH = "Open the MIL workbench first (Plugins > MIL workbench), and a project in it."


class Asked(NamedTuple):
    """What is asked of a checkpoint: questions, {encoder: whether it needs a file of weights}, and whether a
    teacher is in the file.
    """

    questions: Sequence[Question]
    encoders: Mapping[str, bool]
    teacher: bool


class ImportModel(QWidget):
    """The button that takes a published checkpoint in, and what follows it."""

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self.desk = desk
        self.dialog: CheckpointDialog | None = None
        self.button = button("Import…", self.choose, TIP)
        column(self, self.button, margins=(0, 0, 0, 0))
        self.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Preferred)
        acts.whenever(desk, ("project",), self._enable)

    def choose(self) -> None:
        """Let the person choose a file."""
        if self.desk.state.project is None:
            self.desk.tell(PROJECT_FIRST)
            return
        window = compat.main_window(self.desk.viewer)
        file, _ = QFileDialog.getOpenFileName(window, "Import a published model", "", FILES)
        if file:
            self.read(Path(file))

    def read(self, path: Path) -> None:
        """Look into a checkpoint and ask what it does not say; what is none is told."""
        project = self.desk.state.project
        if project is None:
            return

        def show(asked: Asked) -> None:
            self.desk.said.emit("")
            if self.desk.state.project is not project:
                return
            self.dialog = CheckpointDialog(compat.main_window(self.desk.viewer), path, asked.teacher)
            self.dialog.ask(asked.questions, asked.encoders)
            self.dialog.asked.connect(lambda said: self._take(project, path, said))
            self.dialog.method_chosen.connect(lambda method: self._ask_again(project, path, method))
            self.dialog.copied.connect(
                lambda said: commandline.copy(self.desk, import_line(project, path, said))
            )
            self.dialog.open()

        def failed(error: BaseException) -> None:
            self.desk.said.emit("")
            self.desk.tell(error)

        self.desk.said.emit(f"Looking into {path.name} …")
        self.desk.openings.ask("checkpoint", lambda: _asked(project, path), show, failed=failed)

    def _ask_again(self, project: Project, path: Path, method: str | None) -> None:
        """Another method has other options."""
        dialog = self.dialog

        def show(asked: Asked) -> None:
            if dialog is self.dialog:
                _if_there(dialog, lambda d: d.ask(asked.questions, asked.encoders))

        self.desk.openings.ask("checkpoint", lambda: _asked(project, path, method), show)

    def _take(self, project: Project, path: Path, said: dict[str, Any]) -> None:
        """Take the model in; it is chosen then. What does not fit is said in the dialog, which stays."""
        dialog, about = self.dialog, dict(said)
        part, name = about.pop("part"), about.pop("name")

        def work() -> ModelCard:
            from napari_mil.workflow import import_model

            return import_model(project, path, about, part=part, name=name)

        def then(card: ModelCard) -> None:
            _if_there(dialog, lambda d: d.done(CheckpointDialog.DialogCode.Accepted))
            if self.desk.state.project is project:
                self.desk.apply(changed_models=self.desk.state.changed_models + 1)
                acts.use_model(self.desk, card)
                assumed = " What was assumed stands on its card." if card.assumed else ""
                self.desk.said.emit(f"{card.name} is imported.{assumed}")

        def failed(error: BaseException) -> None:
            if dialog is not self.dialog or not _if_there(dialog, lambda d: d.say(str(error))):
                self.desk.tell(error)

        self.desk.openings.ask("import", work, then, failed=failed)

    def _copy(self, project: Project, path: Path, said: Mapping[str, Any]) -> None:
        commandline.copy(self.desk, import_line(project, path, said))

    def _enable(self, state: State) -> None:
        allow(self.button, PROJECT_FIRST if state.project is None else "")


def _if_there(dialog: CheckpointDialog | None, act: Callable[[CheckpointDialog], Any]) -> bool:
    """Do something with a dialog that is still on show; whether it was."""
    there = dialog is not None and dialog.is_open
    if there and dialog is not None:
        act(dialog)
    return there


def _asked(project: Project, path: Path, method: str | None = None) -> Asked:
    from napari_mil import encoders
    from napari_mil.methods import official
    from napari_mil.workflow import known_encoders, questions

    asked = questions(path, project.tree, method=method)
    there = dict.fromkeys(known_encoders(project), False)
    return Asked(
        asked, dict.fromkeys(encoders.names(), True) | there, official.describe(path, method=method).teacher
    )


def ask(viewer: Any = None) -> None:
    """The same from napari's menu: choose a file for the project that is open in the workbench."""
    viewer = compat.plain(viewer) if viewer is not None else compat.current_viewer()
    found = None if viewer is None else compat.main_window(viewer).findChild(ImportModel)
    if found is None:
        compat.tell(NO_WORKBENCH)
    else:
        found.choose()


def import_line(project: Project, path: Path, said: Mapping[str, Any]) -> str:
    """The line that imports a checkpoint with what was said of it; the rest is assumed."""
    words = ["napari-mil", "models", "import", str(project.path), str(path)]
    for key, value in said.items():
        many = isinstance(value, list | tuple)
        text = ",".join(map(str, value)) if many else "none" if value is None else str(value)
        plain = json.dumps(value) if isinstance(value, bool | None) else text
        words += [f"--{key.replace('_', '-')}", text] if key in OPTIONS else ["-s", f"{key}={plain}"]
    return commandline.line_of([*words, "--yes"])
