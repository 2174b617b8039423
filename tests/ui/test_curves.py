"""The curves of a training can be read: figures at every axis, words in the theme's own colour."""

from __future__ import annotations

import os

import pytest
from qtpy.QtGui import QPainter, QPixmap

from napari_mil.ui import compat
from napari_mil.ui.curves import WORDS, Curves
from napari_mil.ui.desk import Desk

pytestmark = pytest.mark.skipif(
    os.environ.get("QT_QPA_PLATFORM") == "offscreen", reason="needs a screen, real or virtual (xvfb-run)"
)


@pytest.fixture
def curves(viewer, qtbot):
    desk = Desk(viewer)
    made = Curves(desk)
    qtbot.addWidget(made)
    made.resize(340, 230)
    made.begin()
    yield made
    desk.close()


def figures(plot):
    """What stands at the axis on the left."""
    picture = QPixmap(9, 9)
    painter = QPainter(picture)
    specs = plot.getAxis("left").generateDrawSpecs(painter)
    painter.end()
    return [words for _, _, words in specs[2]]


@pytest.mark.parametrize("scores", [(0.8551, 0.8443), (0.9425, 0.9405), (0.94012, 0.94011)])
def test_an_axis_has_figures_however_little_a_curve_moves(curves, qtbot, scores):
    for epoch, score in enumerate(scores, 1):
        curves.add({"epoch": epoch, "loss": 1.0 / epoch, "validation/score": score})
    plot = curves.plots["validation score"]
    qtbot.waitUntil(lambda: plot.viewRange()[1] != [0, 1])
    qtbot.waitUntil(lambda: len(figures(plot)) >= 2, timeout=2000)
    assert len(set(figures(plot))) == len(figures(plot))


def test_what_is_written_above_has_the_colour_of_the_theme_s_text(curves, viewer):
    for theme in ("light", "dark"):
        viewer.theme = theme
        for name, plot in curves.plots.items():
            head = plot.getPlotItem().titleLabel
            assert head.opts["color"] == compat.theme_colours(viewer)["text"]
            assert head.text == WORDS[name]
