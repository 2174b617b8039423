"""The cache of decoded tiles that all open slides share, bounded in bytes."""

from __future__ import annotations

import itertools
import os
import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from weakref import WeakKeyDictionary

import numpy as np
import psutil
from numpy.typing import NDArray

from napari_mil.errors import SlideError
from napari_mil.slides.slots import Slots

Key = tuple[int, int, int, int]  # token of the slide, level, row, column

#: Numbers of what keeps something in a cache: open slides, and files on servers.
tokens = itertools.count()

#: The size of the cache in MB, where the preference of napari does not say.
VARIABLE = "NAPARI_MIL_CACHE_MB"
_SHARE, _MOST_BYTES = 10, 2 * 2**30


class TileCache:
    """Least recently used tiles, bounded in bytes together with the pictures made of them and with what
    others keep for them; safe from many threads, and from the garbage collector, which may let go of a slide
    in the midst of anything.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.used = 0
        self._tiles: OrderedDict[Key, NDArray[np.uint8]] = OrderedDict()
        self._pictures: WeakKeyDictionary[object, int] = WeakKeyDictionary()
        self._reserved: WeakKeyDictionary[object, int] = WeakKeyDictionary()
        self._lock = threading.RLock()
        self._asked: deque[Callable[[], None]] = deque()
        self._acts = False
        self._sure = 0

    def get(self, key: Key) -> NDArray[np.uint8] | None:
        """The tile, or None when it is not here."""
        with self._lock:
            tile = self._tiles.get(key)
            if tile is not None:
                with suppress(KeyError):  # the garbage collector let go of its slide just now
                    self._tiles.move_to_end(key)
            return tile

    def put(self, key: Key, tile: NDArray[np.uint8]) -> None:
        """Keep a tile; older ones leave when the bound is passed; one larger than the bound is not kept."""
        if tile.nbytes <= self.capacity:
            self._do(partial(self._put, key, tile))

    def _put(self, key: Key, tile: NDArray[np.uint8]) -> None:
        self._forget(key)
        self.used += tile.nbytes
        self._tiles[key] = tile
        self._shrink()

    def make_room(self, picture: object, size: int) -> None:
        """Count so many bytes of a picture, as long as it lives; half of the bound is left to tiles."""
        self._do(partial(self._count, self._pictures, picture, size))

    def reserve(self, owner: object, size: int) -> None:
        """Leave so many bytes of the bound to what the owner keeps by itself, as long as it lives."""
        self._do(partial(self._count, self._reserved, owner, size))

    def _count(self, those: WeakKeyDictionary[object, int], one: object, size: int) -> None:
        those[one] = size
        self._shrink(anew=True)

    def resize(self, capacity: int) -> None:
        """Another bound in bytes; what no longer fits leaves at once."""
        self.capacity = capacity
        self._do(partial(self._shrink, anew=True))

    def forget(self, key: Key) -> None:
        """Let a tile go, if it is here."""
        self._do(partial(self._forget, key))

    def _forget(self, key: Key) -> None:
        gone = self._tiles.pop(key, None)
        self.used -= 0 if gone is None else gone.nbytes

    def drop(self, token: int) -> None:
        """Forget every tile of one slide."""
        self._do(partial(self._drop, token))

    def _drop(self, token: int) -> None:
        for key in [k for k in self._tiles if k[0] == token]:
            self._forget(key)

    def _do(self, act: Callable[[], None]) -> None:
        """Act, while no other thread does; what the garbage collector asks for in the midst of an act of its
        own thread follows right after that.
        """
        with self._lock:
            self._asked.append(act)
            if self._acts:
                return
            self._acts = True
            try:
                while self._asked:
                    self._asked.popleft()()
            finally:
                self._acts = False

    def _shrink(self, *, anew: bool = False) -> None:
        """Let tiles go until the bound holds: that of last time, which can only have grown, or one `anew`."""
        if self.used <= self._sure and not anew:
            return
        ours = max(0, self.capacity - sum(self._reserved.values()))
        self._sure = max(ours // 2, ours - sum(self._pictures.values()))
        while self.used > self._sure:
            _, gone = self._tiles.popitem(last=False)
            self.used -= gone.nbytes


def default_bytes() -> int:
    """What `$NAPARI_MIL_CACHE_MB` says, else a tenth of the memory, at most 2 GB."""
    said = os.environ.get(VARIABLE)
    if not said:
        return min(_MOST_BYTES, int(psutil.virtual_memory().total) // _SHARE)
    if not said.isdecimal():
        raise SlideError(f"${VARIABLE} is {said!r}; give a number of megabytes, such as 1024.")
    return int(said) * 2**20


def set_cache_mb(megabytes: int) -> None:
    """Bound the cache of decoded tiles to so many MB; 0 is the default again."""
    shared_cache.resize(megabytes * 2**20 if megabytes else default_bytes())


def _at_start() -> int:
    try:
        return default_bytes()
    except SlideError:  # an import is no place to complain: opening a slide is
        return _MOST_BYTES // 8


#: The memory of tiles, shared as the cache is.
slots = Slots()
shared_cache = TileCache(_at_start())
