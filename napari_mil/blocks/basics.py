"""Small parts: initial weights, counts, draws, the soft-target loss."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

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
