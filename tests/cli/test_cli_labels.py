"""labels, export and import of labels on the command line."""

import json
import re

import numpy as np
import pytest
from quickstudy import study

from napari_mil.correction import Cells, Correction, Polygon, WholeSlide
from napari_mil.ledger import Ledger
from napari_mil.workflow import Project

pytestmark = pytest.mark.slow


def damage(path):
    """Alter what the second event says, as a text editor or a failing disk would."""
    data, said = path.read_bytes(), b'"label":"Malignant/IC"'
    assert data.count(said) == 1
    path.write_bytes(data.replace(said, said.replace(b"IC", b"XX")))


@pytest.mark.parametrize("as_json", [False, True])
def test_a_damaged_ledger_is_verified_though_it_cannot_be_opened(tmp_path, run, as_json):
    with study(tmp_path, 1, label="Benign/N") as project:
        folder, ledger = project.path, project.path / "ledger.sqlite"
        project.correct("s0", WholeSlide(), "IC")
        project.correct("s0", WholeSlide(), "Benign")
    words = ("labels", "verify", folder, *(["--json"] if as_json else []))
    status, out, _ = run(*words)
    assert status == 0
    assert json.loads(out)["ok"] if as_json else out.startswith("whole: 3 events, head ")
    damage(ledger)
    status, out, err = run(*words)
    assert (status, err) == (1, "")
    said = json.loads(out)["ledger"] if as_json else out
    assert "is damaged: event 2 was altered" in said
    assert "events 1 to 1 are as they were written" in said
    assert run("labels", "show", folder)[0] == 2


def test_verify_without_a_ledger_makes_none(tmp_path, run):
    status, _, err = run("labels", "verify", tmp_path)
    assert status == 2
    assert "There is no ledger" in err
    assert not list(tmp_path.iterdir())


def test_labels_of_others_are_mapped(tmp_path, run):
    with study(tmp_path, 1) as project:
        folder = project.path
    table = tmp_path / "theirs.csv"
    table.write_text("slide,label\ns0,Tumor\n")
    status, out, _ = run("import", folder, table)
    assert status == 1
    assert "--map Tumor=LABEL" in out
    status, out, _ = run("import", folder, table, "--map", "Tumor=Malignant", "--map", "Normal=")
    assert (status, out) == (0, "theirs.csv: labels 1\n")
    status, _, err = run("import", folder, table, "--map", "Tumor")
    assert status == 2
    assert "'Tumor' maps no label; write THEIRS=OURS" in err
    status, out, _ = run("labels", "undo", folder, "--slide", "s0")
    assert "whole slide → Malignant" in out


@pytest.fixture
def folder(tmp_path):
    with study(tmp_path, 2, label="Benign/N") as project:
        project.correct("s0", WholeSlide(), "IC", note="sure", model_said="Benign/N", model_confidence=0.8)
        project.correct(
            "s0", Cells([[0, 0], [0, 1]], (256.0, 256.0)), "ADH", tool="paint", visible=("attention",)
        )
    return project.path


def test_what_was_said_is_shown_withdrawn_locked_noted_and_told_again(folder, run):
    _, out, _ = run("labels", "show", folder, "--slide", "s0", "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert [(r["event"], r["place"], r["label"], r["locked"]) for r in rows] == [
        (3, "whole slide", "Malignant/IC", False), (4, "2 tiles", "Atypical/ADH", False),
    ]  # fmt: skip
    assert run("labels", "lock", folder, "4", "--by", "ann")[1] == "locked: 2 tiles → Atypical/ADH\n"
    status, _, err = run("labels", "withdraw", folder, "4")
    assert (status, err) == (
        2,
        "napari-mil: What event 4 says is locked, nothing was changed; unlock it first.\n",
    )
    assert "locked" in run("labels", "show", folder)[1]
    run("labels", "unlock", folder, "4")
    assert run("labels", "withdraw", folder, "4", "--by", "ann")[0] == 0
    assert run("labels", "undo", folder, "--slide", "s0", "--by", "ann")[1].startswith(
        "undone: s0  withdrawal of 2 tiles → Atypical/ADH  (ann, "
    )
    assert run("labels", "undo", folder, "--slide", "s0", "--by", "eve")[1] == (
        "s0  there is nothing of eve to undo on this slide\n"
    )
    run("labels", "note", folder, "second reading", "--slide", "s0")
    _, out, _ = run("labels", "log", folder, "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert [r["kind"] for r in rows[2:]] == [
        "correct", "correct", "lock", "unlock", "withdraw", "undo", "note",
    ]  # fmt: skip
    assert rows[-1]["text"] == "second reading"
    assert rows[6]["what"] == "2 tiles → Atypical/ADH (event 4)"


