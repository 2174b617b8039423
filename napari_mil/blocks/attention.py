"""Attention over the tiles of a bag, plain and gated (Ilse 2018).

Shape letters: N tiles, D feature width, K heads.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

from napari_mil.blocks.basics import ACTIVATIONS, Dropout, masked
from napari_mil.device import wide


def _told_apart(last: nn.Module, hidden: Tensor) -> Tensor:
    """The scores of the last layer, in float32 or wider: what a softmax over many tiles compares is not told
    apart in bfloat16.
    """
    with torch.autocast(hidden.device.type, enabled=False):
        scores: Tensor = last(wide(hidden))
    return scores


class AttentionScores(nn.Module):
    """e = w2 · act(W1 h) without biases: features (N, D) → scores (N, 1) (Ilse 2018, as MHIM uses it)."""

    def __init__(self, features: int, width: int, act: str) -> None:
        super().__init__()
        self.attention = nn.Sequential(
            nn.Linear(features, width, bias=False), ACTIVATIONS[act](), nn.Linear(width, 1, bias=False)
        )

    def forward(self, h: Tensor) -> Tensor:
        """(N, 1) scores before the softmax over tiles."""
        return _told_apart(self.attention[2], self.attention[:2](h))


class GatedScores(nn.Module):
    """e = W_c (act(W_a h) ⊙ sigmoid(W_b h)): features (N, D) → scores (N, K) (Ilse 2018, gated)."""

    def __init__(
        self, features: int, width: int, heads: int, act: str, *, bias: bool, dropout: float = 0.0
    ) -> None:
        super().__init__()
        drop = [Dropout(dropout)] if dropout else []
        self.attention_a = nn.Sequential(nn.Linear(features, width, bias=bias), ACTIVATIONS[act](), *drop)
        self.attention_b = nn.Sequential(nn.Linear(features, width, bias=bias), nn.Sigmoid(), *drop)
        self.attention_c = nn.Linear(width, heads, bias=bias)

    def forward(self, h: Tensor) -> Tensor:
        """(N, K) scores before the softmax over tiles."""
        return self.gated(self.attention_a[0](h), self.attention_b[0](h))

    def gated(self, a: Tensor, b: Tensor) -> Tensor:
        """The same of W_a h and W_b h, (N, width) each."""
        return gated(a, b, self.attention_a, self.attention_b, self.attention_c)


def gated(a: Tensor, b: Tensor, one: nn.Sequential, other: nn.Sequential, last: nn.Linear) -> Tensor:
    """(N, K) scores of two branches, a layer, an activation and perhaps dropout each, of which the layers
    have said a and b, (N, width). What is dropped and multiplied is made anew on the way back.
    """
    given: list[Any] = []
    for branch, x in ((one, a), (other, b)):
        act, *drops = list[Any](branch)[1:]
        said = act(x)
        given += [said, drops[0].draw(said) if drops else None, 1 / (1 - drops[0].p) if drops else 1.0]
    scores: Tensor = _Gated.apply(*given, last.weight, last.bias)  # type: ignore[no-untyped-call]
    return scores


class _Gated(torch.autograd.Function):
    """W (what is kept of a ⊙ what is kept of b) + bias, as `_told_apart` has it."""

    @staticmethod
    def forward(ctx: Any, *given: Any) -> Tensor:
        ctx.save_for_backward(*(x for x in given if not isinstance(x, float)))
        ctx.scales = given[2], given[5]
        left, right = _left(*given[:3]), _left(*given[3:6])
        with torch.autocast(left.device.type, enabled=False):
            return linear(wide(left * right), *given[6:])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (asked,), (scale_a, scale_b) = gradients, ctx.scales
        a, kept_a, b, kept_b, weight, bias = ctx.saved_tensors
        left, right = _left(a, kept_a, scale_a), _left(b, kept_b, scale_b)
        of_weight = asked.T @ wide(left * right)
        back = (asked @ weight).to(left.dtype)
        of_a, of_b = _left(back * right, kept_a, scale_a), _left(back * left, kept_b, scale_b)
        return of_a, None, None, of_b, None, None, of_weight, None if bias is None else asked.sum(0)


def _left(x: Tensor, kept: Tensor | None, scale: float) -> Tensor:
    return x if kept is None else masked(x, kept, scale)
