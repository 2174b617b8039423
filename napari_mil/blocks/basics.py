"""Small parts: initial weights, counts, draws, the soft-target loss."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from napari_mil.blocks.draws import drawn_for
from napari_mil.device import wide

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU, "tanh": nn.Tanh}


def xavier(module: nn.Module) -> None:
    """Xavier-normal weights and zero biases for Linear, ones and zeros for LayerNorm (MHIM's family)."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_normal_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.LayerNorm):
            nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)


def kaiming(module: nn.Module) -> None:
    """Kaiming-normal weights (fan in, gain √2) and zero biases for every Linear (HMIL)."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.kaiming_normal_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def soft_cross_entropy(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """−Σ softmax(teacher / τ) · log softmax(student) over the last axis; the teacher gets no gradient."""
    target = torch.softmax(wide(teacher.detach()) / temperature, -1)
    return -(target * torch.log_softmax(wide(student), -1)).sum(-1).mean()


def ceil_count(n: int, ratio: float, *, exact: bool) -> int:
    """ceil(n · ratio); `exact` takes the floating product as published (0.07 of 100 is 8), else 7."""
    return math.ceil(n * ratio - (0 if exact else 1e-9))


def floor_count(n: int, ratio: float, *, exact: bool) -> int:
    """floor(n · ratio), with the same choice."""
    return math.floor(n * ratio + (0 if exact else 1e-9))


class Dropout(nn.Dropout):
    """Dropout whose draw costs little on a CPU, where torch draws one number after the other.

    A number of torch's own generator seeds SFC64, 16 bits of which decide on each element: the same seed of
    torch gives the same answer, the share dropped is `p` to 1/65536, and a byte an element waits for the way
    back.
    """

    def forward(self, x: Tensor) -> Tensor:
        """X of any shape; what is kept, times 1 / (1 − p), while training."""
        shape, some = drawn_for(x)
        if x.device.type != "cpu" or self.p >= 1:
            return super().forward(x) if some is None else x * super().forward(x.new_ones(shape))[some]
        return self.keep(x, self.draw(x))

    def draw(self, x: Tensor) -> Tensor | None:
        """Which numbers of x are kept, bool, with p below 1; None where nothing is dropped."""
        if not (self.training and self.p > 0):
            return None
        shape, some = drawn_for(x)
        if x.device.type != "cpu":
            kept = torch.rand(shape, device=x.device) >= self.p
        else:
            seed, numbers = int(torch.randint(2**62, (), device="cpu")), math.prod(shape)
            bits = np.random.SFC64(seed).random_raw(-(-numbers // 4)).view(np.int16)[:numbers]
            kept = (torch.from_numpy(bits) >= round(self.p * 2**16) - 2**15).view(shape)
        return kept if some is None else kept[some]

    def keep(self, x: Tensor, kept: Tensor | None) -> Tensor:
        """What is kept of x, times 1 / (1 − p)."""
        if kept is None:
            return x
        left: Tensor = _Kept.apply(x, kept, 1 / (1 - self.p))  # type: ignore[no-untyped-call]
        return left


class _Kept(torch.autograd.Function):
    """x · kept · scale, with a mask of one byte a number."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kept: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(kept)
        ctx.scale = scale
        return masked(x, kept, scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (kept,) = ctx.saved_tensors
        return masked(gradients[0], kept, ctx.scale), None, None


def masked(x: Tensor, kept: Tensor, scale: float) -> Tensor:
    """X · kept · scale; a product with truth values, or a choice by them, takes many times as long."""
    return kept.view(torch.uint8).to(x.dtype).mul_(x).mul_(scale)


def draw_uniform(n: int, device: torch.device, generator: torch.Generator | None) -> Tensor:
    """(n,) numbers of U(0, 1) on `device`, drawn where the generator lives."""
    where = generator.device if generator is not None else device
    return torch.rand(n, device=where, generator=generator).to(device)


def draw_order(n: int, device: torch.device, generator: torch.Generator | None) -> Tensor:
    """(n,) int64 a random order of n things on `device`, drawn where the generator lives."""
    where = generator.device if generator is not None else device
    return torch.randperm(n, device=where, generator=generator).to(device)


def draw_gumbel(rows: int, columns: int, device: torch.device, generator: torch.Generator | None) -> Tensor:
    """(rows, columns) standard Gumbel noise −log(Exp(1)) on `device`, drawn where the generator lives.

    Row by row, as if each were drawn by itself: a single draw of the whole would use the generator otherwise.
    """
    where = generator.device if generator is not None else device
    waits = torch.empty(rows, columns, device=where)
    for row in waits:
        row.exponential_(generator=generator)
    return -waits.to(device).clamp_min(torch.finfo(waits.dtype).tiny).log()
