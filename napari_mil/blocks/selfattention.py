"""Self-attention among the tiles, read off a class token: the encoder of TransMIL, and MHIM's pooler on it.

Shape letters: N tiles, D feature width, C classes, H heads, d width of a head. What a tile becomes here
depends on all tiles and on their order, so what is said of one tile is an approximation: NOTES says so on the
screen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.utils.checkpoint import checkpoint

from napari_mil.blocks.nystrom import Attended, NystromLayer
from napari_mil.blocks.pooling import Pooled, Pooler, together
from napari_mil.blocks.ppeg import PPEG
from napari_mil.blocks.rows import Rows
from napari_mil.device import known_memory, wide

NOTES = {
    **dict.fromkeys(
        ("probability", "class", "lesion"), "approximate: a tile's class after it has seen the whole bag"
    ),
    "attention": "approximate: how the token that answers looked at the tiles",
}
EXCEPTIONS = {
    "permutation": "self-attention lays tiles out in their order: docs/methods.md, transmil",
    "evidence": "the answer of self-attention is no sum over tiles: docs/methods.md, answers",
}


@dataclass(frozen=True, eq=False)
class Encoded:
    """What the encoder made of a class token and N tiles.

    Attributes
    ----------
    token : (D,) the class token, before the last norm
    rows : per layer, (H, N) how the class token looked at the tiles, possibly negative; (H, 0) where nobody
        asked
    values : (H, N, d) what it looked at in the first layer; (H, 0, d) where nobody asked
    last : the last layer, which says what became of the tiles when somebody asks
    """

    token: Tensor
    rows: tuple[Tensor, Tensor]
    values: Tensor
    last: Attended

    @cached_property
    def tiles(self) -> Tensor:
        """(N, D) the tiles' tokens, before the last norm. An answer does not read them."""
        return self.last.tokens(1)


def encode(
    token: Tensor,
    tiles: Tensor,
    layers: tuple[NystromLayer, NystromLayer],
    position: PPEG,
    *,
    least: int = 7,
    rows: int,
) -> Encoded:
    """Attention, position, attention, over the class token (1, D) and the tiles (N, D).

    Where memory is short for a training, nothing but its tokens waits of the first layer for the way back,
    where it is made anew.

    Parameters
    ----------
    least : width that the image of the positional block has at least
    rows : of how many layers the attention of the class token is wanted
    """

    def begin(token: Tensor, tiles: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        one = layers[0](torch.cat([token, tiles]), row=rows > 0)
        return one.tokens(), one.row, one.values if rows else one.read[:, :0]

    short = torch.is_grad_enabled() and known_memory().rows is not None
    one, row, values = checkpoint(begin, token, tiles, use_reentrant=False) if short else begin(token, tiles)
    first, others = one.split([1, len(tiles)])
    two = layers[1](torch.cat([first, position(others, least=least)]), row=rows > 1)
    return Encoded(two.tokens(0, 1)[0], (row, two.row), values, two)


def shares(rows: Tensor) -> Tensor:
    """(N, 1) attention that sums to 1, of the class token's rows (H, N): negatives are 0, heads are averaged.

    Where nothing is left, every tile has the same share.
    """
    seen = rows.clamp(min=0).mean(0)
    seen = torch.where(seen.sum() > 0, seen, torch.ones_like(seen))
    return (seen / seen.sum())[:, None]


def mean_rows(rows: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """Per layer, the mean (N,) of its heads' rows, as maps."""
    return {f"attention/layer{i}": row.mean(0) for i, row in enumerate(rows, 1)}


def each_row(rows: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """Per layer and head, its row (N,), as columns."""
    return {
        f"attention/layer{i}/head{k}": seen for i, row in enumerate(rows, 1) for k, seen in enumerate(row, 1)
    }


class SelfAttentionPooler(Pooler):
    """The class token after two layers of Nyström attention and a norm (TransMIL, as MHIM uses it)."""

    alone = False
    ordered = True
    notes: ClassVar[Mapping[str, str]] = NOTES
    exceptions: ClassVar[Mapping[str, str]] = EXCEPTIONS

    def __init__(self, features: int, heads: int) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.randn(1, 1, features))
        self.layer1, self.layer2 = NystromLayer(features, heads), NystromLayer(features, heads)
        self.pos_embedding = PPEG(features)
        self.norm = nn.LayerNorm(features)

    def forward(self, h: Tensor, tokens: Tensor | None = None) -> Pooled:
        """Pool the tiles h (N, D), and tokens (k, D) behind them."""
        seen = self._encode(together(h, tokens), rows=2)
        return Pooled(self.norm(seen.token), shares(seen.rows[0]), seen)

    def learn(self, h: Tensor, tokens: Tensor | None = None) -> Pooled:
        """Pool without looking at the attention, which is left out: (0, 1)."""
        seen = self._encode(together(h, tokens), rows=0)
        return Pooled(self.norm(seen.token), h.new_empty(0, 1), seen)

    def survey(self, rows: Rows, predictor: nn.Linear, *, maps: bool = True) -> Pooled:  # noqa: ARG002
        """Pool rows that are not projected yet; how the class token looked at them is not in bfloat16."""
        seen = self._encode(wide(rows.all()), rows=2 if maps else 1)
        return Pooled(self.norm(seen.token), shares(seen.rows[0]), seen)

    def _encode(self, h: Tensor, *, rows: int) -> Encoded:
        return encode(self.cls_token[0], h, (self.layer1, self.layer2), self.pos_embedding, rows=rows)

    def tiles(self, pooled: Pooled, predictor: nn.Linear) -> Tensor:
        """The classifier on every tile after the last norm."""
        seen: Encoded = pooled.seen
        scores: Tensor = predictor(self.norm(seen.tiles))
        return scores

    def evidence(self, pooled: Pooled, predictor: nn.Linear) -> None:
        """None: the answer is no sum over tiles."""

    def confidence(self, pooled: Pooled, predictor: nn.Linear, bias: Tensor | None) -> Tensor:
        """W of what the class token took from each tile in the first layer, out of its projection."""
        seen: Encoded = pooled.seen
        taken = (seen.rows[0][..., None] * seen.values).transpose(0, 1).flatten(1)
        project: nn.Linear = self.layer1.attn.to_out[0]  # type: ignore[assignment]
        if self.training:  # dropout stands between the two
            scores = linear(self.layer1.attn.to_out(taken), predictor.weight)
        else:
            scores = linear(taken, predictor.weight @ project.weight, predictor.weight @ project.bias)
        return scores if bias is None else scores + bias

    def looks(self, pooled: Pooled) -> Tensor:
        """(H, N) the class token's rows in the first layer."""
        seen: Encoded = pooled.seen
        return seen.rows[0]

    def maps(self, pooled: Pooled) -> dict[str, Tensor]:
        """Attention of each layer, the mean of its heads."""
        return mean_rows(pooled.seen.rows)

    def columns(self, pooled: Pooled) -> dict[str, Tensor]:
        """Attention of each layer and head."""
        return each_row(pooled.seen.rows)
