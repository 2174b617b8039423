"""Which cases are learned from, and how they are split; small studies, and slides that are gone."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from quickstudy import LABELS, QUICK, add, made_up, study, tiny

from napari_mil.bag import Bag
from napari_mil.errors import LabelError, ModelError, SlideError
from napari_mil.evaluate import folds_by_case, split_by_case
from napari_mil.grid import TileGrid
from napari_mil.steps import ASIDE, drain
from napari_mil.train.cohort import prepare
from napari_mil.workflow import (
    cross_validate_steps,
    evaluate_steps,
    retrain_here_steps,
    train_model_steps,
)
from napari_mil.workflow.cases import (
    answer_case_steps,
    cases_steps,
    known_cases,
    split_words,
    told_split,
)
from napari_mil.workflow.learn import planned_split


def trained(project, **about):
    return drain(train_model_steps(project, "mean", recipe=QUICK, **about))


@pytest.mark.parametrize("cases", [3, 4])
def test_a_small_study_is_trained_and_says_what_its_figures_are_of(tmp_path, cases):
    with study(tmp_path, cases) as project:
        card = trained(project)
        assert [len(card.slides[part]) for part in ("train", "validation", "test")] == [cases - 1, 1, 0]
        assert (
            card.note == "no case was left to report on: the figures are of the 1 case that chose the epoch"
        )
        child = drain(retrain_here_steps(project, card.name, recipe={"epochs": 1, "min_epochs": 1})).card
        assert child.slides["validation"] == card.slides["validation"]
        assert child.note == card.note


def test_slides_whose_pixel_size_nobody_knows_are_not_mixed_with_those_of_which_it_is_known(tmp_path):
    """The first slide's size was taken for that of all, and the model then refused all others."""
    with study(tmp_path, 0) as project:
        for n in range(9):
            unknown = n in (0, 4)
            path = tiny(tmp_path / "s" / f"s{n}.tif", n, None if unknown else (0.5, 0.5))
            slide = project.add(path, case=f"c{n}", label=LABELS[n % 2])
            bag = made_up(slide.fingerprint, n)
            if unknown:
                bag = replace(bag, grid=replace(bag.grid, slide_mpp=None, mpp=None))
            project.store.save_bag(bag)
        told = []
        said = (
            "s0, s4 are set aside: tiles of 256 px, nobody knows of how many µm, where a model is to read "
            "tiles of 256 px at 0.5 µm/px; `napari-mil mpp` says how many."
        )
        card = drain(train_model_steps(project, "mean", recipe=QUICK), told.append)
        assert [now.note for now in told if now.stage == ASIDE] == [said]
        assert (card.mpp, said in card.note, sum(map(len, card.slides.values()))) == (0.5, True, 7)
        assert project.analyse("s1", model=card.name).scope == "slide"
        with pytest.raises(ModelError, match=r"are of 256 px, nobody knows of how many µm; say how many"):
            project.analyse("s0", model=card.name)
        assert drain(evaluate_steps(project, card.name, split="all"))["cases"] == 7
        child = drain(retrain_here_steps(project, card.name, recipe={"epochs": 1, "min_epochs": 1})).card
        assert said in child.note
        project.add(tmp_path / "s" / "s0.tif", case="c1")  # a case is answered for by its other slides
        aside = []
        assert drain(answer_case_steps(project, "c1", model=card.name, aside=aside)).scope == "case"
        assert [words.split(":")[0] for words in aside] == ["s0 is set aside"]
        with pytest.raises(SlideError, match="has no slide that can be asked: s4 is set aside: mean-1 was"):
            drain(answer_case_steps(project, "c4", model=card.name))


@pytest.mark.parametrize(
    ("cases", "said"),
    [
        (1, "1 case with a label is too few to train on; label slides of at least 3 cases."),
        (2, "2 cases with a label are too few"),
    ],
)
def test_fewer_are_too_few(tmp_path, cases, said):
    with study(tmp_path, cases) as project, pytest.raises(LabelError, match=said):
        trained(project)


