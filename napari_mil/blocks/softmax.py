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
    """(H, n, d) softmax(q kᵀ) v.

    torch's own never has the softmax in memory either, but multiplies in float32 on a CPU whatever it is
    given: in bfloat16 plain products take two thirds of its time.
    """
    if q.device.type == "cpu" and q.dtype == k.dtype == v.dtype == torch.bfloat16:
        made: Tensor = _Attend.apply(q, k, v)  # type: ignore[no-untyped-call]
        return made
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


class _Attend(torch.autograd.Function):
    """Piece by piece; on the way back a piece of the softmax is made anew."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        made = q.new_empty(q.shape[1], len(q), v.shape[2]).transpose(0, 1)  # as tokens lie side by side
        ctx.save_for_backward(q, k, v, made)
        with _plain(q):
            for here, some, look in pieces(q, k):
                made[here, some] = look @ v[here]
        return made

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (q, k, v, made), (asked,) = ctx.saved_tensors, gradients
        of_q, means = torch.empty_like(q), (asked * made).sum(-1, keepdim=True)
        of_k, of_v = (torch.empty_like(x, dtype=torch.float32) for x in (k, v))
        with _plain(q):
            for here, some, look in pieces(q, k):
                given = asked[here, some]
                _add(of_v[here], look.mT @ given, some)
                back = (given @ v[here].mT).sub_(means[here, some]).mul_(look)
                of_q[here, some] = back @ k[here]
                _add(of_k[here], back.mT @ q[here, some], some)
        return of_q, of_k.to(k.dtype), of_v.to(v.dtype)


class _Blend(torch.autograd.Function):
    """Piece by piece; on the way back a piece of the softmax is made anew."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, q: Tensor, k: Tensor) -> Tensor:
        ctx.save_for_backward(weights, q, k)
        made = wide(k[:0]).new_empty(k.shape[:2])
        with _plain(q):
            for here, some, look in pieces(q, k):
                seen = weights[here, some, None].mT.to(look.dtype) @ look
                _add(made[here], seen[:, 0], some)
        return made

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (weights, q, k), (asked,) = ctx.saved_tensors, gradients
        of_weights, of_q = torch.empty_like(weights), torch.empty_like(q)
        of_k = torch.empty_like(k, dtype=wide(k[:0]).dtype)
        # what all keys have in common moves no softmax, but would be rounded
        mean = asked.mean(-1, keepdim=True)
        with _plain(q):
            for here, some, look in pieces(q, k):
                given = (asked[here] - mean[here])[..., None].to(k.dtype)
                means = look @ given
                of_weights[here, some] = means[..., 0] + mean[here]
                back = torch.sub(given.mT, means).mul_(look)
                share = weights[here, some, None].to(q.dtype)
                of_q[here, some] = share * (back @ k[here])
                _add(of_k[here], back.mT @ (share * q[here, some]), some)
        return of_weights, of_q, of_k.to(k.dtype)
