"""Labels out and in: the same state elsewhere, twice the same bytes, nothing said by nobody."""

import csv
import json

import numpy as np
import pytest
from quickstudy import LABELS, study, tiny

from napari_mil.correction import Cells, Correction, Polygon, WholeSlide, tile_nodes
from napari_mil.errors import LabelError
from napari_mil.interop import csv_labels
from napari_mil.steps import drain
from napari_mil.workflow import Project, history, import_paths_steps, log_rows, slide_label, undo_row

CELLS = Cells(np.array([[0, 0], [0, 1]]), (256.0, 256.0))
RING = Polygon((np.array([[0.0, 0], [0, 90], [90, 90], [90, 0]]),))


@pytest.fixture
def two(tmp_path):
    """A study of three slides of which two were corrected, and one of the same slides without labels."""
    with study(tmp_path, 3) as project:
        ids = [r.id for r in project.slides]
        project.correct(ids[0], CELLS, "IC")
        project.correct(ids[1], WholeSlide(), "Atypical", note="seen twice")
        with Project(tmp_path / "other" / "study", by="b") as other:
            for n in range(3):
                other.add(tmp_path / "slides" / f"s{n}.tif")
            yield project, other


def state(project):
    said = [(c.id, c.label, c.by, c.at) for c in project.ledger.corrections()]
    return said, [(r.id, r.label, slide_label(project, r)) for r in project.slides]


def test_every_slide_goes_out_and_comes_in_by_one_table(two, tmp_path):
    project, other = two
    first = project.export(tmp_path / "labels.csv").read_bytes()
    assert project.export(tmp_path / "labels.csv").read_bytes() == first
    rows = {row["slide"]: row for row in drain(import_paths_steps(other.path, [tmp_path / "labels.csv"]))}
    assert rows["labels.csv"] == {"slide": "labels.csv", "ok": True, "labels": 4, "tiles": 2}
    (mine, labels), (theirs, its) = state(project), state(other)
    assert theirs == mine
    assert its == [(labels[0]), (labels[1][0], None, "Atypical"), labels[2]]
    assert other.export(tmp_path / "again.csv").read_bytes() == first
    before = other.ledger.head
    assert not other.import_labels(tmp_path / "labels.csv")
    assert other.ledger.head == before


def test_a_suffix_in_capitals_is_the_same_suffix(two, tmp_path):
    project, _ = two
    slide = project.slides[0].id
    table = project.export(tmp_path / "one.csv", slide=slide).read_bytes()
    assert project.export(tmp_path / "ONE.CSV", slide=slide).read_bytes() == table
    assert project.export(tmp_path / "ONE.TXT", slide=slide, format="csv").read_bytes() == table
    assert json.loads(project.export(tmp_path / "ONE.GEOJSON", slide=slide).read_text())["features"]


def test_a_table_of_tiles_labels_tiles_and_leaves_the_slide_alone(two, tmp_path):
    project, other = two
    record = project.slides[1]
    grid = project.bag(record.name).grid
    nodes = np.zeros(len(grid), np.int32)
    nodes[[2, 5]], nodes[7] = other.tree.node("IC"), other.tree.node("Benign/N")
    csv_labels.write_tiles(tmp_path / "tiles.csv", record.id, grid, nodes, other.tree)
    before = slide_label(other, record)
    [row] = drain(import_paths_steps(other.path, [tmp_path / "tiles.csv"], slide=record.name))
    assert row == {"slide": "tiles.csv", "ok": True, "labels": 2, "tiles": 3}
    said = list(other.ledger.corrections(record.id))
    assert tile_nodes(said, grid, other.tree).tolist() == nodes.tolist()
    assert slide_label(other, record) == before
    head = other.ledger.head
    assert not other.import_labels(tmp_path / "tiles.csv")  # twice is once
    assert other.ledger.head == head


@pytest.mark.parametrize("suffix", [".csv", ".geojson", ".geojson.gz"])
def test_a_manifests_label_stays_one_and_undo_does_not_take_it(two, tmp_path, suffix):
    project, other = two
    slide = project.slides[0].id
    path = project.export(tmp_path / f"one{suffix}", slide=slide)
    first = path.read_bytes()
    assert project.export(path, slide=slide).read_bytes() == first
    assert len(other.import_labels(path, slide)) == 2
    assert [c.place for c in other.ledger.corrections(slide)] != []
    assert other.slides[0].label == LABELS[0]
    assert other.undo(slide)
    assert not other.undo(slide)
    assert slide_label(other, other.slides[0]) == LABELS[0]
    assert other.export(tmp_path / f"two{suffix}", slide=slide).read_bytes() != first  # the cells are undone
    other.redo(slide)
    assert other.export(tmp_path / f"two{suffix}", slide=slide).read_bytes() == first


def test_the_table_says_what_slides_are_called_and_no_time_that_nobody_knows(two, tmp_path):
    project, _ = two
    with project.export(tmp_path / "labels.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(r["slide"], r["tool"], bool(r["at"])) for r in rows] == [
        ("s0", "manifest", False), ("s0", "", True), ("s1", "", True), ("s2", "manifest", False),
    ]  # fmt: skip


