"""From places to tiles: what training reads."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_mil.correction import (
    Cells,
    Correction,
    Polygon,
    WholeSlide,
    covered,
    from_record,
    nodes_after,
    place_from,
    place_record,
    region,
    slide_node,
    tile_nodes,
    to_record,
)
from napari_mil.errors import LabelError
from napari_mil.grid import TileGrid
from napari_mil.labeltree import LabelTree

TREE = LabelTree.from_paths(["Benign/N", "Benign/UDH", "Malignant/IC"], normal=["Benign/N"])
GRID = TileGrid.full((1000, 1500), (0.25, 0.25), tile_px=50, mpp=0.5)  # pitch 100 px, 10 × 15 cells

quick = settings(max_examples=40, deadline=None)


def box(y0, x0, y1, x1):
    return np.array([[y0, x0], [y0, x1], [y1, x1], [y1, x0]], float)


def cells_of(place, grid=GRID, **options):
    return set(map(tuple, grid.cells[covered(place, grid, **options)].tolist()))


def test_a_polygon_labels_what_it_covers_by_a_quarter():
    assert cells_of(Polygon((box(100, 200, 200, 325),))) == {(1, 2), (1, 3)}
    assert cells_of(Polygon((box(100, 200, 200, 324),))) == {(1, 2)}
    assert cells_of(Polygon((box(100, 200, 200, 324),)), min_cover=0.2) == {(1, 2), (1, 3)}


def test_a_small_region_labels_its_best_cell():
    assert cells_of(Polygon((box(390, 395, 402, 402),))) == {(3, 3)}


def test_a_line_labels_the_cell_under_its_middle():
    assert cells_of(Polygon((np.array([[310, 310], [320, 320], [330, 330]]),))) == {(3, 3)}


def test_a_hole_is_not_covered():
    ring = Polygon((box(0, 0, 500, 500), box(100, 100, 400, 400)))
    assert cells_of(ring) == {(r, c) for r in range(5) for c in range(5) if not (1 <= r < 4 and 1 <= c < 4)}


def test_a_self_crossing_region_counts_both_lobes():
    bow = Polygon((np.array([[0, 0], [200, 300], [200, 0], [0, 300]]),))
    assert {(0, 1), (1, 1)} <= cells_of(bow)


def test_a_region_that_mends_into_more_than_areas_is_fine():
    sliver = Polygon((np.array([[1, 0], [1, 1], [-1.57e-205, 1]]), np.array([[0, 0], [0, 1], [1, 0]])))
    assert region(sliver).geom_type in {"Polygon", "MultiPolygon"}
    assert cells_of(sliver) == {(0, 0)}


def test_off_the_tissue_nothing_is_labelled():
    sparse = GRID.with_cells([[0, 0]])
    assert not covered(Polygon((box(500, 500, 800, 800),)), sparse).any()
    assert not covered(Polygon((box(-900, -900, -800, -800),)), GRID).any()
    assert not covered(Cells([[500, 700], [-1, 0]], (100, 100)), GRID).any()
    assert not covered(WholeSlide(), GRID).any()
    assert covered(Polygon((box(0, 0, 9, 9),)), GRID.with_cells(np.empty((0, 2)))).shape == (0,)


def test_painted_cells_on_the_same_lattice_are_exact():
    assert cells_of(Cells([[3, 4], [3, 5], [3, 4]], (100.0, 100.0))) == {(3, 4), (3, 5)}


def test_painted_cells_on_another_pitch_go_by_area():
    assert cells_of(Cells([[1, 1]], (200.0, 200.0))) == {(2, 2), (2, 3), (3, 2), (3, 3)}
    assert cells_of(Cells([[0, 0]], (50.0, 50.0))) == {(0, 0)}  # exactly a quarter
    assert cells_of(Cells([[0, 0], [0, 3]], (40.0, 40.0))) == {(0, 0)}  # below a quarter: only the best
    assert cells_of(Cells([[0, 0]], (1e7, 1e7))) == set(map(tuple, GRID.cells.tolist()))


@quick
@given(
    st.sets(st.tuples(st.integers(0, 25), st.integers(0, 25)), min_size=1, max_size=20),
    st.floats(20, 190),
    st.floats(20, 190),
)
def test_painted_cells_and_their_outline_cover_the_same_tiles(cells, pitch_y, pitch_x):
    import shapely

    painted = np.array(sorted(cells))
    low, high = painted * [pitch_y, pitch_x], (painted + 1) * [pitch_y, pitch_x]
    shape = shapely.union_all(shapely.box(*low.T, *high.T))
    boxes = shapely.box(*GRID.boxes_px.T)
    share = shapely.area(shapely.intersection(shape, boxes)) / 1e4
    got = covered(Cells(painted, (pitch_y, pitch_x)), GRID)
    clear = np.abs(share - 0.25) > 1e-6
    want = share >= 0.25
    if share.max() > 0 and not want.any():
        assert got.sum() == 1
        assert share[got] == pytest.approx(share.max())
    else:
        assert (got == want)[clear].all()


@quick
@given(st.lists(st.tuples(st.floats(0, 999), st.floats(0, 1499)), min_size=3, max_size=9), st.floats(0.01, 1))
def test_a_region_on_tissue_never_vanishes(points, min_cover):
    assert covered(Polygon((np.array(points),)), GRID, min_cover=min_cover).any()


def test_the_latest_correction_of_a_tile_counts_and_none_withdraws():
    first = Correction("s", Cells([[0, 0], [0, 1], [0, 2]], (100, 100)), "Malignant/IC")
    coarse = Correction("s", Cells([[0, 1]], (100, 100)), "Benign")
    gone = Correction("s", Polygon((box(0, 200, 100, 300),)), None)
    slide = Correction("s", WholeSlide(), "Benign")
    nodes = tile_nodes([first, coarse, gone, slide], GRID, TREE)
    assert nodes[:4].tolist() == [TREE.node("Malignant/IC"), TREE.node("Benign"), 0, 0]
    assert nodes.dtype == np.int32
    assert tile_nodes([coarse, first], GRID, TREE)[1] == TREE.node("Malignant/IC")


def test_an_unknown_label_names_those_there_are():
    with pytest.raises(
        LabelError, match="'Sarcoma' is no label of the tree; it has Benign, Malignant, Benign/N"
    ):
        tile_nodes([Correction("s", Cells([[0, 0]], (100, 100)), "Sarcoma")], GRID, TREE)


def test_the_slide_label_of_the_ledger_wins():
    said = [Correction("s", WholeSlide(), "Malignant/IC"), Correction("s", Cells([[0, 0]], (1, 1)), "Benign")]
    assert slide_node([], TREE) == 0
    assert slide_node([], TREE, "Benign/UDH") == TREE.node("Benign/UDH")
    assert slide_node(said, TREE, "Benign/UDH") == TREE.node("Malignant/IC")
    assert slide_node([*said, Correction("s", WholeSlide(), None)], TREE, "Benign/UDH") == 0


@quick
@given(st.lists(st.tuples(st.integers(-5, 2**31 - 1), st.integers(-5, 2**31 - 1)), min_size=1, max_size=30))
def test_cells_survive_json_in_their_order(cells):
    place = Cells(np.array(cells), (0.1 + 0.2, 3.3))
    back = place_from(json.loads(json.dumps(place_record(place))))
    assert np.array_equal(back.cells, place.cells)
    assert back.pitch_px == place.pitch_px


def test_a_painted_rectangle_is_few_runs():
    cells = np.indices((40, 900)).reshape(2, -1).T
    record = place_record(Cells(cells, (1, 1)))
    assert len(record["runs"]) == 40
    assert np.array_equal(place_from(record).cells, cells)


def test_a_correction_survives_json():
    berlin = timezone(timedelta(hours=1))
    said = Correction(
        "s", Polygon((box(0.1, 1 / 3, 7, 8), box(1, 1, 2, 2))), "Benign/N", "Malignant", "m-1", "Benign", 0.1,
        ("attention",), "Dr. Ü", "polygon", "“why”\n", datetime(2026, 1, 2, 3, tzinfo=berlin), replaces="c-7",
    )  # fmt: skip
    back = from_record(json.loads(json.dumps(to_record(said))))
    assert to_record(back) == to_record(said)
    assert (back.at, back.replaces) == (said.at, "c-7")
    assert back.at.tzinfo == UTC
    assert all(np.array_equal(a, b) for a, b in zip(back.place.rings, said.place.rings, strict=True))


@pytest.mark.parametrize(
    "change",
    [
        {"place": {"kind": "sphere"}},
        {"place": {"kind": "polygon", "rings": [[[0, 0], [1, 1]]]}},
        {"place": {"kind": "cells", "pitch_px": [1, 1], "runs": [[0, 5, 4]]}},
        {"place": {"kind": "cells", "pitch_px": [1, 1], "runs": [[0, 0, 10**12]]}},
        {"place": {"kind": "cells", "pitch_px": [1, 1], "runs": [[10**30, 0, 0]]}},
        {"place": {"kind": "cells", "pitch_px": [1, 1], "runs": [[2**40, 0, 0]]}},
        {"place": {"kind": "cells", "pitch_px": [1, 1], "cells": [[2**40, 0]]}},
        {"place": {"kind": "cells", "pitch_px": [1], "cells": [[0, 0]]}},
        {"at": "yesterday"},
        {"visible": None},
    ],
)
def test_what_is_no_correction_is_said(change):
    record = to_record(Correction("s", WholeSlide(), "Benign")) | change
    with pytest.raises(LabelError):
        from_record(record)


def test_cells_need_a_usable_pitch():
    with pytest.raises(LabelError, match="positive pitch"):
        Cells([[0, 0]], (float("nan"), 1.0))


@pytest.mark.parametrize(
    "cells", [[[2**32 + 1, 0]], [[0.5, 0]], [[float("nan"), 0]], [["a", "b"]], [[10**30, 0]], [[1]]]
)
def test_cells_are_whole_numbers_that_fit(cells):
    with pytest.raises(LabelError, match="Painted cells are pairs of row and column: cells h"):
        Cells(cells, (8.0, 8.0))
    assert Cells(np.array([[1.0, 2.0]]), (8.0, 8.0)).cells.dtype == np.int32


LATTICE = TileGrid.full((96, 96), None, tile_px=8, mpp=None)
SHAPES = st.one_of(
    st.builds(
        lambda y, x, h, w: Cells(np.indices((h, w)).reshape(2, -1).T + np.array([y, x]), (8.0, 8.0)),
        *(st.integers(0, 9), st.integers(0, 9), st.integers(1, 4), st.integers(1, 4)),
    ),
    st.builds(
        lambda y, x, s: Polygon((np.array([[y, x], [y, x + s], [y + s, x]]),)),
        *(st.floats(0, 60), st.floats(0, 60), st.floats(5, 40)),
    ),
    st.just(WholeSlide()),
)
LABELS = st.sampled_from(["Benign/N", "Malignant/IC", "Malignant", None])
SAID = st.builds(lambda place, label: Correction("s", place, label), SHAPES, LABELS)


@settings(max_examples=150, deadline=None)
@given(st.lists(SAID, max_size=8), st.data())
def test_nodes_that_follow_a_change_are_those_of_a_replay(said, data):
    """Taken back, put back, stated, put elsewhere: whatever the ledger does with the list."""
    before = data.draw(st.permutations(said))[: data.draw(st.integers(0, len(said)))]
    after = data.draw(st.permutations(said))[: data.draw(st.integers(0, len(said)))]
    kept = tile_nodes(before, LATTICE, TREE)
    found = nodes_after(kept, before, after, LATTICE, TREE)
    np.testing.assert_array_equal(found, tile_nodes(after, LATTICE, TREE))
    np.testing.assert_array_equal(kept, tile_nodes(before, LATTICE, TREE))


def test_one_act_among_many_is_followed_without_looking_at_all(monkeypatch):
    import napari_mil.correction as room

    said = [Correction("s", Cells([[n, n]], (8.0, 8.0)), "Benign") for n in range(12)]
    kept = tile_nodes(said, LATTICE, TREE)
    monkeypatch.setattr(room, "tile_nodes", None)
    for after in (said[:-1], [*said[:3], *said[4:]], [*said, Correction("s", said[3].place, "Malignant")]):
        assert (nodes_after(kept, said, after, LATTICE, TREE) != kept).sum() == 1
