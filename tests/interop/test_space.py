"""One landmark is at one place: the grid's cell, the painted cell, the exported outline, and back."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from places import TREE, SomeSlide

from napari_mil.correction import Cells, Correction, Polygon, covered
from napari_mil.grid import TileGrid
from napari_mil.interop import geojson
from napari_mil.interop.space import Space


@settings(max_examples=50, deadline=None)
@given(
    st.tuples(st.integers(0, 10**5), st.integers(0, 10**5)),
    st.lists(st.tuples(st.integers(-(10**6), 10**6), st.integers(-(10**6), 10**6)), min_size=1, max_size=9),
)
def test_inwards_undoes_outwards(origin, points):
    space = Space(origin)
    assert space.inwards(space.outwards(points)).tolist() == [list(map(float, p)) for p in points]


@pytest.mark.parametrize("mpp", [(0.25, 0.25), (0.2521, 0.3077)])
@pytest.mark.parametrize("bounds", [(0, 0, 2999, 4001), (131, 77, 2900, 3999)])
def test_a_cell_of_the_grid_is_where_its_outline_is(tmp_path, mpp, bounds):
    slide = SomeSlide(shape_px=(2999, 4001), bounds_px=bounds)
    grid = TileGrid.full(slide.shape_px, mpp, tile_px=97, mpp=0.5)
    at = len(grid) // 2 + 3
    painted = Correction(slide.fingerprint, Cells(grid.cells[[at]], grid.pitch_px), "Benign")
    geojson.write(tmp_path / "a.geojson", slide, [painted], TREE)
    (feature,) = json.loads((tmp_path / "a.geojson").read_text())["features"]
    ring = np.array(feature["geometry"]["coordinates"][0])
    y0, x0, y1, x1 = grid.boxes_px[at]
    assert ring.min(0) == pytest.approx([x0 - bounds[1], y0 - bounds[0]], abs=0.006)
    assert ring.max(0) == pytest.approx([x1 - bounds[1], y1 - bounds[0]], abs=0.006)
    del feature["properties"]["metadata"], feature["id"]  # as if drawn elsewhere
    (tmp_path / "b.geojson").write_text(json.dumps(feature))
    (drawn,) = geojson.read(tmp_path / "b.geojson", slide, TREE)
    assert isinstance(drawn.place, Polygon)
    assert np.flatnonzero(covered(drawn.place, grid)).tolist() == [at]
    assert np.flatnonzero(covered(painted.place, grid)).tolist() == [at]
