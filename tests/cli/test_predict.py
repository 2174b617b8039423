"""Answers on the command line: the table grows as they come, and says all there is to say."""

import csv
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from quickstudy import QUICK, study

from napari_mil import methods
from napari_mil.card import ModelCard
from napari_mil.labeltree import LabelTree, Survival
from napari_mil.methods import official
from napari_mil.prediction import Prediction, TileMap
from napari_mil.samples import SAMPLE_TREE
from napari_mil.steps import drain
from napari_mil.workflow import (
    Project,
    answer_columns,
    answer_numbers,
    find_card,
    find_record,
    train_model_steps,
)

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path):
    """A study of five slides of one name with a model."""
    with study(tmp_path, 5) as project:
        for record in project.slides:
            project.add(record.path, survival=(3.0 + int(record.name[1:]), True))
        drain(train_model_steps(project, "mean", recipe=QUICK, name="m"))
        drain(train_model_steps(project, "mean", recipe=QUICK, name="life", survival=True, bins=2))
    return project.path


def slide_id(folder, name):
    with Project(folder) as project:
        return find_record(project, name).id


def read(path):
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_the_table_holds_every_label_of_every_level(folder, tmp_path, run):
    status, out, err = run("predict", folder, "--model", "m", "--csv", tmp_path / "x.csv")
    assert (status, err) == (0, "")
    rows = read(tmp_path / "x.csv")
    labels = [SAMPLE_TREE.path(n) for n in range(1, len(SAMPLE_TREE))]
    assert list(rows[0]) == [
        *("slide", "slide_id", "case", "model", "label", "probability"), *(f"p {p}" for p in labels),
        *("disagreement", "calibrated", "error"),
    ]  # fmt: skip
    assert [row["case"] for row in rows] == [f"c{n}" for n in range(5)]
    for row in rows:
        assert sum(float(row[f"p {SAMPLE_TREE.path(n)}"]) for n in SAMPLE_TREE.leaves) == pytest.approx(
            1, abs=1e-4
        )
        assert row["probability"] == row[f"p {row['label']}"]
        assert len(row["slide_id"]) == 64
        assert row["disagreement"] == ""  # this method has one head
    first = out.splitlines()[0]
    assert (
        first
        == f"[1/5] s0: label {rows[0]['label']}, probability {float(rows[0]['probability']):.4f}, model m"
    )


def test_risk_and_survival_have_columns_of_their_own(folder, tmp_path, run):
    assert run("predict", folder, "s0", "--model", "life", "--csv", tmp_path / "x.csv")[0] == 0
    [row] = read(tmp_path / "x.csv")
    curve = [float(v) for k, v in row.items() if k.startswith("S ")]
    assert len(curve) == 2
    assert float(row["risk"]) == pytest.approx(-sum(curve), abs=1e-5)
    assert row["calibrated"] == "False"


def test_a_place_that_cannot_be_written_is_said_before_any_work(folder, tmp_path, run):
    status, out, err = run("predict", folder, "--model", "m", "--csv", tmp_path / "no" / "x.csv")
    assert (status, out) == (2, "")
    assert f"{tmp_path / 'no' / 'x.csv'} cannot be written: there is no folder" in err


def test_rows_are_there_when_the_run_is_not_over_and_slides_that_fail_say_why(
    folder, tmp_path, run, monkeypatch
):
    from napari_mil import workflow

    monkeypatch.setattr("napari_mil.workflow.tables.PAUSE_S", -1.0)
    (tmp_path / "slides" / "s1.tif").unlink()
    shutil.rmtree(folder / "bags" / slide_id(folder, "s1"))  # else its answer needs no file
    real, seen = workflow.analyse_steps, []

    def watched(project, slide, **about):
        seen.append([row["slide"] for row in read(tmp_path / "x.csv")])
        if slide.name == "s3":
            raise KeyboardInterrupt
        return real(project, slide, **about)

    monkeypatch.setattr(workflow, "analyse_steps", watched)
    assert run("predict", folder, "--model", "m", "--csv", tmp_path / "x.csv")[0] == 130
    assert seen == [[], ["s0"], ["s0", "s1"], ["s0", "s1", "s2"]]
    rows = read(tmp_path / "x.csv")
    assert [bool(row["error"]) for row in rows] == [False, True, False]
    assert (rows[1]["case"], rows[1]["label"]) == ("c1", "")
    monkeypatch.setattr(workflow, "analyse_steps", real)
    status, _, err = run("predict", folder, "--model", "m", "--csv", tmp_path / "x.csv")
    assert status == 1
    assert "1 of 5 slides failed" in err
    assert len(read(tmp_path / "x.csv")) == 5


