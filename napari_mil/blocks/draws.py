"""What is drawn for many rows, to a few of them at a time: the same, however few are worked on at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from napari_mil.device import random_state, set_random_state

#: how many rows are drawn for, and which of them are worked on; nothing where these are all
_SOME: ContextVar[tuple[int, slice] | None] = ContextVar("some", default=None)


class Draws:
    """What torch's own generators say next of `count` rows, as often as anybody asks.

    Parameters
    ----------
    device : where the rows are
    begin, count : the first of the rows, and how many there are
    """

    def __init__(self, device: torch.device, begin: int, count: int) -> None:
        self._begin, self._count = begin, count
        self._devices = dict.fromkeys((torch.device("cpu"), device))  # seeds are drawn on the CPU
        self._state = self._states()

    @contextmanager
    def of(self, some: slice) -> Iterator[None]:
        """Inside, `some` of the rows get what they get when all are drawn for; outside, all have been."""
        self._set(self._state)
        token = _SOME.set((self._count, slice(some.start - self._begin, some.stop - self._begin)))
        try:
            yield
        finally:
            _SOME.reset(token)

    @contextmanager
    def again(self, some: slice) -> Iterator[None]:
        """The same later on: outside, the generators are as they were."""
        meanwhile = self._states()
        try:
            with self.of(some):
                yield
        finally:
            self._set(meanwhile)

    def _states(self) -> tuple[Tensor, ...]:
        return tuple(map(random_state, self._devices))

    def _set(self, states: tuple[Tensor, ...]) -> None:
        for device, state in zip(self._devices, states, strict=True):
            set_random_state(device, state)


def drawn_for(x: Tensor) -> tuple[tuple[int, ...], slice | None]:
    """The shape of what is to be drawn for rows x, and which of its rows these are; None: all of them."""
    some = _SOME.get()
    return (tuple(x.shape), None) if some is None else ((some[0], *x.shape[1:]), some[1])
