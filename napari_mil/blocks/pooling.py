"""How projected tiles become one answer: the poolers that MHIM trains behind its masks.

Shape letters: N tiles, D feature width, C classes, H heads. A pooler does not own the bag's classifier, which
the published networks keep beside it as `predictor`; it is handed in.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from napari_mil.blocks.attention import AttentionScores, GatedScores
from napari_mil.blocks.rows import Rows
from napari_mil.device import wide


def together(h: Tensor, tokens: Tensor | None) -> Tensor:
    """Tiles (N, D) and tokens (k, D) as one (N + k, D)."""
    return h if tokens is None else torch.cat([h, tokens])


@dataclass(frozen=True, slots=True, eq=False)
class Pooled:
    """What a pooler made of one bag.

    Attributes
    ----------
    vector : (D,) the bag, or (C, D) one vector per class
    attention : (N, 1) or class-wise (N, C); each column sums to 1 over the tiles
    seen : whatever the pooler's other answers need
    """

    vector: Tensor
    attention: Tensor
    seen: Any = None


class Pooler(nn.Module, ABC):
    """Projected tiles h (N, D) → Pooled, and what can be said of it with a classifier (D → C)."""

    #: whether `tiles` scores each tile by itself, so that a survey of some rows tells their scores
    alone = True
    #: whether the order of the tiles matters
    ordered = False
    #: what a method on this pooler cannot have, see MILModel
    exceptions: ClassVar[Mapping[str, str]] = {}
    #: what a reader must know of the maps, see MILModel
    notes: ClassVar[Mapping[str, str]] = {}
    #: what its evidence is called among the maps: of the answer, or of a part of it
    evidence_name: ClassVar[str] = "evidence"

    @abstractmethod
    def forward(self, h: Tensor, tokens: Tensor | None = None) -> Pooled:
        """Pool the tiles h (N, D), and tokens (k, D) after them where there are some."""

    def learn(self, h: Tensor, tokens: Tensor | None = None) -> Pooled:
        """Pool for a loss: the same vector, but what no loss reads may be left out."""
        pooled: Pooled = self(h, tokens)
        return pooled

    def stream(self, rows: Rows, tokens: Tensor | None = None) -> Pooled:
        """The same for rows that are not projected yet."""
        return self.learn(rows.all(), tokens)

    @abstractmethod
    def survey(self, rows: Rows, predictor: nn.Linear, *, maps: bool = True) -> Pooled:
        """Pool rows that are not projected yet, to tell of each of them as well; without `maps` what only
        `maps` and `columns` say may be left out. Scores of tiles are never in bfloat16, which does not tell
        them apart.
        """

    def logits(self, pooled: Pooled, predictor: nn.Linear) -> tuple[Tensor, ...]:
        """The bag's (C,) logits, one tensor per voice; the answer is their mean."""
        return (predictor(pooled.vector),)

    @abstractmethod
    def tiles(self, pooled: Pooled, predictor: nn.Linear) -> Tensor:
        """(N, C) t_i: class scores of every tile; this and what follows after a `survey`."""

    def evidence(self, pooled: Pooled, predictor: nn.Linear) -> Tensor | None:
        """(N, C) what each tile adds to the logits that `evidence_name` says; None where they are no sum over
        tiles.
        """

    @abstractmethod
    def confidence(self, pooled: Pooled, predictor: nn.Linear, bias: Tensor | None) -> Tensor:
        """(N, C) class scores of the attention-weighted tiles (methods.md §3.3), before the softmax."""

    def salience(self, scores: Tensor) -> Tensor:
        """(N,) how sure a tile is of its class, from its `confidence` (N, C)."""
        return torch.softmax(scores, -1).amax(-1)

    def looks(self, pooled: Pooled) -> Tensor:
        """(N,) attention as the published code ranks tiles by it, or (H, N) one row per head."""
        return pooled.attention[:, 0]

    def maps(self, pooled: Pooled) -> dict[str, Tensor]:  # noqa: ARG002
        """Further (N,) maps for the screen."""
        return {}

    def columns(self, pooled: Pooled) -> dict[str, Tensor]:  # noqa: ARG002
        """Further (N,) columns that only `explain` gives."""
        return {}


class AttentionPooler(Pooler):
    """z = Σ a_i h_i with plain or gated attention, both without biases (Ilse 2018, as MHIM uses it)."""

    def __init__(self, features: int, width: int, act: str, *, gated: bool) -> None:
        super().__init__()
        self.attention = (
            GatedScores(features, width, 1, act, bias=False)
            if gated
            else AttentionScores(features, width, act)
        )

    def forward(self, h: Tensor, tokens: Tensor | None = None) -> Pooled:
        """Pool the tiles h (N, D) and tokens (k, D), which are never copied into one."""
        return _one([part(x, self.attention) for x in ([h] if tokens is None else [h, tokens])])

    def stream(self, rows: Rows, tokens: Tensor | None = None) -> Pooled:
        """The same without ever holding what the rows are projected to."""
        parts = rows.each(lambda h: part(h, self.attention), tuple(self.attention.parameters()))
        return _one(parts if tokens is None else [*parts, part(tokens, self.attention)])

    def survey(self, rows: Rows, predictor: nn.Linear, *, maps: bool = True) -> Pooled:  # noqa: ARG002
        """The same; `seen` is W h (N, C), which is all that is asked of the tiles afterwards."""

        def head(h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            with torch.autocast(h.device.type, enabled=False):
                told = linear(wide(h), predictor.weight)
            return *part(h, self.attention), told

        parts = rows.each(head, (*self.attention.parameters(), *predictor.parameters()))
        return replace(_one(parts), seen=torch.cat([told for *_, told in parts]))

    def tiles(self, pooled: Pooled, predictor: nn.Linear) -> Tensor:
        """The answer for a bag of this tile alone."""
        scores: Tensor = pooled.seen + predictor.bias
        return scores

    def evidence(self, pooled: Pooled, predictor: nn.Linear) -> Tensor:  # noqa: ARG002
        """a_i · W h_i; the sum over tiles plus the bias is the logit."""
        shares: Tensor = pooled.attention * pooled.seen
        return shares

    def confidence(self, pooled: Pooled, predictor: nn.Linear, bias: Tensor | None) -> Tensor:
        """W (a_i h_i), with the bias where asked."""
        scores = self.evidence(pooled, predictor)
        return scores if bias is None else scores + bias


def _one(parts: Sequence[tuple[Tensor, ...]]) -> Pooled:
    pooled = whole(parts)
    return replace(pooled, vector=pooled.vector[0])


def part(h: Tensor, attention: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """(n, K) scores of some tiles (n, D), and (K, D) what they are as a bag of their own."""
    e = attention(h)
    return e, torch.softmax(e, 0).to(h.dtype).T @ h


def whole(parts: Sequence[tuple[Tensor, ...]]) -> Pooled:
    """The bag of all parts, each of which begins as `part` says: weighed by what its tiles are of all. One
    vector for each of the K columns of scores.
    """
    attention = torch.softmax(torch.cat([e for e, *_ in parts]), 0)
    shares = torch.split(attention, [len(e) for e, *_ in parts])
    vectors = [share.sum(0)[:, None] * z for share, (_, z, *_) in zip(shares, parts, strict=True)]
    return Pooled(torch.stack(vectors).sum(0), attention)
