"""Softmax attention of which no more than a piece is in memory, there and back.

Shape letters: H heads, n queries, m keys, d width of a head.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import scaled_dot_product_attention

from napari_mil.device import wide

#: numbers of a softmax that are worked on together, on a CPU and on a GPU, and queries that are so at least
NUMBERS, GPU_NUMBERS, QUERIES = 2**21, 2**26, 64


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """(H, n, d) softmax(q kᵀ) v; neither it nor its gradient has the softmax whole in memory."""
    return scaled_dot_product_attention(q[None], k[None], v[None], scale=1.0)[0]


def blend(weights: Tensor, q: Tensor, k: Tensor) -> Tensor:
    """(H, m) Σ_i weights_i softmax(q_i kᵀ) for weights (H, n), in float32 or wider: how who takes so much of
    each query's answer looks at the keys. Values are then asked for once, in place of n times.
    """
    made: Tensor = _Blend.apply(weights, q, k)  # type: ignore[no-untyped-call]
    return made


def pieces(q: Tensor, k: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
    """Heads and queries that are worked on together, one piece after the other, and their softmax."""
    (heads, count, _), keys = q.shape, max(1, k.shape[1])
    most = (NUMBERS if q.device.type == "cpu" else GPU_NUMBERS) // keys
    together = min(heads, max(1, most // max(1, count)))
    parts = -(-count // max(QUERIES, most))
    size = -(-count // max(1, parts))
    for head in range(0, heads, together):
        for begin in range(0, count, size):
            here, some = slice(head, head + together), slice(begin, begin + size)
            yield here, some, torch.softmax(q[here, some] @ k[here].mT, -1)


def _add(whole: Tensor, part: Tensor, some: slice) -> None:
    """The sum over pieces, of which the first begins it."""
    if some.start:
        whole += part
    else:
        whole.copy_(part)


def _plain(q: Tensor) -> torch.autocast:
    return torch.autocast(q.device.type, enabled=False)


class _Blend(torch.autograd.Function):
    """Piece by piece; on the way back a piece of the softmax is made anew. Never in bfloat16,
    which does not tell scores apart.
    """

    @staticmethod
    def forward(ctx: Any, weights: Tensor, q: Tensor, k: Tensor) -> Tensor:
        ctx.save_for_backward(weights, q, k)
        weights, q, k = (wide(x) for x in (weights, q, k))
        made = k.new_empty(k.shape[:2])
        with _plain(q):
            for here, some, look in pieces(q, k):
                _add(made[here], (weights[here, None, some] @ look)[:, 0], some)
        return made

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        given, (asked,) = ctx.saved_tensors, gradients
        weights, q, k = (wide(x) for x in given)
        back = of_weights, of_q, of_k = [torch.empty_like(x) for x in (weights, q, k)]
        with _plain(q):
            for here, some, look in pieces(q, k):
                means = look @ asked[here, :, None]
                of_weights[here, some] = means[..., 0]
                moved = torch.sub(asked[here, None], means).mul_(look)
                share = weights[here, some, None]
                of_q[here, some] = share * (moved @ k[here])
                _add(of_k[here], moved.mT @ (share * q[here, some]), some)
        return tuple(one.to(x.dtype) for one, x in zip(back, given, strict=True))