def test_holes_of_a_file_are_cut_into_a_region_as_one_act(folder, tmp_path, run):
    def square(low, high):
        return np.array([[low, low], [low, high], [high, high], [high, low]], float)

    def regions(project):
        return [c for c in project.ledger.corrections(said.slide_id) if isinstance(c.place, Polygon)]

    with Project(folder, by="ann") as project:
        said = project.correct("s0", Polygon((square(0, 200),)), "IC")
        event = len(project.ledger.events())
    rings = [[*square(*ends).tolist(), [ends[0]] * 2] for ends in ((10, 40), (60, 90))]
    areas = [{"type": "Polygon", "coordinates": [ring]} for ring in rings]
    file, table = tmp_path / "holes.geojson", tmp_path / "out.csv"
    file.write_text("[]")
    status, _, err = run("labels", "hole", folder, event, file)
    assert (status, "holes.geojson holds no area" in err) == (2, True)
    file.write_text(json.dumps([{"type": "Feature", "geometry": area, "properties": {}} for area in areas]))
    status, out, _ = run("labels", "hole", folder, event, file, "--by", "bob")
    assert (status, out[:4]) == (0, "cut:")
    run("export", folder, table)
    with Project(folder, by="bob") as project:
        [now] = regions(project)
        assert (now.by, now.tool, now.replaces, len(now.place.rings)) == ("bob", "hole", said.id, 3)
        project.ledger.undo(now.slide_id, "bob")
        assert [c.id for c in regions(project)] == [said.id]
        # where the region is known without its holes, the table puts that with holes in its place
        run("import", folder, table)
        assert [(c.replaces, len(c.place.rings)) for c in regions(project)] == [(said.id, 3)]


def test_the_history_of_a_place_tells_who_when_and_what_was_seen(folder, run):
    status, out, _ = run("labels", "history", folder, "--slide", "s0", "--at", "10,300")
    assert status == 0
    assert re.fullmatch(r"4  \S+  tester  paint  2 tiles → Atypical/ADH; visible: attention\n", out)
    assert "nothing was said" in run("labels", "history", folder, "--slide", "s0", "--at", "10,600")[1]
    _, out, _ = run("labels", "history", folder, "--slide", "s0", "--json")
    [row] = [json.loads(line) for line in out.splitlines()]
    assert (row["was"], row["model_said"], row["model_confidence"], row["note"], row["in_force"]) == (
        "Benign/N", "Benign/N", 0.8, "sure", True,
    )  # fmt: skip
    run("labels", "undo", folder, "--slide", "s0")
    run("labels", "undo", folder, "--slide", "s0")
    assert run("labels", "history", folder, "--slide", "s0")[1].endswith(
        "(was Benign/N); the model had said Benign/N 80%; “sure”; undone by somebody (taken back)\n"
    )
    assert run("labels", "history", folder, "--slide", "s0", "--at", "here")[0] == 2


