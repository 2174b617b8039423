"""The network of MHIM: projection, pooler, classifier, and the recycling that only training uses."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from napari_mil.blocks import (
    ACTIVATIONS,
    AttentionPooler,
    Dropout,
    DSMILPooler,
    GlobalRecycle,
    Pooler,
    Rows,
    SelfAttentionPooler,
    by_rows,
    xavier,
)
from napari_mil.methods.mhim.config import MHIMConfig


def _pooler(config: MHIMConfig, classes: int) -> Pooler:
    if config.encoder == "dsmil":
        return DSMILPooler(config.hidden, config.attention_width, classes)
    if config.encoder == "selfattn":
        return SelfAttentionPooler(config.hidden, config.heads)
    return AttentionPooler(
        config.hidden, config.attention_width, config.da_act, gated=config.encoder == "gated"
    )


class Network(nn.Module):
    """The network that student and teacher share, with the key names of the published checkpoints."""

    def __init__(self, config: MHIMConfig, in_features: int, classes: int) -> None:
        super().__init__()
        self.feature = nn.Sequential(nn.Linear(in_features, config.hidden), ACTIVATIONS[config.act]())
        self.dp = Dropout(config.dropout)
        if config.recycle_tokens and config.version == 2 and not config.pure:
            self.merge = GlobalRecycle(
                config.hidden,
                config.recycle_tokens,
                heads=config.heads,
                head_width=max(1, config.hidden // 8),
                momentum=config.query_momentum,
                exact=config.compat == "official",
            )
        self.online_encoder = _pooler(config, classes)
        self.predictor = nn.Linear(config.hidden, classes)
        xavier(self)

    def rows(self, features: Tensor, at: Tensor | None = None) -> Rows:
        """Rows of a bag (N, D_in), to be projected: those at `at` (n,), else all."""
        layer, act = self.feature
        return Rows(features, at, layer, act, self.dp)  # type: ignore[arg-type]

    def embed(self, features: Tensor) -> Tensor:
        """(N, D_in) → (N, D) projected features."""
        if not torch.is_grad_enabled():
            return self.rows(features).all()
        return by_rows(lambda x: self.dp(self.feature(x)), features)

    def tiles(self, features: Tensor, at: Tensor) -> Tensor:
        """(n, C) class scores of some tiles of a bag (N, D_in); alone, where a pooler scores them alone."""
        pooler, predictor = self.online_encoder, self.predictor
        if pooler.alone:
            return pooler.tiles(pooler.survey(self.rows(features, at), predictor), predictor)
        return pooler.tiles(pooler.stream(self.rows(features)), predictor)[at]
