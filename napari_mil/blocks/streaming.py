"""The two ways of rows that are worked through in chunks: what is held of a chunk between them.

Shape letters: N tiles of a bag, n of them that are worked on together, D feature width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import ReferenceType, ref

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.autograd.graph import GradientEdge, get_gradient_edge, saved_tensors_hooks

from napari_mil.blocks.draws import Draws
from napari_mil.device import working

if TYPE_CHECKING:
    from napari_mil.blocks.rows import Rows

#: h of some rows → tensors, for which no other row need be known
Head = Callable[[Tensor], tuple[Tensor, ...]]
#: shape, strides and offset of what looks into other memory
_View = tuple[torch.Size, tuple[int, ...], int]


@dataclass(slots=True, eq=False)
class Work:
    """What the two ways need of each other.

    Attributes
    ----------
    sums : of each sum of the values that was asked for its gradient, the weights (n, k) and that gradient
    """

    rows: Rows
    head: Head
    parameters: list[Tensor]
    outputs: int = 1
    sums: list[tuple[Tensor, Tensor]] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Values:
    """What of rows is only ever summed by weights.

    Attributes
    ----------
    parts : (n, D) of chunk after chunk; where they were streamed, no gradient flows through these
    """

    parts: tuple[Tensor, ...]
    work: Work | None = None
    link: Tensor | None = None

    def sum(self, weights: Tensor) -> Tensor:
        """(k, D) Σ weightsᵀ values, for weights (n, k).

        The values' gradient, weights times that of the sum, is as large as they are: it is made in chunks.
        """
        if self.work is None:
            return _sum(weights, self.parts)
        made: Tensor = _Summed.apply(weights, self.link, self)  # type: ignore[no-untyped-call]
        return made


def _sum(weights: Tensor, parts: Sequence[Tensor]) -> Tensor:
    each = torch.split(weights, [len(part) for part in parts])
    return torch.stack([w.T.to(v.dtype) @ v for w, v in zip(each, parts, strict=True)]).sum(0)


class _Summed(torch.autograd.Function):
    """A sum whose values learn of its gradient when their chunk has its turn on the way back."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, link: Tensor, values: Values) -> Tensor:  # noqa: ARG004
        ctx.save_for_backward(weights)
        ctx.values = values
        return _sum(weights, [part.detach() for part in values.parts])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (weights,), (asked,), values = ctx.saved_tensors, gradients, ctx.values
        values.work.sums.append((weights, asked))
        back = torch.cat([(part.detach() @ asked.T).to(weights.dtype) for part in values.parts])
        return back, None, None


class _Made(torch.autograd.Function):
    """h, of whose making nothing is held: on the way back the chunk makes it again."""

    @staticmethod
    def forward(ctx: Any, chunk: ReferenceType[_Chunk], h: Tensor, z: Tensor) -> Tensor:  # noqa: ARG004
        ctx.chunk = chunk
        return h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None, Tensor]:
        return None, None, ctx.chunk().through(gradients[0])


