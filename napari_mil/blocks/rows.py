"""Rows of a bag, projected a few at a time.

Most of what a network makes of a tile is read once. Worked through in chunks it stays in the cache, and
little of it is held for the whole bag: the projection's products wait for the way back, but not h, which
follows from them at little cost and is made anew there.

Shape letters: N tiles of a bag, n of them that are looked at, D_in and D feature widths.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.autograd.graph import GradientEdge, get_gradient_edge, saved_tensors_hooks

from napari_mil.blocks.basics import Dropout
from napari_mil.device import is_out_of_memory, known_memory, wide, working

#: rows worked on together: what a core's cache holds, and what keeps a GPU busy
CPU_ROWS, GPU_ROWS = 2048, 16384
#: fewer rows are not tried when memory is short: what does not fit then is something else
LEAST_ROWS = 64
T = TypeVar("T")
#: h of some rows → tensors, for which no other row need be known
Head = Callable[[Tensor], tuple[Tensor, ...]]
#: shape, strides and offset of what looks into other memory
_View = tuple[torch.Size, tuple[int, ...], int]


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
        return _put_together(len(self), self._answers(lambda h: h))

    def each(self, head: Head, parameters: Sequence[nn.Parameter] = ()) -> list[tuple[Tensor, ...]]:
        """What `head`, which reads these parameters, says of one chunk of rows after the other."""
        return self._each(head, parameters)[0]

    def summed(
        self, head: Head, parameters: Sequence[nn.Parameter] = ()
    ) -> tuple[list[tuple[Tensor, ...]], Values]:
        """The same, but that what the head says last of the rows, (n, D), will be summed by weights."""
        said, work = self._each(head, parameters)
        values = Values(tuple(last for *_, last in said), work, None if work is None else said[0][-1])
        return [tuple(others) for *others, _ in said], values

    def _each(
        self, head: Head, parameters: Sequence[nn.Parameter]
    ) -> tuple[list[tuple[Tensor, ...]], _Work | None]:
        few = len(self) <= CPU_ROWS // 4  # it costs little to hold all that is made of them
        if not torch.is_grad_enabled():
            return list(self._answers(head)), None
        if few or self.features.requires_grad:
            return [head(self.drop(self.act(self.layer(x)))) for x in self.chunks()], None
        work = _Work(self, head, [p for p in parameters if p.requires_grad])
        flat = _Streamed.apply(work, self.layer.weight, self.layer.bias, *work.parameters)  # type: ignore[no-untyped-call]
        return [flat[i : i + work.outputs] for i in range(0, len(flat), work.outputs)], work

    def _answers(self, head: Callable[[Tensor], T]) -> Iterator[T]:
        """What `head` says of h of chunk after chunk, without a gradient; see `_in_chunks`."""
        x, gather = self.features, self.gatherer()
        worked = working(x[:0]).dtype

        def act(some: slice) -> T:
            return head(self.drop(self.act(self.layer(gather(some).to(worked)))))

        return _in_chunks(act, len(self), x.device, half=worked.itemsize == 2)

    def chunks(self) -> Iterator[Tensor]:
        """Features of chunk after chunk, in the precision of products here."""
        x, gather = self.features, self.gatherer()
        worked = working(x[:0]).dtype
        for some in _slices(len(self), x.device, half=worked.itemsize == 2):
            yield gather(some).to(worked)

    def gatherer(self) -> Callable[[slice], Tensor]:
        """What gives (n, D_in) features of some rows; what it gave before is overwritten where rows are
        gathered, unless their gradient is asked for.
        """
        memory = self.features[:0]

        def gather(some: slice) -> Tensor:
            nonlocal memory
            if self.at is None:
                return self.features[some]
            at = self.at[some]
            if self.features.requires_grad:
                return self.features[at]
            if len(memory) < len(at):
                memory = self.features.new_empty(len(at), self.features.shape[1])
            return torch.index_select(self.features, 0, at, out=memory[: len(at)])

        return gather


def by_rows(act: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`act` of x (n, D_in), which treats rows one by one, (n, …): in chunks where no gradient is kept. Half
    precision is made float32 then, chunk by chunk.
    """
    if torch.is_grad_enabled():
        return act(x)
    return _put_together(len(x), _in_chunks(lambda some: act(wide(x[some])), len(x), x.device))


