"""Nyström attention: tokens attend to each other through m landmarks (Xiong 2021, as TransMIL uses it).

Shape letters: n tokens, D their width, H heads, d width of a head, m landmarks. With K1 (n, m), K2 (m, m) and
K3 (m, n) the softmaxes of tokens with landmarks, landmarks with landmarks and landmarks with tokens, values
v become (K1 K2⁺)(K3 v). That is computed as K1 (K2⁺ (K3 v)): the same, with fewer operations. What a single
token takes is computed as ((K1 K2⁺) K3) v, with v = x W as (… x) W: then nobody's values are asked for.
Neither K1 nor K3 is ever whole in memory: the softmax of K1 runs over landmarks, so tokens go in pieces; that
of K3 runs over tokens, so landmarks do.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

from napari_mil.blocks.basics import Dropout
from napari_mil.blocks.depthwise import along
from napari_mil.blocks.softmax import attend, blend, pieces
from napari_mil.device import wide, working

#: tokens that are worked on together where no gradient is kept
TOKENS = 4096
#: iterations of the pseudo-inverse, and taps of the convolution over neighbouring tokens, as published
ITERATIONS, TAPS = 6, 33
#: eigenvalues that differ by less are taken for one, where the slope between them is asked
NEAR = 1e-8


@dataclass(frozen=True, eq=False)
class Attended:
    """What attention made of n tokens: what a token takes from the others once somebody asks.

    Attributes
    ----------
    row : (H, n − 1) how the first token looked at the others, without gradient; (H, 0) where nobody asked.
        A Nyström row approximates a softmax: entries may be negative and do not sum to 1
    attention, x, onto, k, q_mean, k_mean, inverse : whose it is, the tokens (n', D) as they attend, filled up
        in front, what they were (n, D), keys (H, n', d), the landmarks' queries and keys (H, m, d), and K2⁺
        (H, m, m)
    """

    row: Tensor
    attention: NystromAttention
    x: Tensor
    onto: Tensor
    k: Tensor
    q_mean: Tensor
    k_mean: Tensor
    inverse: Tensor

    @cached_property
    def v(self) -> Tensor:
        """(H, n', d) values."""
        return self.attention.values(self.x)

    @cached_property
    def read(self) -> Tensor:
        """(H, m, d) K2⁺ of what the landmarks read of the tokens."""
        return self._weighed(attend(self.q_mean, self.k, self.v))

    def _weighed(self, read: Tensor) -> Tensor:
        return (self.inverse.to(read.dtype) @ read).to(self.k.dtype)

    @property
    def values(self) -> Tensor:
        """(H, n − 1, d) what the first token looked at."""
        return self.v[:, len(self.x) - len(self.onto) + 1 :]

    def seen(self) -> Attended:
        """The same with its `row`, for which the tokens are looked at once where no gradient is kept."""
        start = len(self.x) - len(self.onto)
        first = self.attention.queries(self.x[start : start + 1])
        read, row = _look(first, self.k, self.v, self.q_mean, self.k_mean, self.inverse)
        found = replace(self, row=row[:, start + 1 :])
        vars(found)["v"] = self.v
        if not torch.is_grad_enabled():
            vars(found)["read"] = self._weighed(read)
        return found

    def tokens(self, begin: int = 0, end: int | None = None) -> Tensor:
        """(…, D) the tokens from `begin` to `end`: what they were, plus what they take. Where no gradient is
        kept they are written to where they were, so that each can be asked for once.
        """
        onto = self.onto[begin:end]
        if torch.is_grad_enabled():
            return onto + self._taken(begin, begin + len(onto))
        for at in range(0, len(onto), TOKENS):
            some = onto[at : at + TOKENS]
            some += self._taken(begin + at, begin + at + len(some))
        return onto

    def _taken(self, begin: int, end: int) -> Tensor:
        """(tokens, D) what tokens take from landmarks, and from the values of their neighbours."""
        attention, start = self.attention, len(self.x) - len(self.onto)
        begin, end, reach = start + begin, start + end, TAPS // 2
        low, high = max(0, begin - reach), min(len(self.x), end + reach)
        if end - begin == 1 < len(self.x) and "read" not in vars(self):
            far, v = self._alone(begin), attention.values(self.x[low:high])
        else:
            far, v = attend(attention.queries(self.x[begin:end]), self.k_mean, self.read), self.v[:, low:high]
        kernel = attention.res_conv.weight.flatten(1).repeat_interleave(v.shape[2], 0)
        near = along(v.transpose(0, 1).flatten(1), kernel)[begin - low : end - low]
        taken: Tensor = attention.to_out(far.transpose(0, 1).flatten(1) + near)
        return taken

    def _alone(self, at: int) -> Tensor:
        """(H, 1, d) what one token takes from landmarks, of which nobody knows what they read."""
        attention = self.attention
        asks = attention.queries(self.x[at : at + 1])
        with torch.autocast(self.x.device.type, enabled=False):
            weights = torch.softmax(wide(asks) @ wide(self.k_mean).mT, -1)
            weights = weights @ self.inverse.to(weights.dtype)
        row = blend(weights[:, 0], self.q_mean, self.k)
        return attention.values_of(row.to(self.x.dtype) @ self.x)


class NystromAttention(nn.Module):
    """Self-attention of n tokens (n, D), in time and memory linear in n.

    Every landmark is the mean of as many neighbouring tokens; zero rows in front fill the first ones and, as
    published, take part in the softmax over tokens.
    """

    def __init__(self, features: int, heads: int = 8, dropout: float = 0.1) -> None:
        super().__init__()
        width = max(1, features // 8)  # as published, whatever the number of heads
        self.heads, self.landmarks = heads, max(1, features // 2)
        self.to_qkv = nn.Linear(features, 3 * heads * width, bias=False)
        self.to_out = nn.Sequential(nn.Linear(heads * width, features), Dropout(dropout))
        self.res_conv = nn.Conv2d(heads, heads, (TAPS, 1), padding=(TAPS // 2, 0), groups=heads, bias=False)

    def queries(self, x: Tensor) -> Tensor:
        """(H, n, d) of x (n, D), scaled."""
        weight = self.to_qkv.weight.chunk(3)[0]
        return self._heads(x, weight * (len(weight) // self.heads) ** -0.5)

    def _heads(self, x: Tensor, weight: Tensor) -> Tensor:
        return linear(x, weight).view(len(x), self.heads, weight.shape[0] // self.heads).transpose(0, 1)

    def values(self, x: Tensor) -> Tensor:
        """(H, n, d) of x (n, D)."""
        return self._heads(x, self.to_qkv.weight.chunk(3)[2])

    def values_of(self, mixed: Tensor) -> Tensor:
        """(H, 1, d) of one mixture of tokens a head, (H, D)."""
        weight = self.to_qkv.weight.chunk(3)[2].view(self.heads, -1, mixed.shape[1])
        values: Tensor = mixed[:, None] @ weight.mT
        return values

    def fill(self, x: Tensor) -> Tensor:
        """(n', D) x (n, D) with zero rows in front, so that all landmarks have as many tokens."""
        return torch.cat([x.new_zeros(-len(x) % self.landmarks, x.shape[1]), x])

    def forward(self, x: Tensor, onto: Tensor, *, row: bool = False) -> Attended:
        """What tokens x (n', D), filled up, take from each other, to be added to the last n, `onto` (n, D).

        `row` asks for the first token's attention, which costs a second look where gradients are kept.
        """
        start = len(x) - len(onto)
        means = x.view(self.landmarks, -1, x.shape[1]).mean(1)  # projected, the mean of the projected
        if torch.is_autocast_enabled(x.device.type):
            x = working(x)  # rounded once, in place of at every product
        k, k_mean = (self._heads(of, self.to_qkv.weight.chunk(3)[1]) for of in (x, means))
        q_mean = self.queries(means)
        empty = start * self.landmarks // len(x)  # landmarks that are the mean of zero rows alone
        with torch.autocast(x.device.type, enabled=False):
            inverse = pseudo_inverse(torch.softmax(wide(q_mean) @ wide(k_mean).mT, -1), same=empty)
        found = Attended(x.new_empty(self.heads, 0), self, x, onto, k, q_mean, k_mean, inverse)
        return found.seen() if row else found


class NystromLayer(nn.Module):
    """x + attention(norm(x)), without a feed-forward part (TransMIL)."""

    def __init__(self, features: int, heads: int = 8) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(features)
        self.attn = NystromAttention(features, heads)

    def forward(self, x: Tensor, *, row: bool = False) -> Attended:
        """Attend (n, D); x is written to where no gradient is kept."""
        attended: Attended = self.attn(self.attn.fill(self.norm(x)), x, row=row)
        return attended


def pseudo_inverse(matrix: Tensor, *, same: int = 0) -> Tensor:
    """(H, m, m) the iterative pseudo-inverse of a softmax; in float32 or wider, also under autocast.

    It starts from the transpose, scaled by one number for all heads. The first `same` rows are equal to each
    other, and so are the first `same` columns: the matrix is U S Uᵀ with one column of U for all of them, and
    so is every step, with the same U. In a small bag, most of whose landmarks are empty, S is small.

    Where a CPU learns, the steps are taken on eigenvalues, which is the same but for rounding. What is not
    finite stays so.
    """
    with torch.autocast(matrix.device.type, enabled=False):
        matrix = matrix.float() if matrix.dtype in (torch.float16, torch.bfloat16) else matrix
        largest = matrix.abs().sum(-1).max() * matrix.abs().sum(-2).max()
        first, share = max(0, same - 1), max(1, same) ** 0.5
        root = matrix.new_ones(matrix.shape[-1] - first)
        root[0] = share
        small = matrix[:, first:, first:] * root * root[:, None]
        if matrix.device.type == "cpu" and small.requires_grad and bool(small.isfinite().all()):
            scale = largest.sqrt()
            made: Tensor = _ByEigenvalues.apply(small / scale)  # type: ignore[no-untyped-call]
            z = made / scale
        else:
            z = _iterated(small, largest)
        z = z / root / root[:, None]
        whole = (torch.arange(matrix.shape[-1], device=matrix.device) - first).clamp(min=0)
        return z[:, whole][:, :, whole] if first else z


def _iterated(matrix: Tensor, largest: Tensor) -> Tensor:
    """The steps as published, products with every one of them: z (13 − p (15 − p (7 − p))) / 4, with p = A z.

    What is subtracted from is a multiple of the unit matrix, so that it is added while multiplying.
    """
    z = matrix.mT / largest
    for _ in range(ITERATIONS):
        p = matrix @ z
        inner = torch.baddbmm(p, p, p, beta=7, alpha=-1)
        inner = torch.baddbmm(p, p, inner, beta=15, alpha=-1)
        z = torch.baddbmm(z, z, inner, beta=3.25, alpha=-0.25)
    return z


class _ByEigenvalues(torch.autograd.Function):
    """The same of a matrix A whose `largest` is 1. The steps make Aᵀ q(A Aᵀ) of it, and the polynomial q acts
    on each eigenvalue by itself: 7 products there and back, in place of 72.

    The gradient of q(A Aᵀ) is its divided differences between eigenvalues, in their basis. These and what A
    has of each are found in double precision: where attention is about uniform nearly all eigenvalues are 0,
    there q is a thousand, and the rounding of single precision would be multiplied by it.
    """

    @staticmethod
    def forward(ctx: Any, matrix: Tensor) -> Tensor:
        exact = matrix.double()
        values, basis = torch.linalg.eigh(exact @ exact.mT)
        values = values.clamp(min=0)
        q, slope = _on_eigenvalues(values)
        turned, basis = (basis.mT @ exact).to(matrix.dtype), basis.to(matrix.dtype)
        ctx.save_for_backward(values, q, slope, basis, turned)
        made: Tensor = turned.mT @ (q.to(matrix.dtype)[..., None] * basis.mT)
        return made

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        values, q, slope, basis, turned = ctx.saved_tensors
        gap = values[..., None] - values[:, None]
        near = gap.abs() < NEAR
        rise = (q[..., None] - q[:, None]) / gap.masked_fill(near, 1)
        rise = torch.where(near, (slope[..., None] + slope[:, None]) / 2, rise).to(basis.dtype)
        asked = gradients[0] @ basis
        inner = turned @ asked
        inner = rise * (inner + inner.mT)
        back: Tensor = basis @ (inner @ turned + q.to(basis.dtype)[..., None] * asked.mT)
        return back


def _on_eigenvalues(values: Tensor) -> tuple[Tensor, Tensor]:
    """The polynomial q of eigenvalues of A Aᵀ, of any shape, and its derivative."""
    p = values
    p_slope = q = torch.ones_like(values)
    q_slope = torch.zeros_like(values)
    for _ in range(ITERATIONS):  # p, of A z, becomes p · step(p), and q, of what z is after Aᵀ, q · step(p)
        step = (13 - p * (15 - p * (7 - p))) / 4
        step_slope = (-15 + p * (14 - 3 * p)) / 4 * p_slope
        q, q_slope = q * step, q_slope * step + q * step_slope
        p, p_slope = p * step, p_slope * step + p * step_slope
    return q, q_slope


@torch.no_grad()
def _look(
    q: Tensor, k: Tensor, v: Tensor, q_mean: Tensor, k_mean: Tensor, inverse: Tensor
) -> tuple[Tensor, Tensor]:
    """K3 v (H, m, d), and how the token of queries q (H, 1, d) looks at all (H, n); not in bfloat16 under
    autocast, which does not tell the tokens apart.
    """
    with torch.autocast(q.device.type, enabled=False):
        if inverse.dtype != q.dtype:  # what autocast projected, or a network in half precision
            q, k, v, q_mean, k_mean = (wide(t) for t in (q, k, v, q_mean, k_mean))
        first = torch.softmax(q @ k_mean.mT, -1) @ inverse
        read, seen = q.new_empty(q_mean.shape), q.new_zeros(k.shape[:2])
        for here, some, look in pieces(q_mean, k):
            read[here, some] = look @ v[here]
            seen[here] += (first[here, :, some] @ look)[:, 0]
        return read, seen
