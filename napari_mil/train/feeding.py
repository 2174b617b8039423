"""Bags on their way to where they are learned from: the next travels while one is being learned from.

From a host's memory to a GPU a bag takes a good part of the time of a step. A thread of its own copies the
next one into pinned memory and from there, beside what the GPU computes, to the device.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

K = TypeVar("K")
T = TypeVar("T")


class Ahead(Generic[K, T]):
    """What is wanted in a known order; where `early`, a thread fetches the next while one is used.

    What nobody announced is fetched when it is asked for, so that asking again is no error, and nothing but
    the time depends on what was announced.
    """

    def __init__(self, fetch: Callable[[K], T], order: Iterable[K] = (), *, early: bool = False) -> None:
        self._fetch, self._order = fetch, iter(order)
        self._coming: tuple[K, Future[T]] | None = None
        self._pool = ThreadPoolExecutor(1, "feeding") if early else None
        if self._pool is not None:
            weakref.finalize(self, self._pool.shutdown, wait=False, cancel_futures=True)
        self._announce()

    def get(self, wanted: K) -> T:
        """What was wanted; an error of its fetching is raised here, and not again."""
        if self._coming is None or self._coming[0] != wanted:
            return self._fetch(wanted)
        try:
            return self._coming[1].result()
        finally:
            self._announce()

    def _announce(self) -> None:
        self._coming = None
        if self._pool is not None:
            for key in self._order:
                self._coming = key, self._pool.submit(self._fetch, key)
                return


@dataclass(frozen=True, slots=True, eq=False)
class Sent:
    """Tensors on their way to a device.

    Attributes
    ----------
    tensors : on the device, whatever is in them yet
    there : what tells that they have arrived; None: they have
    """

    tensors: tuple[Tensor, ...]
    there: torch.cuda.Event | None = None

    def arrived(self) -> tuple[Tensor, ...]:
        """The tensors; what is computed from them next waits for them."""
        if self.there is not None:
            now = torch.cuda.current_stream(self.tensors[0].device)
            now.wait_event(self.there)
            for one in self.tensors:
                one.record_stream(now)  # their memory is not given to others before this stream is done
        return self.tensors


_ways: dict[torch.device, torch.cuda.Stream] = {}


def send(tensors: Iterable[Tensor], device: torch.device) -> Sent:
    """Send tensors of any shape to a device; from this host to a GPU through pinned memory, beside what it
    computes. Their values are there once `Sent.arrived` was asked.
    """
    tensors = tuple(tensors)
    if device.type != "cuda" or all(one.is_cuda for one in tensors):
        return Sent(tuple(one.to(device) for one in tensors))
    if device not in _ways:
        _ways[device] = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    way = _ways[device]
    with torch.cuda.stream(way):
        pinned = (one if one.is_pinned() else one.pin_memory() for one in tensors)
        sent = tuple(one.to(device, non_blocking=True) for one in pinned)
        return Sent(sent, way.record_event())
