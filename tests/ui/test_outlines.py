"""Regions become lines along their borders, inside them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import maximum_filter, minimum_filter

from napari_mil.ui.outlines import WIDEST, line_width, outline

COLOURS = {1: "#1a1a1a", 2: "#f0e442"}


def drawn(raster, width=0.1, scale=40, *, bold=True):
    """Pixels that the lines cover, in a picture of scale × scale pixels per cell."""
    found = outline(np.asarray(raster, np.int32), COLOURS, width, bold=bold)
    picture = np.zeros(np.array(np.shape(raster)) * scale, int)
    for start, step in () if found is None else found[0]:
        across = (step[::-1] != 0) * (width if bold else width / 2) / 2
        low, high = start - across, start + step + across
        y0, x0, y1, x1 = np.rint((np.concatenate([low, high]) + 0.5) * scale).astype(int)
        picture[y0:y1, x0:x1] += 1
    return picture > 0


def test_a_cell_gets_four_lines_of_its_colour_and_four_that_read_beside_it():
    lines, colours = outline(np.array([[0, 0], [0, 1]], np.int32), COLOURS, 0.1, bold=True)
    assert lines.shape == (8, 2, 2)
    assert np.rint(colours * 255).astype(int).tolist() == [[26, 26, 26, 255]] * 4 + [[255] * 4] * 4
    low = np.minimum(lines[:, 0], lines.sum(1)).min(0)
    assert low == pytest.approx([0.5, 0.5])  # the corner of cell (1, 1), whose centre is at 1, 1


def test_light_regions_get_a_dark_line():
    _, colours = outline(np.array([[2]], np.int32), COLOURS, 0.1, bold=False)
    assert colours.tolist() == [[0, 0, 0, 1]] * 4


def test_a_straight_border_is_one_line():
    raster = np.ones((5, 9), np.int32)
    assert len(outline(raster, COLOURS, 0.1, bold=False)[0]) == 4
    raster[0, 0] = 0
    assert len(outline(raster, COLOURS, 0.1, bold=False)[0]) == 6


@given(arrays(np.int32, st.tuples(st.integers(1, 5), st.integers(1, 5)), elements=st.integers(0, 2)))
@settings(max_examples=40, deadline=None)
def test_lines_follow_every_border_inside_the_region(raster):
    """A pixel is covered exactly when it lies in a region, at most two line widths from another code."""
    scale, width = 40, 0.1
    fine = np.kron(np.pad(raster, 1), np.ones((scale, scale), np.int32))
    size = 2 * int(2 * width * scale) + 1
    near = maximum_filter(fine, size) != minimum_filter(fine, size)
    inside = (fine != 0)[scale:-scale, scale:-scale]
    np.testing.assert_array_equal(drawn(raster, width, scale), near[scale:-scale, scale:-scale] & inside)


def test_nothing_gives_no_lines():
    assert outline(np.zeros((4, 3), np.int32), COLOURS, 0.1, bold=True) is None


def test_a_texture_gives_no_lines():
    chessboard = np.indices((200, 200)).sum(0).astype(np.int32) % 2 + 1
    assert outline(chessboard, COLOURS, 0.1, bold=True) is None


def test_lines_keep_their_width_on_screen_until_they_would_fill_a_tile():
    assert line_width(300) == pytest.approx(0.01)
    assert line_width(2) == line_width(0) == WIDEST
