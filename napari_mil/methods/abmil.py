"""Attention-based MIL, plain and gated, as the stand-alone baselines of MHIM-MIL."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from napari_mil.blocks import ACTIVATIONS, Dropout, Head, Rows, gated, part, whole, xavier
from napari_mil.labeltree import LabelTree
from napari_mil.mil import MILModel, Noise, Output, Study
from napari_mil.options import option


@dataclass(frozen=True, slots=True)
class ABMILConfig:
    """Options of AB-MIL."""

    hidden: int = option(512, "width of the projected features", low=8, high=4096)
    attention_width: int = option(128, "width of the attention layer", low=1, high=4096)
    act: str = option("gelu", "activation after the projection", choices=("gelu", "relu"))
    dropout: float = option(0.25, "share of projected features dropped while training", low=0.0, high=0.9)


@dataclass(frozen=True, slots=True)
class GABMILConfig:
    """Options of gated AB-MIL."""

    hidden: int = option(512, "width of the projected features", low=8, high=4096)
    attention_width: int = option(384, "width of the two attention layers", low=1, high=4096)
    act: str = option("gelu", "activation after the projection", choices=("gelu", "relu"))
    dropout: float = option(0.25, "share of projected features dropped while training", low=0.0, high=0.9)


class _AttentionMIL(MILModel):
    """Project, weigh, add up, classify: z = Σ a_i h_i, logits = W z + b."""

    bf16: ClassVar[bool] = True
    feature: nn.Sequential

    def __init__(self, config: Any, in_features: int, tree: LabelTree) -> None:
        super().__init__(config, in_features, tree)
        # the published code drops 0.25 here whenever dropout is on at all; 0.25 is our default
        drop = [Dropout(config.dropout)] if config.dropout else []
        self.feature = nn.Sequential(nn.Linear(in_features, config.hidden), ACTIVATIONS[config.act](), *drop)

    @abstractmethod
    def scores(self, h: Tensor) -> Tensor:
        """(N, D) → (N, 1) attention before the softmax."""

    @abstractmethod
    def head(self) -> nn.Linear:
        """The classifier."""

    def _each(self, features: Tensor, head: Head, at: Tensor | None = None) -> list[tuple[Tensor, ...]]:
        """What a head says of the projected tiles, or of those at `at`, chunk by chunk."""
        layer, act, *drop = self.feature
        rows = Rows(features, at, layer, act, drop[0] if drop else Dropout(0.0))  # type: ignore[arg-type]
        read = [p for name, p in self.named_parameters() if not name.startswith("feature.")]
        return rows.each(head, read)

    def forward(self, features: Tensor, cells: Tensor | None = None) -> Output:  # noqa: ARG002
        """Answer for one bag (N, D)."""
        classify = self.head()
        parts = self._each(self.check(features), lambda h: (*part(h, self.scores), classify(h)))
        pooled, tiles = whole(parts), torch.cat([told for *_, told in parts])
        return Output(
            logits=self.lifted(classify(pooled.vector[0])),
            tile_logits=tiles,
            attention=pooled.attention,
            maps=self.named("evidence", pooled.attention * (tiles - classify.bias)),
            embedding=pooled.vector[0],
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
        pooled, classify = whole(self._each(features, lambda h: part(h, self.scores))), self.head()
        return Study(
            (classify(pooled.vector[0]),),
            lambda at: torch.cat([t for (t,) in self._each(features, lambda h: (classify(h),), at)]),
        )


class ABMIL(_AttentionMIL):
    """AB-MIL (Ilse et al. 2018), tanh attention with biases."""

    name: ClassVar[str] = "abmil"
    paper: ClassVar[str] = (
        "Ilse, Tomczak, Welling: Attention-based deep multiple instance learning. ICML 2018"
    )
    Config: ClassVar[type] = ABMILConfig

    def __init__(self, config: ABMILConfig, in_features: int, tree: LabelTree) -> None:
        super().__init__(config, in_features, tree)
        self.attention = nn.Sequential(
            nn.Linear(config.hidden, config.attention_width), nn.Tanh(), nn.Linear(config.attention_width, 1)
        )
        self.classifier = nn.Linear(config.hidden, self.classes)
        xavier(self)

    def scores(self, h: Tensor) -> Tensor:
        """(N, D) → (N, 1) attention before the softmax."""
        e: Tensor = self.attention(h)
        return e

    def head(self) -> nn.Linear:
        """The classifier."""
        return self.classifier


class GABMIL(_AttentionMIL):
    """Gated AB-MIL (Ilse et al. 2018): tanh ⊙ sigmoid attention with biases and dropout."""

    name: ClassVar[str] = "gabmil"
    paper: ClassVar[str] = (
        "Ilse, Tomczak, Welling: Attention-based deep multiple instance learning. ICML 2018"
    )
    Config: ClassVar[type] = GABMILConfig

    def __init__(self, config: GABMILConfig, in_features: int, tree: LabelTree) -> None:
        super().__init__(config, in_features, tree)
        width, drop = config.attention_width, [Dropout(config.dropout)] if config.dropout else []
        self.attention_a = nn.Sequential(nn.Linear(config.hidden, width), nn.Tanh(), *drop)
        self.attention_b = nn.Sequential(nn.Linear(config.hidden, width), nn.Sigmoid(), *drop)
        self.attention_c = nn.Linear(width, 1)
        self.classifier = nn.Sequential(nn.Linear(config.hidden, self.classes))
        xavier(self)

    def scores(self, h: Tensor) -> Tensor:
        """(N, D) → (N, 1) attention before the softmax."""
        a, b = self.attention_a, self.attention_b
        return gated(a[0](h), b[0](h), a, b, self.attention_c)

    def head(self) -> nn.Linear:
        """The classifier."""
        linear: nn.Linear = self.classifier[0]  # type: ignore[assignment]
        return linear
