"""The live log: CSV always, TensorBoard's files where asked."""

import csv
import dataclasses
import struct
import sys

import numpy as np
import pytest
from planted import TREE, cohort

from napari_mil.card import Recipe
from napari_mil.errors import ModelError, ProjectError
from napari_mil.evaluate import answers, split_by_case
from napari_mil.steps import drain
from napari_mil.train import Log, Split, train_steps
from napari_mil.train.log import table

QUICK = Recipe(epochs=3, min_epochs=3, stage1_epochs=2, lr=1e-3)
MHIM = {"hidden": 32, "attention_width": 16, "heads": 2}


def _run(log, resume=None):
    cases, _ = cohort(12, n=12)
    split = split_by_case({c.case: c.target.slide for c in cases}, test=0.25, validation=0.3)
    run = {"method": "mhim", "config": MHIM, "recipe": QUICK, "tree": TREE, "device": "cpu"}
    return train_steps(cases, split, **run, resume=resume, log=log)


def _rows(folder):
    with (folder / "history.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def _events(folder):
    """(tag, step) of every scalar and the restarts in TensorBoard files, read by hand."""
    from tensorboardX.proto.event_pb2 import Event

    told, restarts = [], []
    for path in sorted(folder.glob("events.out.tfevents.*")):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (size,) = struct.unpack_from("<Q", data, at)
            event = Event.FromString(data[at + 12 : at + 12 + size])
            at += size + 16
            told += [(value.tag, event.step) for value in event.summary.value]
            if event.session_log.status:
                restarts.append(event.step)
    return told, restarts


def test_every_epoch_is_a_row_while_the_run_goes_on(tmp_path):
    seen = []

    def look(now):
        if now.payload:
            seen.append(len(_rows(tmp_path / "log")))

    trained = drain(_run(Log(tmp_path / "log")), look)
    assert seen == [1, 2, 3, 4, 5]
    rows = _rows(tmp_path / "log")
    assert [(r["stage"], int(r["epoch"])) for r in rows] == [
        (h["stage"], h["epoch"]) for h in trained.history
    ]
    assert [float(r["loss"]) for r in rows] == [h["loss"] for h in trained.history]
    assert rows[0]["loss/consistency"] == ""  # the baseline has no such loss
    assert float(rows[-1]["loss/consistency"]) >= 0
    assert {p.name for p in (tmp_path / "log").iterdir()} == {"history.csv"}


def test_a_loss_is_the_mean_over_the_steps_that_have_it(tmp_path):
    """Rehearsals of tile labels, more of them from epoch to epoch, have no loss of the slide."""
    cases, truths = cohort(8, n=12)
    wrong = np.roll(truths[cases[0].case], 5)  # labels that a model which stands still never follows
    cases[0] = dataclasses.replace(cases[0], tiles=(wrong,))
    recipe = dataclasses.replace(QUICK, lr=1e-7, schedule="constant")
    run = {"method": "mean", "config": {"hidden": 8, "dropout": 0.0}, "recipe": recipe, "tree": TREE}
    split = Split(tuple(c.case for c in cases))
    trained = drain(train_steps(cases, split, **run, device="cpu", log=Log(tmp_path)))
    p = [answers(trained.model, cases)[c.case].probabilities[-1] for c in cases]
    slide = -np.mean([np.log(a[TREE.leaves.index(c.target.slide)]) for a, c in zip(p, cases, strict=True)])
    for row in _rows(tmp_path):
        assert float(row["loss/slide"]) == pytest.approx(slide, abs=1e-3)
        assert float(row["loss"]) == pytest.approx(float(row["loss/slide"]) + float(row["loss/tiles"]))


def test_an_interrupted_run_tells_no_epoch_twice(tmp_path):
    steps = _run(Log(tmp_path), tmp_path / "run.pt")
    for now in steps:
        if now.stage == "training" and now.payload:
            break
    steps.close()
    assert len(_rows(tmp_path)) == 3
    trained = drain(_run(Log(tmp_path), tmp_path / "run.pt"))
    assert [float(r["loss"]) for r in _rows(tmp_path)] == [h["loss"] for h in trained.history]


def test_columns_are_those_of_any_row():
    assert table([{"a": 1}, {"a": 2, "b": 0.5}]) == "a,b\n1,\n2,0.5\n"
    assert table([]) == "\n"


def test_tensorboard_reads_every_figure_and_forgets_what_was_repeated(tmp_path):
    pytest.importorskip("tensorboardX")
    steps = _run(Log(tmp_path, tensorboard=True), tmp_path / "run.pt")
    for now in steps:
        if now.stage == "training" and now.payload:
            break
    steps.close()
    told, _ = _events(tmp_path)
    assert {step for tag, step in told if tag == "baseline/loss"} == {1, 2}
    assert {step for tag, step in told if tag == "training/loss"} == {3}
    assert "training/validation/fine/auc" in {tag for tag, _ in told}
    assert not {tag for tag, _ in told if tag.endswith("epoch")}
    drain(_run(Log(tmp_path, tensorboard=True), tmp_path / "run.pt"))
    told, restarts = _events(tmp_path)
    assert sorted(step for tag, step in told if tag == "training/loss") == [3, 4, 5]
    assert 4 in restarts


def test_without_the_package_one_sentence_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ModelError, match=r"pip install napari-mil\[tensorboard\].*history.csv is written"):
        Log(tmp_path, tensorboard=True)


def test_a_log_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ProjectError, match="cannot be made"):
        Log(tmp_path / "file" / "log")
    log = Log(tmp_path / "log")
    (tmp_path / "log").rmdir()
    with pytest.raises(ProjectError, match=r"The log .*history.csv cannot be written"):
        log.write([dataclasses.asdict(QUICK)])
