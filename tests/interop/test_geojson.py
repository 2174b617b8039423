"""GeoJSON both ways: to the letter of QuPath's rules, and back to the same state."""

from __future__ import annotations

import gzip
import json
import os
import resource
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from places import CROPPED, PLAIN, TREE, SomeSlide, box, states
from qupath_rules import check_file

from napari_mil.correction import Cells, Correction, Polygon, WholeSlide, covered, to_record
from napari_mil.errors import BagError, LabelError, ProjectError
from napari_mil.grid import TileGrid
from napari_mil.interop import geojson
from napari_mil.ledger import Ledger
from napari_mil.prediction import Prediction, TileMap

quick = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def path(tmp_path):
    return tmp_path / "labels.geojson"


def said(place, label="Atypical/ADH", **more):
    return Correction(PLAIN.fingerprint, place, label, **more)


def written(path, corrections, slide=PLAIN, **more):
    geojson.write(path, slide, corrections, TREE, **more)
    root = json.loads(path.read_text())
    check_file(root)
    return root


def one(path, correction, slide=PLAIN):
    (feature,) = written(path, [correction], slide)["features"]
    return feature


def records(corrections):
    return [to_record(c) for c in corrections]


@quick
@given(states, st.sampled_from([PLAIN, CROPPED]))
def test_what_is_written_keeps_the_rules_and_reads_back_the_same(path, state, slide):
    written(path, state, slide)
    assert records(geojson.read(path, slide, TREE)) == records(state)


def test_an_export_gives_a_fresh_project_the_same_state(path, tmp_path):
    stroke = Cells(np.argwhere(np.random.default_rng(0).random((9, 9)) < 0.4), (512.25, 511.7))
    state = [
        said(stroke, by="Dr. Ü", model_id="m-1", model_said="Benign/N", model_confidence=0.7),
        said(Polygon((box(1.234567, 2 / 3, 99, 88), box(10, 10, 20, 20))), "Malignant"),
        said(WholeSlide(), "Malignant/IC", note="“sure”\n"),
        said(Cells([[3, 3]], (512.25, 511.7)), None),
    ]
    with Ledger(tmp_path / "a.sqlite") as ledger, Ledger(tmp_path / "b.sqlite") as fresh:
        ledger.correct(*state)
        geojson.write(path, CROPPED, ledger.corrections(), TREE)
        fresh.correct(*geojson.read(path, CROPPED, TREE))
        assert records(fresh.corrections()) == records(ledger.corrections()) == records(state)
        assert fresh.correct(*geojson.read(path, CROPPED, TREE)) == ()


def test_no_labels_are_a_file_too(path):
    assert written(path, [])["features"] == []
    assert geojson.read(path, PLAIN, TREE) == ()


def test_a_region_lies_where_it_was_drawn_less_the_bounds(path):
    region = said(Polygon((box(300, 1100, 400, 1300),)))
    assert one(path, region)["geometry"] == {
        "type": "Polygon",
        "coordinates": [[[1100, 300], [1300, 300], [1300, 400], [1100, 400], [1100, 300]]],
    }
    assert one(path, region, CROPPED)["geometry"]["coordinates"][0][0] == [1100 - 1031, 300 - 257]


def test_the_tree_goes_out_as_names_with_a_colour(path):
    said_class = one(path, said(WholeSlide()))["properties"]["classification"]
    assert said_class == {"names": ["Atypical", "ADH"], "color": said_class["color"]}
    colour = TREE.colours[TREE.node("Atypical/ADH")]
    assert "#{:02X}{:02X}{:02X}".format(*said_class["color"]) == colour
    assert one(path, said(WholeSlide(), "Benign"))["properties"]["classification"]["names"] == ["Benign"]


def test_the_slide_label_is_a_locked_annotation_over_the_scanned_area(path):
    feature = one(path, said(WholeSlide()), CROPPED)
    assert feature["properties"]["isLocked"] is True
    corners = np.array(feature["geometry"]["coordinates"][0])
    assert (corners.min(0).tolist(), corners.max(0).tolist()) == ([0, 0], [3900 - 1031, 2900 - 257])
    locked = said(Polygon((box(0, 0, 9, 9),)))
    geojson.write(path, PLAIN, [locked], TREE, locked={locked.id})
    [feature] = json.loads(path.read_text())["features"]
    assert feature["properties"]["isLocked"] is True
    assert "isLocked" not in one(path, said(Polygon((box(0, 0, 9, 9),))))["properties"]


