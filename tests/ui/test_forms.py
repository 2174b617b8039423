"""A dataclass becomes a form and comes back checked."""

from __future__ import annotations

import dataclasses

import pytest
from qtpy.QtCore import QPoint, QPointF, Qt
from qtpy.QtGui import QWheelEvent
from qtpy.QtWidgets import QApplication

from napari_mil.card import Recipe
from napari_mil.errors import ModelError
from napari_mil.options import option
from napari_mil.ui.forms import Form, words


def test_a_form_gives_back_what_it_was_given(qtbot):
    recipe = Recipe(lr=3e-4, epochs=7)
    assert Form(recipe).read() == recipe


def test_a_form_shows_bounds_help_and_takes_changes(qtbot):
    form = Form(Recipe(), only=("epochs", "lr", "class_weights"))
    assert form.names == ("epochs", "lr", "class_weights")
    epochs = form.container[0]
    assert (epochs.min, epochs.max) == (1, 1000)
    assert "passes" in epochs.tooltip
    epochs.value = 12
    form.container[1].value = 5e-5
    made = form.read()
    assert (made.epochs, made.lr, made.seed) == (12, 5e-5, 0)
    form.write(Recipe(epochs=3))
    assert form.read().epochs == 3


def test_choices_become_a_list_and_what_no_widget_holds_stays(qtbot):
    @dataclasses.dataclass(frozen=True)
    class Config:
        act: str = option("relu", "activation", choices=("relu", "gelu"))
        width: int | None = option(None, "width, None for the input's")

    form = Form(Config())
    assert form.names == ("act",)
    form.container[0].value = "gelu"
    assert form.read() == Config(act="gelu")


def test_names_are_one_line_with_commas(qtbot):
    form = Form(Recipe(record=("a", "b, left")), only=("record",))
    assert form.container[0].value == 'a,"b, left"'
    assert form.changed() == {}
    form.container[0].value = ' c1 , "b, left",'
    assert form.changed() == {"record": ("c1", "b, left")}
    form.write(Recipe())
    assert form.read().record == ()


def test_the_checks_of_the_dataclass_hold(qtbot):
    @dataclasses.dataclass(frozen=True)
    class Config:
        ratio: float = option(0.5, "a ratio", low=0.0, high=1.0)

    form = Form(Config())
    form.container[0].max = 9
    form.container[0].value = 3.0
    with pytest.raises(ModelError, match="ratio"):
        form.read()


def test_words():
    assert words("mask_ratio") == "mask ratio"


@pytest.mark.parametrize(
    ("value", "shown", "step"),
    [
        (2e-5, "0.00002", 1e-6),
        (0.25, "0.25", 0.01),
        (0.9999, "0.9999", 1e-5),
        (0.0, "0", 0.1),
        (1.0, "1", 0.1),
    ],
)
def test_numbers_are_shown_as_they_are_and_can_be_made_finer(qtbot, value, shown, step):
    @dataclasses.dataclass(frozen=True)
    class Config:
        share: float = option(value, "a share", low=0.0, high=1.0)

    form = Form(Config())
    box = form.container[0].native
    assert (box.text(), form.read().share) == (shown, value)
    assert box.singleStep() == pytest.approx(step)
    box.lineEdit().setText("0.0000125")
    box.interpretText()
    assert form.read().share == 0.0000125


def test_what_differs_from_the_start_is_told(qtbot):
    form = Form(Recipe(epochs=5))
    assert form.changed() == {}
    form.write(Recipe(epochs=6, lr=1e-3))
    assert form.changed() == {"epochs": 6, "lr": 1e-3}


def test_the_wheel_changes_a_number_only_where_the_focus_is(qtbot):
    form = Form(Recipe(epochs=5), only=("epochs",))
    qtbot.addWidget(form.native)
    box = form.container[0].native
    at, turned = QPointF(3, 3), QPoint(0, 120)
    plain = (Qt.MouseButton.NoButton, Qt.KeyboardModifier.NoModifier, Qt.ScrollPhase.NoScrollPhase, False)

    def turn():
        QApplication.sendEvent(box, QWheelEvent(at, at, QPoint(), turned, *plain))
        return form.read().epochs

    assert turn() == 5
    form.native.show()
    qtbot.waitExposed(form.native)
    form.native.activateWindow()
    box.setFocus()
    qtbot.waitUntil(box.hasFocus)
    assert turn() == 6
