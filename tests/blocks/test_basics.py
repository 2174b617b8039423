"""Small parts do what their formulas say."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from napari_mil.blocks import Dropout


@settings(deadline=None, max_examples=40)
@given(
    shape=st.lists(st.integers(0, 9), min_size=1, max_size=3),
    p=st.sampled_from([0.1, 0.25, 0.5, 0.9]),
    seed=st.integers(0, 2**31),
)
def test_dropout_keeps_or_scales_and_so_does_its_gradient(shape, p, seed):
    drop, x = Dropout(p).train(), torch.rand(shape).add_(1).requires_grad_()
    torch.manual_seed(seed)
    y = drop(x)
    y.sum().backward()
    kept = y != 0
    torch.testing.assert_close(y, torch.where(kept, x / (1 - p), 0.0))
    torch.testing.assert_close(x.grad, kept / (1 - p))
    torch.manual_seed(seed)
    assert torch.equal(drop(x), y)
    assert torch.equal(drop.eval()(x), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("p", [0.1, 0.25, 0.9])
def test_dropout_drops_the_share_that_is_asked_for(p, dtype):
    torch.manual_seed(0)
    n = 1_000_000
    y = Dropout(p).train()(torch.ones(n // 1000, 1000, dtype=dtype))
    assert y.dtype == dtype
    dropped = (y == 0).double()
    spread = (p * (1 - p)) ** 0.5
    assert dropped.mean().item() == pytest.approx(p, abs=5 * spread / n**0.5)
    # no column, and no number beside another, knows more than chance
    assert (dropped.mean(0) - p).abs().max().item() < 6 * spread / 1000**0.5
    pairs = (dropped[:, :-1] * dropped[:, 1:]).mean().item()
    assert pairs == pytest.approx(p * p, abs=6 * p / n**0.5)


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_dropout_at_its_ends_is_that_of_torch(p):
    x = torch.ones(3, 4)
    assert torch.equal(Dropout(p).train()(x), nn.Dropout(p).train()(x))
