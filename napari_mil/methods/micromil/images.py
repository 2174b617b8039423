"""The images of a bag: projected a few at a time, shared out among clusters, and asked again for those that
are chosen.

Shape letters: N images, n of them that are worked on together, D_in and d feature widths, K clusters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import leaky_relu

from napari_mil.blocks import Dropout, Rows
from napari_mil.device import known_memory, wide

SLOPE = 0.01


@dataclass(frozen=True, slots=True, eq=False)
class Assignment:
    """Which images belong together, and how well each would represent a cluster.

    Attributes
    ----------
    z : (N, K) share of every image in every cluster; rows sum to 1
    score : (N, K) before noise and softmax over the images
    images : what projects them, before the activation
    held : (n, d) the same of some images after the other, without a gradient; None: to be made again
    whole : (N, d) the projected images with their graph, where these are few, else None
    """

    z: Tensor
    score: Tensor
    images: Rows
    held: tuple[Tensor, ...] | None
    whole: Tensor | None

    @property
    def features(self) -> Tensor:
        """(N, d) projected."""
        return leaky_relu(self.images.all(), SLOPE) if self.whole is None else self.whole

    def of(self, at: Tensor) -> Tensor:
        """(n, d) some images, projected."""
        if self.whole is not None:
            return self.whole[at]
        some = Rows(self.images.features, at, self.images.layer, self.images.act, self.images.drop)
        return leaky_relu(some.all(), SLOPE)

    def choice(self, at: Tensor, soft: Callable[[], Tensor]) -> Tensor:
        """(K, d) the images at `at` (K,), with the gradient of their mean by weights `soft` (K, N), which are
        asked for where a gradient is kept (straight-through).
        """
        chosen = self.of(at)
        if not torch.is_grad_enabled():
            return chosen
        drawn: Tensor = _StraightThrough.apply(soft(), chosen.detach(), self)  # type: ignore[no-untyped-call]
        return chosen + drawn

    def products(self, asked: Tensor) -> Tensor:
        """(K, N) asked fᵀ, without a gradient."""

        def head(x: Tensor) -> tuple[Tensor]:
            return (asked @ leaky_relu(x, SLOPE).to(asked.dtype).T,)

        with torch.no_grad():
            parts = self.images.each(head) if self.held is None else [head(x) for x in self.held]
            return torch.cat([part for (part,) in parts], 1)


def assign(features: Tensor, layer: nn.Linear, centres: nn.Parameter, attention: nn.Linear) -> Assignment:
    """Project the images of a bag (N, D_in), and share them out among the centres (K, d).

    For the way back nothing is held of an image but what the projection says of it, and that is not held
    either where memory is short.
    """
    images = Rows(features, None, layer, _Same(), Dropout(0.0))
    graph = torch.is_grad_enabled()
    hold = graph and known_memory().rows is None
    share = _Shared.apply if graph and not images.few else _shared
    read = (centres, attention.weight, attention.bias)

    def head(x: Tensor) -> tuple[Tensor, ...]:
        told: tuple[Tensor, Tensor] = share(x, *read)
        return (*told, x) if hold else told

    parts = images.each(head, read)
    z, score = (torch.cat([part[i] for part in parts]) for i in (0, 1))
    whole = leaky_relu(torch.cat([x for *_, x in parts]), SLOPE) if hold and images.few else None
    return Assignment(z, score, images, tuple(x.detach() for *_, x in parts) if hold else None, whole)


def shares(f: Tensor, centres: Tensor) -> Tensor:
    """(n, d) → (n, K) Student's t (one degree of freedom) of the distance to each centre, as shares that sum
    to 1 (Xie et al. 2016).
    """
    middle = centres.mean(0)  # nothing depends on it but rounding
    f, centres = f - middle, centres - middle
    square = torch.linalg.vector_norm(f, dim=1, keepdim=True).square() + centres.square().sum(1)
    square = torch.addmm(square, f, centres.T, alpha=-2)
    near = 1 / (1 + square.clamp_min(0))
    return near / near.sum(1, keepdim=True)


def _shared(x: Tensor, centres: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Shares z and scores, (n, K) each, of images before their activation; in float32 or wider also under
    autocast, since bfloat16 does not tell images apart.

    The attention layer on z_ic · f_i for every image and cluster, without making n · K vectors.
    """
    with torch.autocast(x.device.type, enabled=False):
        f = leaky_relu(wide(x), SLOPE)
        z = shares(f, centres)
        return z, z * (f @ weight[0])[:, None] + bias


class _Shared(torch.autograd.Function):
    """The same, of whose making nothing is held but the images."""

    @staticmethod
    def forward(ctx: Any, *given: Tensor) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*given)
        return _shared(*given)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        given = [x.detach().requires_grad_() for x in ctx.saved_tensors]
        with torch.enable_grad():
            said = _shared(*given)
        pairs = [(s, g) for s, g in zip(said, gradients, strict=True) if g is not None]
        if not pairs:
            return (None,) * len(given)
        back: tuple[Tensor | None, ...] = torch.autograd.grad(
            [s for s, _ in pairs], given, [g for _, g in pairs], allow_unused=True
        )
        return back


class _StraightThrough(torch.autograd.Function):
    """Nothing, whose gradient is that of weights (K, N) times the projected images."""

    @staticmethod
    def forward(ctx: Any, soft: Tensor, like: Tensor, assigned: Assignment) -> Tensor:
        ctx.assigned, ctx.dtype = assigned, soft.dtype
        return torch.zeros_like(like)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return ctx.assigned.products(gradients[0]).to(ctx.dtype), None, None


class _Same(nn.Module):
    """The numbers themselves, in the same memory."""

    def forward(self, x: Tensor) -> Tensor:
        """X, seen once more."""
        return x.view_as(x)
