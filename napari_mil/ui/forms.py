"""A dataclass with bounds becomes a form, and a form a dataclass: one source for checks and widgets (see
options.py).
"""

from __future__ import annotations

import dataclasses
import math
import typing
from typing import Any, Generic, TypeVar

from magicgui.widgets import CheckBox, ComboBox, Container, FloatSpinBox, LineEdit, SpinBox
from qtpy.QtWidgets import QWidget

from napari_mil.options import check

T = TypeVar("T")
#: The bounds that Qt's integer boxes can hold.
_INT = 2**31 - 1


class Form(Generic[T]):
    """A form for one dataclass. Fields that no plain widget can hold keep the value they came with.

    Parameters
    ----------
    start : instance whose values are shown first
    only : names of the fields to show, in that order; all when empty
    """

    def __init__(self, start: T, *, only: tuple[str, ...] = ()) -> None:
        self._start = start
        fields = {f.name: f for f in dataclasses.fields(start)}  # type: ignore[arg-type]
        made = {name: _widget(fields[name], getattr(start, name), type(start)) for name in only or fields}
        self._widgets = {name: widget for name, widget in made.items() if widget is not None}
        self.container = Container(widgets=list(self._widgets.values()), labels=True)
        self.container.margins = (0, 0, 0, 0)

    @property
    def native(self) -> QWidget:
        """The Qt widget to put into a layout."""
        return self.container.native

    @property
    def names(self) -> tuple[str, ...]:
        """Fields that have a widget."""
        return tuple(self._widgets)

    def read(self) -> T:
        """What the form says, as a checked dataclass; ModelError names a field that is out of bounds."""
        values = {name: widget.value for name, widget in self._widgets.items()}
        made = dataclasses.replace(self._start, **values)  # type: ignore[type-var]
        check(made, type(made).__name__)
        return made

    def write(self, value: T) -> None:
        """Show the values of `value`."""
        for name, widget in self._widgets.items():
            widget.value = getattr(value, name)


def words(name: str) -> str:
    """A field's name as a person reads it: "mask_ratio" → "mask ratio"."""
    return name.replace("_", " ")


def _widget(field: dataclasses.Field[Any], value: Any, owner: type) -> Any:
    meta = field.metadata
    shared = {"name": field.name, "label": words(field.name), "tooltip": meta.get("help", "")}
    if meta.get("choices"):
        return ComboBox(choices=list(meta["choices"]), value=value, **shared)
    kind = typing.get_type_hints(owner).get(field.name, type(value))
    if value is None or kind not in (bool, int, float, str):
        return None
    if kind is bool:
        return CheckBox(value=value, **shared)
    if kind is str:
        return LineEdit(value=value, **shared)
    low, high = meta.get("low"), meta.get("high")
    if kind is int:
        low, high = (-_INT if low is None else int(low)), (_INT if high is None else int(high))
        return SpinBox(value=value, min=max(low, -_INT), max=min(high, _INT), **shared)
    low, high = (-1e9 if low is None else low), (1e9 if high is None else high)
    return FloatSpinBox(value=value, min=low, max=high, step=_step(value, low, high), **shared)


def _step(value: float, low: float, high: float) -> float:
    """One tenth of the value's own power of ten, so that 2e-4 can be typed and shown."""
    size = abs(value) or min(abs(high - low), 1.0)
    return float(10.0 ** (math.floor(math.log10(size)) - 1))
