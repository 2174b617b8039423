"""The form of a published checkpoint: everything that its file does not say, with what is assumed else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QApplication,
    QComboBox,
    QDialog,
    QDialogButtonBox,
    QFileDialog,
    QFrame,
    QLineEdit,
    QScrollArea,
    QVBoxLayout,
    QWidget,
)

from napari_mil.errors import MILError
from napari_mil.ui.forms import keep_calm
from napari_mil.ui.widgets import button, clear, column, hint, row, text

if TYPE_CHECKING:
    from napari_mil.workflow import Question

WIDTH_PX, HEIGHT_PX = 480, 620
LEFT = "What you leave empty is assumed as the fields say, and marked so on the model's card."
#: Whose weights answer, where there are two networks in a file.
PARTS = ("student", "teacher")


class CheckpointDialog(QDialog):
    """Asks the questions of `workflow.questions`. `asked` carries their answers, with `part` and `name`;
    whoever takes the model in closes the dialog, or says in it why not.
    """

    asked = Signal(object)
    copied = Signal(object)
    method_chosen = Signal(object)

    def __init__(self, parent: QWidget, path: Path, teacher: bool) -> None:
        super().__init__(parent)
        self.setWindowTitle("Import a published model")
        self.is_open = True
        self.finished.connect(self._closed)
        self._path = path
        self._encoders: dict[str, bool] = {}
        self._questions: tuple[Question, ...] = ()
        self._fields: dict[str, QLineEdit | QComboBox] = {}
        self._rows: dict[str, QWidget] = {}
        self.name = QLineEdit(path.stem)
        self.part = QComboBox()
        self.part.addItems(PARTS)
        self.weights = QLineEdit()
        browse = button("Choose…", self._choose_weights, "Choose the file of the encoder's weights")
        inner = QWidget()
        self._asked = QVBoxLayout()
        self._asked.setContentsMargins(0, 0, 0, 0)
        whole = column(inner, text(f"<b>{path.name}</b> does not say all that is needed. {LEFT}"))
        whole.addLayout(self._asked)
        self.file = _field(
            "file of that encoder's weights; the project keeps them", row(self.weights, browse)
        )
        whole.addWidget(self.file)
        self.parts = _field("whose weights answer: two networks are in the file", self.part)
        self.parts.setVisible(teacher)
        whole.addWidget(self.parts)
        whole.addWidget(_field("what to call the model", self.name))
        whole.addStretch(1)
        area = QScrollArea()
        area.setWidget(inner)
        area.setWidgetResizable(True)
        area.setFrameShape(QFrame.Shape.NoFrame)
        area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.wrong = hint()
        self.wrong.hide()
        box = QDialogButtonBox(QDialogButtonBox.StandardButton.Cancel)
        self.take = box.addButton("Import", QDialogButtonBox.ButtonRole.AcceptRole)
        self.take.setDefault(True)
        self.copy = box.addButton("Copy as a command line", QDialogButtonBox.ButtonRole.ActionRole)
        self.copy.clicked.connect(lambda _checked=False: self._send(self.copied))
        box.accepted.connect(self._start)
        box.rejected.connect(self.reject)
        column(self, area, self.wrong, box, margins=(10, 10, 10, 10))
        free = QApplication.primaryScreen().availableGeometry()
        self.resize(min(WIDTH_PX, free.width() - 40), min(HEIGHT_PX, free.height() - 80))

    def ask(self, questions: Sequence[Question], encoders: Mapping[str, bool]) -> None:
        """Show these questions; what was answered before stays.

        encoders : {name: whether it needs a file of weights, which the project lacks}
        """
        self._encoders = dict(encoders)
        before = self.texts()
        which = [q for q in self._questions if q.name == "method"]  # it is no question once it is answered
        which = [] if any(q.name == "method" for q in questions) else which
        clear(self._asked)
        self._questions, self._fields, self._rows = (), {}, {}
        shown = sorted((*which, *questions), key=lambda q: ("method", "classes", q.name).index(q.name))
        for question in shown:
            field = self._make(question, encoders)
            self._fields[question.name] = field
            self._rows[question.name] = _field(question.words, field)
            self._asked.addWidget(self._rows[question.name])
            _write(field, before.get(question.name, ""))
        self._questions = (*which, *questions)
        keep_calm(self)
        self._show_due()

    def texts(self) -> dict[str, str]:
        """What was typed or chosen, by question."""
        said = {name: _read(field) for name, field in self._fields.items()}
        return {name: words for name, words in said.items() if words}

    def value(self) -> dict[str, Any]:
        """The answers as `workflow.import_model` takes them, with `part` and `name`; MILError where one is
        none.
        """
        said, texts = dict[str, Any](), self.texts()
        for question in self._questions:
            if question.name in texts and question.due(said):
                said[question.name] = question.read(texts[question.name])
        if not self.file.isHidden() and (words := self.weights.text().strip()):
            said["encoder_weights"] = Path(words)
        return said | {"part": self.part.currentText(), "name": self.name.text().strip() or self._path.stem}

    def say(self, sentence: str) -> None:
        """Say why the model is not taken in; the person may mend it."""
        self.wrong.setText(sentence)
        self.wrong.setVisible(bool(sentence))
        self.take.setEnabled(True)

    def _make(self, question: Question, encoders: Mapping[str, bool]) -> QLineEdit | QComboBox:
        assumed = f"assumed: {question.default}" if question.default else "must be said"
        if question.choices or question.name == "encoder":
            made = QComboBox()
            made.addItem(assumed, "")
            for choice in question.choices or encoders:
                made.addItem(choice, choice)
            if question.name == "method":
                made.activated.connect(lambda _i: self.method_chosen.emit(_read(made) or None))
            made.currentIndexChanged.connect(self._show_due)
            return made
        line = QLineEdit()
        line.setPlaceholderText(assumed)
        line.setToolTip(assumed)
        line.textChanged.connect(self._show_due)
        return line

    def _choose_weights(self) -> None:
        file, _ = QFileDialog.getOpenFileName(self, "The encoder's weights")
        if file:
            self.weights.setText(file)

    def _show_due(self, _what: Any = None) -> None:
        """Show what is open, by what was said of the others."""
        texts = self.texts()
        for question in self._questions:
            others = {name: words for name, words in texts.items() if name != question.name}
            self._rows[question.name].setVisible(question.due(others))
        self.file.setVisible(self._encoders.get(texts.get("encoder", ""), False))
        self.say("")

    def _start(self) -> None:
        self.say("")
        if self._send(self.asked):
            self.take.setEnabled(False)

    def _send(self, signal: Any) -> bool:
        try:
            said = self.value()
        except MILError as error:
            self.say(str(error))
            return False
        signal.emit(said)
        return True

    def _closed(self) -> None:
        self.is_open = False
        self.deleteLater()


def _field(words: str, field: QWidget) -> QWidget:
    """A question with its field below."""
    made = QWidget()
    label = text(words if words.startswith("µ") else words[:1].upper() + words[1:])
    column(made, label, field, margins=(0, 2, 0, 4), spacing=2)
    field.setAccessibleName(words)
    return made


def _read(field: QLineEdit | QComboBox) -> str:
    said = field.currentData() if isinstance(field, QComboBox) else field.text()
    return str(said or "").strip()


def _write(field: QLineEdit | QComboBox, words: str) -> None:
    if isinstance(field, QComboBox):
        field.setCurrentIndex(max(0, field.findData(words)))
    else:
        field.setText(words)
