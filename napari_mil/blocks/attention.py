"""Attention over the tiles of a bag, plain and gated (Ilse 2018).

Shape letters: N tiles, D feature width, K heads.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from napari_mil.blocks.basics import ACTIVATIONS, Dropout
from napari_mil.device import wide

#: tiles from which on it pays to make anew what follows from little
MANY = 1024


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


def gated(a: Tensor, b: Tensor, one: nn.Sequential, other: nn.Sequential, last: nn.Module) -> Tensor:
    """(N, K) scores of two branches, a layer, an activation and perhaps dropout each, of which the layers
    have said a and b, (N, width). Of many tiles what is dropped and multiplied is made anew on the way back.
    """
    branches: list[list[Any]] = [list(one)[1:], list(other)[1:]]
    said = [act(x) for (act, *_), x in zip(branches, (a, b), strict=True)]
    kept = [[(drop, drop.draw(x)) for drop in drops] for (_, *drops), x in zip(branches, said, strict=True)]

    def score(*said: Tensor) -> Tensor:
        left, right = (
            drops[0][0].keep(x, drops[0][1]) if drops else x for x, drops in zip(said, kept, strict=True)
        )
        return _told_apart(last, left * right)

    if not torch.is_grad_enabled() or len(a) < MANY:
        return score(*said)
    made: Tensor = checkpoint(score, *said, use_reentrant=False, preserve_rng_state=False)
    return made