def test_painted_cells_are_merged_and_cut_off_at_the_border(path):
    feature = one(path, said(Cells([[0, 0], [0, 1], [5, 7], [5, 7]], (512.0, 512.0))))
    assert feature["geometry"]["type"] == "MultiPolygon"
    rings = [np.array(p[0]) for p in feature["geometry"]["coordinates"]]
    spans = sorted((r.min(0).tolist(), r.max(0).tolist()) for r in rings)
    assert spans == [([0, 0], [1024, 512]), ([3584, 2560], [4003, 3001])]
    assert feature["properties"]["name"] == "3 painted tiles"
    ring = one(path, said(Cells([c for c in np.ndindex(3, 3) if c != (1, 1)], (10.0, 10.0))))
    assert [len(r) for r in ring["geometry"]["coordinates"]] == [5, 5]


def test_a_withdrawn_label_has_no_class(path):
    feature = one(path, said(Cells([[0, 0]], (9.0, 9.0)), None))
    assert "classification" not in feature["properties"]
    (back,) = geojson.read(path, PLAIN, TREE, label="Benign")
    assert back.label is None


def test_a_self_crossing_region_is_mended_for_others_and_kept_for_us(path):
    bow = said(Polygon((np.array([[0, 0], [200, 300], [200, 0], [0, 300]]),)))
    assert one(path, bow)["geometry"]["type"] == "MultiPolygon"
    assert records(geojson.read(path, PLAIN, TREE)) == records([bow])


def test_an_id_that_is_no_uuid_survives(path):
    kept = said(WholeSlide(), id="event 7")
    assert one(path, kept)["id"] == one(path, kept)["id"]
    assert geojson.read(path, PLAIN, TREE)[0].id == "event 7"


def test_gzipped_and_the_same_every_time(tmp_path):
    state = [said(WholeSlide(), at=said(WholeSlide()).at)]
    for name in ("a.geojson.gz", "b.geojson.gz"):
        geojson.write(tmp_path / name, PLAIN, state, TREE)
    packed = (tmp_path / "a.geojson.gz").read_bytes()
    assert packed == (tmp_path / "b.geojson.gz").read_bytes()
    check_file(json.loads(gzip.decompress(packed)))
    assert records(geojson.read(tmp_path / "a.geojson.gz", PLAIN, TREE)) == records(state)


def as_qupath_rewrites(feature):
    """What a visit to QuPath may do: two decimals, another first point, direction and order."""
    feature = json.loads(json.dumps(feature))
    geometry = feature["geometry"]
    polygons = geometry["coordinates"] if geometry["type"] == "MultiPolygon" else [geometry["coordinates"]]
    for polygon in polygons:
        for i, ring in enumerate(polygon):
            turned = [[round(v, 2) for v in p] for p in (ring[2:-1] + ring[:2])][::-1]
            polygon[i] = [*turned, turned[0]]
    polygons.reverse()
    return feature


def test_a_visit_to_qupath_changes_nothing(path):
    state = [
        said(Polygon((box(100.123456, 200.987654, 300.5, 400.25), box(150, 250, 160, 260)))),
        said(Cells([[0, 0], [0, 1], [3, 4], [4, 5]], (333.333, 222.222)), "Benign/UDH"),
        said(WholeSlide(), "Malignant"),
    ]
    root = written(path, state, CROPPED)
    root["features"] = [as_qupath_rewrites(f) for f in root["features"]]
    path.write_text(json.dumps(root))
    assert records(geojson.read(path, CROPPED, TREE)) == records(state)


def test_what_was_changed_elsewhere_is_a_new_correction(path):
    first = said(Cells([[0, 0], [0, 1]], (512.0, 512.0)), by="me")
    second = said(Polygon((box(100, 100, 200, 200),)), "Benign", by="me")
    root = written(path, [first, second])
    root["features"][0]["properties"]["classification"]["names"] = ["Malignant", "IC"]
    root["features"][1]["geometry"]["coordinates"] = [[[0, 0], [0, 500], [500, 500], [0, 0]]]
    path.write_text(json.dumps(root))
    relabelled, redrawn = geojson.read(path, PLAIN, TREE, by="you")
    assert (relabelled.label, relabelled.was, relabelled.by) == ("Malignant/IC", "Atypical/ADH", "you")
    assert relabelled.place.cells.tolist() == [[0, 0], [0, 1]]
    assert redrawn.label == "Benign"
    assert redrawn.place.rings[0].tolist() == [[0, 0], [500, 0], [500, 500]]
    assert {relabelled.id, redrawn.id}.isdisjoint({first.id, second.id})
    again = geojson.read(path, PLAIN, TREE)
    assert [c.id for c in again] == [relabelled.id, redrawn.id]


