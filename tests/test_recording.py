"""Recorded runs: what was hidden in every epoch, kept small, read back exactly."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import TREE, bag, cohort

from napari_mil.card import Recipe
from napari_mil.correction import Target
from napari_mil.errors import BagError, ModelError
from napari_mil.evaluate import Split, TrainingCase
from napari_mil.masks import simulate
from napari_mil.steps import drain
from napari_mil.train import Training, best_so_far, recording, train_steps

SMALL = {"hidden": 32, "attention_width": 16, "heads": 2, "mask_ratio": 0.2, "ema": 0.9}
QUICK = Recipe(epochs=4, min_epochs=4, stage1_epochs=1, lr=2e-3)


@pytest.fixture(scope="module")
def planted():
    cases, _ = cohort(12, n=30)
    one, two = (bag(TREE.node("IC"), seed=s, n=n)[0] for s, n in ((50, 20), (51, 33)))
    both = TrainingCase("both", (one, two), Target(TREE.node("IC")))
    names = tuple(c.case for c in cases)
    return [*cases, both], Split((*names[:8], "both"), names[8:10], names[10:])


def _steps(planted, record, method="mhim", config=SMALL, **more):
    cases, split = planted
    recipe = dataclasses.replace(QUICK, record=record, **more.pop("recipe", {}))
    run = {"method": method, "config": config, "recipe": recipe, "tree": TREE, "device": "cpu"}
    return train_steps(cases, split, **run, **more)


def test_every_epoch_of_the_chosen_slides_is_recorded(planted):
    cases, split = planted
    held = split.test[0]
    trained = drain(_steps(planted, (cases[0].case, cases[-1].bags[1].slide_id, held)))
    found = recording.load(trained.recorded)
    slides = {c.case: c.bags[0].slide_id for c in cases}
    assert set(found) == {slides[cases[0].case], cases[-1].bags[1].slide_id, slides[held]}
    learned, second, asked = (
        found[s] for s in (slides[cases[0].case], cases[-1].bags[1].slide_id, slides[held])
    )
    assert [r.simulated for r in (learned, second, asked)] == [False, False, True]
    for one, tiles in ((learned, 30), (second, 33), (asked, 30)):
        assert one.epochs.tolist() == [1, 2, 3, 4]
        assert one.roles.shape == one.scores.shape == (4, tiles)
        assert one.frequency.shape == (tiles,)
        assert one.stayed[0] == 1
    assert (learned.hidden.sum(1) == 6).all()  # 0.2 of 30
    assert set(np.unique(learned.roles)) == {0, 1, 2}
    top = np.sort(np.argsort(-learned.scores, 1)[:, :6], 1)
    assert (top == np.stack([np.flatnonzero(row) for row in learned.hidden])).mean() > 0.9


def test_a_slide_that_is_not_learned_from_is_asked_as_the_simulation_would(planted):
    cases, split = planted
    case = next(c for c in cases if c.case == split.validation[0])
    last = {"epochs": 1, "min_epochs": 1, "stage1_epochs": 0}
    trained = drain(_steps(planted, (case.case,), recipe=last))
    (one,) = recording.load(trained.recorded).values()
    expected = simulate(trained.model, case.bags[0])
    assert (one.hidden[0] == expected.hidden).all()
    np.testing.assert_allclose(one.scores[0], expected.score, atol=0.01 * expected.score.std() + 1e-7)


def test_recording_changes_nothing_in_the_run(planted):
    cases, split = planted
    plain = drain(_steps(planted, ()))
    told = drain(_steps(planted, (cases[0].case, split.test[0])))
    assert plain.recorded == b""
    assert repr(plain.history) == repr(told.history)  # some figures are undefined
    one, two = plain.model.state_dict(), told.model.state_dict()
    assert all(torch.equal(one[k], two[k]) for k in one)


def test_a_resumed_run_has_the_whole_record(planted, tmp_path):
    cases, split = planted
    record = (cases[0].case, split.test[0])
    whole = drain(_steps(planted, record))
    steps = _steps(planted, record, resume=tmp_path / "run.pt")
    for now in steps:
        if now.stage == "training" and now.payload and now.done == 2:
            break
    steps.close()
    half = recording.load(best_so_far(tmp_path / "run.pt").recorded)
    assert all(r.epochs.tolist() == [1, 2] for r in half.values())
    assert drain(_steps(planted, record, resume=tmp_path / "run.pt")).recorded == whole.recorded


@pytest.mark.parametrize("change", [{"compat": "official"}, {"version": 1, "random_mask_ratio": 0.3}])
def test_other_ways_to_hide_are_recorded_too(planted, change):
    cases, split = planted
    trained = drain(_steps(planted, (cases[0].case, split.test[0]), config={**SMALL, **change}))
    for one in recording.load(trained.recorded).values():
        assert one.hidden.any(1).all()
        if "version" in change:
            assert 4 in one.roles


def test_a_record_is_small(planted):
    cases, _ = planted
    big = dataclasses.replace(cases[0], bags=(bag(TREE.node("N"), seed=9, n=2000)[0],))
    split = Split((big.case, *(c.case for c in cases[1:4])))
    run = _steps(([big, *cases[1:4]], split), (big.case,))
    assert len(drain(run).recorded) < 4 * 5000 + 1000  # 4 epochs of 2000 tiles


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 9999), st.integers(1, 70), st.integers(1, 5))
def test_what_is_packed_is_read_back(seed, tiles, epochs):
    rng = np.random.default_rng(seed)
    roles = rng.integers(0, 5, (epochs, tiles)).astype(np.int8)
    packed = np.stack([recording._pack(r) for r in roles])
    assert packed.shape == (epochs, 3, -(-tiles // 8))
    np.testing.assert_array_equal(recording._unpack(packed, tiles), roles)


def test_scores_keep_their_order_though_they_hardly_differ(planted):
    cases, _ = planted
    run = Training(cases, Split((cases[0].case,)), method="mhim", config=SMALL, recipe=QUICK, tree=TREE)
    recorder = recording.Recorder((cases[0].case,), cases, run.model)
    score = 1 / 7 + torch.linspace(0, 1e-7, 30, dtype=torch.float64)
    part = run.model.hide(score)
    recorder.take(cases[0].case, score, part, 1, simulated=False)
    recorder.take(cases[0].case, torch.full((30,), 0.25), part, 2, simulated=False)
    state = recorder.state()
    (rows,) = state.values()
    assert (np.diff(rows["scores"][0].numpy()) > 0).all()
    (one,) = recording.load(recording.dump(state)).values()
    np.testing.assert_allclose(one.scores[1], 0.25)


def test_what_cannot_be_recorded_is_refused(planted):
    cases, _ = planted
    with pytest.raises(BagError, match="'lost' is to be recorded, but is no slide or case"):
        drain(_steps(planted, ("lost",)))
    with pytest.raises(ModelError, match="abmil hides no tiles"):
        drain(_steps(planted, (cases[0].case,), "abmil", {"hidden": 32}))
    with pytest.raises(ModelError, match="mhim hides no tiles"):
        drain(_steps(planted, (cases[0].case,), config={**SMALL, "pure": True}))
    with pytest.raises(ModelError, match="no recording of a training run"):
        recording.load(b"nothing")


def test_a_recipe_takes_one_name_or_several():
    assert Recipe(record="a").record == ("a",)
    assert Recipe(record=["a", "b"]).record == ("a", "b")
