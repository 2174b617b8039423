"""Ctrl+C is one sentence and exit status 130, and what was done is kept."""

import csv
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from quickstudy import QUICK, study
from slidefiles import write_pyramid

from napari_mil.steps import drain
from napari_mil.workflow import Project, find_card, train_model_steps

SAID = "napari-mil: Interrupted; what was finished is kept, run the same line again to go on.\n"
ENDED = "napari-mil: Ended from outside ({}); what was finished is kept, run the same line again to go on.\n"


def test_an_interrupted_command_says_so(tmp_path, run, monkeypatch):
    with study(tmp_path, 1) as project:
        folder = project.path

    def interrupted(*_words, **_more):
        raise KeyboardInterrupt

    monkeypatch.setattr("napari_mil.workflow.label_rows", interrupted)
    assert run("labels", "show", folder) == (130, "", SAID)


@pytest.mark.skipif(os.name == "nt", reason="signals of another kind")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_command_that_is_ended_from_outside_says_so_and_an_ignored_signal_stays_ignored(
    tmp_path, run, monkeypatch, name
):
    with study(tmp_path, 1) as project:
        folder = project.path
    number, kept = getattr(signal, name), []

    def ended(*_words, **_more):
        os.kill(os.getpid(), number)
        kept.append(name)
        return []

    monkeypatch.setattr("napari_mil.workflow.label_rows", ended)
    assert run("labels", "show", folder) == (128 + number, "", ENDED.format(name))
    assert (kept, signal.getsignal(number)) == ([], signal.SIG_DFL)
    signal.signal(number, signal.SIG_IGN)
    try:
        assert run("labels", "show", folder) == (0, "", "")
    finally:
        signal.signal(number, signal.SIG_DFL)
    assert kept == [name]


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals of another kind")
@pytest.mark.parametrize(
    ("name", "status", "said"), [("SIGINT", 130, SAID), ("SIGTERM", 143, ENDED.format("SIGTERM"))]
)
def test_an_interrupted_embedding_keeps_its_tiles(tmp_path, name, status, said):
    with study(tmp_path, 0) as project:
        stained = np.random.default_rng(0).normal((190, 110, 170), 8, (256, 256, 3)).astype(np.uint8)
        middle = np.pad(np.tile(stained, (12, 12, 1)), ((256,) * 2, (256,) * 2, (0, 0)), constant_values=240)
        project.add(write_pyramid(tmp_path / "s.tif", middle, levels=3))
    line = [sys.executable, "-m", "napari_mil.cli", "embed", str(project.path), "--json"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        for words in child.stdout:
            if '"features"' in words and json.loads(words)["done"] >= 64:  # what was done is kept by then
                child.send_signal(getattr(signal, name))
                break
        _, err = child.communicate(timeout=60)
    assert (child.returncode, err) == (status, said)
    assert list((project.path / "parts").rglob("*.npz"))
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as again:
        first = next(words for words in again.stdout if '"features"' in words)
        again.kill()
    assert '"done": 0' not in first


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals of another kind")
def test_interrupted_answers_are_kept_and_the_same_line_goes_on(tmp_path):
    with study(tmp_path, 3) as project:
        drain(train_model_steps(project, "mean", recipe=QUICK, name="m"))
        stained = np.random.default_rng(0).normal((190, 110, 170), 8, (256, 256, 3)).astype(np.uint8)
        middle = np.pad(np.tile(stained, (12, 12, 1)), ((256,) * 2, (256,) * 2, (0, 0)), constant_values=240)
        project.add(write_pyramid(tmp_path / "large.tif", middle, levels=3))
        folder = project.path
    table = tmp_path / "answers.csv"
    line = [sys.executable, "-m", "napari_mil.cli", "predict", str(folder), "--model", "m", "--json"]
    line += ["--csv", str(table)]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        for words in child.stdout:
            now = json.loads(words)
            if now.get("stage") == "features" and now["slide"] == "large" and now["done"] >= 64:
                child.send_signal(signal.SIGINT)
                break
        _, err = child.communicate(timeout=60)
    assert (child.returncode, err) == (130, SAID)
    assert list((folder / "parts").rglob("*.npz"))  # the tiles of the slide in the midst
    with table.open(newline="", encoding="utf-8") as rows:
        assert [row["slide"] for row in csv.DictReader(rows)] == ["s0", "s1", "s2"]
    with Project(folder) as project:
        card = find_card(project, "m")
        before = [project.store.latest_answer(r.id, card.id) for r in project.slides]
    assert [said is not None for said in before] == [True, True, True, False]
    again = subprocess.run(line, capture_output=True, text=True, check=True, timeout=120)
    records = [json.loads(words) for words in again.stdout.splitlines()]
    first = next(r for r in records if r.get("stage") == "features" and r["slide"] == "large")
    assert first["done"] > 0
    assert [r["slide"] for r in records if r.get("ok")] == ["s0", "s1", "s2", "large"]
    with Project(folder) as project:
        after = [project.store.latest_answer(r.id, card.id) for r in project.slides]
    assert [said.at for said in after[:3]] == [said.at for said in before[:3]]  # given from the project
    assert after[3] is not None
