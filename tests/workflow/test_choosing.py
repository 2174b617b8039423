"""A new model: what there is to choose, why it cannot be trained, its training in a process of its own."""

import numpy as np
import pytest
from quickstudy import QUICK, add, study

from napari_mil import methods
from napari_mil.card import Recipe
from napari_mil.correction import Cells
from napari_mil.errors import LabelError, MILError, ModelError
from napari_mil.labeltree import LabelTree
from napari_mil.steps import drain
from napari_mil.workflow import (
    Project,
    cross_validate_steps,
    known_encoders,
    method_choices,
    start_options,
    train_apart_steps,
    train_model_steps,
    why_not_train,
)
from napari_mil.workflow.cases import count_cases


def test_every_method_is_a_choice_with_a_sentence_and_its_presets():
    choices = method_choices()
    assert tuple(c.name for c in choices) == methods.names()
    for choice in choices:
        assert choice.usable
        assert choice.about.endswith(".")
        assert "\n" not in choice.about
        assert dict(choice.presets) == {n: p.note for n, p in methods.presets(choice.name).items()}
    assert {c.name for c in choices if not c.flat} == {"hmil"}
    assert {c.name for c in choices if c.hides} == {"mhim"}


def test_a_method_that_does_not_load_says_why(monkeypatch):
    def refuse(_name):
        raise ModelError("It does not load.")

    monkeypatch.setattr(methods, "get", refuse)
    first = method_choices()[0]
    assert (first.about, first.usable) == ("It does not load.", False)


@pytest.mark.parametrize("method", methods.names())
def test_options_begin_with_the_defaults_or_with_a_preset(method):
    kind = methods.get(method)
    config, recipe = start_options(method)
    assert config == kind.Config()
    assert recipe == Recipe(**kind.recipe)
    for name, preset in kind.presets.items():
        config, recipe = start_options(method, name)
        assert {k: getattr(config, k) for k in preset.config} == dict(preset.config)
        assert {k: getattr(recipe, k) for k in preset.recipe} == dict(preset.recipe)


def test_the_sentences_are_those_of_the_command(tmp_path):
    with study(tmp_path, 2) as project:
        assert count_cases(project) == (2, 2)
        assert count_cases(project, survival=True) == (0, 2)
        for survival in (False, True):
            why_not = why_not_train(project, "mean", name="mean-1", survival=survival)
            with pytest.raises(LabelError) as told:
                drain(train_model_steps(project, "mean", survival=survival))
            assert why_not == str(told.value)
        add(project, 2, label=None)
        assert count_cases(project) == (2, 3)
        add(project, 2)
        assert why_not_train(project, "mean", name="mean-1") == ""


def test_one_label_alone_is_nothing_to_tell_apart(tmp_path):
    with study(tmp_path, 4, label="Malignant/IC") as project:
        sentence = "All 4 cases are labelled Malignant/IC, so there is nothing to tell apart"
        assert why_not_train(project, "mean", name="mean-1").startswith(sentence)
        for train in (train_model_steps(project, "mean"), cross_validate_steps(project, "mean", folds=2)):
            with pytest.raises(LabelError, match=sentence):
                drain(train)
        assert not project.cards
        tile = Cells(np.array([[0, 0]]), (256.0, 256.0))
        project.correct(project.slides[0].id, tile, "Benign/N")
        assert why_not_train(project, "mean", name="mean-1") == ""
        assert drain(train_model_steps(project, "mean", recipe=QUICK)).metrics
        project.ledger.undo(project.slides[0].id)
        assert why_not_train(project, "mean", name="mean-2").startswith(sentence)


@pytest.mark.parametrize(("seed", "bins"), [(0, 4), (1, 6)])
def test_too_few_events_are_told_before_the_training_as_it_tells_them(tmp_path, seed, bins):
    with study(tmp_path, 0) as project:
        for n in range(8):
            add(project, n, survival=(float(n + 1), n == 3))
        about = {"survival": True, "bins": bins, "recipe": {"seed": seed}}
        why_not = why_not_train(project, "mean", name="when", **about)
        assert f"not give {bins} intervals of time" in why_not
        with pytest.raises(LabelError) as told:
            drain(train_model_steps(project, "mean", **about))
        assert why_not == str(told.value)
        for n in range(6):
            add(project, n, survival=(float(n + 1), True))
        assert why_not_train(project, "mean", name="when", **about) == ""


