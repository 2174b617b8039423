"""The teacher that is judged beside its student, as published (methods.md §3.8)."""

import dataclasses

import numpy as np
import pytest
import torch
from planted import TREE, cohort

from napari_mil import methods
from napari_mil.card import Recipe
from napari_mil.evaluate import selection, slide_metrics, split_by_case
from napari_mil.infer import answer
from napari_mil.methods.mhim import MHIM
from napari_mil.steps import drain
from napari_mil.train import Training, train_steps
from napari_mil.train.beside import best_teacher

QUICK = Recipe(epochs=4, min_epochs=4, stage1_epochs=1, lr=2e-3, select_by="auc")
#: a teacher that moves, so that its epochs differ
MOVES = {"hidden": 32, "attention_width": 16, "heads": 2, "ema": 0.7, "compat": "official"}


@pytest.fixture(scope="module")
def planted():
    cases, _ = cohort(21, n=20)
    return cases, split_by_case({c.case: c.target.slide for c in cases}, test=0.25, validation=0.35)


def run(planted, config=MOVES, **more):
    cases, split = planted
    about = {"method": "mhim", "config": config, "recipe": QUICK, "tree": TREE, "device": "cpu"}
    return train_steps(cases, split, **about | more)


@pytest.mark.parametrize("encoder", ["attn", "dsmil", "selfattn"])
def test_the_teacher_answers_in_its_student_s_place(encoder):
    torch.manual_seed(0)
    model = methods.create("mhim", {**MOVES, "encoder": encoder}, in_features=5, tree=TREE)
    for weight in model.teacher.parameters():
        weight.data.normal_(std=0.3)
    taught, x = model.taught(), torch.rand(9, 5)
    own = methods.create("mhim", {**MOVES, "encoder": encoder, "teacher": False}, in_features=5, tree=TREE)
    own.student.load_state_dict(model.teacher.state_dict())
    with torch.no_grad():
        assert torch.equal(taught.eval()(x).logits[-1], own.eval()(x).logits[-1])
        assert not torch.equal(taught(x).logits[-1], model.eval()(x).logits[-1])
    assert taught.student is model.teacher  # it follows, and nothing is held twice
    assert model.has_teacher()
    assert not taught.has_teacher()


def test_only_a_teacher_as_published_is_judged():
    for config in ({"compat": "clean"}, {"compat": "official", "pure": True}):
        assert methods.create("mhim", config, in_features=5, tree=TREE).taught() is None


def test_every_epoch_tells_of_the_teacher_and_the_best_is_kept_and_tested(planted):
    cases, split = planted
    about = {"method": "mhim", "config": MOVES, "recipe": QUICK, "tree": TREE, "device": "cpu"}
    training = Training(cases, split, **about)
    looks = {}
    for now in training.steps():
        if now.payload is not None and now.stage == "training":
            taught = training.model.taught()
            said = [answer(taught, *_bag(cases, case)) for case in split.validation]
            targets = [c.target for name in split.validation for c in cases if c.case == name]
            found = selection(targets, said, TREE)
            told = {
                k.removeprefix("teacher/validation/"): v for k, v in now.payload.items() if "teacher" in k
            }
            assert told == found
            state = {k: v.clone() for k, v in training.model.teacher.state_dict().items()}
            looks[now.payload["epoch"]] = (found["fine/auc"], state)
    made = training.judged(training.trained())
    assert len(looks) == 4
    best = max(looks, key=lambda epoch: (looks[epoch][0], -epoch))
    assert (made.teacher["epoch"], made.teacher["score"]) == (best, looks[best][0])
    taught = best_teacher(made.model, made.teacher)
    for name, value in taught.student.state_dict().items():
        assert torch.equal(value, looks[best][1][name]), name
    said = [answer(taught, *_bag(cases, case)) for case in split.test]
    nodes = [c.target.slide for name in split.test for c in cases if c.case == name]
    figures = slide_metrics(split.test, nodes, [s.probabilities for s in said], TREE)
    assert {k: v for k, v in made.metrics.items() if k.startswith("teacher/")} == {
        f"teacher/{k}": v for k, v in figures.items()
    }
    assert not any(k.startswith("teacher") for row in made.history for k in row if row["stage"] == "baseline")


def _bag(cases, name):
    features, cells, _ = next(c for c in cases if c.case == name).joined()
    return np.asarray(features, np.float32), cells


def test_judging_it_changes_nothing_in_the_student(planted, monkeypatch):
    beside = drain(run(planted))
    monkeypatch.setattr(MHIM, "taught", lambda _self: None)
    alone = drain(run(planted))
    assert beside.teacher
    assert not alone.teacher
    for name, value in alone.model.state_dict().items():
        assert torch.equal(beside.model.state_dict()[name], value), name
    rest = [{k: v for k, v in row.items() if not k.startswith("teacher/")} for row in beside.history]
    assert rest == list(alone.history)


def test_a_run_that_is_gone_on_with_keeps_it(planted, tmp_path):
    recipe = dataclasses.replace(QUICK, stage1_epochs=0)
    whole = drain(run(planted, recipe=recipe))
    steps = run(planted, recipe=recipe, resume=tmp_path / "run.ckpt")
    for _ in range(3):
        next(p for p in steps if p.payload is not None)
    steps.close()
    again = drain(run(planted, recipe=recipe, resume=tmp_path / "run.ckpt"))
    assert again.teacher["epoch"] == whole.teacher["epoch"]
    assert again.metrics == whole.metrics
    assert all(torch.equal(again.teacher["weights"][k], v) for k, v in whole.teacher["weights"].items())
