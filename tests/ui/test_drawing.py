"""Regions drawn in the window: kept as drawn or mended, and how many tiles they label is said."""

from __future__ import annotations

import os

import numpy as np
import pytest
from napari.utils.events import Event
from napari.utils.interactions import (
    mouse_double_click_callbacks,
    mouse_move_callbacks,
    mouse_press_callbacks,
)

from napari_mil.correction import Cells, Polygon, region
from napari_mil.ui import writing
from napari_mil.workflow import Project
from tests.ui.test_writing import held

pytestmark = pytest.mark.skipif(
    os.environ.get("QT_QPA_PLATFORM") == "offscreen", reason="needs a screen, real or virtual (xvfb-run)"
)


def test_how_many_tiles_a_region_labels_is_said_and_what_was_there_is_kept(quick_bench):
    bench = quick_bench
    bench.review.choose("IC")
    [made] = bench.review._pen.take([[9.5, 9.5], [9.5, 249.5], [249.5, 249.5], [249.5, 9.5]])
    assert made.place.rings[0].tolist() == [[10, 10], [10, 250], [250, 250], [250, 10]]
    assert (made.was, bench.heard[-1]) == (None, "The region labels 1 tile Malignant/IC.")
    bench.review.choose("ADH")
    [made] = bench.review._pen.take([[0, 0], [0, 400], [299, 400], [299, 0]])
    assert (made.was, bench.heard[-1]) == (None, "The region labels 2 tiles Atypical/ADH.")  # several before
    bench.review.choose(0)
    [made] = bench.review._pen.take([[9.5, 9.5], [9.5, 249.5], [249.5, 249.5], [249.5, 9.5]])
    assert (made.was, bench.heard[-1]) == ("Atypical/ADH", "The region takes the label from 1 tile.")


def test_an_outline_that_crosses_itself_is_mended_and_undone_as_one(quick_bench):
    bench = quick_bench
    bench.review.choose("IC")
    made = bench.review._pen.take([[0, 0], [200, 200], [200, 0], [0, 200]])
    assert len(made) == 2
    assert bench.heard[-1] == (
        "The outline crossed itself: it was kept as 2 regions that cover the same area. "
        "The region labels 1 tile Malignant/IC."
    )
    assert sum(region(c.place).area for c in made) == pytest.approx(20_000)
    assert all(isinstance(c.place, Polygon) for c in bench.desk.state.corrections)
    bench.review.undo()
    assert bench.wait(30)
    assert bench.desk.state.corrections == ()
    assert bench.review._pen.take([[0, 0], [50, 50], [100, 100]]) == []
    assert bench.told == [
        "The region has no area: draw an outline of at least three points that are no line."
    ]


def test_a_fill_is_one_correction_and_the_number_of_tiles_is_said(quick_bench):
    bench = quick_bench
    bench.review.choose("IC")
    bench.desk.keys["Alt+U"].activated.emit()
    layer = bench.desk.layer("corrections")
    assert str(layer.mode) == "fill"
    layer.fill((0, 0), layer.selected_label)
    assert bench.wait(30)
    [said] = bench.desk.state.corrections
    assert (said.tool, len(said.place.cells)) == ("fill", 4)
    assert bench.heard[-1] == "The fill labels 4 tiles Malignant/IC."
    bench.review.choose(0)
    layer.fill((0, 0), 0)
    assert bench.wait(30)
    assert bench.heard[-1] == "The fill takes the label from 4 tiles."


def test_holes_and_touching_edges_are_kept_as_drawn_and_seen(quick_bench):
    bench = quick_bench
    outer = np.array([[10.0, 10], [10, 250], [250, 250], [250, 10]])
    hole, beside = outer * 0.5 + 30, outer + np.array([0, 240])  # shares an edge with the first
    for rings in ((outer, hole), (beside,)):
        [made] = writing.draw(bench.desk, Polygon(rings), "Malignant/IC")
        assert [ring.tolist() for ring in made.place.rings] == [ring.tolist() for ring in rings]
    assert bench.wait(30)
    kept = [c.place.rings for c in bench.desk.state.corrections]
    assert [[ring.tolist() for ring in rings] for rings in kept] == [
        [outer.tolist(), hole.tolist()], [beside.tolist()],
    ]  # fmt: skip
    shown = [np.asarray(points) + 0.5 for points in bench.desk.layer("regions").data]
    for drawn, ring in zip(shown, (outer, hole, beside), strict=True):
        np.testing.assert_allclose(drawn, ring)


def square(low, high):
    return Polygon((np.array([[low, low], [low, high], [high, high], [high, low]], float),))


def ring(low, high):
    """Corners as napari gives them, pixel centres on integers."""
    return [
        [low - 0.5, low - 0.5],
        [low - 0.5, high - 0.5],
        [high - 0.5, high - 0.5],
        [high - 0.5, low - 0.5],
    ]


def draw_shape(bench, points):
    """Draw with the layer that lies ready, as a person does."""
    layer = bench.review._pen.layer
    assert str(layer.mode) == "add_polygon"
    layer.add_polygons([points])
    assert bench.wait(30)
    assert len(layer.data) == 0


