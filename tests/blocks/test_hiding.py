"""Masks by a score: counts, votes of several heads, order, noise."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_mil.blocks import hiding

NONE = {"generator": None, "noise": None}


def scores(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).random(shape))


def test_heads_vote():
    score = torch.tensor([[9.0, 8, 1, 2, 3], [9.0, 1, 8, 2, 3], [1.0, 9, 2, 8, 3]])
    assert hiding.chosen(score, 2, largest=True, exact=False, fusion="vote").tolist() == [0, 1]
    assert hiding.chosen(score, 1, largest=False, exact=False, fusion="vote").tolist() == [0]


def test_heads_share_the_count_where_the_mean_is_asked():
    score = torch.tensor([[9.0, 8, 1, 2], [9.0, 1, 8, 2]])
    assert hiding.chosen(score, 2, largest=True, exact=False, fusion="mean").tolist() == [0]
    assert hiding.chosen(score, 4, largest=True, exact=False, fusion="mean").tolist() == [0, 1, 2]


@settings(max_examples=80, deadline=None)
@given(
    n=st.integers(1, 300),
    heads=st.integers(0, 4),
    ratio=st.floats(0, 1),
    share=st.floats(0.05, 1),
    exact=st.booleans(),
    seed=st.integers(0, 9),
)
def test_the_hidden_are_candidates_and_as_many_as_asked(n, heads, ratio, share, exact, seed):
    score = scores(heads, n, seed=seed) if heads else scores(n, seed=seed)
    draw = torch.Generator().manual_seed(seed)
    candidates, hidden = hiding.high(score, ratio, share, generator=draw, noise=None, exact=exact)
    assert len(set(hidden.tolist())) == len(hidden)
    assert set(hidden.tolist()) <= set(candidates.tolist()) <= set(range(n))
    if n > 1:
        assert ratio * n - 1e-6 <= len(hidden) <= ratio * n + 2
    low = hiding.low(score, ratio, exact=exact)
    left = hiding.remaining(n, [low, hidden], exact=exact)
    assert sorted({*left.tolist(), *low.tolist(), *hidden.tolist()}) == list(range(n))
    assert not set(left.tolist()) & {*low.tolist(), *hidden.tolist()}


def test_low_hides_the_other_end():
    score = scores(100)
    assert hiding.low(score, 0.2, exact=False).tolist() == torch.argsort(score)[:20].tolist()
    assert not len(hiding.low(score, 0.0, exact=False))


def test_noise_orders_the_random_mask():
    noise = torch.tensor([0.5, 0.1, 0.9, 0.3])
    found = hiding.at_random(4, 0.5, noise.device, generator=None, noise=noise, exact=True)
    assert found.tolist() == [1, 3]


@pytest.mark.parametrize(("hidden", "ascending"), [(200, True), (8000, False)])
def test_the_published_order_is_that_of_a_difference_of_sets(hidden, ascending):
    masked = torch.arange(0, 9000, 9000 // hidden)[:hidden]
    left = hiding.remaining(9000, [masked], exact=True)
    assert left.tolist() == list(set(range(9000)) - set(masked.tolist()))
    if ascending:
        assert left.tolist() == sorted(left.tolist())
    assert torch.equal(hiding.remaining(9000, [masked], exact=False), left.sort().values)
