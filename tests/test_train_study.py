"""Folds, seeds and grids: nothing is decided on test cases, and a killed study goes on."""

import csv
import dataclasses
import io
import json

import numpy as np
import pytest
from planted import FLAT, TREE, cohort

from napari_mil import methods
from napari_mil.card import Recipe
from napari_mil.errors import BagError, LabelError, ModelError
from napari_mil.evaluate import Split, evaluate, split_by_case
from napari_mil.steps import drain
from napari_mil.train import (
    Training,
    combinations,
    config_for,
    parts_of,
    published_grid,
    recipe_for,
    recording,
    search_steps,
    study_steps,
)
from napari_mil.train.search import with_settings
from napari_mil.train.study import Run, Study

pytestmark = pytest.mark.slow

SMALL = config_for("abmil", {"hidden": 16, "attention_width": 8})
QUICK = Recipe(epochs=2, min_epochs=1, lr=2e-3)
GRID = {"lr": [1e-7, 1e-2], "attention_width": [4, 8]}


@pytest.fixture(scope="module")
def planted():
    cases, _ = cohort(24, tree=FLAT, n=16, share=0.3, signal=5.0)
    return cases, split_by_case({c.case: c.target.slide for c in cases}, test=0.25, validation=0.3)


def _study(planted, folder, *, folds=2, seeds=(0, 1), recipe=QUICK, **more):
    cases, _ = planted
    parts = parts_of({c.case: c.target.slide for c in cases}, folds=folds, seeds=seeds, validation=0.3)
    run = {"method": "abmil", "config": SMALL, "recipe": recipe, "tree": FLAT, "device": "cpu"}
    return study_steps(cases, parts, folder=folder, **run, **more)


def _search(planted, folder, *, split=None, grid=GRID, recipe=QUICK):
    cases, own = planted
    run = {"method": "abmil", "config": SMALL, "recipe": recipe, "tree": FLAT, "device": "cpu"}
    return search_steps(cases, split or own, grid=grid, folder=folder, **run)


def test_every_case_is_tested_once_per_seed_and_the_table_is_that_of_the_runs(planted, tmp_path):
    cases, _ = planted
    told = []
    study = drain(_study(planted, tmp_path / "s"), told.append)
    assert [(r.seed, r.fold) for r in study.runs] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    for seed in (0, 1):
        tested = [case for run in study.runs if run.seed == seed for case in run.answers]
        assert sorted(tested) == sorted(c.case for c in cases)
    table = study.table(resamples=50)
    values = [run.metrics["fine/auc"][0] for run in study.runs]
    assert table["fine/auc"].mean == pytest.approx(np.mean(values))
    assert table["fine/auc"].sd == pytest.approx(np.std(values, ddof=1))
    value, low, high = table["fine/auc"].pooled
    assert low <= value <= high
    assert "fine/auc" in study.in_words()
    assert "4 runs, 2 seeds × 2 folds" in study.in_words()
    rows = list(csv.DictReader(io.StringIO((tmp_path / "s" / "table.csv").read_text())))
    assert float(rows[0]["mean"]) == table[rows[0]["figure"]].mean
    assert {p.stage for p in told} == {"runs"}
    assert told[-1].done == told[-1].total == 4
    assert any(p.payload and "loss" in p.payload for p in told)
    assert (tmp_path / "s" / "seed1-fold0" / "history.csv").exists()
    assert not list((tmp_path / "s").rglob("*.ckpt"))


def test_a_table_has_no_mean_of_p_values():
    figures = {"survival/c_index": (0.6, 0.5, 0.7), "survival/logrank_p": (0.04, 0.04, 0.04)}
    one = Run(0, 0, {}, figures, {}, None, 1, 2, 0.1)
    study = Study("abmil", (one, dataclasses.replace(one, fold=1)), {}, None)
    assert list(study.table()) == ["survival/c_index"]
    assert study.in_words().startswith("abmil: 2 runs, 1 seed × 2 folds")
    assert "logrank" not in study.to_csv()


def test_a_study_that_was_stopped_goes_on_and_does_nothing_twice(planted, tmp_path, monkeypatch):
    whole = drain(_study(planted, tmp_path / "a"))
    steps = _study(planted, tmp_path / "b")
    for now in steps:
        if now.done == 2 and now.payload:  # in the middle of the third run
            break
    steps.close()
    assert len(list((tmp_path / "b").glob("*.json"))) == 2
    trained = []
    inner = Training.steps
    monkeypatch.setattr(Training, "steps", lambda self: trained.append(self.recipe.seed) or inner(self))
    resumed = drain(_study(planted, tmp_path / "b"))
    assert trained == [1, 1]
    plain = [dataclasses.replace(run, seconds=0) for run in whole.runs]
    assert repr(plain) == repr([dataclasses.replace(run, seconds=0) for run in resumed.runs])
    drain(_study(planted, tmp_path / "b"))
    assert trained == [1, 1]


