"""What a run decides from epoch to epoch."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import FLAT, TREE

from napari_mil.card import Recipe
from napari_mil.labeltree import Survival
from napari_mil.train.rules import epoch_score, learning_rate, tired

OFFICIAL = Recipe(stopping="official", patience=3, min_epochs=4, epochs=200)


def test_the_cosine_is_the_published_one():
    recipe = Recipe(lr=2e-4, epochs=200)
    for e in (0, 1, 57, 199):
        expected = 1e-7 + 0.5 * (2e-4 - 1e-7) * (1 + math.cos(math.pi * e / 200))
        assert learning_rate(recipe, [1.0] * e) == pytest.approx(expected, rel=1e-12)
    assert learning_rate(dataclasses.replace(recipe, schedule="constant"), [1.0] * 50) == 2e-4


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 9999), st.integers(1, 60))
def test_the_plateau_is_that_of_torch(seed, n):
    losses = np.round(np.random.default_rng(seed).uniform(1, 2, n), 1).tolist()  # many ties
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 1e-4)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimiser, factor=0.1, patience=5, eps=0)
    recipe = Recipe(lr=1e-4, schedule="plateau")
    for k, loss in enumerate(losses):
        assert learning_rate(recipe, losses[:k]) == pytest.approx(optimiser.param_groups[0]["lr"])
        theirs.step(loss)


class Published:
    """The published rule as methods.md §3.8.6 tells it: a counter that grows below the best."""

    def __init__(self, patience, earliest):
        self.patience, self.earliest = patience, earliest
        self.counter, self.best, self.stopped = 0, None, False

    def __call__(self, index, score):
        if self.best is not None and score < self.best:
            self.counter += 1
            self.stopped = self.counter >= self.patience and index > self.earliest
        else:
            self.best, self.counter = score, 0
        return self.stopped


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=30), st.integers(1, 5), st.integers(0, 12))
def test_the_official_rule_stops_where_the_published_counter_does(scores, patience, earliest):
    recipe = Recipe(stopping="official", patience=patience, min_epochs=earliest, epochs=200)
    rule = Published(patience, earliest)
    for index, score in enumerate(scores):
        stopped = rule(index, score)
        assert tired(recipe, scores[: index + 1]) == stopped
        if stopped:
            break


def test_an_equal_epoch_starts_patience_anew_only_officially():
    scores = [0.5, 0.9, 0.8, 0.9, 0.8, 0.8]
    assert tired(dataclasses.replace(OFFICIAL, stopping="plain"), scores)  # best is epoch 2 of 6
    assert not tired(OFFICIAL, scores)
    assert tired(OFFICIAL, [*scores, 0.7])
    assert not tired(OFFICIAL, [])


def test_the_earliest_stop_counts_from_0_officially():
    falling = [1.0, 0.9, 0.8, 0.7, 0.6]  # index 4 is not above 4
    assert not tired(OFFICIAL, falling)
    assert tired(OFFICIAL, [*falling, 0.5])
    assert tired(dataclasses.replace(OFFICIAL, stopping="plain"), falling)


def test_what_chooses_an_epoch():
    found = {"fine/auc": 0.9, "fine/balanced_accuracy": 0.6, "score": 0.7}
    assert epoch_score(Recipe(), found, TREE) == 0.7
    assert epoch_score(Recipe(select_by="auc"), found, TREE) == 0.9
    assert epoch_score(Recipe(select_by="official"), found, TREE) == 0.6
    assert epoch_score(Recipe(select_by="official"), found, FLAT) == 0.9  # two classes
    undefined = {"fine/auc": math.nan, "score": 0.7}
    assert epoch_score(Recipe(select_by="auc"), undefined, TREE) == 0.7
    assert epoch_score(Recipe(select_by="auc"), {}, TREE) is None


def test_what_chooses_an_epoch_of_times():
    task = Survival.from_times([3, 9, 14, 30, 40], [True] * 5)
    found = {"c_index": 0.8, "loss": 2.0, "score": 0.7}
    assert epoch_score(Recipe(), found, task) == 0.7
    assert epoch_score(Recipe(select_by="official"), found, task) == 0.8
    assert epoch_score(Recipe(select_by="auc"), found, task) == 0.7  # times have none
    assert epoch_score(Recipe(select_by="official"), {"loss": 2.0, "score": -0.1}, task) == -0.1
