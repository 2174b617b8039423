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

from napari_mil.blocks.pooling import Pooled, Pooler, together


@dataclass(frozen=True, slots=True, eq=False)
class Streams:
    """What DSMIL makes of one bag.

    Attributes
    ----------
    scores : (N, C) c_i, the tiles' own logits
    attention : (N, C) A; each column sums to 1 over the tiles
    values : (N, D) V
    vectors : (C, D) B = Aᵀ V, the bag as each class sees it
    """

    scores: Tensor
    attention: Tensor
    values: Tensor
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

    def forward(self, h: Tensor, scores: Tensor) -> Streams:
        """Tiles h (N, D) and their logits c (N, C) → Streams; the choice of the critical tiles gives no
        gradient.
        """
        queries = self.q(h)
        critical = queries[scores.argmax(0)]
        attention = torch.softmax(queries @ critical.T / math.sqrt(queries.shape[1]), 0)
        values = self.v(h)
        return Streams(scores, attention, values, attention.T @ values)

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
            parts = parts + seen.attention[:, k, None] * linear(seen.values, weight)
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

    def forward(self, h: Tensor, tokens: Tensor | None = None) -> Pooled:
        """Pool the tiles h (N, D), and tokens (k, D), into one vector per class."""
        h = together(h, tokens)
        seen: Streams = self.b_classifier(h, self.i_classifier(h))
        return Pooled(seen.vectors, seen.attention, seen)

    def logits(self, pooled: Pooled, predictor: nn.Linear) -> tuple[Tensor, ...]:  # noqa: ARG002
        """The bag's (C,) logits, and per class the highest of any tile."""
        return self.b_classifier.logits(pooled.seen), pooled.seen.instance_max

    def tiles(self, h: Tensor, pooled: Pooled | None, predictor: nn.Linear) -> Tensor:  # noqa: ARG002
        """c_i, which knows nothing of the other tiles."""
        scores: Tensor = self.i_classifier(h) if pooled is None else pooled.seen.scores
        return scores

    def evidence(self, h: Tensor, pooled: Pooled, predictor: nn.Linear) -> Tensor:  # noqa: ARG002
        """What each tile adds to the bag's voice; a maximum, the other voice, is no sum."""
        return self.b_classifier.evidence(pooled.seen)

    def confidence(
        self,
        h: Tensor,  # noqa: ARG002
        pooled: Pooled,
        predictor: nn.Linear,  # noqa: ARG002
        bias: Tensor | None,  # noqa: ARG002
    ) -> Tensor:
        """c_i, unweighted, always with the bias of its own classifier."""
        scores: Tensor = pooled.seen.scores
        return scores

    def salience(self, scores: Tensor) -> Tensor:
        """The highest logit of the tile, no softmax."""
        return scores.amax(-1)

    def looks(self, pooled: Pooled) -> Tensor:
        """The highest attention that any class has for the tile."""
        return pooled.attention.amax(-1)
