"""MHIM v2 as its published order of operations has it: the peer of `methods.py`, written for clarity alone.

Every step is the one of docs/methods.md, one after the other, with nothing left out or merged: all tiles are
projected before any is hidden, masks are built with Python's sets, attention maps stand in memory whole.
Key names are the published ones, so that both implementations run on the same weights.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

HEADS = 8


class Nystrom(nn.Module):
    """Nyström attention: n' × 256, 256 × 256 and 256 × n' maps, six iterations of the pseudo-inverse."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.landmarks, self.inner = d // 2, d // 8
        self.to_qkv = nn.Linear(d, 3 * HEADS * self.inner, bias=False)
        self.to_out = nn.Sequential(nn.Linear(HEADS * self.inner, d), nn.Dropout(0.1))
        self.res_conv = nn.Conv2d(HEADS, HEADS, (33, 1), padding=(16, 0), groups=HEADS, bias=False)

    def forward(self, x: Tensor, *, rows: bool = False) -> tuple[Tensor, Tensor | None, Tensor]:
        n, m = x.shape[1], self.landmarks
        pad = -n % m
        x = nn.functional.pad(x, (0, 0, pad, 0))
        size = x.shape[1] // m
        q, k, v = (t.unflatten(-1, (HEADS, -1)).transpose(1, 2) for t in self.to_qkv(x).chunk(3, -1))
        q = q * self.inner**-0.5
        ql, kl = (t.unflatten(2, (m, size)).mean(3) for t in (q, k))
        a1 = (q @ kl.transpose(-1, -2)).softmax(-1)
        a2 = (ql @ kl.transpose(-1, -2)).softmax(-1)
        a3 = (ql @ k.transpose(-1, -2)).softmax(-1)
        inverse = pseudo_inverse(a2)
        out = (a1 @ inverse) @ (a3 @ v) + self.res_conv(v)
        out = self.to_out(out.transpose(1, 2).flatten(2))[:, -n:]
        attention = None
        if rows:
            attention = (a1[:, :, pad : pad + 1] @ inverse @ a3)[:, :, 0, pad + 1 :]
        return out, attention, v[:, :, pad + 1 :]


def pseudo_inverse(x: Tensor) -> Tensor:
    size = x.abs()
    z = x.transpose(-1, -2) / (size.sum(-1).max() * size.sum(-2).max())
    eye = torch.eye(x.shape[-1], device=x.device)
    for _ in range(6):
        xz = x @ z
        z = 0.25 * z @ (13 * eye - xz @ (15 * eye - xz @ (7 * eye - xz)))
    return z


