"""Every private or moved napari name does what we rely on."""

from __future__ import annotations

import io
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Labels
from napari.utils.interactions import mouse_move_callbacks
from qtpy.QtCore import QEvent
from qtpy.QtWidgets import QApplication, QWidget

from napari_mil.errors import TissueError
from napari_mil.ui import compat


def test_visible_box_follows_camera_and_canvas():
    viewer = ViewerModel()
    compat.camera(viewer).center, compat.camera(viewer).zoom = (0, 100, 200), 2.0
    height, width = compat.canvas_size(viewer)
    dy, dx = height / 4, width / 4
    assert compat.visible_box(viewer) == (100 - dy, 200 - dx, 100 + dy, 200 + dx)


def test_the_status_ends_in_our_description():
    viewer, told = ViewerModel(), []
    layer = viewer.add_image(np.zeros((10, 10)))
    pointer = compat.Pointer(viewer)
    compat.describe_cursor(layer, lambda y, x: f"tile at {y:g}, {x:g}", pointer)

    def status():
        return layer.get_status((3, 4), view_direction=None, dims_displayed=[0, 1], world=True)["coordinates"]

    viewer.cursor.events.position.connect(told.append)
    viewer.mouse_over_canvas = True  # but where, nobody knows yet
    assert status() == ""
    pointer.refresh()
    assert told == []
    mouse_move_callbacks(viewer, SimpleNamespace(is_dragging=False))
    assert "tile at 3, 4" in status()
    pointer.refresh()
    assert len(told) == 1
    viewer.mouse_over_canvas = False
    assert status() == ""
    pointer.forget()
    assert viewer.mouse_move_callbacks == []


@pytest.mark.parametrize(
    ("moved", "button", "mode", "told"),
    [
        (2, 1, "pan_zoom", [(3.0, 4.0)]),
        (9, 1, "pan_zoom", []),  # a drag
        (0, 2, "pan_zoom", []),
        (0, 1, "paint", []),
    ],
)
def test_a_click_is_told_and_a_drag_is_not(moved, button, mode, told):
    viewer, seen = ViewerModel(), []
    viewer.add_labels(np.zeros((8, 8), np.int32)).mode = mode
    theirs = list(viewer.mouse_drag_callbacks)
    end = compat.when_clicked(viewer, lambda y, x: seen.append((y, x)))
    event = SimpleNamespace(type="mouse_press", pos=(50, 60), position=(3, 4), button=button, modifiers=())
    steps = viewer.mouse_drag_callbacks[-1](viewer, event)
    for kind in ("mouse_press", "mouse_move", "mouse_release"):
        event.type = kind
        event.pos = (50, 60 + (moved if kind != "mouse_press" else 0))
        next(steps, None)
    assert seen == told
    end()
    assert viewer.mouse_drag_callbacks == theirs


def test_a_stroke_is_told_once_and_history_can_be_forgotten(qtbot):
    layer, strokes = Labels(np.zeros((8, 8), np.int32)), []
    compat.when_painted(layer, lambda: strokes.append(layer.data.copy()))
    layer.paint((2, 3), 5)
    qtbot.waitUntil(lambda: len(strokes) == 1)
    assert strokes[0][2, 3] == 5
    compat.forget_history(layer)
    layer.undo()
    assert layer.data[2, 3] == 5


def test_labels_are_filled_only_while_one_paints():
    layer = Labels(np.zeros((8, 8), np.int32))
    compat.fill_while_painting(layer, 0.4)
    seen = {}
    for mode in ("paint", "erase", "fill", "polygon", "pan_zoom"):
        layer.mode = mode
        seen[mode] = layer.opacity
    assert seen == {"paint": 0.4, "erase": 0.4, "fill": 0.4, "polygon": 0.4, "pan_zoom": 0.0}


def test_the_zoom_is_watched_until_the_end():
    viewer, seen = ViewerModel(), []
    end = compat.watch_camera(viewer, lambda: seen.append(compat.camera(viewer).zoom))
    compat.camera(viewer).zoom = 3.0
    end()
    compat.camera(viewer).zoom = 4.0
    assert seen == [3.0]


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


def test_the_activity_bar_is_taken_away_also_without_a_terminal(monkeypatch):
    from napari.utils.progress import progress

    printed = io.StringIO()  # no terminal, as under a desktop's launcher
    monkeypatch.setattr(sys, "stderr", printed)
    before = set(progress._all_instances)
    bar = compat.activity("a job")
    assert len(set(progress._all_instances) - before) == 1
    bar.set(1, 3)
    bar.close()
    assert set(progress._all_instances) == before
    assert printed.getvalue() == ""
