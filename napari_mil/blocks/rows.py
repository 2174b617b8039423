"""Rows of a bag, projected a few at a time.

Most of what a network makes of a tile is read once. Worked through in chunks it stays in the cache, and
little of it is held for the whole bag: the projection's products wait for the way back, but not h, which
follows from them at little cost and is made anew there. Where memory is short for a training, fewer rows are
worked on together, and the products are made anew as well; what is dropped is drawn as for chunks of the
usual size, so that nothing but rounding tells the one from the other.

Shape letters: N tiles of a bag, n of them that are looked at, D_in and D feature widths.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import chain
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from napari_mil.blocks.basics import Dropout
from napari_mil.blocks.draws import Draws
from napari_mil.blocks.streaming import Head, Streamed, Values, Work
from napari_mil.device import Memory, is_out_of_memory, known_memory, wide, working

#: rows worked on together: what a core's cache holds, and what keeps a GPU busy
CPU_ROWS, GPU_ROWS = 2048, 16384
#: fewer rows are not tried when memory is short: what does not fit then is something else
LEAST_ROWS = 64
T = TypeVar("T")


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

    @property
    def few(self) -> bool:
        """Whether it costs little to hold all that is made of them, or whoever asks wants it held: then what
        is said of them has its whole graph.
        """
        return (len(self) <= CPU_ROWS // 4 and known_memory().rows is None) or self.features.requires_grad

    def all(self) -> Tensor:
        """(n, D) h of every row."""
        if torch.is_grad_enabled():
            return torch.cat([h for (h,) in self.each(lambda h: (h,))])
        return _put_together(len(self), self._answers(lambda h: h))

    def each(self, head: Head, parameters: Sequence[Tensor] = ()) -> list[tuple[Tensor, ...]]:
        """What `head` says of one chunk of rows after the other. It reads these parameters; where it reads
        what was made of some, that is one of them, and those it was made of are not.
        """
        return self._each(head, parameters)[0]

    def summed(
        self, head: Head, parameters: Sequence[Tensor] = ()
    ) -> tuple[list[tuple[Tensor, ...]], Values]:
        """The same, but that what the head says last of the rows, (n, D), will be summed by weights."""
        said, work = self._each(head, parameters)
        values = Values(tuple(last for *_, last in said), work, None if work is None else said[0][-1])
        return [tuple(others) for *others, _ in said], values

    def _each(self, head: Head, parameters: Sequence[Tensor]) -> tuple[list[tuple[Tensor, ...]], Work | None]:
        if not torch.is_grad_enabled():
            return list(self._answers(head)), None
        if self.few:
            return [head(self.drop(self.act(self.layer(x)))) for x in self.chunks()], None
        work = Work(self, head, [p for p in parameters if p.requires_grad])
        flat = Streamed.apply(work, self.layer.weight, self.layer.bias, *work.parameters)  # type: ignore[no-untyped-call]
        return [flat[i : i + work.outputs] for i in range(0, len(flat), work.outputs)], work

    def _answers(self, head: Callable[[Tensor], T]) -> Iterator[T]:
        """What `head` says of h of chunk after chunk, without a gradient; see `_in_chunks`."""
        x, gather = self.features, self.gatherer()
        worked = working(x[:0]).dtype

        def act(some: slice) -> T:
            return head(self.drop(self.act(self.layer(gather(some).to(worked)))))

        return _in_chunks(act, len(self), x.device, half=worked.itemsize == 2, draws=self.layer.training)

    def chunks(self) -> Iterator[Tensor]:
        """Features of chunk after chunk, in the precision of products here."""
        x, gather = self.features, self.gatherer()
        worked = working(x[:0]).dtype
        for some in _slices(len(self), x.device, half=worked.itemsize == 2):
            yield gather(some).to(worked)

    def pieces(self) -> Iterator[tuple[slice, Draws | None]]:
        """Chunk after chunk; where memory is short, fewer rows at a time, and what their chunk draws."""
        device, rows = self.features.device, known_memory().rows
        for chunk in _slices(len(self), device, half=working(self.features[:0]).itemsize == 2):
            if rows is None:
                yield chunk, None
                continue
            stop = min(chunk.stop, len(self))
            drawn = Draws(device, chunk.start, stop - chunk.start)
            for begin in range(chunk.start, stop, rows):
                yield slice(begin, min(begin + rows, stop)), drawn

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
    """`act` of x (n, D_in), which treats rows one by one, (n, …): in chunks where no gradient is kept, and
    half precision is made float32 then, chunk by chunk; where memory is short in chunks that are made anew on
    the way back.
    """
    if torch.is_grad_enabled():
        rows = known_memory().rows
        return act(x) if rows is None or rows >= len(x) else _made_anew(act, x, rows)
    draws = getattr(act, "training", True)
    return _put_together(len(x), _in_chunks(lambda some: act(wide(x[some])), len(x), x.device, draws=draws))


def _made_anew(act: Callable[[Tensor], Tensor], x: Tensor, rows: int) -> Tensor:
    """`act` of x, so many rows at a time, of which nothing else is held for the way back."""
    drawn = Draws(x.device, 0, len(x))

    def some_of(some: slice) -> Tensor:
        def run(y: Tensor) -> Tensor:
            with drawn.of(some):
                return act(y)

        made: Tensor = checkpoint(run, x[some], use_reentrant=False)
        return made

    starts = range(0, len(x), rows)
    return torch.cat([some_of(slice(begin, min(begin + rows, len(x)))) for begin in starts])


def fewer_rows(memory: Memory, count: int, device: torch.device, *, half: bool = False) -> bool:
    """Whether `count` rows can be worked on with fewer at a time than did not fit; from now on they are."""
    size = min(memory.rows or sys.maxsize, _usual(device, half=half), count)
    if size <= LEAST_ROWS:
        return False
    memory.rows = max(size // 2, LEAST_ROWS)
    if device.type == "cuda":
        torch.cuda.empty_cache()  # what the failed chunk held in pieces is of no use to smaller ones
    return True


def _usual(device: torch.device, *, half: bool) -> int:
    """Rows worked on together, twice as many in half precision."""
    return (CPU_ROWS if device.type == "cpu" else GPU_ROWS) * (2 if half else 1)


def _slices(count: int, device: torch.device, *, half: bool = False) -> Iterator[slice]:
    """Chunk after chunk of the usual number of rows; of no rows, one without any."""
    size = _usual(device, half=half)
    for begin in range(0, max(count, 1), size):
        yield slice(begin, begin + size)


def _in_chunks(
    act: Callable[[slice], T], count: int, device: torch.device, *, half: bool = False, draws: bool
) -> Iterator[T]:
    """What `act`, which may draw or never does, makes of chunk after chunk of `count` rows; of no rows, of
    one without any.

    Where memory does not suffice, half as many rows are tried, and what is computed later in the same block
    of `device.watching_memory` begins with as few. The error remains with LEAST_ROWS.
    """
    memory = known_memory()
    for chunk in _slices(count, device, half=half):
        begin, stop = chunk.start, min(chunk.stop, count)
        drawn = Draws(device, begin, stop - begin) if draws else None
        while begin < max(stop, 1):
            some = slice(begin, min(begin + (memory.rows or sys.maxsize), stop))
            try:
                whole = some == slice(chunk.start, stop)
                # what is said is not kept here while the next rows are worked on
                yield act(some) if whole else _drawn(act, some, drawn)
                begin = max(some.stop, 1)
                continue
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or some.stop - some.start <= LEAST_ROWS:
                    raise
            fewer_rows(memory, some.stop - some.start, device, half=half)


def _drawn(act: Callable[[slice], T], some: slice, drawn: Draws | None) -> T:
    with nullcontext() if drawn is None else drawn.of(some):
        return act(some)


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
