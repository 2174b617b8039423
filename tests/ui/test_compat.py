"""Every private or moved napari name does what we rely on."""

from __future__ import annotations

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image, Labels
from qtpy.QtCore import QEvent
from qtpy.QtWidgets import QApplication, QWidget

from napari_mil.errors import TissueError
from napari_mil.ui import compat


def pyramid(factor=4):
    """Blocks of factor × factor pixels of one value each, and the level of one pixel per block."""
    coarse = np.arange(48, dtype=np.uint8).reshape(6, 8)
    fine = np.kron(coarse, np.ones((factor, factor), np.uint8))
    return [fine, coarse]


@pytest.mark.parametrize("level", [0, 1])
def test_every_level_shows_a_pixel_where_it_lies(level):
    layer = Image(pyramid(), multiscale=True, metadata={"napari-mil": {}})
    compat.place_levels(layer)
    layer.data_level = level
    layer.corner_pixels = np.array([[0, 0], np.array(layer.data[level].shape) - 1])
    layer.refresh()
    fine = layer.data[0]
    for y, x in [(0, 0), (4, 4), (7, 11), (12, 15), (23, 31)]:
        value = layer.get_value((y, x))
        assert (value[1] if isinstance(value, tuple) else value) == fine[y, x]


def test_centring_is_needed_as_long_as_napari_leaves_levels_off_centre():
    layer = Image(pyramid(), multiscale=True)
    layer.data_level = 1
    layer.corner_pixels = np.array([[0, 0], [5, 7]])
    layer.refresh()
    assert layer._transforms["tile2data"].translate.tolist() == [0, 0]
    compat.centre_levels(layer)
    assert layer._transforms["tile2data"].translate.tolist() == [1.5, 1.5]
    compat.centre_levels(layer)  # twice is once
    assert layer._transforms["tile2data"].translate.tolist() == [1.5, 1.5]


def test_visible_box_follows_camera_and_canvas():
    viewer = ViewerModel()
    compat.camera(viewer).center, compat.camera(viewer).zoom = (0, 100, 200), 2.0
    height, width = compat.canvas_size(viewer)
    dy, dx = height / 4, width / 4
    assert compat.visible_box(viewer) == (100 - dy, 200 - dx, 100 + dy, 200 + dx)


def test_the_status_ends_in_our_description():
    layer = Image(np.zeros((10, 10)))
    compat.describe_cursor(layer, lambda y, x: f"tile at {y:g}, {x:g}")
    status = layer.get_status((3, 4), view_direction=None, dims_displayed=[0, 1], world=True)
    assert "tile at 3, 4" in status["coordinates"]


def test_a_stroke_is_told_once_and_history_can_be_forgotten(qtbot):
    layer, strokes = Labels(np.zeros((8, 8), np.int32)), []
    compat.when_painted(layer, lambda: strokes.append(layer.data.copy()))
    layer.paint((2, 3), 5)
    qtbot.waitUntil(lambda: len(strokes) == 1)
    assert strokes[0][2, 3] == 5
    compat.forget_history(layer)
    layer.undo()
    assert layer.data[2, 3] == 5


def test_layers_and_theme_are_watched_until_the_end():
    viewer, seen = ViewerModel(), []
    one = viewer.add_image(np.zeros((4, 4)))
    ends = [
        compat.watch_layers(viewer, seen.append),
        compat.watch_theme(viewer, lambda: seen.append(viewer.theme)),
    ]
    two = viewer.add_image(np.zeros((4, 4)))
    viewer.theme = "light"
    for end in ends:
        end()
    viewer.add_image(np.zeros((4, 4)))
    viewer.theme = "dark"
    assert seen == [one, two, "light"]


def test_theme_colours_are_hex():
    colours = compat.theme_colours(ViewerModel())
    assert all(value.startswith("#") and len(value) == 7 for value in colours.values())


def test_an_activity_has_a_bar_with_its_title_until_it_is_closed(make_napari_viewer, capfd):
    window = compat.main_window(make_napari_viewer())

    def bars():
        QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
        found = window.findChildren(QWidget)
        return [w.description_label.text() for w in found if type(w).__name__ == "QtLabeledProgressBar"]

    capfd.readouterr()
    doing = compat.activity("Run mhim-1")
    assert bars() == ["Run mhim-1: "]
    doing.set(3, 9)
    doing.close()
    assert bars() == []
    assert not "".join(capfd.readouterr()).strip()


def test_sentences_become_notifications(monkeypatch):
    from napari.utils.notifications import notification_manager

    shown = []
    monkeypatch.setattr(notification_manager, "dispatch", shown.append)
    compat.tell("Hello.")
    compat.tell(TissueError("No tissue."))
    assert [(n.message, n.severity.value) for n in shown] == [("Hello.", "info"), ("No tissue.", "warning")]