def test_labels_of_another_slide_are_refused(path):
    written(path, [said(WholeSlide())])
    with pytest.raises(LabelError, match=f"its labels are of slide {'f' * 64}, not of other"):
        geojson.read(path, SomeSlide("other"), TREE)
    with pytest.raises(LabelError, match=r"is of slide f+, not of other"):
        geojson.write(path, SomeSlide("other"), [said(WholeSlide())], TREE)


GRID = TileGrid.full((3001, 4003), (0.25, 0.25), tile_px=256, mpp=0.5)


def some_answer(grid):
    n = len(grid)
    scores = np.linspace(0, 1, n, dtype=np.float32) / 3
    scores[:3] = np.nan, np.inf, -np.inf
    maps = (
        TileMap('attention/fine/"ADH"', "score", scores),
        TileMap("hidden", "mask", np.arange(n) % 2 == 0),
        TileMap("class/coarse", "nodes", np.full(n, 1)),
        TileMap("class/fine", "nodes", np.where(np.arange(n) % 3, TREE.node("Atypical/ADH"), 0)),
    )
    return Prediction("s", grid.id, "m", "slide", (np.array([1.0]),), maps)


def test_tiles_go_out_as_tiles_with_measurements(path):
    answer = some_answer(GRID)
    region = said(Polygon((box(0, 0, 600, 600),)))
    features = written(path, [region], CROPPED, grid=GRID, prediction=answer)["features"]
    assert len(features) == 1 + len(GRID)
    tiles = features[1:]
    assert {f["properties"]["objectType"] for f in tiles} == {"tile"}
    assert all("isLocked" not in f["properties"] for f in tiles)
    first = [f["properties"]["measurements"]['attention/fine/"ADH"'] for f in tiles]
    assert first[:3] == ["NaN", "Infinity", "-Infinity"]
    assert np.array_equal(np.array(first[3:], np.float32), answer.maps[0].values[3:])
    assert tiles[1]["properties"]["measurements"]["hidden"] == 0
    assert "classification" not in tiles[0]["properties"]
    assert tiles[1]["properties"]["classification"]["names"] == ["Atypical", "ADH"]
    assert tiles[1]["geometry"]["coordinates"][0][0] == [512 - 1031, 0 - 257]
    assert tiles[-1]["geometry"]["coordinates"][0][2] == [4003 - 1031, 3001 - 257]
    notes = []
    assert records(geojson.read(path, CROPPED, TREE, remark=notes.append)) == records([region])
    assert notes == [f"labels.geojson: {len(GRID)} objects of type tile left aside."]


def test_the_maps_of_another_grid_are_refused(path):
    with pytest.raises(BagError, match="analyse the slide again"):
        geojson.write(path, PLAIN, [], TREE, grid=GRID.with_cells([[0, 0]]), prediction=some_answer(GRID))
    assert not path.exists()


def test_tiles_are_streamed(path):
    many = TileGrid.full((50 * 10, 100 * 10), None, tile_px=10, mpp=None)
    tracemalloc.start()
    try:
        geojson.write(path, SomeSlide(shape_px=(500, 1000)), [], TREE, grid=many)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    size = path.stat().st_size
    assert size > 1_000_000
    assert peak < size


def test_a_full_disk_leaves_the_old_file(path):
    written(path, [said(WholeSlide())])
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(ProjectError, match="cannot be written: the disk is full"):
            geojson.write(path, PLAIN, [], TREE, grid=GRID, prediction=some_answer(GRID))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_missing_folder_is_said(tmp_path):
    with pytest.raises(ProjectError, match=r"cannot be written: there is no folder .*; make it first"):
        geojson.write(tmp_path / "no" / "x.geojson", PLAIN, [], TREE)


SQUARE = {"type": "Polygon", "coordinates": [[[0, 0], [100, 0], [100, 50], [0, 50], [0, 0]]]}


def foreign(properties=None, geometry=SQUARE, **more):
    return {"type": "Feature", "geometry": geometry, "properties": properties or {}, **more}


