"""DSMIL stand-alone (Li et al. 2021), as the baseline of MHIM-MIL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from napari_mil.blocks import ACTIVATIONS, CriticalAttention, Dropout, Rows, Streams, xavier
from napari_mil.correction import Target
from napari_mil.labeltree import LabelTree
from napari_mil.mil import MILModel, Noise, Output, Study
from napari_mil.options import option


@dataclass(frozen=True, slots=True)
class DSMILConfig:
    """Options of DSMIL."""

    hidden: int = option(512, "width of the projected features", low=8, high=4096)
    attention_width: int = option(128, "width of the queries", low=1, high=4096)
    act: str = option("gelu", "activation after the projection", choices=("gelu", "relu"))
    dropout: float = option(0.25, "share of projected features dropped while training", low=0.0, high=0.9)
    bag_weight: float = option(0.5, "weight of the loss of the bag's answer", low=0.01, high=100.0)
    instance_weight: float = option(
        0.5,
        "weight of the loss of the highest tiles; with 0 the class of a tile is not learned",
        low=0.0,
        high=100.0,
    )


class DSMIL(MILModel):
    """Dual-stream MIL: the highest tile of a class decides what the class looks for. The bag alone answers;
    the highest tiles are trained beside it.
    """

    name: ClassVar[str] = "dsmil"
    paper: ClassVar[str] = (
        "Li, Li, Eliceiri: Dual-stream multiple instance learning network for whole slide image "
        "classification. CVPR 2021"
    )
    Config: ClassVar[type] = DSMILConfig

    def __init__(self, config: DSMILConfig, in_features: int, tree: LabelTree) -> None:
        super().__init__(config, in_features, tree)
        self.feature = nn.Sequential(
            nn.Linear(in_features, config.hidden), ACTIVATIONS[config.act](), Dropout(config.dropout)
        )
        self.i_classifier = nn.Linear(config.hidden, self.classes)
        self.b_classifier = CriticalAttention(config.hidden, config.attention_width, self.classes)
        xavier(self)

    def look(self, features: Tensor) -> Streams:
        """Both streams of a bag (N, D)."""
        return self.b_classifier.stream(Rows(features, None, *self.feature), self.i_classifier)

    def forward(self, features: Tensor, cells: Tensor | None = None) -> Output:  # noqa: ARG002
        """Answer for one bag (N, D)."""
        seen = self.look(self.check(features))
        return Output(
            logits=self.lifted(self.b_classifier.logits(seen)),
            tile_logits=seen.scores,
            attention=seen.attention,
            maps=self.named("evidence", self.b_classifier.evidence(seen)),
            embedding=seen.vectors.flatten(),
        )

    def study(
        self,
        features: Tensor,
        cells: Tensor | None,  # noqa: ARG002
        progress: float,  # noqa: ARG002
        *,
        generator: torch.Generator | None = None,  # noqa: ARG002
        noise: Noise | None = None,  # noqa: ARG002
    ) -> Study:
        """Train as it answers; the highest tiles are kept beside the answer."""
        seen = self.look(features)
        return Study((self.b_classifier.logits(seen),), lambda at: seen.scores[at], seen=seen.instance_max)

    def slide_losses(
        self,
        studies: Sequence[Study],
        targets: Sequence[Target],
        progress: float,
        weights: Sequence[float] | None,
    ) -> dict[str, Tensor]:
        """The same loss of two answers: the bag's, and per class the highest of any tile."""
        losses = {
            name: self.config.bag_weight * loss
            for name, loss in super().slide_losses(studies, targets, progress, weights).items()
        }
        if losses and self.config.instance_weight:
            highest = [replace(s, logits=(s.seen,)) for s in studies]
            loss = super().slide_losses(highest, targets, progress, weights)["slide"]
            losses["highest_tile"] = self.config.instance_weight * loss
        return losses
