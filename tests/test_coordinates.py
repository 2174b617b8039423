"""One landmark, at the same place for reader, levels, grid and lattice, whatever sizes, scales, bounds."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from slidefiles import write_pyramid

from napari_mil.grid import TileGrid
from napari_mil.slides import open_slide
from napari_mil.slides.slide import Slide
from napari_mil.slides.tiff import open_source
from napari_mil.slides.tiles import Engine
from napari_mil.tissue import TissueMask

CASES = {  # shape, mpp of the file, tile and mpp of the grid, bounds
    "plain": ((1024, 1536), (0.5, 0.5), 256, 0.5, None),
    "odd sizes": ((1031, 1537), (0.5, 0.5), 128, 0.5, None),
    "non-integer pitch": ((1543, 1217), (0.499, 0.499), 128, 0.61, None),
    "unequal mpp": ((1201, 1403), (0.25, 0.4), 160, 0.5, None),
    "all of it, with bounds": ((1543, 1217), (0.31, 0.47), 128, 0.53, (211, 97, 1400, 1100)),
    "no mpp": ((1031, 1217), None, 128, 0.5, None),
}


def cells_of(case):
    shape, mpp, tile, wanted, _ = CASES[case]
    return TileGrid.full(shape, mpp, tile_px=tile, mpp=wanted)


@pytest.fixture(params=CASES)
def marked(request, tmp_path):
    """A white slide on which exactly one cell is purple; the cell; the grid."""
    shape, mpp, _, _, bounds = CASES[request.param]
    grid = cells_of(request.param)
    cell = np.array(grid.shape) // 2
    at = int(np.flatnonzero((grid.cells == cell).all(1))[0])
    y0, x0, y1, x1 = (round(v) for v in grid.boxes_px[at])
    image = np.full((*shape, 3), 255, np.uint8)
    image[y0:y1, x0:x1] = (110, 60, 140)
    path = write_pyramid(tmp_path / "landmark.tif", image, levels=4, tile=(96, 112), mpp=mpp)
    source = open_source(path)
    if bounds is not None:  # as OpenSlide states them for MRXS
        object.__setattr__(source.info, "bounds_px", bounds)
    with Slide.of(path, Engine(source, path.name)) as slide:
        yield slide, grid, at


def centre(mask):
    """The middle (y, x) of a mask's pixels, in pixels whose corner is the origin."""
    return np.argwhere(mask).mean(0) + 0.5


def test_every_level_shows_the_landmark_at_the_same_place(marked):
    slide, grid, at = marked
    y0, x0, y1, x1 = grid.boxes_px[at]
    for level in slide.levels:
        found = centre(level[:][..., 1] < 160) * level.downsample
        assert np.abs(found - ((y0 + y1) / 2, (x0 + x1) / 2)).max() <= max(
            level.downsample
        )  # an odd row was dropped


def test_the_grid_reads_the_landmark_in_its_cell_and_nowhere_else(marked):
    slide, grid, at = marked
    green = np.array([slide.read(tuple(box), out_px=(32, 32))[..., 1].mean() for box in grid.boxes_px])
    assert green[at] < 80
    assert np.delete(green, at).min() > 225


@pytest.mark.parametrize("out", [7, 32, 129])
def test_a_cell_read_at_any_size_is_filled_by_the_landmark_to_its_edges(marked, out):
    slide, grid, at = marked
    inside = slide.read(tuple(grid.boxes_px[at]), out_px=(out, out))[..., 1].astype(int)
    core = inside[1:-1, 1:-1] if out < 100 else inside[2:-2, 2:-2]
    assert core.max() <= 90
    y0, x0, y1, x1 = grid.boxes_px[at]
    h, w = y1 - y0, x1 - x0
    around = slide.read((y0 - h, x0 - w, y1 + h, x1 + w), out_px=(3 * out, 3 * out))[..., 1] < 157
    assert np.abs(centre(around) - 1.5 * out).max() <= 1
    assert np.abs(around.sum() - out**2) <= 0.05 * out**2 + 4 * out


def test_the_lattice_in_micrometres_lies_over_the_pixels(marked):
    """napari draws index i of a layer at i · scale + translate, with pixel centres on integers."""
    slide, grid, at = marked
    mpp = np.array(slide.mpp or (1.0, 1.0))
    scale, translate = (np.array(v) for v in grid.placement())
    middle_px = centre(slide.levels[0][:][..., 1] < 160) - 0.5  # index of the middle
    assert np.abs(grid.cells[at] * scale + translate - middle_px * mpp).max() <= 0.51 * mpp.max()


def test_bounds_move_nothing(marked):
    slide, _, _ = marked
    y0, x0, y1, x1 = slide.bounds_px
    assert 0 <= y0 < y1 <= slide.shape_px[0]
    assert np.array_equal(slide.levels[0].read(y0, x0, y1, x1), slide.levels[0][y0:y1, x0:x1])


def test_a_tissue_mask_gives_its_share_to_the_right_cell(marked):
    slide, grid, at = marked
    level = slide.levels[2]
    share = TissueMask(level[:][..., 1] < 160, level.downsample).share(grid.boxes_px)
    assert share[at] > 0.85
    assert int(np.argmax(share)) == at
    assert np.delete(share, at).max() < 0.1


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 40), st.integers(1, 40), st.floats(0.3, 9), st.floats(0.3, 9), st.integers(0, 2**32 - 1)
)
def test_shares_of_a_mask_add_up_to_its_area(rows, cols, dy, dx, seed):
    """Cells that tile the slide share out all of its tissue, however crooked their pitch."""
    mask = np.random.default_rng(seed).random((rows, cols)) < 0.4
    shape = (rows * dy, cols * dx)
    edges_y, edges_x = np.linspace(0, shape[0], 4), np.linspace(0, shape[1], 6)
    boxes = np.array([(a, c, b, d) for a, b in pairwise(edges_y) for c, d in pairwise(edges_x)])
    share = TissueMask(mask, (dy, dx)).share(boxes)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    assert (share * areas).sum() == pytest.approx(mask.sum() * dy * dx)
    assert share.min() >= -1e-9
    assert share.max() <= 1 + 1e-9


def test_tiles_at_a_slides_rim_are_padded_with_background(tmp_path):
    image = np.full((300, 300, 3), 90, np.uint8)
    with open_slide(write_pyramid(tmp_path / "a.tif", image)) as slide:
        grid = TileGrid.full(slide.shape_px, slide.mpp, tile_px=256, mpp=0.5)
        last = slide.read(tuple(grid.boxes_px[-1]), out_px=(256, 256))
    assert (last[:44, :44] == 90).all()
    assert (last[44:] == 255).all()
    assert (last[:, 44:] == 255).all()