def test_a_run_of_another_study_is_refused(planted, tmp_path):
    drain(_study(planted, tmp_path, seeds=(0,)))
    with pytest.raises(ModelError, match=r"seed0-fold0.json belongs to another study"):
        drain(_study(planted, tmp_path, seeds=(0,), recipe=dataclasses.replace(QUICK, lr=1e-4)))


def test_models_are_handed_over_before_their_run_counts(planted, tmp_path):
    kept = []

    def keep(part, trained, config, recipe):
        assert not (tmp_path / f"{part.name}.json").exists()
        kept.append((part.seed, part.fold, recipe.seed, config["hidden"], trained.model.training))

    drain(_study(planted, tmp_path, keep=keep))
    assert kept == [(0, 0, 0, 16, False), (0, 1, 0, 16, False), (1, 0, 1, 16, False), (1, 1, 1, 16, False)]


def test_a_pooled_figure_resamples_cases_with_all_their_answers(planted, tmp_path):
    """Repeating a seed's answers narrows no interval."""
    study = drain(_study(planted, tmp_path, seeds=(0,)))
    twice = dataclasses.replace(study, runs=study.runs * 2)
    one, two = (s.table(resamples=200)["fine/auc"].pooled for s in (study, twice))
    assert one == pytest.approx(two)


def test_the_search_chooses_by_validation_and_never_looks_at_test_cases(planted, tmp_path, monkeypatch):
    cases, split = planted
    seen = []
    inner = Training.__init__

    def watch(self, cases, split, **options):
        seen.append(split)
        inner(self, cases, split, **options)

    monkeypatch.setattr(Training, "__init__", watch)
    found = drain(_search(planted, tmp_path / "s"))
    assert all(not part.test for part in seen)
    assert [dict(t.settings) for t in found.tried] == combinations("abmil", GRID)
    best = max(t.score for t in found.tried)
    first = next(t for t in found.tried if t.score == best)
    assert found.settings == first.settings
    held = [c for c in cases if c.case in split.test]
    assert found.trained.metrics["fine/auc"] == evaluate(found.trained.model, held)["fine/auc"]
    assert found.trained.score == best
    assert found.trained.model.attention[0].out_features == found.settings["attention_width"]


def test_a_search_that_was_stopped_goes_on_and_chooses_the_same(planted, tmp_path, monkeypatch):
    whole = drain(_search(planted, tmp_path / "a"))
    steps = _search(planted, tmp_path / "b")
    for now in steps:
        if now.done == 2 and now.payload:
            break
    steps.close()
    assert len(json.loads((tmp_path / "b" / "search.json").read_text())["tried"]) == 2
    resumed = drain(_search(planted, tmp_path / "b"))
    assert (resumed.settings, resumed.tried) == (whole.settings, whole.tried)
    assert repr(resumed.trained.metrics) == repr(whole.trained.metrics)
    assert len(list((tmp_path / "b").rglob("*.ckpt"))) == 1
    next((tmp_path / "b").rglob("*.ckpt")).unlink()  # the chosen one is trained again when it is gone
    again = drain(_search(planted, tmp_path / "b"))
    assert repr(again.trained.metrics) == repr(whole.trained.metrics)
    with pytest.raises(ModelError, match="belongs to another search"):
        drain(_search(planted, tmp_path / "b", grid={"lr": [1e-3]}))


def test_a_test_case_to_be_recorded_does_not_stop_a_search(planted, tmp_path):
    cases, split = planted
    names = (split.test[0], split.train[0])
    recipe = dataclasses.replace(QUICK, record=names, stage1_epochs=0)
    config = config_for("mhim", {"hidden": 16, "attention_width": 8, "heads": 2})
    run = {"method": "mhim", "config": config, "recipe": recipe, "tree": FLAT, "device": "cpu"}
    found = drain(search_steps(cases, split, grid={"lr": [1e-3]}, folder=tmp_path / "s", **run))
    slides = {bag.slide_id for c in cases if c.case == split.train[0] for bag in c.bags}
    assert set(recording.load(found.trained.recorded)) == slides  # nobody asks about test cases before
    lost = dataclasses.replace(recipe, record=("lost",))
    with pytest.raises(BagError, match="'lost' is to be recorded"):
        drain(
            search_steps(cases, split, grid={"lr": [1e-3]}, folder=tmp_path / "l", **run | {"recipe": lost})
        )


def test_a_search_needs_validation_cases(planted, tmp_path):
    _, split = planted
    with pytest.raises(LabelError, match="chooses by validation cases"):
        drain(_search(planted, tmp_path, split=Split(split.train, (), split.test)))


