"""What a reader returns, the engine behind every level, and the dask view of a level.

One engine serves the viewer, the encoder and dask alike. Tiles are decoded once, kept in a cache that is
bounded in bytes and shared by all open slides, and handed out read-only.
"""

from __future__ import annotations

import itertools
import threading
import time
import weakref
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from napari_mil.errors import SlideError, reason
from napari_mil.slides.cache import Key, TileCache, default_bytes, shared_cache
from napari_mil.slides.workers import DECODE_THREADS, Batch, Workers

if TYPE_CHECKING:
    from napari_mil.slides.address import SlidePath

Pixels = NDArray[np.uint8]
Box = tuple[int, int, int, int]  # y0, x0, y1, x1, half-open

DASK_CHUNK_PX = 4096
#: How soon a tile that failed is tried again for drawing; twice as long after each failure.
RETRY_S, LONGEST_RETRY_S = 5.0, 300.0
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


#: A tile that could not be read, and when it may be asked for again (time.monotonic).
_Fault = tuple[SlideError, float, float]


class Engine:
    """Reads boxes of any level of one source through the cache, decoding missing tiles on several threads.

    Two ways in: `box` waits and is exact; `want` never waits, and is how pictures are drawn. A tile that
    fails is tried once more. The threads start with the first work and end with `close`, which waits for
    reads under way.
    """

    def __init__(self, source: Source, name: str, *, cache: TileCache = shared_cache) -> None:
        default_bytes()  # says what is wrong with the size that was asked for
        self.source, self.name, self.cache = source, name, cache
        self.token = next(_tokens)
        self._pending: dict[Key, Future[Pixels]] = {}
        self._faults: dict[Key, _Fault] = {}
        self._state = threading.Condition()
        self._reading = 0
        self._closed = False
        self._workers = Workers(f"slide-{self.token}")
        self._release = weakref.finalize(self, _release, source, cache, self.token, self._workers)

    @property
    def closed(self) -> bool:
        """True after `close`."""
        return self._closed

    def close(self) -> None:
        """Wait for reads under way, end the threads, forget the tiles, give the file back; idempotent."""
        with self._state:
            self._closed = True
            self._state.wait_for(lambda: self._reading == 0)
        self._workers.stop()
        self._workers.join()
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

        def paint(key: Key, tile: Pixels) -> None:
            lay(out, (y0, x0, y1, x1), tile, (key[2] * th, key[3] * tw))

        with self.reading():
            missing = []
            for row, col in lattice((top, left, bottom, right), (th, tw)):
                key = (self.token, level, row, col)
                tile = self.cache.get(key)
                if tile is None:
                    missing.append(key)
                else:
                    paint(key, tile)
            batch = Batch(len(missing), lambda at: paint(missing[at], self._tile(missing[at])))
            if len(missing) > 2 and DECODE_THREADS > 1:
                self._workers.share(batch)
            try:
                batch.finish()
            finally:
                self._workers.withdraw(batch)
        return out

    def cached(self, level: int, row: int, col: int) -> Pixels | None:
        """The tile if it is in the cache: what a drawing view may use without waiting."""
        return self.cache.get((self.token, level, row, col))

    def want(
        self,
        owner: Hashable,
        tiles: Iterable[tuple[int, int, int]],
        deliver: Callable[[tuple[int, int, int], Pixels | SlideError], None],
    ) -> None:
        """Decode tiles (level, row, col) in this order, before all reads, and return at once.

        What the same owner wanted before and nobody has begun is dropped. `deliver` is called in a decode
        thread with each tile, or with the error.
        """

        def get(where: tuple[int, int, int]) -> None:
            try:
                with self.reading():
                    found: Pixels | SlideError = self._tile((self.token, *where))
            except SlideError as error:
                found = error
            deliver(where, found)

        self._workers.want(owner, [partial(get, where) for where in tiles])

    def fault(self, level: int, row: int, col: int) -> SlideError | None:
        """Why a tile could not be read, until it may be tried again: later and later, 5 s to 5 min."""
        if not self._faults:
            return None
        error, _, until = self._faults.get((self.token, level, row, col), (None, 0, 0))
        return error if error is not None and time.monotonic() < until else None

    def pause_s(self, tiles: Iterable[tuple[int, int, int]]) -> float | None:
        """Seconds until one of the tiles that failed may be tried again, or None when none has."""
        now = time.monotonic()
        waits = (self._faults[self.token, *t][2] - now for t in tiles if (self.token, *t) in self._faults)
        return min((max(0.0, wait) for wait in waits), default=None)

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
            tile = self._decoded(key)
            self.cache.put(key, tile)
            future.set_result(tile)
        except BaseException as error:
            future.set_exception(error)
            raise
        finally:
            with self._state:
                del self._pending[key]
        return tile

    def _decoded(self, key: Key) -> Pixels:
        """The tile from the source, asked twice where it must be; SlideError names the slide."""
        try:
            try:
                tile = self.source.tile(*key[1:])
            except (SlideError, OSError):
                tile = self.source.tile(*key[1:])
        except (SlideError, OSError) as error:
            named = SlideError(f"{self.name}: {error if isinstance(error, SlideError) else reason(error)}")
            _, pause, _ = self._faults.get(key, (named, RETRY_S / 2, 0))
            pause = min(2 * pause, LONGEST_RETRY_S)
            self._faults[key] = (named, pause, time.monotonic() + pause)
            raise named from error
        if self._faults:
            self._faults.pop(key, None)
        tile.flags.writeable = False
        return tile


def lattice(box: tuple[int, int, int, int], tile_px: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """(row, col) of the tiles under a box y0, x0, y1, x1 that is not empty."""
    (y0, x0, y1, x1), (th, tw) = box, tile_px
    return itertools.product(range(y0 // th, (y1 - 1) // th + 1), range(x0 // tw, (x1 - 1) // tw + 1))


def lay(out: Pixels, box: Box, tile: Pixels, corner: tuple[int, int]) -> None:
    """Copy what of a tile at (y, x) lies in a box into `out`, which shows the box."""
    (y, x), (h, w) = corner, tile.shape[:2]
    a, b, c, d = max(box[0], y), min(box[2], y + h), max(box[1], x), min(box[3], x + w)
    if a < b and c < d:
        out[a - box[0] : b - box[0], c - box[1] : d - box[1]] = tile[a - y : b - y, c - x : d - x]


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


def _release(source: Source, cache: TileCache, token: int, workers: Workers) -> None:
    workers.stop()
    cache.drop(token)
    source.close()
