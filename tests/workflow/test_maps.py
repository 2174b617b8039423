"""Maps and answers as files: of kept answers, as the command line writes them, or refused in a sentence."""

from __future__ import annotations

import csv
import json

import pytest
from anotheruser import as_one_who_may_not
from quickstudy import QUICK, study

from napari_mil.correction import Cells
from napari_mil.errors import LabelError, ModelError, ProjectError
from napari_mil.interop.files import check_place
from napari_mil.steps import drain
from napari_mil.workflow import (
    analyse_steps,
    answer_table_steps,
    explain_table_steps,
    export_maps_steps,
    train_model_steps,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Three slides, the first of them answered."""
    with study(tmp_path_factory.mktemp("maps"), 3) as project:
        for record in project.slides:
            project.add(record.path, survival=(3.0 + int(record.name[1:]), True))
        drain(train_model_steps(project, "mean", recipe=QUICK, name="m"))
        drain(train_model_steps(project, "mean", recipe=QUICK, name="life", survival=True, bins=2))
        drain(analyse_steps(project, project.slides[0], model="m"))
        yield project


def rows(path):
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_a_table_of_tiles_has_every_map_and_what_people_said(project, tmp_path):
    record = project.slides[0]
    grid = project.bag(record.id).grid
    project.correct(record.id, Cells(grid.cells[3:5], grid.pitch_px), "Malignant/IC")
    counted = []
    steps = export_maps_steps(project, record, tmp_path / "MAPS.CSV", model="m")
    answer = drain(steps, lambda now: counted.append((now.stage, now.done, now.total)))
    assert counted == [("writing", 0, 12)]
    found = rows(tmp_path / "MAPS.CSV")
    for one in answer.maps:
        assert [float(row[one.name]) for row in found] == pytest.approx(one.values.tolist()), one.name
    assert [n for n, row in enumerate(found) if row["label"] == "Malignant/IC"] == [3, 4]


def test_maps_on_the_command_line(project, tmp_path, capsys, monkeypatch):
    from napari_mil.cli import main

    def run(*words):
        monkeypatch.setattr("sys.argv", ["napari-mil", "export", str(project.path), *map(str, words)])
        with pytest.raises(SystemExit) as done:
            main()
        said = capsys.readouterr()
        return int(done.value.code or 0), said.out, said.err

    file = tmp_path / "maps.geojson"
    assert run(file, "--slide", "s0", "--maps", "--model", "m") == (0, f"Wrote {file}.\n", "")
    drain(export_maps_steps(project, project.slides[0], tmp_path / "same", model="m", format="geojson"))
    assert file.read_bytes() == (tmp_path / "same").read_bytes()
    assert len(json.loads(file.read_text())["features"]) == 12
    *progress, last = map(
        json.loads, run(file, "--slide", "s0", "--maps", "--json", "-m", "m")[1].splitlines()
    )
    assert {record["slide"] for record in progress} == {"s0"}
    assert last == {"result": {"file": str(file)}}
    for words, said in (
        ((file, "--maps"), "Maps are of one slide; say which with --slide NAME."),
        ((file, "--slide", "s0", "--model", "m"), "--model belongs to --maps"),
        ((file, "--slide", "s1", "--maps", "--model", "m"), "m has not answered for s1 yet"),
        ((tmp_path / "x.png", "--slide", "s0", "--maps"), "x.png: maps are written as .geojson"),
    ):
        status, out, err = run(*words)
        assert (status, out) == (2, "")
        assert said in err
        assert len(err.splitlines()) == 1
    assert not (tmp_path / "x.png").exists()


def test_what_is_not_there_is_said(project, tmp_path):
    first, second, _third = project.slides
    for about, error, words in (
        ((second, "x.csv", "m", None), ModelError, "m has not answered for s1 yet, so there are no maps"),
        ((first, "x.csv", "none", None), ModelError, "'none' is no model"),
        ((first, "x.png", "m", None), LabelError, "choose one of them"),
        ((first, "x.csv", "m", "png"), LabelError, "choose one of them"),
        ((first, "no/x.csv", "m", None), ProjectError, "there is no folder"),
    ):
        record, name, model, format_ = about
        with pytest.raises(error, match=words):
            drain(export_maps_steps(project, record, tmp_path / name, model=model, format=format_))
    assert not list(tmp_path.iterdir())


def test_maps_of_a_risk(project, tmp_path):
    record = project.slides[0]
    drain(analyse_steps(project, record, model="life"))
    answer = drain(export_maps_steps(project, record, tmp_path / "r.geojson", model="life"))
    tiles = json.loads((tmp_path / "r.geojson").read_text())["features"]
    assert [t["properties"]["measurements"]["risk"] for t in tiles] == pytest.approx(
        answer.map("risk").values
    )


@pytest.mark.parametrize("model", ["m", "life"])
def test_a_table_of_answers_is_what_predict_writes(project, tmp_path, capsys, monkeypatch, model):
    from napari_mil.cli import main

    seen = []
    found = drain(
        answer_table_steps(project, tmp_path / "1.csv", model=model),
        lambda now: seen.append(now.payload.name) if now.payload is not None else None,
    )
    assert (found.asked, found.kept, found.failed) == (3, 0, [])
    assert seen == ["s0", "s1", "s2"]
    words = [
        "predict",
        str(project.path),
        "--model",
        model,
        "--by",
        "slide",
        "--csv",
        str(tmp_path / "2.csv"),
    ]
    monkeypatch.setattr("sys.argv", ["napari-mil", *words])
    with pytest.raises(SystemExit):
        main()
    assert (tmp_path / "1.csv").read_bytes() == (tmp_path / "2.csv").read_bytes()


def test_a_place_that_cannot_be_written_is_said_before_any_work(project, tmp_path, monkeypatch):
    record = project.slides[0]
    monkeypatch.setattr("napari_mil.workflow.explaining.explain_steps", lambda *_a, **_k: pytest.fail("work"))
    monkeypatch.setattr("napari_mil.workflow.answering._one", lambda *_a, **_k: pytest.fail("work"))
    (tmp_path / "file").write_text("")
    (tmp_path / "locked").mkdir(mode=0o555)
    (tmp_path / "folder.csv").mkdir()
    for path, why in (
        (tmp_path / "no" / "x.csv", "there is no folder"),
        (tmp_path / "file" / "x.csv", "there is no folder"),
        (tmp_path / "folder.csv", "Is a directory"),
    ):
        with pytest.raises(ProjectError, match=why):
            drain(explain_table_steps(project, record, path, model="m"))
        with pytest.raises(ProjectError, match=why):
            drain(answer_table_steps(project, path, model="m"))
    with as_one_who_may_not(tmp_path), pytest.raises(ProjectError, match="Permission denied"):
        check_place(tmp_path / "locked" / "x.csv")
    check_place(tmp_path / "fine.csv")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder.csv", "locked"]


def test_a_project_without_slides_has_no_table(tmp_path, project):
    from napari_mil.workflow import Project

    with Project(tmp_path / "empty") as empty:
        card = next(c for c in project.cards if c.name == "m")
        empty.store.save_model(card, project.store.model_bytes(card.id))
        with pytest.raises(ProjectError, match="has no slides yet"):
            drain(answer_table_steps(empty, tmp_path / "x.csv", model="m"))
    assert not (tmp_path / "x.csv").exists()
