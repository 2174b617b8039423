"""DSMIL's two streams (Li 2021): the tile that speaks most for a class, and all tiles by likeness to it.

Shape letters: N tiles, D feature width, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from napari_mil.blocks.pooling import Pooled, Pooler
from napari_mil.blocks.rows import Rows
from napari_mil.blocks.streaming import Values
from napari_mil.device import wide

#: of some tiles: c (n, C) their own logits, q (n, width) what they are compared by
Told = tuple[Tensor, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Streams:
    """What DSMIL makes of one bag.

    Attributes
    ----------
    scores : (N, C) c_i, the tiles' own logits
    attention : (N, C) A; each column sums to 1 over the tiles
    values : (n, D) V of some tiles after the other, together (N, D); kept, since B needs A, which needs the
        critical tiles of all, and to compute V again costs as much as to project again
    vectors : (C, D) B = Aᵀ V, the bag as each class sees it
    """

    scores: Tensor
    attention: Tensor
    values: tuple[Tensor, ...]
    vectors: Tensor

    @property
    def instance_max(self) -> Tensor:
        """(C,) per class the highest logit of any tile."""
        return self.scores.amax(0)


class CriticalAttention(nn.Module):
    """DSMIL's second stream (methods.md §1.6): column k of A says how like a tile is to the critical tile of
    class k, the one of the highest c_ik.
    """

    def __init__(self, features: int, width: int, classes: int) -> None:
        super().__init__()
        self.q = nn.Sequential(nn.Linear(features, width), nn.ReLU(), nn.Linear(width, width), nn.Tanh())
        # the published dropout of 0 in front keeps its place among the keys
        self.v = nn.Sequential(nn.Identity(), nn.Linear(features, features), nn.ReLU(inplace=True))
        self.fcc = nn.Conv1d(classes, classes, features)

    def part(self, h: Tensor, classify: nn.Linear) -> tuple[Tensor, Tensor, Tensor]:
        """What tiles h (n, D) say by themselves: c, in float32 or wider also under autocast, q, and V (n, D),
        what they give.
        """
        with torch.autocast(h.device.type, enabled=False):
            scores: Tensor = classify(wide(h))
        return scores, self.q(h), self.v(h)

    def forward(self, h: Tensor, classify: nn.Linear, tokens: Tensor | None = None) -> Streams:
        """The bag of tiles h (N, D), and of tokens (k, D)."""
        *told, values = self.part(h, classify)
        return self._bag([tuple(told)], Values((values,)), classify, tokens)

    def stream(self, rows: Rows, classify: nn.Linear, tokens: Tensor | None = None) -> Streams:
        """The same of rows that are not projected yet."""
        read = (*classify.parameters(), *self.q.parameters(), *self.v.parameters())
        return self._bag(*rows.summed(lambda h: self.part(h, classify), read), classify, tokens)

    def _bag(self, told: list[Told], values: Values, classify: nn.Linear, tokens: Tensor | None) -> Streams:
        """The bag of all that was told of tiles, and of tokens; the choice of the critical tiles gives no
        gradient.
        """
        more = () if tokens is None else self.part(tokens, classify)
        scores, queries = (torch.cat(each) for each in zip(*told, *([more[:2]] if more else []), strict=True))
        with torch.autocast(queries.device.type, enabled=False):
            queries = wide(queries)
            alike = queries @ queries[scores.argmax(0)].T
        attention = torch.softmax(alike / math.sqrt(queries.shape[1]), 0)
        if not more:
            return Streams(scores, attention, values.parts, values.sum(attention))
        tiles, others = torch.split(attention, [len(attention) - len(more[2]), len(more[2])])
        vectors = values.sum(tiles) + others.T.to(more[2].dtype) @ more[2]
        return Streams(scores, attention, (*values.parts, more[2]), vectors)

    def logits(self, seen: Streams) -> Tensor:
        """(C,) of the bag: every class reads the vectors of all."""
        answer: Tensor = self.fcc(seen.vectors[None])[0, :, 0]
        return answer

    def evidence(self, seen: Streams) -> Tensor:
        """(N, C) e_ij = Σ_k A_ik ⟨W_jk, V_i⟩; the sum over tiles plus the bias is the bag's logit.

        Class by class, so that no more than (N, C) is held beside the values.
        """
        parts = torch.zeros_like(seen.scores)
        for k, weight in enumerate(self.fcc.weight.unbind(1)):
            told = torch.cat([linear(values, weight) for values in seen.values])
            parts = parts + seen.attention[:, k, None] * told
        return parts


class DSMILPooler(Pooler):
    """DSMIL as an encoder of MHIM: two voices, the bag's and that of its highest tile. It has classifiers of
    its own, so the predictor that is handed in is not asked.
    """

    exceptions: ClassVar[Mapping[str, str]] = {
        "every parameter learns": "the DSMIL encoder has classifiers of its own; the predictor stands in the "
        "published files and is never asked (docs/methods.md, mhim on DSMIL)",
        "evidence": "half of the answer is a maximum over tiles, which is no sum; the evidence is the bag "
        "voice's alone (docs/methods.md, mhim on DSMIL)",
    }
    evidence_name: ClassVar[str] = "evidence/bag voice"

    def __init__(self, features: int, width: int, classes: int) -> None:
        super().__init__()
        self.i_classifier = nn.Sequential(nn.Linear(features, classes))
        self.b_classifier = CriticalAttention(features, width, classes)

    @property
    def _classify(self) -> nn.Linear:
        layer: nn.Linear = self.i_classifier[0]  # type: ignore[assignment]
        return layer

    def forward(self, h: Tensor, tokens: Tensor | None = None) -> Pooled:
        """Pool the tiles h (N, D), and tokens (k, D), into one vector per class."""
        return _pooled(self.b_classifier(h, self._classify, tokens))

    def stream(self, rows: Rows, tokens: Tensor | None = None) -> Pooled:
        """The same, a few rows at a time; of the projected tiles nothing is held but what is read of them."""
        return _pooled(self.b_classifier.stream(rows, self._classify, tokens))

    def survey(self, rows: Rows, predictor: nn.Linear, *, maps: bool = True) -> Pooled:  # noqa: ARG002
        """The same: what is told of a tile rests on its own logits."""
        return self.stream(rows)

    def logits(self, pooled: Pooled, predictor: nn.Linear) -> tuple[Tensor, ...]:  # noqa: ARG002
        """The bag's (C,) logits, and per class the highest of any tile."""
        return self.b_classifier.logits(pooled.seen), pooled.seen.instance_max

    def tiles(self, pooled: Pooled, predictor: nn.Linear) -> Tensor:  # noqa: ARG002
        """c_i, which knows nothing of the other tiles."""
        scores: Tensor = pooled.seen.scores
        return scores

    def evidence(self, pooled: Pooled, predictor: nn.Linear) -> Tensor:  # noqa: ARG002
        """What each tile adds to the bag's voice; a maximum, the other voice, is no sum."""
        return self.b_classifier.evidence(pooled.seen)

    def confidence(self, pooled: Pooled, predictor: nn.Linear, bias: Tensor | None) -> Tensor:  # noqa: ARG002
        """c_i, unweighted, always with the bias of its own classifier."""
        scores: Tensor = pooled.seen.scores
        return scores

    def salience(self, scores: Tensor) -> Tensor:
        """The highest logit of the tile, no softmax."""
        return scores.amax(-1)

    def looks(self, pooled: Pooled) -> Tensor:
        """The highest attention that any class has for the tile."""
        return pooled.attention.amax(-1)


def _pooled(seen: Streams) -> Pooled:
    return Pooled(seen.vectors, seen.attention, seen)
