"""The dock in napari: opened from its menu, without a project, and closed while work runs."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest
from qtpy.QtWidgets import QAbstractSpinBox, QApplication, QComboBox, QPushButton

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
    _every_grey_button_says_why(made)
    assert made.model.card.text() == made.export.preview.text() == "Open a project first (1 Slides)."
    assert "Open a project" in made.review.choose_words.text()
    made.shut()


def test_a_project_without_slides_and_models_says_what_comes_first(make_napari_viewer, tmp_path):
    made = Workbench(make_napari_viewer(show=False))
    made.open_project(tmp_path / "study", by="ann")
    assert made.wait(20)
    _every_grey_button_says_why(made)
    assert "train one" in made.model.card.text() == made.model.run_button.toolTip()
    assert made.slides.add_button.toolTip() == "Take slide files into the project"
    made.shut()


def test_every_choice_says_what_it_is_for(make_napari_viewer):
    """Its tip is also what a screen reader reads: only what is chosen stands in it."""
    made = Workbench(make_napari_viewer(show=False))
    choices = [*made.findChildren(QComboBox), *made.findChildren(QAbstractSpinBox)]
    assert len(choices) > 3
    assert not [c for c in choices if not (c.toolTip() or c.accessibleName())]
    made.shut()


def _every_grey_button_says_why(bench):
    sections = (bench.slides, bench.model, bench.review, bench.retrain, bench.export)
    grey = [
        b for s in sections for b in s.findChildren(QPushButton) if not b.isEnabled() and not b.isHidden()
    ]
    silent = {b.text() for b in grey if not b.toolTip().endswith(".") and b.text()}
    assert len(grey) > 5
    assert silent <= {"Withdraw", "Lock", "Label 0 tiles", "Accept", "Relabel"}  # of parts that are hidden


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