def _usual(device: torch.device, *, half: bool) -> int:
    """Rows worked on together, twice as many in half precision."""
    return (CPU_ROWS if device.type == "cpu" else GPU_ROWS) * (2 if half else 1)


def _slices(count: int, device: torch.device, *, half: bool = False) -> Iterator[slice]:
    """Chunk after chunk of the usual number of rows; of no rows, one without any."""
    size = _usual(device, half=half)
    for begin in range(0, max(count, 1), size):
        yield slice(begin, begin + size)


def _in_chunks(
    act: Callable[[slice], T], count: int, device: torch.device, *, half: bool = False
) -> Iterator[T]:
    """What `act` makes of chunk after chunk of `count` rows; of no rows, of one without any.

    Where memory does not suffice, half as many rows are tried, and what is computed later in the same block
    of `device.watching_memory` begins with as few. The error remains with LEAST_ROWS.
    """
    memory, begin = known_memory(), 0
    size = min(memory.rows or sys.maxsize, _usual(device, half=half))
    while begin < max(count, 1):
        try:
            yield act(slice(begin, begin + size))  # not kept here while the next chunk is worked on
            begin += size
            continue
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or min(size, count - begin) <= LEAST_ROWS:
                raise
        memory.rows = size = max(min(size, count - begin) // 2, LEAST_ROWS)
        if device.type == "cuda":
            torch.cuda.empty_cache()  # what the failed chunk held in pieces is of no use to smaller ones


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
    """What the two ways need of each other.

    Attributes
    ----------
    sums : of each sum of the values that was asked for its gradient, the weights (n, k) and that gradient
    """

    rows: Rows
    head: Head
    parameters: list[nn.Parameter]
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
    work: _Work | None = None
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


class _Chunk:
    """Some rows between the two ways: z (n, D), what was dropped of them, and h while it is asked for."""

    def __init__(self, rows: Rows, some: slice, x: Tensor) -> None:
        self.rows, self.some = rows, some
        self.z = rows.layer(x).detach()
        self.kept = rows.drop.draw(self.z)
        self.edges: list[GradientEdge | None] = []
        self._h: Tensor | None = None

    def say(self, head: Head) -> list[Tensor]:
        """What the head says of h; of its graph z is held, and h nowhere."""
        with torch.enable_grad():
            self.z.requires_grad_()
            h = self._make()
            memory = h.untyped_storage().data_ptr()

            def hold(x: Tensor) -> Tensor | _View:
                if x.untyped_storage().data_ptr() != memory:
                    return x
                return x.shape, x.stride(), int(x.storage_offset())

            with saved_tensors_hooks(hold, self._again):
                said = head(h)
        self.edges = [get_gradient_edge(one) if one.requires_grad else None for one in said]
        return [one.detach() for one in said]

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

    def _make(self) -> Tensor:
        return self.rows.drop.keep(self.rows.act(self.z), self.kept)

    def _again(self, held: Tensor | _View) -> Tensor:
        if isinstance(held, Tensor):
            return held
        if self._h is None:
            with torch.no_grad():
                self._h = self._make()
        return self._h.as_strided(*held)


class _Streamed(torch.autograd.Function):
    """The graph of each chunk is held, but for h, which is made again of the projection's products."""

    @staticmethod
    def forward(ctx: Any, work: _Work, *parameters: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)  # an output that no loss reads gives its parameters no gradient
        ctx.work, ctx.held = work, []
        ctx.save_for_backward(*parameters)
        said: list[Tensor] = []
        start = 0
        for x in work.rows.chunks():
            chunk = _Chunk(work.rows, slice(start, start := start + len(x)), x)
            said += chunk.say(work.head)
            ctx.held.append(chunk)
        work.outputs = len(said) // len(ctx.held)
        return tuple(said)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        work: _Work = ctx.work
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