def test_the_history_tells_what_became_of_what_was_said(folder, run):
    run("labels", "lock", folder, "4", "--by", "ann")
    run("labels", "note", folder, "ask again", "--event", "4", "--by", "bob")
    run("labels", "unlock", folder, "4", "--by", "ann")
    run("labels", "withdraw", folder, "4", "--by", "ann")
    run("labels", "undo", folder, "--slide", "s0", "--by", "ann")
    run("review", folder, "--second", "--by", "eve", "--relabel", "s0@0,1=IC")
    _, out, _ = run("labels", "history", folder, "--slide", "s0", "--at", "10,300", "--json")
    told, again = (json.loads(line) for line in out.splitlines())
    assert [(one["by"], one["what"]) for one in told["since"]] == [
        ("ann", "locked"), ("bob", "note: ask again"), ("ann", "unlocked"), ("ann", "withdrawn"),
        ("ann", "withdrawal undone"),
    ]  # fmt: skip
    assert (told["kind"], told["in_force"]) == ("correct", True)
    assert (again["kind"], again["tool"], again["label"]) == ("reading", "second reading", "Malignant/IC")
    out = run("labels", "history", folder, "--slide", "s0", "--at", "10,300")[1]
    assert "taken back" not in out
    assert out.splitlines()[0].endswith("; withdrawn by ann; withdrawal undone by ann")


def test_what_was_done_is_a_record_with_json(folder, run):
    def record(*words):
        status, out, _ = run("labels", *words, "--json")
        assert status == 0
        return json.loads(out)

    assert record("set", folder, "IC", "--slide", "s1", "--note", "why")["note"] == "why"
    for verb, done in (("lock", "locked"), ("unlock", "unlocked"), ("withdraw", "withdrawn")):
        made = record(verb, folder, "4")
        assert (made["done"], made["event"], made["label"]) == (done, 4, "Atypical/ADH")
    assert record("note", folder, "remember", "--by", "ann")["by"] == "ann"
    status, _, err = run("labels", "note", folder, "remember", "--event", "1")
    assert (status, "Event 1 states no label" in err) == (2, True)


def test_the_log_tells_of_skips_and_second_readings(folder, run):
    with Project(folder, by="eve") as project:
        place = {"kind": "cells", "pitch_px": [256.0, 256.0], "cells": [[0, 1]]}
        project.ledger.append("skip", project.slides[0].id, {"place": place, "note": "out of focus"}, "eve")
    run("review", folder, "--second", "--by", "eve", "--relabel", "s0@0,1=IC")
    _, out, _ = run("labels", "log", folder)
    skip, reading = out.splitlines()[-2:]
    assert skip.endswith("eve  skip  s0  1 tile  out of focus")
    assert reading.endswith("eve  reading  s0  1 tile  Malignant/IC")


def test_contradictions_are_listed(folder, run):
    assert run("labels", "contradictions", folder, "--slide", "s1") == (
        0,
        "Nothing contradicts itself.\n",
        "",
    )
    run("labels", "withdraw", folder, "3")
    status, out, _ = run("labels", "contradictions", folder)
    words = "2 tiles are labelled Atypical/ADH by tester, but the slide Benign/N by the manifest"
    assert (status, out) == (1, f"s0: {words}\n")
    row = json.loads(run("labels", "contradictions", folder, "--json")[1])
    assert (row["between"], row["events"], row["words"]) == ("levels", [4], words)


def test_a_slide_is_labelled_and_what_was_said_without_seeing_the_other_is_listed(folder, run):
    assert run("labels", "conflicts", folder) == (0, "Nobody contradicts another.\n", "")
    assert run("labels", "conflicts", folder, "--json") == (0, "", "")
    with Ledger(folder / "ledger.sqlite", follow=False) as stale, Project(folder, by="ann") as project:
        slide = project.slides[1].id
        project.correct(slide, WholeSlide(), "IC")
        stale.correct(Correction(slide, WholeSlide(), "Benign/UDH", by="bob"))
    status, out, _ = run("labels", "conflicts", folder)
    assert status == 1
    assert out == (
        "s1, whole slide: bob says Benign/UDH, ann said Malignant/IC; neither had seen the other\n"
    )
    assert json.loads(run("labels", "conflicts", folder, "--json")[1])["later_event"] == 6
    status, out, _ = run("labels", "set", folder, "IC", "--slide", "s1", "--by", "ann")
    assert (status, out) == (0, "The slide → Malignant/IC\n")
    assert run("labels", "conflicts", folder)[0] == 0
    assert run("labels", "set", folder, "none", "--slide", "s1")[1] == "The slide → label taken away\n"
    both = run("labels", "set", folder, "IC", "--slide", "s0", "--slide", "s1", "--by", "ann")
    assert both[:2] == (0, "2 slides → Malignant/IC\n")
    with Project(folder) as project:
        acts = [project.ledger.acts(r.id).done[-1].id for r in project.slides]
        assert acts[0] == acts[1]
    one = ("--slide", "s1", "--slide", "s0", "--model", "m", "--rows", "1")
    assert "give --slide once" in run("labels", "set", folder, "IC", *one)[2]
    for words in (("--rows", "1"), ("--model", "m", "--rows", "1", "--above", "a=1")):
        status, _, err = run("labels", "set", folder, "IC", "--slide", "s1", *words)
        assert status == 2
        assert "--model says of which grid" in err