@pytest.mark.parametrize("at_once", [False, True])
def test_a_region_drawn_with_the_mouse_is_kept(quick_bench, at_once):
    """napari is still at it when it tells that a polygon is drawn, which only its own mouse shows."""
    bench = quick_bench
    bench.review.choose("IC")
    bench.review.draw()
    layer = bench.review._pen.layer
    for corner in ring(10, 250):
        press(layer, corner, mouse_move_callbacks)
        press(layer, corner)
    press(layer, ring(10, 250)[-1], mouse_double_click_callbacks)
    if at_once:
        bench.review.look()
    assert bench.wait(30)
    [said] = bench.desk.state.corrections
    assert said.label == "Malignant/IC"
    assert {tuple(point) for point in said.place.rings[0]} == {(10, 10), (10, 250), (250, 250), (250, 10)}
    assert at_once or len(layer.data) == 0


def press(layer, point, callbacks=mouse_press_callbacks):
    """What the mouse does at a point (y, x) of a layer's data."""
    event = Event("mouse_press")
    event.position = tuple(layer.data_to_world(point))
    event.pos, event.modifiers, event.is_dragging = np.array(point), [], False
    event.dims_displayed, event.dims_point = [0, 1], [0, 0]
    event.view_direction = event.up_direction = None
    callbacks(layer, event)


def test_a_hole_is_cut_into_ones_own_region_in_one_step(quick_bench):
    bench, project = quick_bench, quick_bench.desk.state.project
    pitch = bench.desk.state.lattice.pitch_px[0]
    assert not bench.review.cut_button.isEnabled()
    assert "no region of yours" in bench.review.cut_button.toolTip()
    bench.desk.keys["Alt+Shift+R"].activated.emit()
    assert "draw one first (Alt+R)" in bench.told[-1]
    assert bench.review._pen.layer is None
    bench.review.choose("IC")
    bench.review.draw()
    draw_shape(bench, ring(1, 2 * pitch - 1))
    assert bench.review.cut_button.isEnabled()
    labelled = np.count_nonzero(bench.desk.state.nodes)
    events = len(project.ledger.events())
    bench.review.choose("ADH")  # of a hole it is of no matter
    bench.desk.keys["Alt+Shift+R"].activated.emit()
    assert bench.review._pen.layer.name == "draw a hole here"
    draw_shape(bench, ring(2, pitch))
    assert bench.heard[-1] == "The hole takes Malignant/IC from 1 tile."
    assert np.count_nonzero(bench.desk.state.nodes) == labelled - 1
    [said] = bench.desk.state.corrections
    assert (said.tool, said.label, len(said.place.rings)) == ("hole", "Malignant/IC", 2)
    assert len(project.ledger.events()) == events + 1
    assert len(bench.desk.layer("regions").data) == 2
    draw_shape(bench, ring(pitch + 3, pitch + 9))
    assert bench.heard[-1].startswith("The hole takes Malignant/IC from no tile: the region still covers")
    bench.review.undo()
    assert bench.wait(30)
    draw_shape(bench, ring(pitch, 3 * pitch))
    assert bench.told[-1] == "A hole lies wholly inside a region that you drew; draw its outline so."
    bench.review.undo()
    assert bench.wait(30)
    [said] = bench.desk.state.corrections
    assert len(said.place.rings) == 1
    assert np.count_nonzero(bench.desk.state.nodes) == labelled
    bench.review.draw()
    assert bench.review._pen.layer.name == "draw a region here"


def test_holes_are_shown_before_they_are_kept_and_what_was_said_above_stays_above(quick_bench):
    bench, project = quick_bench, quick_bench.desk.state.project
    pitch = bench.desk.state.lattice.pitch_px
    with held(project):
        writing.draw(bench.desk, square(0, 2 * pitch[0]), "Malignant/IC")
        writing.correct(bench.desk, Cells([[0, 0]], pitch), "Atypical/ADH", tool="paint")
        for low in (pitch[0], 1.5 * pitch[0]):
            assert writing.cut(bench.desk, square(low + 1, low + pitch[0] / 3)) is not None
        shown = [(c.label, len(c.place.rings)) for c in bench.desk.state.corrections[:1]]
        assert shown == [("Malignant/IC", 3)]
        assert bench.desk.state.corrections[1].label == "Atypical/ADH"
        assert len(bench.desk.state.pending) == 4
    assert bench.wait(60)
    kept = project.ledger.corrections()
    assert [c.label for c in kept] == ["Malignant/IC", "Atypical/ADH"]
    assert [c.id for c in bench.desk.state.corrections] == [c.id for c in kept]
    event = bench.desk.state.events[0]
    writing.act_on(bench.desk, "lock", event)
    assert bench.wait(30)
    assert not bench.review.cut_button.isEnabled()
    assert "is locked" in bench.review.cut_button.toolTip()
    writing.act_on(bench.desk, "unlock", event)
    assert bench.wait(30)
    with Project(project.path, by="bob") as bob:
        bob.correct("s1", square(0, 90), "ADH")
    bench.slides.open("s1")
    bench.company.look()
    assert bench.wait(30)
    assert len(bench.desk.state.corrections) == 1
    assert "no region of yours" in bench.review.cut_button.toolTip()  # it is another person's