def test_a_study_with_a_grid_searches_in_every_fold(planted, tmp_path):
    study = drain(_study(planted, tmp_path, seeds=(0,), grid={"lr": [1e-7, 1e-2]}))
    assert all(run.settings["lr"] in (1e-7, 1e-2) for run in study.runs)
    assert "seed 0, fold 1: chose lr" in study.in_words()
    assert not list(tmp_path.rglob("*.ckpt"))


def test_an_option_that_has_no_effect_beside_the_others_is_refused():
    words = r"mhim: low_mask_ratio has no effect with version 2; leave it out, or give version 1\."
    with pytest.raises(ModelError, match=words):
        config_for("mhim", {"low_mask_ratio": 0.2})
    assert config_for("mhim", {"low_mask_ratio": 0.2, "version": 1})["low_mask_ratio"] == 0.2
    assert config_for("mhim", {"low_mask_ratio": 0.0})["version"] == 2  # what it is anyway
    assert config_for("mhim", {"low_mask_ratio": 0.1}, preset="v1-tcga-attn")["low_mask_ratio"] == 0.1
    with pytest.raises(ModelError, match="keep_ratio has no effect with version 1"):
        config_for("mhim", {"keep_ratio": 0.5}, preset="v1-tcga-attn")
    with pytest.raises(
        ModelError, match=r"da_act has no effect with encoder dsmil; .* give encoder attn or gated"
    ):
        config_for("mhim", {"da_act": "tanh", "encoder": "dsmil"})
    assert methods.create("mhim", {"low_mask_ratio": 0.2}, in_features=4, tree=TREE)  # kept models open
    assert len(combinations("mhim", {"random_mask_ratio": [0.1, 0.2]})) == 2


def test_a_search_over_what_has_no_effect_is_refused(planted, tmp_path):
    cases, split = planted
    about = {"method": "mhim", "recipe": QUICK, "tree": TREE, "device": "cpu"}
    config, grid = config_for("mhim", {"version": 1}), {"mask_ratio": [0.1], "keep_ratio": [0.8, 0.9]}
    with pytest.raises(ModelError, match="keep_ratio has no effect with version 1"):
        drain(search_steps(cases, split, config=config, grid=grid, folder=tmp_path / "s", **about))
    assert not list(tmp_path.rglob("*.ckpt"))


def test_grids_are_checked_before_anything_is_trained():
    assert len(combinations("mhim", published_grid("mhim"))) == 36
    with pytest.raises(ModelError, match="abmil has no published grid"):
        published_grid("abmil")
    with pytest.raises(ModelError, match="no option 'nonsense'"):
        combinations("mhim", {"nonsense": [1]})
    with pytest.raises(
        ModelError,
        match=r"A search of mhim has no option 'mask_ration' .*it knows version.*epochs",
    ):
        combinations("mhim", {"mask_ration": [1]})
    with pytest.raises(ModelError, match="mask_ratio is 2"):
        combinations("mhim", {"mask_ratio": [0.1, 2]})
    with pytest.raises(ModelError, match="at least one value"):
        combinations("mhim", {"mask_ratio": []})
    with pytest.raises(LabelError, match="A study of 1 fold tests nothing"):
        parts_of({"a": 1}, folds=1, seeds=(0,))


def test_settings_go_to_the_method_or_to_the_recipe():
    config, recipe = with_settings("mhim", {"heads": 2}, Recipe(seed=3), {"mask_ratio": 0.05, "lr": 1e-3})
    assert (config["heads"], config["mask_ratio"]) == (2, 0.05)
    assert (recipe.lr, recipe.seed) == (1e-3, 3)


def test_presets_are_published_settings_by_name():
    assert set(methods.presets("mhim")) >= {"v2-command", "v1-c16-attn"}
    recipe = recipe_for("mhim", {"epochs": 3}, preset="v2-command")
    assert (recipe.epochs, recipe.patience, recipe.min_epochs, recipe.stopping) == (3, 20, 100, "official")
    times = recipe_for("mhim", preset="v2-survival")
    assert (times.patience, times.min_epochs, times.select_by) == (15, 30, "official")
    assert config_for("mhim", preset="v2-survival") == config_for("mhim", preset="v2-command")
    config = config_for("mhim", {"mask_ratio": 0.01}, preset="v2-command")
    assert config["init_student"] == "none" != config_for("mhim")["init_student"]  # ours starts from stage 1
    assert (config["compat"], config["mask_ratio"], config["keep_ratio"]) == ("official", 0.01, 0.8)
    published = recipe_for("hmil", preset="official")
    assert (published.batch_bags, published.schedule, published.weight_decay) == (64, "plateau", 0.0)
    with pytest.raises(ModelError, match=r"mhim has no preset 'v3'; its presets are v2-command"):
        methods.preset("mhim", "v3")
    with pytest.raises(ModelError, match="its presets are none"):
        recipe_for("abmil", preset="x")
    assert recipe_for("hmil").batch_bags == 1
    methods.create("hmil", config_for("hmil", preset="paper"), in_features=4, tree=TREE)
