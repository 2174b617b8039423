"""The lattice: shape, raster and gather, boxes, placement, ids."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_mil.errors import BagError
from napari_mil.grid import TileGrid

sizes = st.tuples(st.integers(1, 5000), st.integers(1, 5000))
resolutions = st.tuples(st.floats(0.1, 2.0), st.floats(0.1, 2.0)) | st.none()


@given(sizes, resolutions, st.integers(16, 600), st.floats(0.2, 4.0) | st.none())
@settings(max_examples=60, deadline=None)
def test_the_lattice_covers_the_slide_and_no_row_or_column_more(slide_px, slide_mpp, tile_px, mpp):
    grid = TileGrid.full(slide_px, slide_mpp, tile_px=tile_px, mpp=mpp)
    last = grid.boxes_px[-1]
    for axis in (0, 1):
        assert last[2 + axis] >= slide_px[axis] - 1e-4
        assert last[axis] < slide_px[axis]
    assert len(grid) == grid.shape[0] * grid.shape[1]


@given(st.integers(0, 2**31), st.integers(1, 30))
@settings(max_examples=30, deadline=None)
def test_gather_undoes_raster(seed, n):
    rng = np.random.default_rng(seed)
    full = TileGrid.full((3000, 4100), (0.5, 0.25), tile_px=256, mpp=1.0)
    grid = full.with_cells(full.cells[rng.permutation(len(full))[:n]])
    values = rng.normal(size=(len(grid), 3)).astype(np.float32)
    np.testing.assert_array_equal(grid.gather(grid.raster(values)), values)
    lookup = grid.lookup()
    assert sorted(lookup[lookup >= 0]) == list(range(len(grid)))


def test_the_example_of_the_house():
    grid = TileGrid.full((90_000, 110_000), (0.25, 0.25), tile_px=256, mpp=0.5)
    assert grid.shape == (176, 215)
    assert grid.pitch_px == (512.0, 512.0)


def test_placement_puts_the_cells_centre_where_the_tiles_centre_is():
    grid = TileGrid.full((4000, 5000), (0.25, 0.5), tile_px=200, mpp=0.7)
    scale, translate = grid.placement()
    for box, cell in zip(grid.boxes_px, grid.cells, strict=True):
        for axis in (0, 1):
            # the middle of the tile in napari's world: pixel i of level 0 is centred at i * mpp
            middle_px = (box[axis] + box[2 + axis]) / 2 - 0.5
            world = cell[axis] * scale[axis] + translate[axis]
            assert world == pytest.approx(middle_px * grid.slide_mpp[axis])


def test_crop_keeps_the_tiles_that_overlap():
    grid = TileGrid.full((1024, 1024), None, tile_px=256, mpp=None)
    assert grid.crop((256, 256, 512, 513)).cells.tolist() == [[1, 1], [1, 2]]


def test_ids_depend_on_content_alone():
    a = TileGrid.full((1024, 999), (0.5, 0.5), tile_px=256, mpp=0.5)
    b = TileGrid.full((1024, 999), (0.5, 0.5), tile_px=256, mpp=0.5)
    assert a.id == b.id != a.with_cells(a.cells[:-1]).id


@pytest.mark.parametrize("cells", [[[0, 0], [0, 0]], [[9, 0]], [[-1, 0]]])
def test_impossible_cells_are_refused(cells):
    with pytest.raises(BagError):
        TileGrid((1000, 1000), None, 256, None, np.array(cells))


def test_arrays_are_read_only_and_independent_of_their_source():
    cells = np.zeros((1, 2), np.int32)
    grid = TileGrid((1000, 1000), None, 256, None, cells)
    cells[0, 0] = 3
    assert grid.cells[0, 0] == 0
    with pytest.raises(ValueError, match="read-only"):
        grid.cells[0, 0] = 1


def test_the_cells_of_a_montage_are_photographs_and_not_what_the_network_sees():
    plain = TileGrid.full((300, 800), None, tile_px=64, mpp=None)
    grid = TileGrid.full((300, 800), None, tile_px=64, mpp=None, cell_px=(150, 200))
    assert (grid.shape, grid.pitch_px, grid.view_px) == ((2, 4), (150.0, 200.0), (64.0, 64.0))
    assert grid.boxes_px[-1].tolist() == [150, 600, 300, 800]
    assert grid.with_cells(grid.cells[:3]).cell_px == (150, 200)
    assert grid.id != plain.id
    assert plain.id == TileGrid(plain.slide_px, None, 64, None, plain.cells, None).id == "a015ca503c6a3f7d"
