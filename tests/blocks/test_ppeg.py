"""The positional block: three convolutions as one, and what happens at the edges of its image."""

import pytest
import torch
from naive_attention import position

from napari_mil.blocks import PPEG, ppeg

SIZES = [1, 2, 5, 17, 35, 36, 37, 49, 60]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("least", [1, 7])
def test_it_is_the_sum_of_three_convolutions_and_the_token(n, least, monkeypatch):
    monkeypatch.setattr(ppeg, "CHANNELS", 5)
    block, x = PPEG(16).double(), torch.randn(n, 16, dtype=torch.float64)
    expected, before = position(block, x, least), x.clone()
    with torch.no_grad():
        assert torch.allclose(block(x, least=least), expected, atol=1e-12)
    assert torch.allclose(block(x, least=least), expected, atol=1e-12)
    assert expected.shape == (n, 16)
    assert torch.equal(x, before)


def test_gradients_are_those_of_the_three():
    block, x = PPEG(8).double(), torch.randn(20, 8, dtype=torch.float64, requires_grad=True)
    given = [x, *block.parameters()]
    ours = torch.autograd.grad(block(x).pow(2).sum(), given)
    naive = torch.autograd.grad(position(block, x).pow(2).sum(), given)
    assert all(torch.allclose(a, b, atol=1e-9) for a, b in zip(ours, naive, strict=True))


def test_the_side_of_the_image():
    for n in range(1, 3000):
        side = ppeg.side_of(n)
        assert (side - 1) ** 2 < n <= side**2


def test_keys_are_those_of_the_published_code():
    keys = {k: tuple(v.shape) for k, v in PPEG(512).state_dict().items()}
    assert keys == {
        "proj.weight": (512, 1, 7, 7),
        "proj.bias": (512,),
        "proj1.weight": (512, 1, 5, 5),
        "proj1.bias": (512,),
        "proj2.weight": (512, 1, 3, 3),
        "proj2.bias": (512,),
    }


def test_gradients_of_several_bags_add_up():
    torch.manual_seed(0)
    block, bags = PPEG(4), [torch.randn(20, 4) for _ in range(3)]

    def gradients(losses):
        block.zero_grad(set_to_none=True)
        for loss in losses:
            loss.backward()
        return [p.grad.clone() for p in block.parameters()]

    whole = gradients([sum(block(x).sum() for x in bags)])
    for one, all_ in zip(gradients([block(x).sum() for x in bags]), whole, strict=True):
        assert torch.allclose(one, all_, atol=1e-4)
