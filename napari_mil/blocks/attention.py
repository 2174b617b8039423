"""Attention over the tiles of a bag, plain and gated (Ilse 2018).

Shape letters: N tiles, D feature width, K heads.
"""

from __future__ import annotations

from torch import Tensor, nn

from napari_mil.blocks.basics import ACTIVATIONS, Dropout


class AttentionScores(nn.Module):
    """e = w2 · act(W1 h) without biases: features (N, D) → scores (N, 1) (Ilse 2018, as MHIM uses it)."""

    def __init__(self, features: int, width: int, act: str) -> None:
        super().__init__()
        self.attention = nn.Sequential(
            nn.Linear(features, width, bias=False), ACTIVATIONS[act](), nn.Linear(width, 1, bias=False)
        )

    def forward(self, h: Tensor) -> Tensor:
        """(N, 1) scores before the softmax over tiles."""
        scores: Tensor = self.attention(h)
        return scores


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
        scores: Tensor = self.attention_c(self.attention_a(h) * self.attention_b(h))
        return scores
