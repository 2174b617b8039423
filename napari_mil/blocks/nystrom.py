"""Nyström attention: tokens attend to each other through m landmarks (Xiong 2021, as TransMIL uses it).

Shape letters: n tokens, D their width, H heads, d width of a head, m landmarks. With K1 (n, m), K2 (m, m) and
K3 (m, n) the softmaxes of tokens with landmarks, landmarks with landmarks and landmarks with tokens, values
v become (K1 K2⁺)(K3 v). That is computed as K1 (K2⁺ (K3 v)): the same, with fewer operations. Neither K1 nor
K3 is ever whole in memory: the softmax of K1 runs over landmarks, so tokens go in pieces; that of K3 runs
over tokens, so landmarks do.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad, scaled_dot_product_attention

from napari_mil.blocks.basics import Dropout
from napari_mil.blocks.depthwise import along
from napari_mil.device import wide

#: tokens, and landmarks of one head, that are worked on together where no gradient is kept
TOKENS, LANDMARKS = 4096, 128
#: iterations of the pseudo-inverse, and taps of the convolution over neighbouring tokens, as published
ITERATIONS, TAPS = 6, 33


@dataclass(frozen=True, slots=True, eq=False)
class Attended:
    """What attention made of n tokens.

    Attributes
    ----------
    tokens : (n, D)
    row : (H, n − 1) how the first token looked at the others, without gradient; (H, 0) where nobody asked.
        A Nyström row approximates a softmax: entries may be negative and do not sum to 1
    values : (H, n − 1, d) what it looked at
    """

    tokens: Tensor
    row: Tensor
    values: Tensor


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

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (H, n', d) of x (n, D), filled up in front."""
        x = pad(x, (0, 0, -len(x) % self.landmarks, 0))
        to_q, to_k, to_v = self.to_qkv.weight.chunk(3)
        weights = (to_q * (len(to_q) // self.heads) ** -0.5, to_k, to_v)
        q, k, v = (linear(x, w).view(len(x), self.heads, -1).transpose(0, 1) for w in weights)
        return q, k, v

    def forward(self, q: Tensor, k: Tensor, v: Tensor, onto: Tensor, *, row: bool = False) -> Attended:
        """`onto` (n, D) plus what its tokens, projected, take from each other; in place where no gradient is
        kept.

        `row` asks for the first token's attention, which costs a second look where gradients are kept.
        """
        learning, start = torch.is_grad_enabled(), q.shape[1] - len(onto)
        q_mean, k_mean = (t.view(self.heads, self.landmarks, -1, t.shape[2]).mean(2) for t in (q, k))
        empty = start * self.landmarks // q.shape[1]  # landmarks that are the mean of zero rows alone
        with torch.autocast(q.device.type, enabled=False):
            inverse = pseudo_inverse(torch.softmax(wide(q_mean) @ wide(k_mean).mT, -1), same=empty)
        seen = q.new_empty(self.heads, 0)
        if row:
            read, seen = _look(q, k, v, q_mean, k_mean, inverse, start)
        if learning or not row:
            read = _attend(q_mean, k, v)
        read = (inverse.to(read.dtype) @ read).to(q.dtype)
        tokens = onto
        if learning:
            tokens = onto + self._write(q[:, start:], k_mean, read, v, start)
        else:
            for at in range(0, len(onto), TOKENS):
                some = q[:, start + at : start + at + TOKENS]
                tokens[at : at + TOKENS] += self._write(some, k_mean, read, v, start + at)
        return Attended(tokens, seen[:, start + 1 :], v[:, start + 1 :])

    def _write(self, q: Tensor, k_mean: Tensor, read: Tensor, v: Tensor, start: int) -> Tensor:
        """(tokens, D) what the tokens of q (H, tokens, d), from number `start` on, take from landmarks and
        from the values v (H, n, d) of their neighbours.
        """
        reach, stop = TAPS // 2, start + q.shape[1]
        low, high = max(0, start - reach), min(v.shape[1], stop + reach)
        kernel = self.res_conv.weight.flatten(1).repeat_interleave(v.shape[2], 0)
        near = along(v[:, low:high].transpose(0, 1).flatten(1), kernel)[start - low : stop - low]
        far = _attend(q, k_mean, read).transpose(0, 1).flatten(1)
        taken: Tensor = self.to_out(far + near)
        return taken


class NystromLayer(nn.Module):
    """x + attention(norm(x)), without a feed-forward part (TransMIL)."""

    def __init__(self, features: int, heads: int = 8) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(features)
        self.attn = NystromAttention(features, heads)

    def forward(self, x: Tensor, *, row: bool = False) -> Attended:
        """Attend (n, D); x is written to where no gradient is kept."""
        attended: Attended = self.attn(*self.attn.project(self.norm(x)), x, row=row)
        return attended


def pseudo_inverse(matrix: Tensor, *, same: int = 0) -> Tensor:
    """(H, m, m) the iterative pseudo-inverse of a softmax; in float32 or wider, also under autocast.

    It starts from the transpose, scaled by one number for all heads. The first `same` rows are equal to each
    other, and so are the first `same` columns: the matrix is U S Uᵀ with one column of U for all of them, and
    so is every step, with the same U. In a small bag, most of whose landmarks are empty, S is small.
    """
    with torch.autocast(matrix.device.type, enabled=False):
        matrix = matrix.float() if matrix.dtype in (torch.float16, torch.bfloat16) else matrix
        largest = matrix.abs().sum(-1).max() * matrix.abs().sum(-2).max()
        first, share = max(0, same - 1), max(1, same) ** 0.5
        root = matrix.new_ones(matrix.shape[-1] - first)
        root[0] = share
        small = matrix[:, first:, first:] * root * root[:, None]
        unit = torch.eye(len(root), dtype=matrix.dtype, device=matrix.device)
        z = small.mT / largest
        for _ in range(ITERATIONS):
            back = small @ z
            z = 0.25 * z @ (13 * unit - back @ (15 * unit - back @ (7 * unit - back)))
        z = z / root / root[:, None]
        whole = (torch.arange(matrix.shape[-1], device=matrix.device) - first).clamp(min=0)
        return z[:, whole][:, :, whole] if first else z


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """(H, …, d) softmax(q kᵀ) v; neither it nor its gradient has the softmax whole in memory."""
    return scaled_dot_product_attention(q[None], k[None], v[None], scale=1.0)[0]


@torch.no_grad()
def _look(
    q: Tensor, k: Tensor, v: Tensor, q_mean: Tensor, k_mean: Tensor, inverse: Tensor, token: int
) -> tuple[Tensor, Tensor]:
    """K3 v (H, m, d), and how one token, number `token`, looks at all (H, n); not in bfloat16 under autocast,
    which does not tell the tokens apart.
    """
    with torch.autocast(q.device.type, enabled=False):
        if inverse.dtype != q.dtype:  # what autocast projected, or a network in half precision
            q, k, v, q_mean, k_mean = (wide(t) for t in (q, k, v, q_mean, k_mean))
        first = torch.softmax(q[:, token : token + 1] @ k_mean.mT, -1) @ inverse
        read, seen = q.new_empty(q_mean.shape), q.new_zeros(q.shape[:2])
        for head in range(len(q)):
            for at in range(0, q_mean.shape[1], LANDMARKS):
                some = slice(at, at + LANDMARKS)
                look = torch.softmax(q_mean[head, some] @ k[head].T, -1)
                read[head, some] = look @ v[head]
                seen[head] += first[head, 0, some] @ look
        return read, seen