class Layer(nn.Module):
    def __init__(self, d: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(d)
        self.attn = Nystrom(d)

    def forward(self, x: Tensor, *, rows: bool = False) -> tuple[Tensor, Tensor | None, Tensor]:
        out, attention, v = self.attn(self.norm(x), rows=rows)
        return x + out, attention, v


class PPEG(nn.Module):
    def __init__(self, d: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(d, d, 7, 1, 3, groups=d)
        self.proj1 = nn.Conv2d(d, d, 5, 1, 2, groups=d)
        self.proj2 = nn.Conv2d(d, d, 3, 1, 1, groups=d)

    def forward(self, x: Tensor) -> Tensor:
        n, side = x.shape[1], math.ceil(math.sqrt(x.shape[1]))
        x = torch.cat([x, x[:, : side * side - n]], 1)
        if side < 7:
            x = torch.cat([x, x.new_zeros(1, 49 - x.shape[1], x.shape[2])], 1)
            side = 7
        grid = x.transpose(1, 2).unflatten(2, (side, side))
        grid = self.proj(grid) + grid + self.proj1(grid) + self.proj2(grid)
        return grid.flatten(2).transpose(1, 2)[:, :n]


class SelfAttention(nn.Module):
    def __init__(self, d: int, classes: int) -> None:  # noqa: ARG002 - one signature for all encoders
        super().__init__()
        self.cls_token = nn.Parameter(torch.randn(1, 1, d))
        self.layer1, self.layer2, self.norm = Layer(d), Layer(d), nn.LayerNorm(d)
        self.pos_embedding = PPEG(d)

    def forward(self, x: Tensor, *, score: bool = False) -> tuple[Tensor, ...]:
        x = torch.cat([self.cls_token, x], 1)
        x, attention, v = self.layer1(x, rows=score)
        x = torch.cat([x[:, :1], self.pos_embedding(x[:, 1:])], 1)
        x, _, _ = self.layer2(x)
        z = self.norm(x)[:, 0]
        if not score:
            return (z,)
        weighted = (attention[..., None] * v).transpose(1, 2).flatten(2)
        return z, self.layer1.attn.to_out(weighted)


class Attention(nn.Module):
    def __init__(self, d: int, classes: int) -> None:  # noqa: ARG002
        super().__init__()
        self.attention = nn.ModuleDict(
            {
                "attention": nn.Sequential(
                    nn.Linear(d, 128, bias=False), nn.ReLU(), nn.Linear(128, 1, bias=False)
                )
            }
        )

    def forward(self, x: Tensor, *, score: bool = False) -> tuple[Tensor, ...]:
        a = self.attention["attention"](x).transpose(1, 2).softmax(-1)
        z = (a @ x)[:, 0]
        return (z, a.transpose(1, 2) * x) if score else (z,)


class DSMIL(nn.Module):
    def __init__(self, d: int, classes: int) -> None:
        super().__init__()
        self.i_classifier = nn.Sequential(nn.Linear(d, classes))
        q = nn.Sequential(nn.Linear(d, 128), nn.ReLU(), nn.Linear(128, 128), nn.Tanh())
        v = nn.Sequential(nn.Dropout(0.0), nn.Linear(d, d), nn.ReLU())
        self.b_classifier = nn.ModuleDict({"q": q, "v": v, "fcc": nn.Conv1d(classes, classes, d)})

    def forward(self, x: Tensor, *, score: bool = False) -> tuple[Tensor, ...]:
        h = x[0]
        c = self.i_classifier(h)
        v, q = self.b_classifier["v"](h), self.b_classifier["q"](h)
        _, order = torch.sort(c, 0, descending=True)
        critical = self.b_classifier["q"](h[order[0]])
        a = (q @ critical.T / math.sqrt(q.shape[1])).softmax(0)
        b = (a.T @ v)[None]
        logits = self.b_classifier["fcc"](b).view(1, -1)
        most = c.max(0, keepdim=True).values
        return (b, (logits + most) / 2, c[None]) if score else (b, (logits + most) / 2)


class Recycle(nn.Module):
    def __init__(self, d: int, k: int) -> None:
        super().__init__()
        spread = math.sqrt(6 / (3 * 16 * 16 + d))
        self.global_q_mm = nn.Parameter(torch.empty(1, k, d).uniform_(-spread, spread), requires_grad=False)
        self.norm = nn.LayerNorm(d)
        self.attn = nn.ModuleDict(
            {
                "to_q": nn.Linear(d, HEADS * 64, bias=False),
                "to_kv": nn.Linear(d, 2 * HEADS * 64, bias=False),
                "to_out": nn.Sequential(nn.Linear(HEADS * 64, d), nn.Dropout(0.1)),
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        y, g = self.norm(x), self.norm(self.global_q_mm)
        q = self.attn["to_q"](g).unflatten(-1, (HEADS, 64)).transpose(1, 2)
        k, v = (t.unflatten(-1, (HEADS, 64)).transpose(1, 2) for t in self.attn["to_kv"](y).chunk(2, -1))
        weights = nn.functional.dropout((q @ k.transpose(-1, -2) * 64**-0.5).softmax(-1), 0.1, self.training)
        tokens = self.attn["to_out"]((weights @ v).transpose(1, 2).flatten(2))
        self.global_q_mm.data = 0.9999 * self.global_q_mm.data + 0.0001 * tokens.detach()
        return tokens


ENCODERS = {"attn": Attention, "dsmil": DSMIL, "selfattn": SelfAttention}


class Net(nn.Module):
    def __init__(self, encoder: str, d_in: int, classes: int, k: int = 5, d: int = 512) -> None:
        super().__init__()
        self.kind = encoder
        self.feature = nn.Sequential(nn.Linear(d_in, d), nn.GELU())
        self.dp = nn.Dropout(0.25)
        self.merge = Recycle(d, k)
        self.online_encoder = ENCODERS[encoder](d, classes)
        self.predictor = nn.Linear(d, classes)

    @torch.no_grad()
    def teach(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Bag vector and score of every tile."""
        h = self.dp(self.feature(x))
        if self.kind == "dsmil":
            b, _, c = self.online_encoder(h, score=True)
            return b, c.max(-1).values
        z, weighted = self.online_encoder(h, score=True)
        logits = weighted @ self.predictor.weight.T + self.predictor.bias[0]
        return z, logits.softmax(-1).max(-1).values

    def learn(self, x: Tensor, score: Tensor, mask_ratio: float, keep_ratio: float) -> tuple[Tensor, Tensor]:
        """Bag vector and logits of what the masks leave."""
        h = self.dp(self.feature(x))
        n = h.shape[1]
        masked = torch.topk(score[0], math.ceil(n * mask_ratio)).indices
        left = list(set(range(n)) - set(masked.tolist()))
        h = h[:, torch.tensor(left, device=h.device)]
        order = torch.rand(h.shape[1], device=h.device).argsort()
        keep = math.floor(h.shape[1] * keep_ratio)
        tokens = torch.cat([h[:, order[:keep]], self.merge(h[:, order[keep:]])], 1)
        if self.kind == "dsmil":
            b, logits = self.online_encoder(tokens)
            return b, logits
        (z,) = self.online_encoder(tokens)
        return z, self.predictor(z)


class Trainer:
    """One training step of MHIM v2 on one bag: teacher, student, loss, Adam, teacher follows."""

    def __init__(self, net: Net, *, mask_ratio: float = 0.03, keep_ratio: float = 0.8) -> None:
        self.student, self.teacher = net, copy.deepcopy(net)
        for p in self.teacher.parameters():
            p.requires_grad = False
        self.ratios = (mask_ratio, keep_ratio)
        learned = [p for p in net.parameters() if p.requires_grad]
        self.optimiser = torch.optim.Adam(learned, 2e-4, weight_decay=1e-5)

    def step(self, x: Tensor, label: Tensor) -> float:
        """Learn from a bag (1, N, D_in) and its label (1,); returns the loss."""
        self.student.train()
        self.teacher.train()
        vector, score = self.teacher.teach(x)
        z, logits = self.student.learn(x, score, *self.ratios)
        target = (vector / 0.1).softmax(-1).detach()
        agree = -(target * z.log_softmax(-1)).sum(-1).mean()
        loss = nn.functional.cross_entropy(logits, label) + 0.5 * agree
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        with torch.no_grad():
            for theirs, ours in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
                theirs.data = 0.9997 * theirs.data + 0.0003 * ours.data
        return loss.item()
