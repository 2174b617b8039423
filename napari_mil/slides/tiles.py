"""The tile cache and the decode threads behind every level, and the dask view of a level.

One engine serves the viewer, the encoder and dask alike. Tiles are decoded once, kept in a cache that is
bounded in bytes and shared by all open slides, and handed out read-only.
"""

from __future__ import annotations

import itertools
import os
import threading
import weakref
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from napari_mil.errors import SlideError

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_mil.slides.address import SlidePath

Pixels = NDArray[np.uint8]
Key = tuple[int, int, int, int]

CACHE_BYTES = 256 * 2**20
DASK_CHUNK_PX = 4096
DECODE_THREADS = min(
    8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
)
_tokens = itertools.count()


@dataclass(frozen=True, slots=True)
class LevelInfo:
    """Size of a level and of the tiles it is read by, (height, width) in that level's pixels."""

    shape_px: tuple[int, int]
    tile_px: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Photograph:
    """One photograph of a montage: file name, cell (row, col), box y0, x0, y1, x1 in level-0 pixels."""

    name: str
    cell: tuple[int, int]
    box_px: tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Montage:
    """What tells a montage from a slide: its cells (h, w) in level-0 pixels, and the photographs in them.

    Their positions were not measured: neighbours on the montage are no neighbours in the tissue.
    """

    cell_px: tuple[int, int]
    photographs: tuple[Photograph, ...]


@dataclass(frozen=True, slots=True)
class SlideInfo:
    """What a reader found in a file besides pixels.

    Attributes
    ----------
    levels : largest first
    files : every file that belongs to the slide
    mpp : µm per level-0 pixel (y, x) as the file states it, plausible or not, or None
    bounds_px : y0, x0, y1, x1 of the scanned area in level-0 pixels, or None for all
    background : RGB that stands where nothing was scanned
    objective_power : magnification of the objective, or None
    properties : the vendor's words
    associated : label, macro, thumbnail: name -> function that reads (h, w, 3) uint8
    montage : of photographs, or None for an image of one piece
    icc_profile : what the scanner's colours mean, or None
    """

    levels: tuple[LevelInfo, ...]
    files: tuple[SlidePath, ...]
    mpp: tuple[float, float] | None = None
    bounds_px: tuple[int, int, int, int] | None = None
    background: tuple[int, int, int] = (255, 255, 255)
    objective_power: float | None = None
    properties: Mapping[str, str] = field(default_factory=dict)
    associated: Mapping[str, Callable[[], Pixels]] = field(default_factory=dict)
    montage: Montage | None = None
    icc_profile: bytes | None = None


class Source(Protocol):
    """An open file: what a reader of a family of formats returns."""

    info: SlideInfo

    def tile(self, level: int, row: int, col: int) -> Pixels:
        """The (h, w, 3) uint8 tile, cut at the level's border; called from many threads at once."""
        ...

    def close(self) -> None:
        """Give the file back."""
        ...


class TileCache:
    """Least recently used tiles, bounded in bytes; safe from many threads."""

    def __init__(self, capacity: int = CACHE_BYTES) -> None:
        self.capacity = capacity
        self.used = 0
        self._tiles: OrderedDict[Key, Pixels] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Key) -> Pixels | None:
        """The tile, or None when it is not here."""
        with self._lock:
            tile = self._tiles.get(key)
            if tile is not None:
                self._tiles.move_to_end(key)
            return tile

    def put(self, key: Key, tile: Pixels) -> None:
        """Keep a tile; older ones leave when the bound is passed; one larger than the bound is not kept."""
        if tile.nbytes > self.capacity:
            return
        with self._lock:
            old = self._tiles.pop(key, None)
            self.used += tile.nbytes - (0 if old is None else old.nbytes)
            self._tiles[key] = tile
            while self.used > self.capacity:
                _, gone = self._tiles.popitem(last=False)
                self.used -= gone.nbytes

    def drop(self, token: int) -> None:
        """Forget every tile of one slide."""
        with self._lock:
            for key in [k for k in self._tiles if k[0] == token]:
                self.used -= self._tiles.pop(key).nbytes


shared_cache = TileCache()