@pytest.mark.parametrize(
    "said_class",
    [
        "ADH", "Atypical/ADH", "Atypical: ADH",
        {"name": "ADH"}, {"name": "Atypical: ADH", "color": [1, 2, 3]},
        {"names": ["Atypical", "ADH"], "color": [1, 2, 3, 255]}, {"name": "ADH", "colorRGB": -8397766},
        {"names": ["ADH"], "color": -65536},
    ],
)  # fmt: skip
@pytest.mark.parametrize("spelling", ["objectType", "object_type", "type", None])
def test_other_spellings_are_read(path, said_class, spelling):
    properties = {"classification": said_class, "color": -65536, "measurements": [{"name": "a", "value": 1}]}
    if spelling:
        properties[spelling] = "annotation"
    feature = foreign(properties, id="c0ffee00-0000-4000-8000-000000000001")
    for root in (feature, [feature], {"type": "FeatureCollection", "features": [feature]}):
        path.write_text(json.dumps(root))
        (read,) = geojson.read(path, CROPPED, TREE, by="me")
        assert (read.label, read.by, read.tool) == ("Atypical/ADH", "me", "import")
        assert read.id == "c0ffee00-0000-4000-8000-000000000001"
        assert read.place.rings[0][2].tolist() == [50 + 257, 100 + 1031]
        assert len(read.place.rings[0]) == 4


@pytest.mark.parametrize("key", ["childObjects", "children"])
def test_objects_inside_objects_are_read(path, key):
    inner = foreign({"classification": "N"})
    outer = foreign({"classification": "IC", key: [foreign({"objectType": "detection", key: [inner]})]})
    path.write_text(json.dumps(outer))
    notes = []
    read = geojson.read(path, PLAIN, TREE, remark=notes.append)
    assert [c.label for c in read] == ["Malignant/IC", "Benign/N"]
    assert notes == ["labels.geojson: 1 object of type detection left aside."]


def test_several_areas_of_one_feature_and_their_holes(path):
    parts = {"type": "MultiPolygon", "coordinates": [SQUARE["coordinates"] * 2, SQUARE["coordinates"]]}
    path.write_text(json.dumps(foreign({"classification": "N"}, parts, id="PathAnnotationObject")))
    first, second = geojson.read(path, PLAIN, TREE)
    assert [len(c.place.rings) for c in (first, second)] == [2, 1]
    assert first.id != second.id
    assert [c.id for c in geojson.read(path, PLAIN, TREE)] == [first.id, second.id]


def test_classes_can_be_mapped_and_areas_without_one_given_a_label(path):
    path.write_text(
        json.dumps([foreign({"classification": "Tumor"}), foreign({"classification": "Ignore*"}), foreign()])
    )
    with pytest.raises(
        LabelError, match="'Tumor' is no label of the tree; it has Benign, Atypical, Malignant"
    ):
        geojson.read(path, PLAIN, TREE)
    mapping = {"Tumor": "Malignant", "Ignore*": None}
    notes = []
    (tumour,) = geojson.read(path, PLAIN, TREE, mapping=mapping, remark=notes.append)
    assert tumour.label == "Malignant"
    assert notes == ["labels.geojson: 1 area whose class is to be, 1 area without a class left aside."]
    assert [c.label for c in geojson.read(path, PLAIN, TREE, mapping=mapping, label="N")] == [
        "Malignant",
        "Benign/N",
    ]


