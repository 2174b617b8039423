"""Regions drawn in the window: kept as drawn or mended, and how many tiles they label is said."""

from __future__ import annotations

import os

import pytest

from napari_mil.correction import Polygon, region

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
