"""Labels as tables: exact both ways, safe in a spreadsheet."""

from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from places import PLAIN, TREE, box, states

from napari_mil.correction import Cells, Correction, Polygon, WholeSlide, tile_nodes, to_record
from napari_mil.errors import BagError, LabelError
from napari_mil.grid import TileGrid
from napari_mil.interop import csv_labels
from napari_mil.prediction import Prediction, TileMap

quick = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
GRID = TileGrid((1000, 1500), (0.25, 0.2521), 50, 0.5, [[1, 2], [0, 0], [3, 3], [9, 1]])


@pytest.fixture
def path(tmp_path):
    return tmp_path / "labels.csv"


def records(corrections):
    return [to_record(c) for c in corrections]


@quick
@given(states)
def test_a_table_reads_back_the_same(path, state):
    csv_labels.write(path, state, TREE)
    assert records(csv_labels.read(path, TREE, slide_id=PLAIN.fingerprint)) == records(state)


def test_a_table_of_several_slides(path):
    state = [
        Correction("s", WholeSlide(), "Benign"),
        Correction("t", Polygon((box(0, 1 / 3, 9, 9),)), "Malignant/IC"),
        Correction("s", Cells([[0, 0]], (0.1, 0.3)), None),
    ]
    csv_labels.write(path, state, TREE)
    assert records(csv_labels.read(path, TREE)) == records(state)
    notes = []
    of_s = csv_labels.read(path, TREE, slide_id="s", remark=notes.append)
    assert records(of_s) == records([state[0], state[2]])
    assert notes == ["labels.csv: 1 row of other slides left aside."]
    with pytest.raises(LabelError, match=r"holds no row of slide u \(3 of others\)"):
        csv_labels.read(path, TREE, slide_id="u")


def test_no_labels_are_a_table_too(path):
    csv_labels.write(path, [], TREE)
    assert csv_labels.read(path, TREE) == ()


def test_a_spreadsheet_calculates_nothing(path):
    wicked = [
        Correction("s", WholeSlide(), "Benign", note=note, by="-1", was="'quoted", model_said="")
        for note in ("=HYPERLINK(1)", "+1", "@x", "'", "\t=1", "a,b\r\nc\u2028d\x00")
    ]
    csv_labels.write(path, wicked, TREE)
    with path.open(newline="", encoding="utf-8") as stream:
        fields = [field for row in csv.reader(stream) for field in row]
    assert not [f for f in fields if f.startswith(("=", "+", "-", "@", "\t", "\r"))]
    assert records(csv_labels.read(path, TREE)) == records(wicked)


def test_slide_labels_alone(path):
    path.write_text("slide_id,case,label\ns,P1,ADH\nt,P2,\n\nu,P3,Malignant\n", encoding="utf-8-sig")
    first, second = csv_labels.read(path, TREE, by="me")
    assert (first.slide_id, first.label, first.by, first.tool) == ("s", "Atypical/ADH", "me", "import")
    assert isinstance(first.place, WholeSlide)
    assert (second.slide_id, second.label) == ("u", "Malignant")
    assert [c.id for c in csv_labels.read(path, TREE)] == [first.id, second.id]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("slide,label\ns,Benign\n", "has no column slide_id; expected a table with slide_id, label"),
        ("", "has no column slide_id, label"),
        ("slide_id,label,label\n", "has the column label twice"),
        ("slide_id,label\ns,Benign\ns,Sarcoma\n", "row 3: 'Sarcoma' is no label of the tree; it has Benign"),
        ("slide_id,label,place\ns,Benign,\n", "row 2: a correction needs an id and a place"),
        ('slide_id,label,place,id,at,visible\ns,Benign,"{",1,2026-01-01,[]\n', "row 2: "),
        ('slide_id,label,place,id,at,visible\ns,Benign,"{}",1,never,[]\n', "row 2: A place of kind None"),
        ("slide_id,label\n\xff", "labels.csv cannot be read"),
    ],
)
def test_what_is_no_table_gets_one_sentence(path, text, says):
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(LabelError, match=says) as caught:
        csv_labels.read(path, TREE)
    assert "\n" not in str(caught.value)


def test_a_label_outside_the_tree_is_not_written(path):
    with pytest.raises(LabelError, match="'Sarcoma' is no label"):
        csv_labels.write(path, [Correction("s", WholeSlide(), "Sarcoma")], TREE)
    assert not path.exists()


def test_tiles_both_ways(path):
    said = [
        Correction("s", Cells(GRID.cells[:2], GRID.pitch_px), "Atypical/ADH"),
        Correction("s", Cells(GRID.cells[3:], GRID.pitch_px), "Malignant"),
    ]
    nodes = tile_nodes(said, GRID, TREE)
    maps = (
        TileMap("=attention", "score", [0.1, np.nan, np.inf, 1e-30]),
        TileMap("hidden", "mask", [True, False, False, True]),
        TileMap("class/fine", "nodes", [0, 4, 5, 6]),
    )
    answer = Prediction("s", GRID.id, "m", "slide", (np.ones(1),), maps)
    csv_labels.write_tiles(path, "s", GRID, nodes, TREE, prediction=answer)
    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert np.array_equal(
        np.array([r["'=attention"] for r in rows], np.float32), maps[0].values, equal_nan=True
    )
    assert [r["hidden"] for r in rows] == ["1", "0", "0", "1"]
    assert [(float(r["y0_px"]), float(r["x0_px"])) for r in rows] == [tuple(b[:2]) for b in GRID.boxes_px]
    back = csv_labels.read_tiles(path, TREE, by="me")
    assert tile_nodes(back, GRID, TREE).tolist() == nodes.tolist()
    assert {(c.label, c.by, c.place.pitch_px) for c in back} == {(c.label, "me", GRID.pitch_px) for c in said}
    assert [c.id for c in csv_labels.read_tiles(path, TREE)] == [c.id for c in back]


