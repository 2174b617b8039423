"""Presets, studies, searches, logs and recordings on a small real study."""

import csv
import dataclasses

import numpy as np
import pytest

from napari_mil.errors import ModelError, ProjectError
from napari_mil.steps import drain
from napari_mil.workflow import (
    cross_validate_steps,
    find_card,
    find_record,
    has_recording,
    import_model,
    recordings,
    retrain_here_steps,
    search_model_steps,
    train_model_steps,
)
from napari_mil.workflow.runs import run_folder

pytestmark = pytest.mark.slow
QUICK = {"epochs": 2, "min_epochs": 1, "stage1_epochs": 1}
NAME = "case001a"


def test_a_preset_trains_as_published_and_the_card_says_so(study):
    card = drain(train_model_steps(study, "mhim", preset="v2-command", recipe=QUICK, name="published"))
    assert card.config["compat"] == "official"
    assert (card.recipe.stopping, card.recipe.lr, card.recipe.epochs) == ("official", 2e-4, 2)
    assert card.note == "preset v2-command"
    assert card.made_with["torch"]
    assert find_card(study, "published").reliability.keys() == card.reliability.keys()
    student, teacher = (
        {k.removeprefix(part) for k in card.metrics if k.startswith(part) and k.endswith("/auc")}
        for part in ("fine/", "teacher/fine/")
    )
    assert student == teacher == {"auc"}  # both are told of, as published
    file = study.store.folder / "models" / card.id / "best_teacher.safetensors"
    own = import_model(study, file, {"encoder": card.encoder, "act": "gelu", "da_act": "relu"}, name="taught")
    network, taught = study.model(card.id), study.model(own.id)
    assert not taught.has_teacher()
    assert taught.student.state_dict().keys() == network.teacher.state_dict().keys()


def test_a_training_can_be_followed_and_leaves_its_history(study):
    card = drain(train_model_steps(study, "abmil", recipe=QUICK))
    folder = run_folder(study, card.name)
    with (folder / "history.csv").open(newline="") as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2"]
    assert not list(folder.glob("*.ckpt"))


def test_a_killed_retraining_goes_on_and_other_labels_start_anew(study):
    whole = drain(retrain_here_steps(study, "mhim-1", recipe={"epochs": 3}, seed=3)).card.id
    folder = study.store.folder / "models" / whole
    import shutil

    shutil.rmtree(folder)
    steps = retrain_here_steps(study, "mhim-1", recipe={"epochs": 3}, seed=3)
    for now in steps:
        if now.stage == "training" and now.payload:
            break
    steps.close()
    assert len(list((study.path / "runs").rglob("*.ckpt"))) == 1
    for now in (steps := retrain_here_steps(study, "mhim-1", recipe={"epochs": 4}, seed=3)):
        if now.stage == "training" and now.payload:
            break
    steps.close()
    assert len(list((study.path / "runs").rglob("*.ckpt"))) == 2  # another recipe is another run
    assert drain(retrain_here_steps(study, "mhim-1", recipe={"epochs": 3}, seed=3)).card.id == whole
    assert not list((study.path / "runs").rglob("*.ckpt"))


def test_folds_report_every_case_and_keep_models_when_asked(study):
    made = drain(cross_validate_steps(study, "abmil", recipe=QUICK, folds=2, keep_models=True, name="cv"))
    assert sorted(case for run in made.runs for case in run.answers) == sorted({r.case for r in study.slides})
    names = [card.name for card in study.cards]
    assert {"cv-s0-f0", "cv-s0-f1"} <= set(names)
    card = find_card(study, "cv-s0-f1")
    assert set(card.slides["test"]) == {r.id for r in study.slides if r.case in made.runs[1].answers}
    assert (run_folder(study, "cv") / "table.csv").exists()
    before = {p: p.stat().st_mtime_ns for p in run_folder(study, "cv").glob("seed*.json")}
    drain(cross_validate_steps(study, "abmil", recipe=QUICK, folds=2, keep_models=True, name="cv"))
    assert before == {p: p.stat().st_mtime_ns for p in run_folder(study, "cv").glob("seed*.json")}


def test_a_study_without_seeds_takes_the_recipe_s(study):
    recipe = {"epochs": 1, "min_epochs": 1, "seed": 7}
    made = drain(cross_validate_steps(study, "mean", recipe=recipe, folds=2, name="seven"))
    assert [(run.seed, run.fold) for run in made.runs] == [(7, 0), (7, 1)]


def test_a_search_stores_the_chosen_model(study):
    card = drain(search_model_steps(study, "abmil", {"lr": [1e-7, 1e-3]}, recipe=QUICK, name="best"))
    assert card.recipe.lr in (1e-7, 1e-3)
    assert card.note == f"chosen of 2 combinations by validation cases: lr {card.recipe.lr}"
    assert find_card(study, "best").id == card.id
    assert not list(run_folder(study, "best").rglob("*.ckpt"))


def test_a_recorded_training_can_be_replayed(study):
    record = find_record(study, NAME)
    card = drain(train_model_steps(study, "mhim", recipe={**QUICK, "record": NAME}, name="told"))
    assert card.recipe.record == (record.id,)
    found = recordings(study, "told")[record.id]
    bag = study.bag(NAME)
    assert found.roles.shape == (2, len(bag))
    assert found.hidden.any()
    assert has_recording(study, card)
    with pytest.raises(ModelError, match="mhim-1 was not recorded"):
        recordings(study, "mhim-1")
    with pytest.raises(ProjectError, match="'lost' is no slide"):
        drain(train_model_steps(study, "mhim", recipe={**QUICK, "record": "lost"}))


def test_a_training_repeated_with_a_recording_puts_it_beside_the_same_weights(study):
    plain = drain(train_model_steps(study, "mhim", recipe=QUICK, name="one"))
    assert not has_recording(study, plain)
    told = drain(train_model_steps(study, "mhim", recipe={**QUICK, "record": NAME}, name="two"))
    assert told.id == plain.id
    assert np.array_equal(recordings(study, "one")[find_record(study, NAME).id].epochs, [1, 2])
    assert dataclasses.asdict(find_card(study, "one").recipe) == dataclasses.asdict(plain.recipe)
