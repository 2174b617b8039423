"""Bags on their way: in order, ahead of time, with their errors, and the same training whatever the way."""

from __future__ import annotations

import dataclasses
import threading

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from planted import TREE, cohort

from napari_mil.card import Recipe
from napari_mil.evaluate import split_by_case
from napari_mil.steps import drain
from napari_mil.train import cohort as cohorts
from napari_mil.train import fit, train_steps
from napari_mil.train.cohort import Cohort, prepare
from napari_mil.train.feeding import Ahead, send

RECIPE = Recipe(epochs=1, min_epochs=1, lr=2e-3)


@given(st.lists(st.integers(0, 3), max_size=12), st.booleans(), st.data())
def test_what_is_wanted_is_what_comes_in_whatever_order(order, early, data):
    feed = Ahead(lambda key: ("made of", key), order, early=early)
    wanted = data.draw(st.one_of(st.just(order), st.lists(st.integers(0, 5), max_size=12)))
    assert [feed.get(key) for key in wanted] == [("made of", key) for key in wanted]


def test_the_next_is_fetched_while_one_is_used():
    fetched, here = [], threading.Event()

    def fetch(key):
        fetched.append((key, threading.current_thread().name))
        if key == "b":
            here.set()
        return key

    feed = Ahead(fetch, "abc", early=True)
    assert feed.get("a") == "a"
    assert here.wait(10)  # nobody has asked for b yet
    assert feed.get("b") == "b"
    assert [name.split("_")[0] for _, name in fetched[:2]] == ["feeding", "feeding"]


def test_an_error_of_fetching_is_told_once_and_asking_again_fetches_again():
    failures = [MemoryError("short")]

    def fetch(key):
        if failures:
            raise failures.pop()
        return key

    feed = Ahead(fetch, "ab", early=True)
    with pytest.raises(MemoryError, match="short"):
        feed.get("a")
    assert [feed.get("a"), feed.get("b")] == ["a", "b"]


@pytest.mark.parametrize("batch_bags", [1, 4])
@pytest.mark.parametrize(
    ("method", "config"),
    [("abmil", {"hidden": 32}), ("hmil", {"hidden": 128})],  # one bag at a time, and a step's bags at once
    ids=["abmil", "hmil"],
)
def test_a_training_that_is_fed_ahead_ends_in_the_same_bits(monkeypatch, method, config, batch_bags):
    cases, _ = cohort(7, n=24)
    split = split_by_case({c.case: c.target.slide for c in cases}, test=0.2, validation=0.2)
    recipe = dataclasses.replace(RECIPE, batch_bags=batch_bags)

    def weights():
        run = train_steps(cases, split, method=method, config=config, recipe=recipe, tree=TREE, device="cpu")
        return drain(run).model.state_dict()

    plain, taken = weights(), []

    class Early(Ahead):
        def __init__(self, fetch, order=(), *, early=False):
            super().__init__(
                lambda key: taken.append(threading.current_thread().name) or fetch(key), order, early=True
            )

    monkeypatch.setattr(fit, "Ahead", Early)
    ahead = weights()
    assert all(torch.equal(plain[name], ahead[name]) for name in plain)
    assert sum(name.startswith("feeding") for name in taken) == len(taken) > 0


def test_large_cohorts_share_the_memory_of_their_bags(monkeypatch):
    cases, _ = cohort(4, n=24)
    split = split_by_case({c.case: c.target.slide for c in cases}, test=0.0, validation=0.25)
    monkeypatch.setattr(cohorts, "KEEP_BYTES", 0)
    data = prepare(cases)
    for case in cases:
        features = case.bags[0].features
        assert len(case.bags) > 1 or np.shares_memory(data[case.case].features.numpy(), features)
        assert not features.flags.writeable
    one = Cohort(data, split, TREE, torch.device("cpu"))
    features, cells, _ = one.example(one.fetch((cases[0].case, False)))
    assert features.dtype == torch.float32
    assert len(features) == len(cells)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_what_was_sent_to_a_gpu_arrives():
    values = torch.arange(1 << 20).half()
    for _ in range(8):
        (there,) = send((values,), torch.device("cuda")).arrived()
        assert torch.equal(there.cpu(), values)