def test_a_table_of_tiles_is_never_taken_for_labels_of_the_slide(path):
    nodes = [TREE.node("Benign"), 0, TREE.node("ADH"), TREE.node("ADH")]
    csv_labels.write_tiles(path, "s", GRID, nodes, TREE)
    found = csv_labels.read(path, TREE, by="me")
    assert [(c.id, c.label, c.by) for c in found] == [
        (c.id, c.label, c.by) for c in csv_labels.read_tiles(path, TREE, by="me")
    ]
    assert {type(c.place) for c in found} == {Cells}
    assert tile_nodes(found, GRID, TREE).tolist() == nodes
    assert [c.id for c in csv_labels.read(path, TREE, slide_id="s")] == [c.id for c in found]
    with pytest.raises(LabelError, match="holds no row of slide t"):
        csv_labels.read(path, TREE, slide_id="t")
    notes = []
    one = csv_labels.read(path, TREE, mapping={"Atypical/ADH": None}, remark=notes.append)
    assert [c.label for c in one] == ["Benign"]
    assert notes == ["labels.csv: 2 rows whose label is to be left aside."]
    path.write_text("slide,row,col,pitch_y_px,pitch_x_px,label\nmine,1,2,9,9,Benign\n")
    [named] = csv_labels.read(path, TREE, ids={"mine": "s"})
    assert (named.slide_id, named.place.cells.tolist()) == ("s", [[1, 2]])
    path.write_text("slide_id,row,col,label\ns,1,2,Benign\n")
    with pytest.raises(LabelError, match="holds labels of tiles, but has no column pitch_y_px, pitch_x_px"):
        csv_labels.read(path, TREE)


def test_two_labels_of_one_slide_are_refused(path):
    path.write_text("slide_id,label\ns,Benign\nt,ADH\ns,Benign\n")
    assert [c.label for c in csv_labels.read(path, TREE)] == ["Benign", "Atypical/ADH", "Benign"]
    path.write_text("slide_id,label\ns,Benign\nt,ADH\ns,ADH\n")
    with pytest.raises(LabelError, match="row 4 calls a slide Atypical/ADH that row 2 calls Benign"):
        csv_labels.read(path, TREE)


def test_tiles_that_do_not_fit_are_refused(path):
    with pytest.raises(BagError, match="do not fit a grid of 4 tiles"):
        csv_labels.write_tiles(path, "s", GRID, [0, 1], TREE)
    answer = Prediction("s", "another", "m", "slide", (np.ones(1),))
    with pytest.raises(BagError, match="analyse the slide again"):
        csv_labels.write_tiles(path, "s", GRID, [0] * 4, TREE, prediction=answer)
    path.write_text("slide_id,row,col,pitch_y_px,pitch_x_px,label\ns,1,x,9,9,Benign\n")
    with pytest.raises(LabelError, match=r"labels\.csv, row 2: invalid literal"):
        csv_labels.read_tiles(path, TREE)
    path.write_text("slide_id,row,col,label\n")
    with pytest.raises(LabelError, match="has no column pitch_y_px, pitch_x_px"):
        csv_labels.read_tiles(path, TREE)


def test_compressed_tables(path):
    packed = path.with_suffix(".csv.gz")
    said = [replace(Correction("s", WholeSlide(), "Benign"), note="ß")]
    csv_labels.write(packed, said, TREE)
    assert packed.read_bytes()[:2] == b"\x1f\x8b"
    assert records(csv_labels.read(packed, TREE)) == records(said)


@quick
@given(states)
def test_tables_without_the_names_of_slides_are_read_as_before(path, state):
    csv_labels.write(path, state, TREE, names={PLAIN.fingerprint: "-a name"})
    whole = csv_labels.read(path, TREE)
    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.reader(stream))
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([row[:1] + row[2:] for row in rows])
    assert list(map(to_record, csv_labels.read(path, TREE))) == list(map(to_record, whole))


def test_a_tile_with_two_labels_is_an_error_that_names_both_rows(tmp_path):
    path = tmp_path / "tiles.csv"
    head = "slide_id,row,col,pitch_y_px,pitch_x_px,label\n"
    path.write_text(head + "s,1,2,256,256,IC\ns,1,3,256,256,N\nt,1,2,256,256,N\ns,1,2,256,256,N\n")
    with pytest.raises(
        LabelError, match=r"row 5 calls the tile in row 1, column 2 .*N, and row 2 calls it .*IC"
    ):
        csv_labels.read_tiles(path, TREE)
    path.write_text(head + "s,1,2,256,256,IC\ns,1,2,256,256,IC\n")  # said twice is said once
    [said] = csv_labels.read_tiles(path, TREE)
    assert said.place.cells.tolist() == [[1, 2]]