def test_damaged_weights_and_an_unknown_encoder_are_said_once(folder, run):
    for path in folder.glob("models/*/weights.safetensors"):
        path.write_bytes(path.read_bytes()[:-4])
    status, out, err = run("predict", folder, "--model", "m")
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert "weights.safetensors does not give its checksum" in err
    status, out, err = run("embed", folder, "--encoder", "nope")
    assert (status, out) == (2, "")
    assert (
        err == "napari-mil: There is no encoder 'nope'; choose one of: builtin, resnet18, resnet50-trunc.\n"
    )


def test_a_model_of_which_nobody_said_what_it_reads_says_so_once(folder, tmp_path, run):
    made = methods.create("abmil", in_features=12, tree=SAMPLE_TREE)
    torch.save(official.dump(made), tmp_path / "p.pth")
    assert run("models", "import", folder, tmp_path / "p.pth", "--yes")[0] == 0
    status, out, err = run("predict", folder, "--model", "p")
    assert (status, out) == (2, "")
    assert err == (
        "napari-mil: There is no encoder 'unknown': so says the card of a model of which nobody knew what it "
        "reads. It answers for no slide; take its checkpoint in again and say which encoder it reads (on "
        "the command line --encoder NAME).\n"
    )


def test_progress_in_json_names_the_slide(folder, run):
    status, out, err = run("embed", folder, "s0", "--json")
    assert (status, err) == (0, "")
    *progress, row = map(json.loads, out.splitlines())
    assert {record["slide"] for record in progress} == {"s0"}
    assert all("stage" in record and "ok" not in record for record in progress)
    assert (row["slide"], row["ok"], row["tiles"]) == ("s0", True, 12)


def test_figures_say_on_how_many_cases_they_are(folder, run):
    status, out, _ = run("evaluate", folder, "--model", "m", "--split", "all")
    assert status == 0
    assert "  fine/auc: " in out
    assert all(line.endswith("], 5 cases") for line in out.splitlines())
    out = run("evaluate", folder, "--model", "m", "--split", "test")[1]
    assert all(line.endswith(", 1 case: too few for an interval") for line in out.splitlines())
    status, out, _ = run("evaluate", folder, "--model", "m", "--split", "all", "--json")
    assert json.loads(out.splitlines()[-1])["result"]["cases"] == 5


def test_heads_that_contradict_each_other_are_told_in_the_table():
    card = ModelCard("m", "two", "hmil", {}, "builtin-1", 4, 256, 0.5, SAMPLE_TREE)
    fine = np.eye(len(SAMPLE_TREE.leaves))[0]
    other = 1 - SAMPLE_TREE.lift(fine, 0)
    apart = TileMap("disagreement", "score", np.zeros(3))
    row = answer_numbers(Prediction("s", "g", "m", "slide", (other / other.sum(), fine), (apart,)), card)
    own, sums = (SAMPLE_TREE.names[SAMPLE_TREE.nodes_at(0)[int(p.argmax())]] for p in (other, 1 - other))
    assert row["disagreement"] == f"coarse head {own}, fine answer {sums}"
    assert set(row) < set(answer_columns(card))


def test_a_table_tells_apart_what_the_model_does():
    """An AUC that is made of a table is what the card says; sure answers differ late in the digits."""
    card = ModelCard("m", "two", "mean", {}, "builtin-1", 4, 256, 0.5, LabelTree.from_paths(["LUAD", "LUSC"]))
    for p in np.float32([1e-9, 2e-9, 3e-7, 0.123456789]):
        row = answer_numbers(Prediction("s", "g", "m", "slide", (np.array([1 - p, p]),)), card)
        assert np.float32(row["p LUSC"]) == p
    task = replace(card, tree=Survival.from_edges([12.0], intervals=2))
    risks = []
    for hazards in ([0.25, 0.5], [0.25, 0.5000001]):
        said = Prediction("s", "g", "m", "slide", (), hazards=np.float32(hazards))
        risks.append(answer_numbers(said, task)["risk"])
    assert risks[0] < risks[1]


def test_slides_are_asked_anew_when_that_is_asked_for(folder, run):
    def times():
        with Project(folder) as project:
            card = find_card(project, "m")
            return [project.store.latest_answer(r.id, card.id).at for r in project.slides]

    assert run("predict", folder, "--model", "m")[0] == 0
    first = times()
    assert run("predict", folder, "--model", "m")[0] == 0
    assert times() == first
    assert run("predict", folder, "--model", "m", "--again")[0] == 0
    assert all(later > before for later, before in zip(times(), first, strict=True))


def test_slides_whose_features_are_kept_need_no_file(folder, tmp_path, run, monkeypatch):
    def opened(*_words, **_more):
        raise AssertionError("no slide is to be opened")

    before = run("predict", folder, "--model", "m", "--csv", tmp_path / "1.csv")
    monkeypatch.setattr("napari_mil.slides.open_slide", opened)
    for file in (tmp_path / "slides").iterdir():
        file.unlink()
    assert run("predict", folder, "--model", "m", "--csv", tmp_path / "2.csv") == before
    assert before[0] == 0
    assert read(tmp_path / "1.csv") == read(tmp_path / "2.csv")
