"""Answers per case: what is trained and judged on the slides of a case as one is also asked so."""

import csv
import dataclasses
import itertools
import json

import numpy as np
import pytest
import torch
from cli.test_explain import TIME, TREE, keep
from quickstudy import add

from napari_mil.infer import answer
from napari_mil.steps import drain
from napari_mil.workflow import Project, evaluate_steps

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path):
    """A study of five cases of two slides each, with follow-up times, and models that learned nothing."""
    with Project(tmp_path / "study", tree=TREE) as project:
        for n in range(10):
            add(project, n, case=f"c{n // 2}", label="Benign/N", survival=(1.0 + n // 2, True))
        keep(project, "abmil", tree=TIME, name="life")
        keep(project, "abmil", name="labels")
    return project.path


def read(path):
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_the_c_index_is_that_of_the_risks_in_the_table(folder, tmp_path, run):
    status, out, err = run("predict", folder, "--model", "life", "--csv", tmp_path / "x.csv")
    assert (status, err) == (0, "")
    rows = read(tmp_path / "x.csv")
    assert list(rows[0])[:5] == ["case", "slides", "of", "model", "risk"]
    assert [row["case"] for row in rows] == [f"c{n}" for n in range(5)]
    assert {(row["slides"], row["of"]) for row in rows} == {("2", "2")}
    risks = [float(row["risk"]) for row in rows]
    assert out.splitlines()[0] == f"[1/5] c0: risk {risks[0]:.4f}, slides 2, model life"
    right = [one > other for one, other in itertools.combinations(risks, 2)]  # later cases lived longer
    with Project(folder) as project:
        figures = drain(evaluate_steps(project, "life", split="all"))
    assert figures["survival/c_index"][0] == pytest.approx(np.mean(right))


def test_a_case_is_asked_as_one_bag(folder, tmp_path, run):
    assert run("predict", folder, "s2", "--model", "life", "--csv", tmp_path / "x.csv")[0] == 0
    [row] = read(tmp_path / "x.csv")
    assert row["case"] == "c1"
    with Project(folder) as project:
        joined = np.concatenate([project.bag(f"s{n}").features for n in (2, 3)])
        said = answer(project.model("life"), joined)
        alone = project.analyse("s2", model="life").hazards
    curve = [float(v) for k, v in row.items() if k.startswith("S ")]
    assert curve == pytest.approx(np.cumprod(1 - said.hazards), abs=1e-5)
    assert np.abs(said.hazards - alone).max() > 1e-5


def test_either_way_can_be_asked_for(folder, tmp_path, run):
    assert run("predict", folder, "--model", "life", "--by", "slide", "--csv", tmp_path / "x.csv")[0] == 0
    assert [row["slide"] for row in read(tmp_path / "x.csv")] == [f"s{n}" for n in range(10)]
    assert run("predict", folder, "--model", "labels", "--csv", tmp_path / "x.csv")[0] == 0
    assert len(read(tmp_path / "x.csv")) == 10
    status, out, _ = run("predict", folder, "--model", "labels", "--by", "case", "--json")
    assert status == 0
    rows = [row for row in map(json.loads, out.splitlines()) if "ok" in row]
    assert [row["case"] for row in rows] == [f"c{n}" for n in range(5)]
    assert all(row["probability"] == row[f"p {row['label']}"] for row in rows)
    assert {json.loads(line).get("case") for line in out.splitlines()} == {f"c{n}" for n in range(5)}
    status, out, err = run("predict", folder, "--model", "labels", "--by", "patient")
    assert (status, out) == (2, "")
    assert "'patient' is nothing to answer for; say --by slide or --by case." in err


def test_heads_that_contradict_each_other_are_told_of_a_case_too(folder, tmp_path, run):
    with Project(folder) as project:
        for seed in range(20):  # some weights contradict themselves, and some do not
            torch.manual_seed(seed)
            keep(project, "hmil", name=f"two-{seed}")
    told = {}
    for seed in range(20):
        run("predict", folder, "s0", "--model", f"two-{seed}", "--by", "case", "--csv", tmp_path / "x.csv")
        [row] = read(tmp_path / "x.csv")
        coarse = max(("Benign", "Malignant"), key=lambda name: float(row[f"p {name}"]))
        leaves = {k.removeprefix("p "): float(v) for k, v in row.items() if "/" in k}
        sums = {g: sum(p for k, p in leaves.items() if k.startswith(g)) for g in ("Benign", "Malignant")}
        fine = max(sums, key=sums.__getitem__)
        told[coarse != fine] = row["disagreement"]
        assert row["disagreement"] == (f"coarse head {coarse}, fine answer {fine}" if coarse != fine else "")
        if len(told) == 2:
            return
    pytest.fail("the heads of no model contradict each other")


def test_a_slide_that_cannot_be_read_is_left_out_and_said(folder, tmp_path, run):
    with Project(folder) as project:
        for n, case in ((20, "c0"), (21, "alone")):
            add(project, n, case=case, bag=False, label="Benign/N")
            (tmp_path / "slides" / f"s{n}.tif").unlink()
    status, out, err = run("predict", folder, "--model", "life", "--csv", tmp_path / "x.csv")
    assert status == 1
    assert "s20 is set aside: " in err
    assert "1 of 6 cases failed" in err
    assert "1 slide was set aside" in err
    rows = {row["case"]: row for row in read(tmp_path / "x.csv")}
    assert (rows["c0"]["slides"], rows["c0"]["of"]) == ("2", "3")
    assert rows["c0"]["risk"]
    assert rows["c0"]["error"].startswith("s20 is set aside: ")
    assert rows["c1"]["error"] == ""
    assert rows["alone"]["risk"] == ""
    assert rows["alone"]["error"].startswith("The case 'alone' has no slide that can be asked: s21")
    assert "alone: FAILED, The case 'alone'" in out


def test_the_temperature_of_a_card_holds_for_cases_too(folder, run):
    with Project(folder) as project:
        (card,) = (card for card in project.cards if card.name == "labels")
        warm = dataclasses.replace(card, id="warm", name="warm", calibrated=True, temperature=3.0)
        project.store.save_model(warm, project.store.model_bytes(card.id))
        joined = np.concatenate([project.bag(f"s{n}").features for n in (0, 1)])
        said = [answer(project.model("warm"), joined, temperature=t).probabilities[-1].max() for t in (1, 3)]
    out = run("predict", folder, "s0", "--model", "warm", "--by", "case", "--json")[1]
    row = json.loads(out.splitlines()[-1])
    assert row["calibrated"]
    assert row["probability"] == pytest.approx(float(said[1]), abs=1e-5)
    assert abs(said[0] - said[1]) > 1e-3
