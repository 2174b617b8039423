"""Mean and max pooling of tile logits: the simplest baselines."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from napari_mil.blocks import ACTIVATIONS, Dropout, Head, Rows, xavier
from napari_mil.labeltree import LabelTree
from napari_mil.mil import MILModel, Noise, Output, Study
from napari_mil.options import option


@dataclass(frozen=True, slots=True)
class PoolConfig:
    """Options of mean and max pooling."""

    hidden: int = option(512, "width of the projected features", low=8, high=4096)
    act: str = option("gelu", "activation after the projection", choices=("gelu", "relu"))
    dropout: float = option(0.25, "share of projected features dropped while training", low=0.0, high=0.9)


class _Pool(MILModel):
    """Every tile is classified; the bag's logits are their mean, or per class their maximum."""

    Config: ClassVar[type] = PoolConfig
    bf16: ClassVar[bool] = True
    paper: ClassVar[str] = (
        "baseline of Tang et al.: Multiple instance learning with masked hard instance mining. ICCV 2023"
    )

    def __init__(self, config: PoolConfig, in_features: int, tree: LabelTree) -> None:
        super().__init__(config, in_features, tree)
        self.head = nn.Sequential(
            nn.Linear(in_features, config.hidden),
            ACTIVATIONS[config.act](),
            Dropout(config.dropout),
            nn.Linear(config.hidden, self.classes),
        )
        xavier(self)

    @abstractmethod
    def pool(self, tiles: Tensor) -> Tensor:
        """(N, C) tile logits → (C,) bag logits."""

    @abstractmethod
    def evidence(self, tiles: Tensor) -> dict[str, Tensor]:
        """Maps of what each tile adds, where the bag's logits are a sum."""

    def _each(self, features: Tensor, head: Head) -> list[tuple[Tensor, ...]]:
        """What a head says of the projected tiles, chunk by chunk."""
        layer, act, drop, classify = self.head
        rows = Rows(features, None, layer, act, drop)  # type: ignore[arg-type]
        return rows.each(head, tuple(classify.parameters()))

    def forward(self, features: Tensor, cells: Tensor | None = None) -> Output:  # noqa: ARG002
        """Answer for one bag (N, D)."""
        parts = self._each(self.check(features), lambda h: (self.head[3](h), h.sum(0)))
        tiles = torch.cat([told for told, _ in parts])
        return Output(
            logits=self.lifted(self.pool(tiles)),
            tile_logits=tiles,
            attention=torch.full_like(tiles[:, :1], 1 / len(tiles)),
            maps=self.evidence(tiles),
            embedding=torch.stack([h for _, h in parts]).sum(0) / len(tiles),
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
        tiles = torch.cat([told for (told,) in self._each(features, lambda h: (self.head[3](h),))])
        return Study((self.pool(tiles),), lambda at: tiles[at])


class MeanPool(_Pool):
    """The mean over tiles of the tiles' logits."""

    name: ClassVar[str] = "mean"

    def pool(self, tiles: Tensor) -> Tensor:
        """(N, C) tile logits → (C,) bag logits."""
        return tiles.mean(0)

    def evidence(self, tiles: Tensor) -> dict[str, Tensor]:
        """Each tile adds its share of the mean, without the bias."""
        bias: Tensor = self.head[3].bias  # type: ignore[assignment]
        return self.named("evidence", (tiles - bias) / len(tiles))


class MaxPool(_Pool):
    """Per class, the highest logit of any tile."""

    name: ClassVar[str] = "max"
    exceptions: Mapping[str, str] = {
        "evidence": "a maximum over tiles is no sum, so no tile has a share of it (docs/methods.md, answers)"
    }

    def pool(self, tiles: Tensor) -> Tensor:
        """(N, C) tile logits → (C,) bag logits."""
        return tiles.amax(0)

    def evidence(self, tiles: Tensor) -> dict[str, Tensor]:  # noqa: ARG002
        """A maximum is no sum, so no tile has a share of it."""
        return {}