def area(**geometry):
    return foreign({"classification": "N"}, SQUARE | geometry)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"what is this", "it is no GeoJSON"),
        (b"[1, 2]", "expected a feature, found int"),
        (b'{"type": "Topology"}', "'Topology' is no type of a feature"),
        (b"\xff\xfe\x00", "cannot be read"),
        (b"\x1f\x8b broken", "cannot be read"),
        (b"[" * 100_000, "it is no GeoJSON"),
        (area(coordinates=5), "malformed"),
        (area(coordinates=[[[0]]]), "malformed"),
        (area(coordinates=[[[0, 0]]]), "at least three finite points"),
        (area(coordinates=[[[0, 0], [1, 1], [float("nan"), 0]]]), "at least three finite points"),
        (area(type="Point"), "1 Point without an area"),
        (foreign(), "1 area without a class"),
        (foreign({"metadata": {"mil_place": "{}"}}), "is no correction"),
        ({"type": "GeometryCollection", "geometries": [SQUARE]}, "1 GeometryCollection"),
        (foreign({"classification": "N", "name": "\ud800"}), r"half a character, \\ud800; save it again"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_gets_one_sentence(path, content, says):
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    with pytest.raises(LabelError, match=says) as caught:
        geojson.read(path, PLAIN, TREE)
    assert str(caught.value).startswith("labels.geojson")
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_said(path):
    with pytest.raises(LabelError, match=r"labels\.geojson cannot be read: No such file"):
        geojson.read(path, PLAIN, TREE)


@pytest.fixture
def real():
    folder = os.environ.get("NAPARI_MIL_TEST_DATA")
    if not folder:
        pytest.skip("$NAPARI_MIL_TEST_DATA is not set")
    return Path(folder) / "annotations"


@pytest.mark.parametrize("name", ["brush", "ellipse", "polygon", "rectangle", "wand"])
def test_real_areas_without_a_class(real, name):
    path = real / "viewer_exports" / "qupath" / f"qupath-{name}.json"
    with pytest.raises(LabelError, match="1 area without a class; expected annotations with a class"):
        geojson.read(path, PLAIN, TREE)
    (read,) = geojson.read(path, PLAIN, TREE, label="Benign/N")
    ring = json.loads(path.read_text())["geometry"]["coordinates"][0]
    assert read.place.rings[0][:, ::-1].tolist() == ring[:-1]
    assert read.note == name


@pytest.mark.parametrize("name", ["line", "polyline", "point", "multipoint"])
def test_real_points_and_lines_are_refused(real, name):
    with pytest.raises(LabelError, match=r"1 (LineString|Point|MultiPoint) without an area"):
        geojson.read(real / "viewer_exports" / "qupath" / f"qupath-{name}.json", PLAIN, TREE, label="N")


def test_real_classified_cells(real):
    path = real / "viewer_exports" / "qupath" / "qupath-polygon-cell-classified.json"
    with pytest.raises(LabelError, match="'Cell' is no label of the tree"):
        geojson.read(path, PLAIN, TREE)
    features = json.loads(path.read_text())
    areas = [f for f in features if "Polygon" in f["geometry"]["type"]]
    names = {f["properties"]["classification"]["name"] for f in features}
    read = geojson.read(path, PLAIN, TREE, mapping=dict.fromkeys(names, "Benign/N"))
    assert len(read) >= len(areas) > 0


def test_a_real_bare_geometry_and_a_real_collection(real):
    bare = geojson.read(real / "qupath_polygon.geojson", PLAIN, TREE, label="Malignant")
    coordinates = json.loads((real / "qupath_polygon.geojson").read_text())["coordinates"]
    assert [len(c.place.rings) for c in bare] == [len(p) for p in coordinates]
    path = real / "patlas_liver_metastatic_sarcoma_HE_crop.coarse.geojson"
    with pytest.raises(LabelError, match="'Tumor' is no label"):
        geojson.read(path, PLAIN, TREE)
    read = geojson.read(path, PLAIN, TREE, mapping={"Tumor": "Malignant", "Normal": "Benign/N"})
    assert [c.label for c in read] == ["Malignant", "Benign/N"]
    grid = TileGrid.full((8192, 10240), None, tile_px=512, mpp=None)
    tumour, normal = (covered(c.place, grid) for c in read)
    assert tumour.sum() > 50
    assert normal.sum() > 50
    assert (tumour & normal).sum() < 20


def test_reading_and_writing_never_load_torch():
    code = (
        "import sys, napari_mil.interop.geojson, napari_mil.interop.csv_labels;"
        "print([m for m in ('torch', 'napari', 'zarr', 'qtpy', 'dask') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert out.stdout == "[]\n", out.stderr


def test_a_small_region_labels_at_least_its_best_cell_after_the_round_trip(path):
    tiny = said(Polygon((box(700.5, 900.25, 703, 904),)))
    written(path, [tiny], CROPPED)
    (back,) = geojson.read(path, CROPPED, TREE)
    assert GRID.cells[covered(back.place, GRID)].tolist() == [[1, 1]]


def test_labels_outside_the_tree_are_not_written(path):
    with pytest.raises(LabelError, match="'Sarcoma' is no label"):
        geojson.write(path, PLAIN, [replace(said(WholeSlide()), label="Sarcoma")], TREE)
    assert not path.exists()
