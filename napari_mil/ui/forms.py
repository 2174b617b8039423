"""A dataclass with bounds becomes a form, and a form a dataclass: one source for checks and widgets (see
options.py).
"""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import typing
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

from magicgui.application import use_app
from magicgui.widgets import CheckBox, ComboBox, Container, LineEdit, SpinBox
from magicgui.widgets.bases import RangedWidget
from qtpy.QtCore import QEvent, QObject, Qt
from qtpy.QtWidgets import QAbstractSpinBox, QComboBox, QDoubleSpinBox, QFormLayout, QLabel, QWidget

from napari_mil.options import check

T = TypeVar("T")
#: The bounds that Qt's integer boxes can hold.
_INT = 2**31 - 1
#: Digits after the point that a number can have.
DIGITS = 10


class Form(Generic[T]):
    """A form for one dataclass. Fields that no plain widget can hold keep the value they came with.

    Parameters
    ----------
    start : instance whose values are shown first
    only : names of the fields to show, in that order; all when empty

    Attributes
    ----------
    native : the Qt widget to put into a layout
    container : the fields as magicgui has them
    """

    def __init__(self, start: T, *, only: tuple[str, ...] = ()) -> None:
        self._start = start
        fields = {f.name: f for f in dataclasses.fields(start)}  # type: ignore[arg-type]
        made = {name: _widget(fields[name], getattr(start, name), type(start)) for name in only or fields}
        self._widgets = {name: widget for name, widget in made.items() if widget is not None}
        self.container = Container(widgets=list(self._widgets.values()), labels=False)
        self.native = _laid_out(self._widgets)
        keep_calm(self.native)

    @property
    def names(self) -> tuple[str, ...]:
        """Fields that have a widget."""
        return tuple(self._widgets)

    def read(self) -> T:
        """What the form says, as a checked dataclass; ModelError names a field that is out of bounds."""
        values = {name: self._said(name) for name in self._widgets}
        made = dataclasses.replace(self._start, **values)  # type: ignore[type-var]
        check(made, type(made).__name__)
        return made

    def changed(self) -> dict[str, Any]:
        """{field: value} of what differs from what the form came with; ModelError as `read`."""
        made = self.read()
        return {n: getattr(made, n) for n in self._widgets if getattr(made, n) != getattr(self._start, n)}

    def write(self, value: T) -> None:
        """Show the values of `value`."""
        for name, widget in self._widgets.items():
            widget.value = _shown(getattr(value, name))

    def _said(self, name: str) -> Any:
        value = self._widgets[name].value
        return names_in(value) if isinstance(getattr(self._start, name), tuple) else value


class _Calm(QObject):
    """Lets the wheel scroll past a field that nobody has gone to, instead of changing its value."""

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:  # noqa: N802 - Qt's name
        if event.type() == QEvent.Type.Wheel and isinstance(watched, QWidget) and not watched.hasFocus():
            event.ignore()
            return True
        return False


def keep_calm(parent: QWidget) -> None:
    """Let the wheel change a number or a choice under `parent` only where the focus is."""
    calm = _Calm(parent)
    for kind in (QAbstractSpinBox, QComboBox):
        for box in parent.findChildren(kind):
            box.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
            box.installEventFilter(calm)


class _Digits(QDoubleSpinBox):
    """Takes and shows as many digits as a number has, and no zeros after them: 0.00002, 0.25."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        super().setDecimals(DIGITS)

    def setDecimals(self, _digits: int) -> None:  # noqa: N802 - Qt's name
        """There are always as many as can be told apart."""

    def textFromValue(self, value: float) -> str:  # noqa: N802 - Qt's name
        said = str(self.locale().toString(value, "f", DIGITS))
        return said.rstrip("0").removesuffix(self.locale().decimalPoint())


def _with_digits(backend: Any) -> Any:
    """Magicgui's box for numbers, around ours of Qt."""

    class Backend(backend):  # type: ignore[misc]
        def __init__(self, **kwargs: Any) -> None:
            super(backend, self).__init__(_Digits, **kwargs)

    return Backend


class NumberBox(RangedWidget):  # type: ignore[type-arg]
    """A number with a point, with as many digits as it has."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(widget_type=_with_digits(use_app().get_obj("FloatSpinBox")), **kwargs)


def _laid_out(widgets: Mapping[str, Any]) -> QWidget:
    """The fields below each other, with their names in a column of their own where there is room for it."""
    native = QWidget()
    rows = QFormLayout(native)
    rows.setContentsMargins(0, 0, 0, 0)
    rows.setRowWrapPolicy(QFormLayout.RowWrapPolicy.WrapLongRows)
    rows.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
    for name, widget in widgets.items():
        label = QLabel(words(name))
        label.setToolTip(widget.tooltip)
        label.setBuddy(widget.native)
        widget.native.setAccessibleName(words(name))
        rows.addRow(label, widget.native)
        widget.native.show()
    return native


def words(name: str) -> str:
    """A field's name as a person reads it: "mask_ratio" → "mask ratio"."""
    return name.replace("_", " ")


def names_in(text: str) -> tuple[str, ...]:
    """Names with commas between them; one that holds a comma stands in double quotes."""
    return tuple(name.strip() for line in csv.reader([text], skipinitialspace=True) for name in line if name)


def _shown(value: Any) -> Any:
    """A value as its widget takes it: names as one line of text."""
    if not isinstance(value, tuple):
        return value
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(value)
    return line.getvalue()


def _widget(field: dataclasses.Field[Any], value: Any, owner: type) -> Any:
    meta = field.metadata
    shared = {"name": field.name, "label": words(field.name), "tooltip": meta.get("help", "")}
    if meta.get("choices"):
        return ComboBox(choices=list(meta["choices"]), value=value, **shared)
    kind = typing.get_type_hints(owner).get(field.name, type(value))
    if kind == tuple[str, ...]:
        return LineEdit(value=_shown(value), **shared)
    if value is None or kind not in (bool, int, float, str):
        return None
    if kind is bool:
        box = CheckBox(value=value, **shared)
        box.native.setText("")  # its name stands before it
        return box
    if kind is str:
        return LineEdit(value=value, **shared)
    low, high = meta.get("low"), meta.get("high")
    if kind is int:
        low, high = (-_INT if low is None else int(low)), (_INT if high is None else int(high))
        return SpinBox(value=value, min=max(low, -_INT), max=min(high, _INT), **shared)
    low, high = (-1e9 if low is None else low), (1e9 if high is None else high)
    return NumberBox(value=value, min=low, max=high, step=_step(value, low, high), **shared)


def _step(value: float, low: float, high: float) -> float:
    """One tenth of the power of ten of the value, or of what it lacks to its upper bound (0.9999 of 1)."""
    size = abs(value) or min(abs(high - low), 1.0)
    if 0 < high - value < size:
        size = high - value
    return float(10.0 ** (math.floor(math.log10(size) + 1e-9) - 1))
