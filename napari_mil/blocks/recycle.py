"""MHIM's global recycle network: what was masked at random still speaks, as a few tokens."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from napari_mil.blocks.basics import Dropout


class CrossAttention(nn.Module):
    """Multi-head attention from k queries to n keys: (k, D), (n, D) → (k, D). No residual."""

    def __init__(self, features: int, heads: int, head_width: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        inner = heads * head_width
        self.to_q = nn.Linear(features, inner, bias=False)
        self.to_kv = nn.Linear(features, 2 * inner, bias=False)
        self.attend = Dropout(dropout)
        self.to_out = nn.Sequential(nn.Linear(inner, features), Dropout(dropout))

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        """(k, D) one mixture of the keys' values per query.

        q (W_k y)ᵀ = (q W_k) yᵀ and w (W_v y) = (w y) W_v: a few queries are brought to the n keys, which
        then need no projection.
        """
        weights = self.attend(self._weights(queries, keys))
        read = (weights @ keys).unflatten(0, (self.heads, -1)) @ self._projections(keys)[1].mT
        mixed: Tensor = self.to_out(read.transpose(0, 1).flatten(1))
        return mixed

    def weights(self, queries: Tensor, keys: Tensor) -> Tensor:
        """(k, H, n) how much each query takes of each key, per head; each row sums to 1."""
        return self._weights(queries, keys).view(self.heads, -1, len(keys)).transpose(0, 1)

    def _weights(self, queries: Tensor, keys: Tensor) -> Tensor:
        """(H · k, n) the same, head after head."""
        q = self.to_q(queries).unflatten(1, (self.heads, -1)).transpose(0, 1)
        asked = (q @ self._projections(keys)[0]).flatten(0, 1)
        return torch.softmax(asked @ keys.T * q.shape[-1] ** -0.5, -1)

    def _projections(self, keys: Tensor) -> Tensor:
        """(2, H, head width, D) W_k and W_v."""
        return self.to_kv.weight.view(2, self.heads, -1, keys.shape[1])


class GlobalRecycle(nn.Module):
    """MHIM's global recycle network: the tiles that were masked at random, as k tokens.

    Its queries are no trained parameter; they follow their own answers: g ← μ g + (1 − μ) t.
    """

    #: names of what moves while a loss is computed, and not by its gradient
    moves = ("global_q_mm",)

    def __init__(
        self, features: int, tokens: int, *, heads: int, head_width: int, momentum: float, exact: bool
    ) -> None:
        super().__init__()
        self.momentum = momentum
        self.exact = exact
        spread = math.sqrt(6 / (3 * 16 * 16 + features))
        start = torch.empty(1, tokens, features).uniform_(-spread, spread)
        self.global_q_mm = nn.Parameter(start, requires_grad=False)
        self.norm = nn.LayerNorm(features)
        self.attn = CrossAttention(features, heads, head_width, dropout=0.1)

    def forward(self, recycled: Tensor, *, follow: bool) -> Tensor:
        """(n, D) → (k, D); with `follow` the queries move towards the answer.

        The published code moves the queries in place before the backward pass, which then differentiates
        the norm at the new queries (`exact` keeps that); otherwise a copy is used and the gradient is right.
        """
        queries = self.global_q_mm if self.exact else self.global_q_mm.clone()
        tokens: Tensor = self.attn(self.norm(queries[0]), self.norm(recycled))
        if follow:
            self.global_q_mm.data.mul_(self.momentum).add_(tokens.detach()[None], alpha=1 - self.momentum)
        return tokens

    def attention(self, recycled: Tensor) -> Tensor:
        """(n, D) → (k, n) how strongly each tile feeds each token, mean over the heads; rows sum to 1."""
        return self.attn.weights(self.norm(self.global_q_mm[0]), self.norm(recycled)).mean(1)
