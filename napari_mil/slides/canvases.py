"""Memory for pictures that replace each other."""

from __future__ import annotations

import mmap
import threading

import numpy as np
from numpy.typing import NDArray

from napari_mil.slides.info import Pixels

#: A picture that grows finds memory for so many times as many pixels, up to so many bytes.
_GROWTH, _FORESEEN = 2.25, 16 * 2**20


class Canvases:
    """Two by turns, so that the one before can be copied from.

    To touch fresh memory takes longer than to copy into it: it is used again, and for a picture that may grow
    it is touched ahead, in a thread.
    """

    def __init__(self) -> None:
        self._memory = [np.empty(0, np.uint8)] * 2
        self._spare: list[NDArray[np.uint8]] = []
        self._foreseen = 0

    @property
    def nbytes(self) -> int:
        """What is held, used or not."""
        return sum(len(one) for one in (*self._memory, *self._spare))

    def blank(self, height: int, width: int) -> Pixels:
        """(height, width, 3) uint8 with anything in it, in the memory of the picture before the last."""
        size = 3 * height * width
        self._memory.reverse()
        if self._spare and len(self._spare[-1]) > len(self._memory[0]):
            self._memory[0] = self._spare.pop()
        if len(self._memory[0]) < size:
            self._memory[0] = np.empty(size, np.uint8)
        growth = min(int(size * _GROWTH), _FORESEEN)
        if growth > self._foreseen:
            self._foreseen = growth
            threading.Thread(target=self._foresee, args=(growth,), name="canvases", daemon=True).start()
        return self._memory[0][:size].reshape(height, width, 3)

    def _foresee(self, size: int) -> None:
        spare = [np.zeros(size, np.uint8) for _ in self._memory]
        for one in spare:
            one[:: mmap.PAGESIZE] = 0
        if size == self._foreseen:
            self._spare = spare