class Engine:
    """Reads boxes of any level of one source through the cache, decoding missing tiles on several threads.

    The threads start with the first box of many tiles and end with `close`, which waits for reads under way.
    """

    def __init__(self, source: Source, name: str, *, cache: TileCache = shared_cache) -> None:
        self.source, self.name, self.cache = source, name, cache
        self.token = next(_tokens)
        self._pending: dict[Key, Future[Pixels]] = {}
        self._state = threading.Condition()
        self._reading = 0
        self._closed = False
        self._pool: ThreadPoolExecutor | None = None
        self._release = weakref.finalize(self, _release, source, cache, self.token)

    @property
    def closed(self) -> bool:
        """True after `close`."""
        return self._closed

    def close(self) -> None:
        """Wait for reads under way, end the threads, forget the tiles, give the file back; idempotent."""
        with self._state:
            self._closed = True
            self._state.wait_for(lambda: self._reading == 0)
        if self._pool is not None:
            self._pool.shutdown(wait=True)
        self._release()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Hold the file open while something is read from it."""
        with self._state:
            if self._closed:
                raise SlideError(f"{self.name} has been closed; open the slide again to read from it.")
            self._reading += 1
        try:
            yield
        finally:
            with self._state:
                self._reading -= 1
                self._state.notify_all()

    def box(self, level: int, y0: int, x0: int, y1: int, x1: int) -> Pixels:
        """(y1 − y0, x1 − x0, 3) uint8 of a half-open box in the level's pixels; background outside of it."""
        info = self.source.info
        (height, width), (th, tw) = info.levels[level].shape_px, info.levels[level].tile_px
        out = np.empty((max(0, y1 - y0), max(0, x1 - x0), 3), np.uint8)
        top, left, bottom, right = max(y0, 0), max(x0, 0), min(y1, height), min(x1, width)
        if (top, left, bottom, right) != (y0, x0, y1, x1):
            out[:] = info.background
        if top >= bottom or left >= right:
            return out
        keys = [
            (self.token, level, row, col)
            for row in range(top // th, (bottom - 1) // th + 1)
            for col in range(left // tw, (right - 1) // tw + 1)
        ]
        with self.reading():
            for (_, _, row, col), tile in zip(keys, self._tiles(keys), strict=True):
                a, b = max(top, row * th), min(bottom, row * th + tile.shape[0])
                c, d = max(left, col * tw), min(right, col * tw + tile.shape[1])
                out[a - y0 : b - y0, c - x0 : d - x0] = tile[
                    a - row * th : b - row * th, c - col * tw : d - col * tw
                ]
        return out

    def cached(self, level: int, row: int, col: int) -> Pixels | None:
        """The tile if it is in the cache: what a drawing view may use without waiting."""
        return self.cache.get((self.token, level, row, col))

    def _tiles(self, keys: list[Key]) -> Iterator[Pixels]:
        """The tiles in order; few are decoded here, many by the decode threads, a bounded number ahead."""
        if len(keys) < 3 or DECODE_THREADS < 2:
            yield from map(self._tile, keys)
            return
        later = iter(keys)
        queue = deque(map(self._ask, itertools.islice(later, 4 * DECODE_THREADS)))
        try:
            while queue:
                asked = queue.popleft()
                yield asked.result() if isinstance(asked, Future) else asked
                queue.extend(map(self._ask, itertools.islice(later, 1)))
        finally:
            for asked in queue:
                if isinstance(asked, Future):
                    asked.cancel()

    def _ask(self, key: Key) -> Pixels | Future[Pixels]:
        tile = self.cache.get(key)
        return self._threads().submit(self._tile, key) if tile is None else tile

    def _threads(self) -> ThreadPoolExecutor:
        with self._state:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(
                    DECODE_THREADS, thread_name_prefix=f"slide-{self.token}-decode"
                )
            return self._pool

    def _tile(self, key: Key) -> Pixels:
        tile = self.cache.get(key)
        if tile is not None:
            return tile
        with self._state:
            mine = key not in self._pending
            future: Future[Pixels] = self._pending.setdefault(key, Future())
        if not mine:  # somebody decodes it right now
            return future.result()
        try:
            tile = self.source.tile(*key[1:])
            tile.flags.writeable = False
            self.cache.put(key, tile)
            future.set_result(tile)
        except SlideError as error:
            named = SlideError(f"{self.name}: {error}")
            future.set_exception(named)
            raise named from error
        except BaseException as error:
            future.set_exception(error)
            raise
        finally:
            with self._state:
                del self._pending[key]
        return tile


def dask_view(array: Any, name: str) -> Any:
    """`array` (a Level) as a lazy dask array in chunks of about 4096 px, made of whole tiles.

    Slices reach the engine as boxes: a small slice out of a large chunk reads the tiles of the slice only.
    """
    import dask.array as da

    # fancy=True only names dask's getter: with the other one its optimiser does not fuse slices
    chunks = tuple(max(tile, DASK_CHUNK_PX // tile * tile) for tile in array.chunks[:2])
    return da.from_array(
        array, chunks=(*chunks, 3), name=name, asarray=True, fancy=True, meta=np.empty((0, 0, 0), np.uint8)
    )


def _release(source: Source, cache: TileCache, token: int) -> None:
    cache.drop(token)
    source.close()