def test_the_split_of_a_manifest_is_kept_with_or_without_a_test_part(tmp_path):
    with study(tmp_path, 5) as project:
        add(project, 4, split="validation")
        cases = drain(cases_steps(project, "builtin"))
        split = told_split(project, cases)
        assert (split.train, split.validation, split.test) == (("c0", "c1", "c2", "c3"), ("c4",), ())
        assert trained(project).slides["validation"] == (project.slides[4].id,)
        for n in range(5):
            add(project, n, split="train")
        alone = told_split(project, cases)
        assert len(alone.train) == 5
        assert split_words(alone) == "no case was held out, so there are no figures"
        assert trained(project, name="alone").metrics == {}


def test_what_is_learned_is_dealt_evenly_though_follow_up_times_are_known_too(tmp_path):
    with study(tmp_path, 20, survival=(3.0, True)) as project:
        known = known_cases(project)
        labels = {c.case: c.target.slide for c in known}
        assert len(set(labels.values())) == 2
        assert planned_split(project, known, 0, survival=False) == split_by_case(labels, seed=0)
        events = dict.fromkeys(labels, 2)
        assert planned_split(project, known, 0, survival=True) == split_by_case(events, seed=0)
        found = drain(cross_validate_steps(project, "mean", folds=5, recipe=QUICK))
        folds = folds_by_case(labels, folds=5, seed=0)
        assert [set(run.answers) for run in found.runs] == [set(split.test) for split in folds]


def test_slides_of_one_case_in_different_splits_are_an_error(tmp_path):
    with study(tmp_path, 5) as project:
        add(project, 0, case="c", split="train")
        add(project, 1, case="c", split="")  # says nothing, so does not contradict
        add(project, 2, case="c", split="test")
        with pytest.raises(
            LabelError, match="case 'c' stand in different splits, s0 in train and s2 in test"
        ):
            trained(project)


def test_a_slide_that_is_gone_is_learned_from_by_its_features_or_set_aside(tmp_path):
    with study(tmp_path, 5) as project:
        gone = add(project, 5, bag=False)
        add(project, 6, case="c0", bag=False)  # a second slide of a case whose first has features
    for path in (tmp_path / "slides").iterdir():
        path.unlink()
    with study(tmp_path, 0) as project:
        seen = []
        card = drain(train_model_steps(project, "mean", recipe=QUICK), seen.append)
        learned = {s for part in card.slides.values() for s in part}
        assert learned == {r.id for r in project.slides[:5]}
        assert "s5 is set aside: There is no file" in card.note
        assert [p.note.split(":")[0] for p in seen if p.stage == ASIDE] == [
            f"s{n} is set aside" for n in (6, 5)
        ]
        assert gone not in learned
        assert drain(evaluate_steps(project, card.name, split="all"))


STATUS = Path("/proc/self/status")


def own_memory():
    """Bytes of this process that no file stands behind."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


@pytest.mark.slow
@pytest.mark.skipif(not STATUS.exists() or "RssAnon" not in STATUS.read_text(), reason="needs Linux")
def test_a_study_larger_than_memory_is_learned_from(tmp_path, monkeypatch):
    """Features stay on disk, those of a case of two slides too, and the system reads what is looked at."""
    monkeypatch.setattr("napari_mil.train.cohort.KEEP_BYTES", 0)
    with study(tmp_path, 12) as project:
        add(project, 3, case="c1", bag=False)
        small = made_up("", 0)
        grid = TileGrid.full((256 * 160, 256 * 160), (0.5, 0.5), tile_px=256, mpp=0.5)
        for n, record in enumerate(project.slides):
            features = np.random.default_rng(n).standard_normal((len(grid), small.width), np.float32)
            project.store.save_bag(Bag(record.id, grid, features.astype(np.float16), small.encoder))
        most = features.size  # half of one bag of the twelve
        del features
        before = own_memory()
        cases = drain(cases_steps(project, small.encoder))
        data = prepare(cases)
        assert own_memory() - before < most
        for case in cases:
            assert data[case.case].features.numpy().tobytes() == case.joined()[0].tobytes()
        assert [len(case.bags) for case in cases] == [1, 2, *[1] * 9]
