"""Convolutions of tokens as they lie in memory: torch's own numbers, gradients included."""

import pytest
import torch
from torch.nn.functional import conv1d, conv2d

from napari_mil.blocks.depthwise import along, over

D = 6


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def drawn(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def same(ours, plain, given):
    """Whether two answers and their gradients agree."""
    torch.testing.assert_close(ours, plain)
    towards = torch.randn_like(plain)
    for mine, theirs in zip(*(torch.autograd.grad(a, given, towards) for a in (ours, plain)), strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("n", [1, 2, 33, 70])
@pytest.mark.parametrize("taps", [1, 3, 33])
def test_along_the_tokens(n, taps):
    x, kernel = drawn(n, D), drawn(D, taps)
    plain = conv1d(x.T[None], kernel[:, None], padding=taps // 2, groups=D)[0].T
    same(along(x, kernel), plain, (x, kernel))
    with torch.no_grad():
        torch.testing.assert_close(along(x, kernel), plain)


def convolved(image, kernel, bias):
    made = conv2d(
        image.permute(2, 0, 1), kernel[:, None], bias, padding=kernel.shape[1] // 2, groups=len(kernel)
    )
    return made.permute(1, 2, 0)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 8), (9, 5)])
@pytest.mark.parametrize("taps", [1, 3, 7])
def test_over_an_image(height, width, taps):
    image, kernel, bias = drawn(height, width, D), drawn(D, taps, taps), drawn(D)
    plain = convolved(image, kernel, bias)
    same(over(image, kernel, bias), plain, (image, kernel, bias))
    with torch.no_grad():
        torch.testing.assert_close(over(image, kernel, bias), plain)
        some = slice(2, 5)
        torch.testing.assert_close(over(image[..., some], kernel[some], bias[some]), plain[..., some])


@pytest.mark.parametrize("n", [2, 40, 401])
@pytest.mark.parametrize("learning", [True, False])
def test_autocast_changes_nothing_but_what_it_is_given(n, learning):
    x, kernel = torch.randn(n, 16), torch.randn(16, 33)
    image, taps, bias = torch.randn(5, n, 16), torch.randn(16, 7, 7), torch.randn(16)
    with torch.set_grad_enabled(learning):
        whole = along(x, kernel), over(image, taps, bias)
        with torch.autocast("cpu", torch.bfloat16):
            found = along(x, kernel), over(image, taps, bias)
            halves = along(x.bfloat16(), kernel), over(image.bfloat16(), taps, bias)
    for mine, half, theirs in zip(found, halves, whole, strict=True):
        assert torch.equal(mine, theirs)
        assert half.dtype == torch.bfloat16
        torch.testing.assert_close(half.float(), theirs, atol=0.3, rtol=0.05)