def test_what_cannot_be_recorded_is_told_before_the_training_as_it_tells_it(tmp_path):
    with study(tmp_path, 5) as project:
        add(project, 5, label=None)
        pure = {"config": {"pure": True}}
        wrong = (("mean", "c0", {}), ("mhim", "c5", {}), ("mhim", "?", {}), ("mhim", "c0", pure))
        for method, name, more in wrong:
            about = {"recipe": {"record": [name]}, **more}
            why_not = why_not_train(project, method, name="m", **about)
            assert why_not
            with pytest.raises(MILError) as told:
                drain(train_model_steps(project, method, **about))
            assert why_not == str(told.value)
        for name in ("c0", "s1"):
            assert why_not_train(project, "mhim", name="m", recipe={"record": [name]}) == ""


def test_a_label_of_a_tile_makes_a_case_one_to_learn_from(tmp_path):
    from napari_mil.correction import Cells

    with study(tmp_path, 1, label=None) as project:
        assert count_cases(project) == (0, 1)
        project.correct("s0", Cells([[0, 0]], (256.0, 256.0)), "Malignant/IC")
        assert count_cases(project) == (1, 1)


def test_names_options_and_trees_that_do_not_fit_are_told(tmp_path):
    with study(tmp_path, 4) as project:
        card = drain(train_model_steps(project, "mean", recipe=QUICK))
        for taken in (card.name, card.id):
            assert "called" in why_not_train(project, "mean", name=taken)
        assert why_not_train(project, "mean", name="") == "The model has no name; give it one."
        wrong = {"compat": "official", "mask_ratio": 0.0}
        assert "mask_ratio" in why_not_train(project, "mhim", name="m", config=wrong)
        assert why_not_train(project, "mhim", name="m", survival=True).startswith("0 cases with a follow-up")
        assert "builtin" in known_encoders(project)
        assert "resnet18" not in known_encoders(project)


def test_a_flat_tree_is_told_to_a_method_of_two_levels(tmp_path):
    flat = LabelTree.from_paths(["tumour", "normal"])
    with Project(tmp_path / "study", tree=flat) as project:
        for n in range(3):
            add(project, n, label=("tumour", "normal")[n % 2], bag=False)
        assert "two" not in why_not_train(project, "abmil", name="a")
        assert why_not_train(project, "hmil", name="h").startswith("hmil learns a coarse and a fine level")


@pytest.mark.slow
def test_a_new_model_is_trained_in_a_child_process_as_asked(tmp_path):
    with study(tmp_path, 5) as project:
        about = {"config": {"hidden": 32, "act": "relu"}, "recipe": QUICK | {"lr": 1e-3}}
        card = drain(train_apart_steps(project, "mean", name="-first one", **about))
        assert [c.id for c in project.cards] == [card.id]
        assert (card.name, card.config["hidden"], card.config["act"]) == ("-first one", 32, "relu")
        assert (card.recipe.lr, card.recipe.epochs) == (1e-3, 2)
        with pytest.raises(MILError, match="mean has no preset 'nothing'"):
            drain(train_apart_steps(project, "mean", name="x", preset="nothing"))


@pytest.mark.slow
def test_follow_up_times_are_learned_in_a_child_process(tmp_path):
    with study(tmp_path, 0) as project:
        for n in range(8):
            add(project, n, survival=(float(n + 1), True))
        assert count_cases(project, survival=True) == (8, 8)
        asked = {"name": "when", "survival": True, "bins": 2, "unit": "months"}
        assert why_not_train(project, "mean", **asked) == ""
        assert "'moons' is no unit of time" in why_not_train(project, "mean", **(asked | {"unit": "moons"}))
        card = drain(train_apart_steps(project, "mean", recipe=QUICK, **asked))
        assert (len(card.tree.leaves), card.tree.unit) == (2, "months")
        assert all(name.endswith(" months") for name in card.tree.names[1:])


@pytest.mark.parametrize("before", ["features", "cases"])
def test_told_to_stop_before_the_training_there_is_no_model(tmp_path, before):
    with study(tmp_path, 4) as project:
        seen = []
        steps = train_model_steps(
            project, "mean", recipe=QUICK, stop=lambda: before in {now.stage for now in seen}
        )
        with pytest.raises(ModelError, match="stopped before its first epoch ended"):
            drain(steps, seen.append)
        assert seen[-1].stage == before
        assert project.cards == ()