def test_a_backup_is_written_and_restored(folder, tmp_path, run):
    file = tmp_path / "b" / "monday.sqlite"
    assert run("labels", "backup", folder, file)[1].startswith(f"Wrote {file}: 4 events, head ")
    damage(folder / "ledger.sqlite")
    assert run("labels", "verify", folder)[0] == 1
    assert (
        run("labels", "restore", folder, file)[1] == "Restored 4 events, 0 of them newer than the backup.\n"
    )
    assert run("labels", "verify", folder)[0] == 0


def test_a_project_tells_what_it_holds_and_is_shared(folder, run, postgres):
    address = postgres.address(postgres.database())
    status, out, _ = run("project", "info", folder)
    assert status == 0
    assert f"ledger: {folder / 'ledger.sqlite'} (in the folder), schema 2" in out
    assert "corrections in force: tester 2" in out
    status, out, _ = run("project", "share", folder, address, "--json")
    shared = json.loads(out)
    assert (status, shared["ledger"], shared["shared"]) == (0, address, True)
    row = json.loads(run("project", "info", folder, "--json")[1])
    assert (row["ledger"], row["shared"], row["slides"]) == (address, True, 2)
    assert run("labels", "verify", folder)[0] == 0
    back = json.loads(run("project", "unshare", folder, "--json")[1])
    assert (back["ledger"], back["shared"]) == (str(folder / "ledger.sqlite"), False)
    assert not json.loads(run("project", "info", folder, "--json")[1])["shared"]


def test_colours_are_told_to_machines(folder, run):
    for word, told in (("--srgb", "converted to sRGB"), ("--stored", "as stored")):
        status, out, _ = run("project", "colours", folder, word, "--json")
        assert (status, json.loads(out)) == (0, {"project": str(folder), "colours": told})


def test_a_table_of_tiles_tells_how_many_it_labels(tmp_path, run):
    with study(tmp_path, 1) as project:
        folder, slide = project.path, project.slides[0].id
    lines = [f"{slide},{row},0,64,64,IC" for row in range(3)]
    table = tmp_path / "tiles.csv"
    table.write_text("\n".join(["slide_id,row,col,pitch_y_px,pitch_x_px,label", *lines]))
    assert run("import", folder, table)[:2] == (0, "tiles.csv: labels 1, tiles 3\n")


def test_an_undo_tells_what_it_took_back_and_reads_no_more_than_the_slide(tmp_path, run, monkeypatch):
    """Of a ledger of 100,000 events it had read all, and told an act's parts on other slides as well."""
    with study(tmp_path, 3, bag=False) as project:
        folder = project.path
    assert run("labels", "set", folder, "IC", "--slide", "s0", "--slide", "s1")[0] == 0
    plain = Ledger.events

    def of_one_slide(ledger, **about):
        assert about.get("slide_id") or about.get("kind")
        return plain(ledger, **about)

    monkeypatch.setattr(Ledger, "events", of_one_slide)
    status, out, _ = run("labels", "undo", folder, "--slide", "s0", "--json")
    assert (status, json.loads(out)["undo"]) == (0, "whole slide → Malignant/IC")
