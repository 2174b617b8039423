"""The sets of benchmarks/quality.py are what they say, runs are kept, and differences are paired."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import measured
import numpy as np
import pytest
import quality
import runs
import sample_quality
import summary
from sets import Arm, hazard, hierarchy, photographs, planted

from napari_mil import methods
from napari_mil.evaluate import c_index
from napari_mil.train import recipe_for

DATA = os.environ.get("NAPARI_MIL_TEST_DATA")
real = pytest.mark.skipif(not DATA, reason="NAPARI_MIL_TEST_DATA is not set")


@pytest.mark.parametrize("name", planted.DIFFICULTIES)
def test_planted_bags_hold_the_asked_for_share_of_lesion_tiles(name):
    difficulty, rng = planted.DIFFICULTIES[name], np.random.default_rng(0)
    roles = [planted.tiles(rng, 0, difficulty, positive=True)[1] for _ in range(60)]
    wanted = max(1, round(difficulty.share * planted.TILES))
    assert {int((r > 0).sum()) for r in roles} == {wanted}
    easy = np.array([(r == 1).sum() for r in roles])
    assert abs((easy == 0).mean() - difficulty.only_hard) < 0.2
    assert set(easy) == {0, max(1, round(difficulty.easy * wanted))}
    assert not planted.tiles(rng, 0, difficulty, positive=False)[1].any()


def test_planted_easy_tiles_lie_farther_off_than_hard_ones():
    difficulty, rng = planted.DIFFICULTIES["10 %"], np.random.default_rng(0)
    _, ways = planted.world(0)
    features, role = planted.tiles(rng, 0, replace(difficulty, only_hard=0), positive=True)
    easy, hard = features @ ways[0], features @ ways[1]
    assert easy[role == 1].mean() - easy[role != 1].mean() == pytest.approx(difficulty.far, abs=1)
    assert hard[role == 2].mean() - hard[role != 2].mean() == pytest.approx(difficulty.near, abs=1)


@pytest.mark.parametrize("seed", range(3))
def test_planted_hazard_is_censored_and_tells_the_time(seed):
    made = hazard.draw(seed)
    targets = [case.target for case in made.cases.values()]
    censored = np.mean([not t.event for t in targets])
    assert 0.3 <= censored <= 0.5
    assert {len(case.bags) for case in made.cases.values()} == {1, 2, 3}
    times, events = np.array([t.time for t in targets]), np.array([t.event for t in targets])
    assert c_index(times, events, np.array(list(made.risk.values())))[0] > 0.7


def test_photographs_repeat_their_fields_unevenly():
    made, often = photographs.draw(0), []
    for name, case in made.cases.items():
        once, features = made.once[name], case.bags[0].features
        assert len(once) == photographs.VIEWS
        apart = np.linalg.norm(features[:, None] - features[once][None], axis=2)
        nearest = np.bincount(apart.argmin(1), minlength=photographs.VIEWS)
        assert np.isclose(apart.min(1), 0).sum() == photographs.VIEWS
        assert apart.min(1).max() < 4
        assert nearest.max() >= 12
        often.extend(nearest)
    assert np.median(often) <= 2


def test_every_planted_set_has_disjoint_parts_with_all_labels():
    for module in (planted, photographs, hierarchy):
        known = next(iter(module.SETS.values()))
        made = known.draw(1, None)
        for fold in made.folds:
            assert len({*fold.train, *fold.validation, *fold.test}) == len(made.cases)
            for part in (fold.train, fold.validation, fold.test):
                assert len({made.cases[n].target.slide for n in part}) == len(module.TREE.leaves)
        again = known.draw(1, None)
        first = next(iter(made.cases))
        assert np.array_equal(made.cases[first].bags[0].features, again.cases[first].bags[0].features)


@real
@pytest.mark.parametrize(
    ("name", "cases", "positive"), [("musk1", 92, 47), ("elephant", 200, 100), ("lung", 120, 60)]
)
def test_real_sets_are_read_whole_and_every_case_is_left_out_once(name, cases, positive):
    made = measured.SETS[name].draw(0, Path(str(DATA)))
    assert len(made.cases) == cases
    assert sum(c.target.slide == 2 for c in made.cases.values()) == positive
    assert sorted(n for fold in made.folds for n in fold.test) == sorted(made.cases)
    assert all(len(fold.validation) >= 10 for fold in made.folds)


@real
def test_survival_of_lung_is_read_with_its_censoring():
    made = measured.SETS["survival (lung)"].draw(0, Path(str(DATA)))
    assert sum(bool(c.target.event) for c in made.cases.values()) == 43


def test_standardising_knows_the_training_part_alone():
    made = measured.SETS["photographs"].draw(0, None)
    cases = measured.standardised(made.cases, made.folds[0])
    tiles = np.concatenate([cases[n].bags[0].features for n in made.folds[0].train])
    assert np.allclose(tiles.mean(0), 0, atol=1e-3)
    assert np.allclose(tiles.std(0), 1, atol=1e-3)
    others = np.concatenate([cases[n].bags[0].features for n in made.folds[0].test])
    assert not np.allclose(others.mean(0), 0, atol=1e-3)


def told(values, shift=0.0):
    """Answers of ten cases, the second five positive."""
    return {str(i): {"y": int(i >= 5), "fine": [1 - p - shift, p + shift]} for i, p in enumerate(values)}


def test_differences_are_paired_by_seed_and_resampled_by_case():
    rng = np.random.default_rng(0)
    rows = []
    for seed in range(3):
        values = rng.random(10) / 2
        rows += [
            {"arm": "a", "seed": seed, "cases": told(values)},
            {"arm": "b", "seed": seed, "cases": told(values, shift=0.25)},
        ]
    found = summary.figured(rows, ("slide AUC", "accuracy"), planted.TREE, resamples=50)
    assert np.array_equal(found["a"]["slide AUC"].seeds, found["b"]["slide AUC"].seeds, equal_nan=True)
    assert found["b"]["slide AUC"].beside(found["a"]["slide AUC"]) == "+0.000 (+0.000 to +0.000), 0 of 3"
    right = [np.mean([(t["fine"][1] > 0.5) == t["y"] for t in r["cases"].values()]) for r in rows]
    assert np.allclose(found["a"]["accuracy"].seeds[:, 0], right[::2])
    assert str(found["a"]["accuracy"]) == f"{np.mean(right[::2]):.3f} ± {np.std(right[::2], ddof=1):.3f}"


def test_folds_of_a_seed_are_taken_together_only_where_scores_need_no_comparing():
    values = np.linspace(0, 0.45, 10)
    parts = [{k: v for k, v in told(values).items() if int(k) % 2 == odd} for odd in (0, 1)]
    parts[1] = {k: {**v, "fine": [v["fine"][0] + 0.4, v["fine"][1] - 0.4]} for k, v in parts[1].items()}
    rows = [{"arm": "a", "seed": 0, "fold": i, "cases": part} for i, part in enumerate(parts)]
    found = summary.figured(rows, ("slide AUC", "accuracy"), planted.TREE, resamples=20)
    assert found["a"]["slide AUC"].seeds[0, 0] == 1
    assert found["a"]["accuracy"].seeds[0, 0] == 0.5


def test_consistency_is_the_share_of_leaves_under_the_best_group():
    tree = hierarchy.TREE
    fine = np.eye(len(tree.leaves))
    group = [tree.class_index(leaf, 0) for leaf in tree.leaves]
    coarse = np.eye(3)[[*group[:-1], (group[-1] + 1) % 3]]
    answers = [{"fine": f, "coarse": c} for f, c in zip(fine, coarse, strict=True)]
    assert summary.consistency(answers, np.ones((1, 7)), tree)[0] == pytest.approx(6 / 7)


def test_a_line_cut_short_is_passed_over(tmp_path):
    file = tmp_path / "runs.jsonl"
    file.write_text(json.dumps({"a": 1}) + "\n" + json.dumps({"a": 2}) + '\n{"a": ', encoding="utf-8")
    assert runs.kept(file, lambda row: row["a"] > 1) == [{"a": 2}]


@pytest.fixture
def tiny(monkeypatch):
    """Photographs with few cases and two quick arms."""
    for name, value in {"TRAIN": 8, "VALIDATION": 4, "TEST": 8}.items():
        monkeypatch.setattr(photographs, name, value)
    quick = {"epochs": 1, "min_epochs": 1, "stage1_epochs": 1}
    arms = {"mean": Arm("mean", {"hidden": 8}, quick), "micromil": Arm("micromil", {"clusters": 2}, quick)}
    known = replace(
        photographs.SETS["photographs"], arms=arms, against={"micromil": ("mean",)}, edition="tiny"
    )
    monkeypatch.setitem(measured.SETS, "photographs", known)
    measured.drawn.cache_clear()
    yield
    measured.drawn.cache_clear()


@pytest.mark.slow
def test_the_command_writes_its_section_and_goes_on_where_it_stopped(tiny, tmp_path, capsys):
    docs = tmp_path / "benchmarks.md"
    docs.write_text("# Before\n\nWords.\n", encoding="utf-8")
    given = ["--sets", "photographs", "--jobs", "1", "--work", str(tmp_path), "--docs", str(docs)]
    assert quality.main([*given, "--seeds", "1"]) == 0
    assert "2 runs, 0 of them done" in capsys.readouterr().out
    assert quality.main([*given, "--seeds", "2"]) == 0
    assert "4 runs, 2 of them done" in capsys.readouterr().out
    assert quality.main([*given, "--first", "1", "--seeds", "1", "--no-docs"]) == 0
    told = capsys.readouterr().out
    assert "2 runs, 2 of them done" in told
    assert "; seeds 1–1," in told
    page = docs.read_text(encoding="utf-8")
    assert page.startswith("# Before\n\nWords.\n")
    assert page.count("<!-- quality-sets: begin -->") == page.count("### Redundant photographs") == 1
    assert "| micromil |" in page
    assert "− mean:" in page


def test_sets_whose_data_are_not_here_are_passed_over(tmp_path, capsys):
    assert quality.chosen(["musk1", "hazard"], tmp_path) == ["hazard"]
    assert "musk1: passed over" in capsys.readouterr().out
    assert quality.chosen(["planted"], None) == [f"planted {name}" for name in planted.DIFFICULTIES]


def test_the_sample_cohort_is_told_over_seeds_too():
    tree, rng, rows = sample_quality.TREE, np.random.default_rng(0), []
    for arm in ("abmil", "hmil"):
        for seed in range(2):
            cases = {
                str(i): {
                    "node": node,
                    "coarse": rng.dirichlet(np.ones(3)).tolist(),
                    "fine": rng.dirichlet(np.ones(7)).tolist(),
                }
                for i, node in enumerate(tree.leaves * 2)
            }
            rows.append({"arm": arm, "seed": seed, "fold": 0, "seconds": 1.0, "cases": cases})
    said = sample_quality.over_seeds(rows)
    assert "fine macro F1" in said
    assert "| hmil |" in said
    assert "− abmil:" in said


def run_of(arm, seed, scores):
    """A run of the sample cohort whose cases with a lesion have these scores of it."""
    tree = sample_quality.TREE
    cases = {}
    for i, (node, p) in enumerate(zip(tree.leaves, scores, strict=True)):
        fine = np.full(len(tree.leaves), p / 6)
        fine[tree.normal_classes()] = (1 - p) / tree.normal_classes().sum()
        cases[str(i)] = {"node": node, "coarse": [1 - p, p / 2, p / 2], "fine": fine.tolist()}
    return {"arm": arm, "seed": seed, "fold": 0, "seconds": 1.0, "cases": cases}


def test_bfloat16_is_told_beside_float32_and_a_lost_auc_is_said():
    normal = sample_quality.TREE.normal_classes()
    good, poor = np.where(normal, 0.1, 0.9), np.where(normal, 0.9, 0.1)
    same = [run_of(arm, s, good) for arm in ("abmil", "abmil, bf16") for s in range(2)]
    table, wrong = sample_quality.beside_bf16(same)
    assert "| abmil, bf16 | 1.000 ± 0.000 |" in table
    assert "− abmil: +0.000" in table
    assert wrong == []
    _, wrong = sample_quality.beside_bf16([*same[:2], *(run_of("abmil, bf16", s, poor) for s in range(2))])
    assert wrong == ["abmil, bf16: slide AUC differs by -1.000; 0.005 at most was asked for"]


@pytest.mark.slow
def test_a_sweep_runs_and_writes_what_it_compares_alone(tmp_path, monkeypatch):
    for name, value in {"TRAIN": 6, "VALIDATION": 2, "TEST": 8, "TILES": 12}.items():
        monkeypatch.setattr(planted, name, value)
    quick = {"epochs": 1, "min_epochs": 1, "stage1_epochs": 1}
    first = planted.SETS["planted 10 %"]
    arms = {name: replace(arm, config={"hidden": 8}, recipe=quick) for name, arm in first.arms.items()}
    tried = {"no recycling": replace(first.tried["no recycling"], config={"hidden": 8}, recipe=quick)}
    monkeypatch.setitem(
        measured.SETS, "planted 10 %", replace(first, arms=arms, tried=tried, edition="tiny sweep")
    )
    measured.drawn.cache_clear()
    docs = tmp_path / "benchmarks.md"
    given = ["--sets", "planted", "--sweep", "--seeds", "1", "--jobs", "1"]
    assert quality.main([*given, "--work", str(tmp_path), "--docs", str(docs)]) == 0
    measured.drawn.cache_clear()
    page = docs.read_text(encoding="utf-8")
    assert "<!-- quality-sets: begin -->" not in page
    assert "--sweep --seeds 1`" in page
    assert "| no recycling |" in page
    assert "### Planted lesion tiles, 2 %" not in page
    assert {row["arm"] for row in runs.kept(tmp_path / "sets.jsonl", lambda _: True)} == {
        "pure (attn)",
        "mhim (attn)",
        "mhim (attn), init_student=none",
        "no recycling",
    }


@pytest.mark.parametrize("arm", list(sample_quality.ARMS))
def test_every_arm_of_the_sample_cohort_is_a_method_with_its_recipe(arm):
    method, config, recipe = sample_quality.ARMS[arm]
    model = methods.create(method, config, in_features=8, tree=sample_quality.TREE)
    assert recipe_for(method, recipe).epochs >= 1
    assert model.name == method
    told = [sample_quality.settings(arm, {}, 120, cohort) for cohort in (0, 3)]
    assert told[0] != told[1]  # runs of one cohort never count for another
