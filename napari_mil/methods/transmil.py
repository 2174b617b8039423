"""TransMIL: self-attention among the tiles of a bag, as the stand-alone baseline of MHIM-MIL."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from napari_mil.blocks import ACTIVATIONS, PPEG, Dropout, NystromLayer, by_rows, xavier
from napari_mil.blocks.ppeg import side_of
from napari_mil.blocks.selfattention import EXCEPTIONS, NOTES, Encoded, each_row, encode, mean_rows, shares
from napari_mil.labeltree import LabelTree
from napari_mil.mil import MILModel, Noise, Output, Study
from napari_mil.options import option


@dataclass(frozen=True, slots=True)
class TransMILConfig:
    """Options of TransMIL."""

    hidden: int = option(512, "width of the projected features", low=8, high=4096)
    heads: int = option(8, "heads of the self-attention", low=1, high=64)
    act: str = option("gelu", "activation after the projection", choices=("gelu", "relu"))
    dropout: float = option(0.25, "share of projected features dropped while training", low=0.0, high=0.9)


class TransMIL(MILModel):
    """Two layers of Nyström attention around a positional block; a class token answers (Shao et al. 2021)."""

    name: ClassVar[str] = "transmil"
    paper: ClassVar[str] = (
        "Shao et al.: TransMIL: transformer based correlated multiple instance learning. NeurIPS 2021"
    )
    Config: ClassVar[type] = TransMILConfig
    exceptions: Mapping[str, str] = EXCEPTIONS
    notes: Mapping[str, str] = NOTES

    def __init__(self, config: TransMILConfig, in_features: int, tree: LabelTree) -> None:
        super().__init__(config, in_features, tree)
        width = config.hidden
        drop = [Dropout(config.dropout)] if config.dropout else []
        self.feature = nn.Sequential(nn.Linear(in_features, width), ACTIVATIONS[config.act](), *drop)
        self.cls_token = nn.Parameter(1e-6 * torch.randn(1, 1, width))
        self.layer1, self.layer2 = NystromLayer(width, config.heads), NystromLayer(width, config.heads)
        self.pos_layer = PPEG(width)
        self.norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, self.classes)
        xavier(self)
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.xavier_normal_(part.weight)
                if part.bias is not None:
                    nn.init.zeros_(part.bias)

    def _encode(self, features: Tensor, *, rows: int) -> Encoded:
        """The bag with its first tiles again behind the last, up to a square number of tokens."""
        h = by_rows(self.feature, features)
        h = torch.cat([h, h[: side_of(len(h)) ** 2 - len(h)]])
        return encode(self.cls_token[0], h, (self.layer1, self.layer2), self.pos_layer, least=1, rows=rows)

    def _tiles(self, seen: Encoded, count: int) -> Tensor:
        scores: Tensor = self.classifier(self.norm(seen.tiles[:count]))
        return scores

    def forward(self, features: Tensor, cells: Tensor | None = None) -> Output:  # noqa: ARG002
        """Answer for one bag (N, D)."""
        seen, n = self._encode(self.check(features), rows=2), len(features)
        rows = tuple(row[:, :n] for row in seen.rows)
        z = self.norm(seen.token)
        return Output(
            logits=self.lifted(self.classifier(z)),
            tile_logits=self._tiles(seen, n),
            attention=shares(rows[0]),
            maps=mean_rows(rows),
            embedding=z,
            columns=each_row(rows),
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
        """Train as it answers."""
        seen = self._encode(features, rows=0)
        answer = self.classifier(self.norm(seen.token))
        return Study((answer,), lambda at: self._tiles(seen, len(features))[at])
