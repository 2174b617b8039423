"""Attention over the tiles of a bag, plain and gated (Ilse 2018).

Shape letters: N tiles, D feature width, K heads.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from napari_mil.blocks.basics import ACTIVATIONS, Dropout
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
        return _told_apart(self.attention_c, self.attention_a(h) * self.attention_b(h))
