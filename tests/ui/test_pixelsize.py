"""The size of a pixel of slides that do not say it: asked once in the window, kept, changed, forgotten."""

from __future__ import annotations

import os

import numpy as np
import pytest
from qtpy.QtWidgets import QDialogButtonBox, QPushButton

from napari_mil.slides import open_slide
from napari_mil.slides.mpp import said_mpp, say_mpp
from napari_mil.ui import compat, pixelsize, reader
from napari_mil.ui.activation import activate
from napari_mil.ui.dialogs import MppDialog
from napari_mil.ui.front import front, slides
from napari_mil.ui.pixelsize import fingerprint_of
from tests.ui.test_reader import write_pyramid

pytestmark = pytest.mark.skipif(
    os.environ.get("QT_QPA_PLATFORM") == "offscreen", reason="needs a screen, real or virtual (xvfb-run)"
)


@pytest.fixture
def window(make_napari_viewer, monkeypatch):
    """A viewer on show, and what it tells."""
    made = make_napari_viewer(show=True)
    monkeypatch.setattr(compat, "current_viewer", lambda: made)
    monkeypatch.setattr(reader, "TAKERS", [])
    monkeypatch.setattr(pixelsize, "_asked", set())
    told = []
    monkeypatch.setattr(compat, "tell", lambda what: told.append(str(what)))
    activate()
    return made, told


def dialog_of(viewer):
    return next((d for d in compat.main_window(viewer).findChildren(MppDialog) if d.isVisible()), None)


def opened(viewer, path):
    viewer.open(str(path), plugin="napari-mil")
    return viewer.layers[-1]


def test_it_is_asked_once_kept_and_there_when_the_slide_is_opened_anew(window, tmp_path):
    viewer, _ = window
    silent = write_pyramid(tmp_path / "silent.tif", mpp=None)
    layer = opened(viewer, silent)
    assert str(layer.units[-1]) == "pixel"  # it can be looked at meanwhile
    shown, camera = front(viewer), compat.camera(viewer)
    camera.center, camera.zoom = (0, *shown.world(300, 500)), 2.0
    dialog = dialog_of(viewer)
    dialog.field.setText("0.25")
    dialog.accept()
    assert (str(layer.units[-1]), tuple(layer.scale)) == ("micrometer", (0.25, 0.25))
    assert np.allclose(shown.px(*camera.center[-2:]), (300, 500))  # the view stays
    assert camera.zoom == pytest.approx(8.0)
    viewer.layers.clear()
    layer = opened(viewer, silent)
    assert tuple(layer.scale) == (0.25, 0.25)
    assert dialog_of(viewer) is None
    assert front(viewer).said == "said by you"
    viewer.layers.clear()
    other = opened(viewer, write_pyramid(tmp_path / "other.tif", shape=(900, 1280), mpp=None))
    assert tuple(other.scale) == (1, 1)
    dialog_of(viewer).reject()
    viewer.layers.clear()
    opened(viewer, tmp_path / "other.tif")
    assert dialog_of(viewer) is None  # it was asked, once
    viewer.layers.clear()
    says = opened(viewer, write_pyramid(tmp_path / "says.tif"))
    assert tuple(says.scale) == (0.5, 0.5)
    assert front(viewer).said == ""
    assert dialog_of(viewer) is None


def test_slides_in_pixels_side_by_side_are_asked_about_together(window, tmp_path):
    viewer, _ = window
    paths = [write_pyramid(tmp_path / f"{n}.tif", shape=(1024, 1280 + 16 * n), mpp=None) for n in range(2)]
    for path in paths:
        opened(viewer, path)
    dialog = dialog_of(viewer)
    assert "0, 1 do not say" in dialog.findChildren(type(dialog.wrong))[0].text()
    dialog.field.setText("0.5")
    dialog.accept()
    one, two = slides(viewer)
    assert [said_mpp(s.fingerprint) for s in (one, two)] == [(0.5, 0.5)] * 2
    right = one.world(0, one.levels[0].shape_px[1])[1]
    assert right < two.world(0, 0)[1] < 1.1 * right


def test_slides_that_were_left_in_pixels_are_put_into_micrometres_together(window, tmp_path):
    viewer, _ = window
    for n in range(2):
        path = write_pyramid(tmp_path / f"{n}.tif", shape=(1024, 1280 + 16 * n), mpp=None)
        opened(viewer, path)
        if n == 0:
            dialog_of(viewer).reject()
    assert dialog_of(viewer) is None  # they fit together
    dialog = pixelsize.ask()
    dialog.field.setText("0.5")
    dialog.accept()
    assert [tuple(layer.scale) for layer in viewer.layers] == [(0.5, 0.5)] * 2


def test_a_slide_that_goes_is_asked_about_no_longer(window, tmp_path):
    viewer, _ = window
    opened(viewer, write_pyramid(tmp_path / "silent.tif", mpp=None))
    assert dialog_of(viewer) is not None
    viewer.layers.clear()
    assert dialog_of(viewer) is None


def test_it_is_changed_and_forgotten(window, tmp_path):
    viewer, told = window
    pixelsize.ask()
    assert told.pop() == pixelsize.NO_SLIDE
    opened(viewer, write_pyramid(tmp_path / "says.tif"))
    assert pixelsize.ask() is None
    assert told.pop() == "says says itself that a pixel is 0.5 µm wide; that counts."
    viewer.layers.clear()
    path = write_pyramid(tmp_path / "silent.tif", mpp=None)
    with open_slide(path) as slide:
        say_mpp(slide.fingerprint, 0.25)
    layer = opened(viewer, path)
    dialog = pixelsize.ask()
    assert dialog.field.text() == "0.25"
    dialog.field.setText("0.3")
    dialog.accept()
    assert tuple(layer.scale) == (0.3, 0.3)
    assert said_mpp(fingerprint_of(layer)) == (0.3, 0.3)
    buttons = pixelsize.ask().findChild(QDialogButtonBox).findChildren(QPushButton)
    next(button for button in buttons if button.text() == "Forget").click()
    assert "is forgotten" in told.pop()
    assert said_mpp(fingerprint_of(layer)) is None
    viewer.layers.clear()
    assert tuple(opened(viewer, path).scale) == (1, 1)
    assert dialog_of(viewer) is not None


def test_asked_because_of_a_neighbour_it_is_kept_as_well(window, tmp_path):
    viewer, _ = window
    opened(viewer, write_pyramid(tmp_path / "says.tif"))
    viewer.open(str(write_pyramid(tmp_path / "silent.tif", mpp=None)), plugin="napari-mil")
    assert len(viewer.layers) == 1
    dialog = dialog_of(viewer)
    dialog.field.setText("0.4")
    dialog.accept()
    assert [tuple(layer.scale) for layer in viewer.layers] == [(0.5, 0.5), (0.4, 0.4)]
    assert said_mpp(fingerprint_of(viewer.layers[1])) == (0.4, 0.4)
