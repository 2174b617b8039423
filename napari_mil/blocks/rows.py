"""Rows of a bag, projected a few at a time.

Most of what a network makes of a tile is read once. Worked through in chunks it stays in the cache, and it is
never held for the whole bag: only the projection's products wait for the way back, and what follows them,
which costs little, is made anew there.

Shape letters: N tiles of a bag, n of them that are looked at, D_in and D feature widths.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from napari_mil.blocks.basics import Dropout
from napari_mil.device import wide, working

#: rows worked on together: what a core's cache holds, and what keeps a GPU busy
CPU_ROWS, GPU_ROWS = 2048, 16384
#: h of some rows → tensors, for which no other row need be known; asked again it must say the same
Head = Callable[[Tensor], tuple[Tensor, ...]]


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Rows of a bag that are projected when somebody asks for them: h = dropout(act(W x + b)).

    Attributes
    ----------
    features : (N, D_in) the bag
    at : (n,) which of its rows, in which order; None: all
    layer, act, drop : the projection
    """

    features: Tensor
    at: Tensor | None
    layer: nn.Linear
    act: nn.Module
    drop: Dropout

    def __len__(self) -> int:
        return len(self.features) if self.at is None else len(self.at)

    def all(self) -> Tensor:
        """(n, D) h of every row."""
        if torch.is_grad_enabled():
            return torch.cat([h for (h,) in self.each(lambda h: (h,))])
        return _put_together(len(self), (self.drop(self.act(self.layer(x))) for x in self.chunks()))

    def each(
        self, head: Head, parameters: Sequence[nn.Parameter] = (), *, again: bool = True
    ) -> list[tuple[Tensor, ...]]:
        """What `head`, which reads these parameters, says of one chunk of rows after the other.

        With `again` it is asked again on the way back, in place of holding what it made; not for few rows,
        of which it costs little to hold it.
        """
        few = len(self) <= CPU_ROWS
        if few or self.features.requires_grad or not torch.is_grad_enabled():
            return [head(self.drop(self.act(self.layer(x)))) for x in self.chunks()]
        work = _Work(self, head, [p for p in parameters if p.requires_grad], again)
        flat = _Streamed.apply(work, self.layer.weight, self.layer.bias, *work.parameters)  # type: ignore[no-untyped-call]
        return [flat[i : i + work.outputs] for i in range(0, len(flat), work.outputs)]

    def chunks(self, dtype: torch.dtype | None = None) -> Iterator[Tensor]:
        """Features of chunk after chunk, in this precision or that of products here; one piece of memory
        serves all that are gathered, unless their gradient is asked for.
        """
        x, at, memory = self.features, self.at, None
        worked = dtype or working(x[:0]).dtype
        for some in _slices(len(self), x.device, half=worked.itemsize == 2):
            if at is None:
                found = x[some]
            elif x.requires_grad:
                found = x[at[some]]
            else:
                memory = x.new_empty(len(at[some]), x.shape[1]) if memory is None else memory
                found = torch.index_select(x, 0, at[some], out=memory[: len(at[some])])
            yield found.to(worked)


def by_rows(act: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`act` of x (n, D_in), which treats rows one by one, (n, …): in chunks where no gradient is kept. Half
    precision is made float32 then, chunk by chunk.
    """
    if torch.is_grad_enabled():
        return act(x)
    return _put_together(len(x), (act(wide(x[some])) for some in _slices(len(x), x.device)))


def _slices(count: int, device: torch.device, *, half: bool = False) -> Iterator[slice]:
    """Chunk after chunk of so many rows, twice as many in half precision; of no rows, one without any."""
    size = (CPU_ROWS if device.type == "cpu" else GPU_ROWS) * (2 if half else 1)
    for begin in range(0, max(count, 1), size):
        yield slice(begin, begin + size)


def _put_together(count: int, parts: Iterator[Tensor]) -> Tensor:
    """(count, …) the rows of all parts; a single one is not copied."""
    part = next(parts)
    if len(part) == count:
        return part
    made, at = part.new_empty(count, *part.shape[1:]), 0
    for some in chain([part], parts):
        made[at : at + len(some)] = some
        at += len(some)
    return made


@dataclass(slots=True, eq=False)
class _Work:
    """What the two ways need of each other."""

    rows: Rows
    head: Head
    parameters: list[nn.Parameter]
    again: bool
    outputs: int = 1

    def say(self, z: Tensor, kept: Tensor | None) -> tuple[Tensor, ...]:
        return self.head(self.rows.drop.keep(self.rows.act(z), kept))


class _Streamed(torch.autograd.Function):
    """Products of the projection are kept; what follows them is made again on the way back, or held."""

    @staticmethod
    def forward(ctx: Any, work: _Work, *parameters: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)  # an output that no loss reads gives its parameters no gradient
        device = work.rows.features.device.type
        ctx.work, ctx.mixed = work, (torch.is_autocast_enabled(device), torch.get_autocast_dtype(device))
        made: list[Tensor | None] = []
        ctx.held = []
        said: list[Tensor] = []
        for x in work.rows.chunks():
            z = work.rows.layer(x)
            kept = work.rows.drop.draw(z)
            with torch.set_grad_enabled(not work.again):
                z = z.detach().requires_grad_(not work.again)
                outputs = work.say(z, kept)
            work.outputs = len(outputs)
            said += [o.detach() for o in outputs]
            if work.again:
                made += [z, kept]
            else:
                ctx.held.append((z, outputs))
        ctx.save_for_backward(*parameters, *made)
        ctx.count = len(parameters)
        return tuple(said)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        work: _Work = ctx.work
        (weight, bias, *others), made = ctx.saved_tensors[: ctx.count], ctx.saved_tensors[ctx.count :]
        ours = torch.zeros_like(weight), torch.zeros_like(bias)
        sums: list[Tensor | None] = [None for _ in others]
        enabled, dtype = ctx.mixed
        for i, x in enumerate(work.rows.chunks((made[0] if work.again else ctx.held[0][0]).dtype)):
            if work.again:
                z = made[2 * i].detach().requires_grad_()
                with torch.enable_grad(), torch.autocast(x.device.type, dtype, enabled=enabled):
                    outputs = work.say(z, made[2 * i + 1])
            else:
                (z, outputs), ctx.held[i] = ctx.held[i], (None, None)
            asked = gradients[i * work.outputs : (i + 1) * work.outputs]
            pairs = [(o, g) for o, g in zip(outputs, asked, strict=True) if g is not None and o.requires_grad]
            if not pairs:
                continue
            back, *rest = torch.autograd.grad(
                [o for o, _ in pairs], [z, *others], [g for _, g in pairs], allow_unused=True
            )
            if back is not None:
                if back.dtype == weight.dtype:
                    ours[0].addmm_(back.T, x)
                else:
                    ours[0].add_(back.T @ x)
                ours[1].add_(back.sum(0))
            sums = [b if a is None else a if b is None else a + b for a, b in zip(sums, rest, strict=True)]
        return None, *ours, *sums
