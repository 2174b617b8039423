"""The dock in napari: opened from its menu, without a project, and closed while work runs."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest
from qtpy.QtWidgets import QApplication

from napari_mil.ui import compat
from napari_mil.ui.activation import activate
from napari_mil.ui.dialogs import MppDialog
from napari_mil.ui.workbench import Workbench
from napari_mil.workflow import Project
from tests.ui.test_reader import write_pyramid

pytestmark = pytest.mark.skipif(
    os.environ.get("QT_QPA_PLATFORM") == "offscreen", reason="needs a screen, real or virtual (xvfb-run)"
)


def test_without_a_project_slides_are_just_shown(make_napari_viewer, tmp_path):
    viewer = make_napari_viewer(show=False)
    made = Workbench(viewer)
    viewer.open(str(write_pyramid(tmp_path / "alone.tif")), plugin="napari-mil")
    assert made.wait(20)
    assert [layer.name for layer in viewer.layers] == ["alone"]
    assert "Open or make a project" in made.said.text()
    made.review.paint()
    assert "Open a slide before painting" in made.said.text()
    made.shut()


@pytest.mark.parametrize("first", [0.5, None])
def test_slides_with_and_without_pixel_size_share_a_window_only_in_micrometres(
    make_napari_viewer, tmp_path, monkeypatch, first
):
    viewer = make_napari_viewer(show=False)
    monkeypatch.setattr(compat, "current_viewer", lambda: viewer)
    activate()
    second = None if first else 0.5
    viewer.open(str(write_pyramid(tmp_path / "one.tif", mpp=first)), plugin="napari-mil")
    viewer.open(str(write_pyramid(tmp_path / "same.tif", mpp=first)), plugin="napari-mil")
    assert len(viewer.layers) == 2  # the same unit: nothing is asked
    viewer.open(str(write_pyramid(tmp_path / "other.tif", mpp=second)), plugin="napari-mil")
    assert len(viewer.layers) == 2
    [dialog] = [w for w in QApplication.topLevelWidgets() if type(w) is MppDialog and w.isVisible()]
    dialog.field.setText("0.25")
    dialog._check()
    assert [layer.name for layer in viewer.layers] == ["one", "same", "other"]
    assert {str(layer.units[-1]) for layer in viewer.layers} == {"micrometer"}
    given = [0.5, 0.5, 0.25] if first else [0.25, 0.25, 0.5]
    assert [layer.scale[0] for layer in viewer.layers] == pytest.approx(given)
    extent = viewer.layers.extent
    assert getattr(extent, "units", "before 0.8") is not None  # napari warns when this is None
    viewer.open(str(write_pyramid(tmp_path / "third.tif", mpp=None)), plugin="napari-mil")
    [dialog] = [w for w in QApplication.topLevelWidgets() if type(w) is MppDialog and w.isVisible()]
    dialog.reject()
    assert len(viewer.layers) == 3


def test_napari_opens_the_dock_by_its_name(make_napari_viewer):
    viewer = make_napari_viewer(show=False)
    _, made = viewer.window.add_plugin_dock_widget("napari-mil", "MIL workbench")
    assert isinstance(made, Workbench)
    assert made.viewer is viewer
    assert "No project is open" in made.slides.project.text()
    made.shut()


def test_closing_the_workbench_takes_its_layers_along(make_napari_viewer, study_folder):
    viewer = make_napari_viewer(show=False)
    theirs = viewer.add_image(np.zeros((8, 8)))
    made = Workbench(viewer)
    made.open_project(study_folder)
    assert made.wait(60)
    assert len(viewer.layers) > 1
    made.shut()
    assert list(viewer.layers) == [theirs]
    viewer.reset_view()  # draws again; a layer of a closed slide would fail


def test_closing_the_window_ends_the_work(make_napari_viewer, study_folder):
    viewer = make_napari_viewer(show=False)
    made = Workbench(viewer)
    made.open_project(study_folder)
    assert made.wait(60)
    job = made.model.run()
    viewer.close()
    QApplication.processEvents()
    names = [thread.name for thread in threading.enumerate()]
    assert not [name for name in names if name.startswith("napari-mil")]
    assert job.error is None
    with Project(study_folder) as project:  # nothing is locked or half written
        assert project.ledger.verify().ok
