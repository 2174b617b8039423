"""Regions drawn in the window: kept as drawn or mended, and how many tiles they label is said."""

from __future__ import annotations

import os

import numpy as np
import pytest

from napari_mil.correction import Polygon, region
from napari_mil.ui import writing

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
