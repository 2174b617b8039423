"""The form of a new model: a method, settings of a paper, a name, every option, and why it cannot begin."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QApplication,
    QCheckBox,
    QComboBox,
    QDialog,
    QDialogButtonBox,
    QFrame,
    QGridLayout,
    QLabel,
    QLineEdit,
    QScrollArea,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from napari_mil.errors import MILError
from napari_mil.labeltree import UNITS
from napari_mil.ui import compat
from napari_mil.ui.desk import Desk
from napari_mil.ui.forms import Form, keep_calm
from napari_mil.ui.widgets import Fold, clear, column, hint, row, soon, text

if TYPE_CHECKING:
    from napari_mil.workflow import Project
    from napari_mil.workflow.choosing import MethodChoice

#: The method that is chosen first, where it is there.
FIRST = "mhim"
DEFAULTS = "defaults"
START = "Train in the background; the window stays alive, and it can be stopped"
#: What was changed is checked so long after it.
CHECK_MS = 200
#: Of the dialog: its width, and its height with the options and without.
WIDTH_PX, HEIGHT_PX, CLOSED_PX = 480, 680, 400
LEAST_PX = 440  #: narrower, the fields of the options would be cut off


@dataclass(frozen=True, slots=True)
class _Found:
    """What the project knows: (cases with a label, cases), cases with a follow-up time, encoders, and the
    names of a few cases with a label.
    """

    labelled: tuple[int, int]
    followed: int
    encoders: tuple[str, ...]
    cases: tuple[str, ...]


class NewModelDialog(QDialog):
    """Asks how a new model is to be trained. `asked` carries the keywords of `workflow.train_apart_steps`,
    `copied` the same for a command line.

    choices : the methods, as `workflow.method_choices` has them
    """

    asked = Signal(object)
    copied = Signal(object)

    def __init__(self, desk: Desk, choices: Sequence[MethodChoice]) -> None:
        super().__init__(compat.main_window(desk.viewer))
        self.setWindowTitle("New model")
        self.setMinimumWidth(LEAST_PX)
        self.desk, self.choices = desk, tuple(choices)
        self._project: Project | None = desk.state.project
        self._found: _Found | None = None
        self._open, self._changes, self._proposed = True, 0, ""
        self.config: Form[Any] | None = None
        self.recipe: Form[Any] | None = None
        self._check_soon = soon(self, self._check, ms=CHECK_MS)
        self._make_fields()
        self._lay_out()
        self.finished.connect(self._closed)
        names = [choice.name for choice in self.choices]
        self.method.addItems(names)
        for i, choice in enumerate(self.choices):
            self.method.setItemData(i, choice.about, Qt.ItemDataRole.ToolTipRole)
        self.method.setCurrentIndex(names.index(FIRST) if FIRST in names else 0)
        self._method_chosen()
        self.method.currentIndexChanged.connect(self._method_chosen)
        self.preset.currentIndexChanged.connect(self._preset_chosen)
        self._look()

    def value(self) -> dict[str, Any]:
        """The keywords of `workflow.train_apart_steps`; ModelError when an option is out of bounds."""
        return {
            "method": self.choice.name,
            "name": self.name.text().strip(),
            "preset": self.preset.currentData(),
            "encoder": self.encoder.currentText() or "builtin",
            "survival": self.survival.isChecked() and not self.survival.isHidden(),
            "bins": self.bins.value(),
            "unit": self.unit.currentData(),
            "config": {} if self.config is None else self.config.changed(),
            "recipe": {} if self.recipe is None else self.recipe.changed(),
        }

    @property
    def choice(self) -> MethodChoice:
        """The method that is chosen."""
        return self.choices[self.method.currentIndex()]

    def accept(self) -> None:
        """Ask for the training, where it can begin."""
        if self.start.isEnabled():
            about = self.value()
            super().accept()
            self.asked.emit(about)

    def _make_fields(self) -> None:
        self.method, self.preset, self.encoder = QComboBox(), QComboBox(), QComboBox()
        self.preset.setToolTip("Settings that were published together; what you change goes before them")
        self.encoder.setToolTip("What turns tiles into the numbers that the model reads")
        self.about, self.note = hint(), hint()
        self.name = QLineEdit()
        self.name.textChanged.connect(lambda _text: self._changed())
        self.survival = QCheckBox("Learn follow-up times instead of labels")
        self.survival.toggled.connect(self._survival_chosen)
        self.bins = QSpinBox()
        self.bins.setRange(2, 20)
        self.bins.setValue(4)
        self.bins.valueChanged.connect(lambda _n: self._changed())
        self.unit = QComboBox()
        self.unit.setToolTip("What the follow-up times are counted in; it stands at every curve")
        for words, unit in (("no unit", ""), *((one, one) for one in UNITS)):
            self.unit.addItem(words, unit)
        self.unit.currentIndexChanged.connect(lambda _i: self._changed())
        self.bins_row = row(text("Intervals of time"), self.bins, text("Times in"), self.unit, None)
        self.known, self.wrong = text("Counting labelled cases…"), text()
        self.wrong.setAccessibleName("Why the training cannot begin")

    def _lay_out(self) -> None:
        top = QWidget()
        rows = QGridLayout(top)
        rows.setContentsMargins(0, 0, 0, 0)
        rows.setColumnStretch(1, 1)
        self._encoder_label = QLabel("Encoder")
        for i, (label, field) in enumerate(
            (
                (QLabel("Method"), self.method),
                (None, self.about),
                (QLabel("Settings"), self.preset),
                (None, self.note),
                (QLabel("Name"), self.name),
                (self._encoder_label, self.encoder),
                (None, self.survival),
                (None, self.bins_row),
            )
        ):
            rows.addWidget(field, i, 1)
            if label is not None:
                rows.addWidget(label, i, 0)
                label.setBuddy(field)
                field.setAccessibleName(label.text())
        options = QWidget()
        self._options = QVBoxLayout(options)
        self.options = Fold("Options", options, open_=False)
        inner = QWidget()
        column(inner, top, self.options, None, margins=(0, 0, 6, 0))
        area = QScrollArea()
        area.setWidget(inner)
        area.setWidgetResizable(True)
        area.setFrameShape(QFrame.Shape.NoFrame)
        area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        box = QDialogButtonBox(QDialogButtonBox.StandardButton.Cancel)
        self.start = box.addButton("Start", QDialogButtonBox.ButtonRole.AcceptRole)
        self.start.setToolTip(START)
        self.start.setDefault(True)
        self.copy = box.addButton("Copy as a command line", QDialogButtonBox.ButtonRole.ActionRole)
        self.copy.clicked.connect(lambda _checked=False: self._copy())
        box.accepted.connect(self.accept)
        box.rejected.connect(self.reject)
        column(self, area, self.known, self.wrong, box, margins=(10, 10, 10, 10))
        keep_calm(self)
        self._fit(opened=False)
        self.options.heading.toggled.connect(lambda opened: self._fit(opened=opened))

    def _copy(self) -> None:
        try:
            self.copied.emit(self.value())
        except MILError as error:
            self._say(str(error))

    def _fit(self, *, opened: bool) -> None:
        """As high as what is on show asks for, where the screen has room; the rest is scrolled to."""
        free = QApplication.primaryScreen().availableGeometry()
        high = HEIGHT_PX if opened else CLOSED_PX
        self.resize(min(WIDTH_PX, free.width() - 40), min(high, free.height() - 80))
        if self.isVisible():  # what grew downwards out of the screen moves up
            frame = self.frameGeometry()
            self.move(frame.x(), max(free.top(), min(frame.y(), free.bottom() - frame.height())))

    def _method_chosen(self) -> None:
        from napari_mil.workflow.learn import next_name

        choice = self.choice
        self.about.setText(choice.about + (f" ({choice.paper})" if choice.paper else ""))
        self.preset.blockSignals(True)
        self.preset.clear()
        self.preset.addItem(DEFAULTS, None)
        for name, note in choice.presets.items():
            self.preset.addItem(name, name)
            self.preset.setItemData(self.preset.count() - 1, note, Qt.ItemDataRole.ToolTipRole)
        self.preset.setEnabled(bool(choice.presets))
        self.preset.blockSignals(False)
        if self._project is not None and self.name.text() in ("", self._proposed):
            self._proposed = next_name(self._project, choice.name)
            self.name.setText(self._proposed)
        self._show_survival()
        self._preset_chosen()

    def _preset_chosen(self) -> None:
        """Begin the options anew from the defaults, or from the settings of a paper."""
        from napari_mil.workflow import start_options

        preset = self.preset.currentData()
        note = self.choice.presets.get(preset, "") if preset else "Settings that suit a small study."
        self.note.setText(note)
        self.note.setVisible(bool(note))
        clear(self._options)
        self.config = self.recipe = None
        if self.choice.usable:
            config, recipe = start_options(self.choice.name, preset)
            fields = (f.name for f in dataclasses.fields(recipe))
            shown = tuple(name for name in fields if name != "record" or self.choice.hides)
            self.config, self.recipe = Form(config), Form(recipe, only=shown)
            self._hint_record()
            for words, form in (("Of the method", self.config), ("Of the training", self.recipe)):
                form.container.changed.connect(self._changed)
                self._options.addWidget(text(f"<b>{words}</b>"))
                self._options.addWidget(form.native)
        self._changed()

    def _hint_record(self) -> None:
        """Show in the empty field what could be recorded."""
        if self.recipe is not None and self._found is not None and self.choice.hides:
            such = f"such as {', '.join(self._found.cases)}" if self._found.cases else ""
            self.recipe.container["record"].native.setPlaceholderText(such)

    def _survival_chosen(self) -> None:
        self._show_survival()
        self._changed()

    def _show_survival(self) -> None:
        possible = self._found is not None and self._found.followed > 0 and self.choice.flat
        self.survival.setVisible(possible)
        self.bins_row.setVisible(possible and self.survival.isChecked())
        self._say_known()

    def _look(self) -> None:
        """Count what there is to learn from."""
        project = self._project
        if project is None:
            return

        def work() -> _Found:
            from napari_mil.workflow import known_encoders
            from napari_mil.workflow.cases import count_cases, known_cases

            followed = count_cases(project, survival=True)[0]
            some = tuple(known.case for known in known_cases(project)[:2])
            return _Found(count_cases(project), followed, known_encoders(project), some)

        self.desk.asks.ask("what to learn from", work, self._if_open(self._show), failed=self._failed)

    def _show(self, found: _Found) -> None:
        from napari_mil.bag import encoder_of

        self._found, card = found, self.desk.state.card
        used = encoder_of(card.encoder) if card is not None else "builtin"
        self.encoder.addItems(found.encoders)
        likely = (i for i, name in enumerate(found.encoders) if name in (used, used.rsplit("-", 1)[0]))
        self.encoder.setCurrentIndex(next(likely, max(0, self.encoder.findText("builtin"))))
        for part in (self.encoder, self._encoder_label):
            part.setVisible(len(found.encoders) > 1)
        self._hint_record()
        self._show_survival()

    def _say_known(self) -> None:
        if self._found is None:
            return
        n, of = self._found.labelled
        what = "a label"
        if self.survival.isChecked() and not self.survival.isHidden():
            n, what = self._found.followed, "a follow-up time"
        self.known.setText(
            f"{n:,} of {of:,} case{'' if of == 1 else 's'} {'has' if n == 1 else 'have'} {what}."
        )

    def _changed(self) -> None:
        """What was checked no longer holds; look again in a moment."""
        self._changes += 1
        self.start.setEnabled(False)
        self._check_soon()

    def _check(self) -> None:
        project = self._project
        if not self._open or project is None:
            return
        try:
            about = self.value()
        except MILError as error:
            self._say(str(error))
            return
        asked = {key: value for key, value in about.items() if key != "encoder"}
        changes = self._changes
        self.start.setToolTip("Looking whether the training can begin…")

        def show(why_not: str) -> None:
            if changes == self._changes:
                self._say(why_not)

        def work() -> str:
            from napari_mil.workflow import why_not_train

            return why_not_train(project, **asked)

        self.desk.asks.ask("why not train", work, self._if_open(show), failed=self._failed)

    def _say(self, why_not: str) -> None:
        self.wrong.setText(why_not)
        self.wrong.setVisible(bool(why_not))
        self.start.setEnabled(not why_not)
        self.start.setToolTip(why_not or START)

    def _failed(self, error: BaseException) -> None:
        if self._open:
            self._say(str(error))

    def _if_open(self, act: Callable[[Any], None]) -> Callable[[Any], None]:
        """Do nothing with an answer that finds the dialog closed."""
        return lambda found: act(found) if self._open else None

    def _closed(self) -> None:
        self._open = False
        self.deleteLater()