def test_a_table_of_slide_labels_by_name_states_only_what_is_new(two, tmp_path):
    project, _ = two
    table = tmp_path / "labels.csv"
    table.write_text(f"slide,label\ns0,{LABELS[0]}\ns1.tif,Malignant\ngone,Benign\n")
    remarks = []
    [new] = project.import_labels(table, remark=remarks.append)
    assert (new.slide_id, new.label, new.by) == (project.slides[1].id, "Malignant", "tester")
    assert remarks == ["labels.csv: 1 row of other slides left aside."]
    table.write_text("slide,label\ngone,Benign\n")
    with pytest.raises(LabelError, match=r"holds no row of a slide that is here \(1 of others\)"):
        project.import_labels(table)
    table.write_text("label\nBenign\n")
    with pytest.raises(LabelError, match="no column slide_id or slide"):
        project.import_labels(table)


def test_what_a_person_said_is_an_event_though_the_manifest_says_the_same(two, tmp_path):
    project, other = two
    slide = project.slides[2].id
    project.correct(slide, WholeSlide(), LABELS[0])
    other.add(tmp_path / "slides" / "s2.tif", label=LABELS[0])
    project.export(tmp_path / "labels.csv")
    other.import_labels(tmp_path / "labels.csv")
    [said] = other.ledger.corrections(slide)
    assert (said.by, said.label) == ("tester", LABELS[0])


def test_what_a_slide_was_called_before_is_also_what_the_manifest_called_it(two):
    project, _ = two
    slide = project.slides[2].id
    assert project.correct(slide, WholeSlide(), "IC").was == LABELS[0]
    assert project.correct(slide, WholeSlide(), None).was == "Malignant/IC"
    assert project.correct(slide, WholeSlide(), "IC").was is None


def test_the_log_tells_what_of_which_place_and_what_was_undone(two):
    project, _ = two
    names = [r.id for r in project.slides]
    project.correct(names[0], RING, "ADH")
    project.correct(names[1], WholeSlide(), None)
    [undone] = [undo_row(project, "s1")]
    assert (undone["slide"], undone["undo"], undone["by"]) == (
        "s1",
        "whole slide → label withdrawn",
        "tester",
    )
    assert undone["at"]
    assert undo_row(project, "s2")["undo"] == "there is nothing of tester to undo on this slide"
    rows = log_rows(project)
    kinds = [(r["kind"], r["slide"], r.get("place"), r.get("label")) for r in rows[3:]]
    assert kinds == [
        ("correct", "s0", "2 tiles", "Malignant/IC"),
        ("correct", "s1", "whole slide", "Atypical"),
        ("correct", "s0", "region", "Atypical/ADH"),
        ("correct", "s1", "whole slide", "withdrawn"),
        ("undo", "s1", None, None),
    ]
    assert rows[-1]["act"] == "whole slide → label withdrawn"
    assert rows[0]["label"] == LABELS[0]
    assert {r["slide"] for r in log_rows(project, slide="s1")} == {"s1"}


def test_the_log_makes_each_correction_once(two, monkeypatch):
    project, _ = two
    made, plain = [], history.from_record
    monkeypatch.setattr(history, "from_record", lambda record: made.append(record) or plain(record))
    assert sum(row["kind"] == "correct" for row in log_rows(project)) == len(made) > 0


def test_undo_needs_no_file(tmp_path):
    with study(tmp_path, 1) as project:
        project.correct("s0", CELLS, "IC")
    (tmp_path / "slides" / "s0.tif").unlink()
    with Project(project.path) as again:
        assert again.undo("s0")
        assert again.redo("s0")
        assert again.correct("s0", WholeSlide(), "IC").label == "Malignant/IC"


SQUARE = {"type": "Polygon", "coordinates": [[[0, 0], [9, 0], [9, 9], [0, 9], [0, 0]]]}


def area(label):
    return {"type": "Feature", "geometry": SQUARE, "properties": {"classification": label}}


def test_labels_of_others_are_mapped_dropped_or_refused_with_the_way_out(tmp_path):
    with study(tmp_path, 1) as project:
        path = tmp_path / "theirs.geojson"
        path.write_text(json.dumps([area("Tumor"), area("Normal")]))
        with pytest.raises(LabelError, match=r"'Tumor' is no label of the tree; .*--map Tumor=LABEL"):
            project.import_labels(path, "s0")
        [said] = project.import_labels(path, "s0", mapping={"Tumor": "Malignant", "Normal": None})
        assert said.label == "Malignant"
        table = tmp_path / "theirs.csv"
        table.write_text("slide,label\ns0,Tumor\ns0,Normal\n")
        remarks = []
        [said] = project.import_labels(
            table, mapping={"Tumor": "Malignant", "Normal": None}, remark=remarks.append
        )
        assert isinstance(said, Correction)
        assert remarks == ["theirs.csv: 1 row whose label is to be left aside."]
    with pytest.raises(LabelError, match="'Sarkoma' is no label"):
        drain(import_paths_steps(project.path, [path], slide="s0", mapping={"Tumor": "Sarkoma"}))


def test_a_file_that_the_system_refuses_fails_alone(tmp_path, monkeypatch):
    with study(tmp_path, 0) as project:
        paths = [tiny(tmp_path / f"{n}.tif", n) for n in range(2)]
    real = Project.add

    def refusing(self, path, **about):
        if path.name == "0.tif":
            raise PermissionError(13, "Permission denied", str(path))
        return real(self, path, **about)

    monkeypatch.setattr(Project, "add", refusing)
    rows = drain(import_paths_steps(project.path, paths))
    assert [row["ok"] for row in rows] == [False, True]
    assert "Permission denied" in rows[0]["error"]
