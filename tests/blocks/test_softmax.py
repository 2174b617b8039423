"""Softmax attention in pieces: the numbers and gradients of the whole."""

import pytest
import torch

from napari_mil.blocks import softmax


@pytest.fixture(autouse=True, params=[(2**21, 64), (40, 1)], ids=["whole", "pieces"])
def _sizes(request, monkeypatch):
    torch.manual_seed(0)
    numbers, queries = request.param
    monkeypatch.setattr(softmax, "NUMBERS", numbers)
    monkeypatch.setattr(softmax, "QUERIES", queries)


def given(queries, keys, dtype=torch.float64):
    """q, k and v of three heads, as tokens lie side by side."""
    sizes = (queries, 5), (keys, 5), (keys, 4)
    return [torch.randn(n, 3, d, dtype=dtype).transpose(0, 1).requires_grad_() for n, d in sizes]


def whole(q, k):
    return torch.softmax(q @ k.mT, -1)


@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (7, 30), (30, 7), (64, 65)])
def test_a_blend_is_the_sum_of_what_the_queries_see(queries, keys):
    q, k, _ = given(queries, keys)
    weights = torch.randn(3, queries, dtype=torch.float64, requires_grad=True)
    expected = (weights[:, None] @ whole(q, k))[:, 0]
    found = softmax.blend(weights, q, k)
    assert torch.allclose(found, expected, atol=1e-12)
    towards = torch.randn_like(found)
    ours, theirs = (torch.autograd.grad((o * towards).sum(), (weights, q, k)) for o in (found, expected))
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, atol=1e-12)


def test_the_gradient_of_a_blend_is_that_of_differences():
    q, k, _ = given(6, 5)
    weights = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(softmax.blend, (weights, q, k))


@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (7, 300), (300, 7)])
@pytest.mark.parametrize(("dtype", "near"), [(torch.float64, 1e-12), (torch.bfloat16, 0.03)])
def test_what_is_attended_is_the_formula(queries, keys, dtype, near):
    q, k, v = given(queries, keys)
    expected = whole(q, k) @ v
    halves = [x.detach().to(dtype).requires_grad_() for x in (q, k, v)]
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        found = softmax.attend(*halves)
    assert found.dtype == dtype
    assert (found.double() - expected).abs().max() <= near * expected.abs().max()
    towards = torch.randn_like(expected)
    ours = torch.autograd.grad((found * towards.to(dtype)).sum(), halves)
    theirs = torch.autograd.grad((expected * towards).sum(), (q, k, v))
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == dtype
        assert (a.double() - b).abs().max() <= near * max(1, b.abs().max())


def test_in_half_precision_a_blend_is_that_of_the_rounded_numbers():
    """Nothing more is rounded: neither scores nor the softmax."""
    q, k, _ = given(9, 200, torch.float32)
    weights = torch.randn(3, 9)
    halves = [(4 * x).detach().bfloat16().requires_grad_() for x in (q, k)]
    floats = [x.detach().float().requires_grad_() for x in halves]
    with torch.autocast("cpu", torch.bfloat16):
        found = softmax.blend(weights, *halves)
    expected = softmax.blend(weights, *floats)
    assert torch.equal(found, expected)
    towards = torch.randn_like(found)
    ours, theirs = (
        torch.autograd.grad((o * towards).sum(), x) for o, x in ((found, halves), (expected, floats))
    )
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a, b.bfloat16())
