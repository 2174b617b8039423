"""Parts that several methods are built from. Shape letters: N tiles, D feature width, K heads or classes.

The names of the submodules are those of the published checkpoints, so that their keys load without renaming.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU, "tanh": nn.Tanh}


def xavier(module: nn.Module) -> None:
    """Xavier-normal weights and zero biases for Linear, ones and zeros for LayerNorm (MHIM's family)."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_normal_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.LayerNorm):
            nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)


def kaiming(module: nn.Module) -> None:
    """Kaiming-normal weights (fan in, gain √2) and zero biases for every Linear (HMIL)."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.kaiming_normal_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


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
        drop = [nn.Dropout(dropout)] if dropout else []
        self.attention_a = nn.Sequential(nn.Linear(features, width, bias=bias), ACTIVATIONS[act](), *drop)
        self.attention_b = nn.Sequential(nn.Linear(features, width, bias=bias), nn.Sigmoid(), *drop)
        self.attention_c = nn.Linear(width, heads, bias=bias)

    def forward(self, h: Tensor) -> Tensor:
        """(N, K) scores before the softmax over tiles."""
        scores: Tensor = self.attention_c(self.attention_a(h) * self.attention_b(h))
        return scores


class CrossAttention(nn.Module):
    """Multi-head attention from k queries to n keys: (k, D), (n, D) → (k, D). No residual."""

    def __init__(self, features: int, heads: int, head_width: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        inner = heads * head_width
        self.to_q = nn.Linear(features, inner, bias=False)
        self.to_kv = nn.Linear(features, 2 * inner, bias=False)
        self.attend = nn.Dropout(dropout)
        self.to_out = nn.Sequential(nn.Linear(inner, features), nn.Dropout(dropout))

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        """(k, D) one mixture of the keys' values per query."""
        q = self.to_q(queries).unflatten(1, (self.heads, -1)).transpose(0, 1)
        k, v = (x.unflatten(1, (self.heads, -1)).transpose(0, 1) for x in self.to_kv(keys).chunk(2, dim=1))
        weights = self.attend(torch.softmax(q @ k.transpose(1, 2) * q.shape[-1] ** -0.5, -1))
        mixed: Tensor = self.to_out((weights @ v).transpose(0, 1).flatten(1))
        return mixed


class GlobalRecycle(nn.Module):
    """MHIM's global recycle network: the tiles that were masked at random, as k tokens.

    Its queries are no trained parameter; they follow their own answers: g ← μ g + (1 − μ) t.
    """

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


def soft_cross_entropy(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """−Σ softmax(teacher / τ) · log softmax(student) over the last axis; the teacher gets no gradient."""
    target = torch.softmax(teacher.detach() / temperature, -1)
    return -(target * torch.log_softmax(student, -1)).sum(-1).mean()


def ceil_count(n: int, ratio: float, *, exact: bool) -> int:
    """ceil(n · ratio); `exact` takes the floating product as published (0.07 of 100 is 8), else 7."""
    return math.ceil(n * ratio - (0 if exact else 1e-9))


def floor_count(n: int, ratio: float, *, exact: bool) -> int:
    """floor(n · ratio), with the same choice."""
    return math.floor(n * ratio + (0 if exact else 1e-9))


def draw_uniform(n: int, device: torch.device, generator: torch.Generator | None) -> Tensor:
    """(n,) numbers of U(0, 1) on `device`, drawn where the generator lives."""
    where = generator.device if generator is not None else device
    return torch.rand(n, device=where, generator=generator).to(device)