class _Chunk:
    """Some rows between the two ways: z (n, D), what was dropped of them, and h while it is asked for; where
    memory is short, nothing but what was drawn for them.
    """

    z: Tensor
    kept: Tensor | None

    def __init__(self, rows: Rows, some: slice, head: Head, drawn: Draws | None) -> None:
        self.rows, self.some, self.head, self.drawn = rows, some, head, drawn
        self.edges: list[GradientEdge | None] = []
        self._h: Tensor | None = None
        kind = rows.features.device.type
        dtype, acts = torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)
        self._precision = torch.autocast(kind, dtype, enabled=acts)

    def say(self, gather: Callable[[slice], Tensor]) -> list[Tensor]:
        """What the head says of these rows."""
        if self.drawn is None:
            return self._say(gather)
        with self.drawn.of(self.some), torch.no_grad():
            said = list(self.head(self._project(gather)))
        del self.z, self.kept
        return said

    def _say(self, gather: Callable[[slice], Tensor]) -> list[Tensor]:
        """What the head says of h; of its graph z is held, and h nowhere."""
        with torch.no_grad():
            h = self._project(gather)
        me = ref(self)  # the graph is this chunk's own, so that it must not hold the chunk
        with torch.enable_grad():
            self.z.requires_grad_()
            h = _Made.apply(me, h, self.z)  # type: ignore[no-untyped-call]
            memory = h.untyped_storage().data_ptr()

            def hold(x: Tensor) -> Tensor | _View:
                if x.untyped_storage().data_ptr() != memory:
                    return x.detach()  # the graph must not hold itself
                return x.shape, x.stride(), int(x.storage_offset())

            def again(held: Tensor | _View) -> Tensor:
                return me().again(held)  # type: ignore[union-attr]

            with saved_tensors_hooks(hold, again):
                said = self.head(h)
        self.edges = [get_gradient_edge(one) if one.requires_grad else None for one in said]
        return [one.detach() for one in said]

    def _project(self, gather: Callable[[slice], Tensor]) -> Tensor:
        """What is h now; z, and what is dropped, are told."""
        x = gather(self.some)
        self.z = self.rows.layer(x.to(working(x[:0]).dtype))
        h = self.rows.act(self.z)
        self.kept = self.rows.drop.draw(h)
        return self.rows.drop.keep(h, self.kept)

    def back(
        self,
        asked: Sequence[Tensor | None],
        others: Sequence[Tensor],
        weight: Tensor,
        bias: Tensor,
        gather: Callable[[slice], Tensor],
    ) -> list[Tensor | None]:
        """Gradients of the head's parameters, for those of what was said; the projection's are added to these
        sums. Features are gathered last: they are the largest of all.
        """
        if self.drawn is not None:
            with self.drawn.again(self.some), self._precision:
                self._say(gather)
        pairs = [(e, g) for e, g in zip(self.edges, asked, strict=True) if e is not None and g is not None]
        if not pairs:
            return [None] * len(others)
        inner: tuple[Tensor | None, ...] = torch.autograd.grad(
            [e for e, _ in pairs], [self.z, *others], [g for _, g in pairs], allow_unused=True
        )
        back, *rest = inner
        self._h = None
        if back is not None:
            x = gather(self.some).to(back.dtype)
            if back.dtype == weight.dtype:
                weight.addmm_(back.T, x)
            else:
                weight.add_(back.T @ x)
            bias.add_(back.sum(0))
        return rest

    def _made(self) -> Tensor:
        """What is h, with its graph, until this chunk has had its turn."""
        if self._h is None:
            with torch.enable_grad(), self._precision:
                self._h = self.rows.drop.keep(self.rows.act(self.z), self.kept)
        return self._h

    def again(self, held: Tensor | _View) -> Tensor:
        """What was held of the head's graph, or the view of h that it stands for."""
        return held if isinstance(held, Tensor) else self._made().detach().as_strided(*held)

    def through(self, asked: Tensor) -> Tensor:
        """The gradient of z, for that of h, which nobody asks for any more."""
        edge = get_gradient_edge(self._made())
        self._h = None
        return torch.autograd.grad(edge, self.z, asked)[0]


class Streamed(torch.autograd.Function):
    """The graph of each chunk is held, but for h, which is made again of the projection's products; where
    memory is short these are made again as well.
    """

    @staticmethod
    def forward(ctx: Any, work: Work, *parameters: Tensor) -> tuple[Tensor, ...]:
        """What the head says of chunk after chunk, one after the other."""
        ctx.set_materialize_grads(False)  # an output that no loss reads gives its parameters no gradient
        ctx.work, ctx.held = work, []
        ctx.save_for_backward(*parameters)
        said: list[Tensor] = []
        gather = work.rows.gatherer()
        for some, drawn in work.rows.pieces():
            chunk = _Chunk(work.rows, some, work.head, drawn)
            said += chunk.say(gather)
            ctx.held.append(chunk)
        work.outputs = len(said) // len(ctx.held)
        return tuple(said)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        """Of the projection's parameters and those of the head."""
        work: Work = ctx.work
        weight, bias, *others = ctx.saved_tensors
        ours = torch.zeros_like(weight), torch.zeros_like(bias)
        sums: list[Tensor | None] = [None for _ in others]
        gather = work.rows.gatherer()
        ctx.held.reverse()
        for i in range(0, len(gradients), work.outputs):
            chunk: _Chunk = ctx.held.pop()  # nobody else has it: it goes when it has had its turn
            asked = list(gradients[i : i + work.outputs])
            for weights, of_sum in work.sums:
                more = weights[chunk.some].to(of_sum.dtype) @ of_sum
                asked[-1] = more if asked[-1] is None else asked[-1] + more
                del more
            rest = chunk.back(asked, others, *ours, gather)
            sums = [b if a is None else a if b is None else a + b for a, b in zip(sums, rest, strict=True)]
        return None, *ours, *sums
