"""The engine behind every level, and the dask view of a level.

One engine serves the viewer, the encoder and dask alike. Tiles are decoded once, kept in a cache that is
bounded in bytes and shared by all open slides, and handed out read-only.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from napari_mil.errors import SlideError
from napari_mil.slides.boxes import halves, lattice, lay, reduced
from napari_mil.slides.cache import Key, TileCache, default_bytes, shared_cache, slots, tokens
from napari_mil.slides.faults import Faults
from napari_mil.slides.info import LevelInfo, Pixels, Sketch, Source
from napari_mil.slides.originals import Originals
from napari_mil.slides.remote import UnreachableError
from napari_mil.slides.workers import DECODE_THREADS, Batch, Workers

DASK_CHUNK_PX = 4096
#: A viewer draws whole multiples of so many pixels: more, and it hands the graphics card much that is not
#: seen; fewer, and a view that is dragged is drawn anew too often.
WIDEN_PX = 128
#: So long closing waits for reads under way.
CLOSES_S = 3.0
#: In the cache, sketches of a level are numbered from here on.
SKETCHED = 1000


class Engine:
    """Reads boxes of any level of one source through the cache, decoding missing tiles on several threads.

    Two ways in: `box` waits and is exact; `want` never waits, and is how pictures are drawn. A tile that
    fails is tried once more. The threads start with the first work and end with `close`, which waits for
    reads under way.
    """

    def __init__(self, source: Source, name: str, *, cache: TileCache = shared_cache) -> None:
        default_bytes()  # says what is wrong with the size that was asked for
        self.source, self.name, self.cache = source, name, cache
        self.token = next(tokens)
        self.levels = (*source.info.levels, *halves(source.info))
        self.sketch: Sketch | None = None
        self.damage: SlideError | None = None  # that was met when it was looked through
        self._sketches: list[Sketch] = []
        self._pending: dict[Key, Future[Pixels] | None] = {}  # one where another thread waits for it
        self._pending_lock = threading.Lock()
        self._faults, self.originals = Faults(), Originals(source.info.files)
        self._state = threading.Condition()
        self._reading = self._ahead = 0
        self._closed = self._left = False
        self._workers = Workers(f"slide-{self.token}")
        self._release = weakref.finalize(
            self, _release, source, cache, self.token, self._workers, self._sketches
        )

    @property
    def closed(self) -> bool:
        """True after `close`."""
        return self._closed

    @property
    def idle(self) -> bool:
        """Whether nobody reads from it, and no tile is being decoded."""
        return not self._reading

    def close(self) -> None:
        """Wait for reads under way, end the threads, forget the tiles, give the file back; idempotent.

        A server that does not answer is waited for no longer than CLOSES_S: then the last read gives back.
        """
        with self._state:
            self._closed = True
            self._workers.stop()
            over = self._state.wait_for(lambda: self._reading == 0, CLOSES_S)
            self._left = not over
        if over:
            self._workers.join()
            self._release()

    @contextmanager
    def reading(self, *, ahead: bool = False) -> Iterator[None]:
        """Hold the file open while something is read from it."""
        with self._state:
            if self._closed:
                raise SlideError(f"{self.name} has been closed; open the slide again to read from it.")
            self._reading += 1
            self._ahead += ahead
        try:
            yield
        finally:
            with self._state:
                self._reading -= 1
                self._ahead -= ahead
                self._state.notify_all()
                last = self._left and not self._reading
            if last:
                self._release()

    def box(self, level: int, y0: int, x0: int, y1: int, x1: int, step: tuple[int, int] = (1, 1)) -> Pixels:
        """(y1 − y0, x1 − x0, 3) uint8 of a half-open box in the level's pixels; background outside of it.

        With a step (rows, columns) the means of so many pixels, of which the box holds a whole number. Tiles
        that lie wholly in such a box are not kept: what shows or reads them next seldom wants them so fine.
        """
        (height, width), (th, tw) = self.levels[level].shape_px, self.levels[level].tile_px
        top, left, bottom, right = max(y0, 0), max(x0, 0), min(y1, height), min(x1, width)
        sy, sx = step
        if any(at % sy for at in (y0, y1, bottom, th)) or any(at % sx for at in (x0, x1, right, tw)):
            return reduced(self.box(level, y0, x0, y1, x1), step)  # a mean is over several tiles
        out = np.empty((max(0, y1 - y0) // sy, max(0, x1 - x0) // sx, 3), np.uint8)
        if (top, left, bottom, right) != (y0, x0, y1, x1):
            out[:] = self.source.info.background
        if top >= bottom or left >= right:
            return out

        def paint(key: Key, tile: Pixels) -> None:
            y, x = key[2] * th, key[3] * tw
            if step != (1, 1):
                tile = reduced(tile[max(0, y0 - y) : y1 - y, max(0, x0 - x) : x1 - x], step)
                y, x = max(y, y0) // sy, max(x, x0) // sx
            lay(out, (y0 // sy, x0 // sx, y1 // sy, x1 // sx), tile, (y, x))

        def get(key: Key) -> Pixels:
            y, x = key[2] * th, key[3] * tw
            whole = y >= y0 and x >= x0 and min(y + th, height) <= y1 and min(x + tw, width) <= x1
            return self._decoded(key) if whole and step != (1, 1) else self._tile(key)

        with self.reading():
            missing = []
            for row, col in lattice((top, left, bottom, right), (th, tw)):
                key = (self.token, level, row, col)
                tile = self.cache.get(key)
                if tile is None:
                    missing.append(key)
                else:
                    paint(key, tile)
            alone = self._reading - self._ahead == 1  # else all threads are busy anyway
            if alone and len(missing) > 2 and DECODE_THREADS > 1:
                self._together(missing, lambda key: paint(key, get(key)))
            else:
                for key in missing:
                    paint(key, get(key))
        return out

    def _together(self, keys: list[Key], paint: Callable[[Key], None]) -> None:
        """Decode tiles with the help of idle threads."""
        batch = Batch(len(keys), lambda at: paint(keys[at]))
        self._workers.share(batch)
        try:
            batch.finish()
        finally:
            self._workers.withdraw(batch)

    def cached(self, level: int, row: int, col: int) -> Pixels | None:
        """The tile, or a sketch of it, if it is in the cache: what a drawing view may use without waiting."""
        exact = self.cache.get((self.token, level, row, col))
        if exact is not None or self.sketch is None:
            return exact
        return self.cache.get((self.token, SKETCHED + level, row, col))

    def quick(self, level: int) -> bool:
        """Whether a tile of a level costs no more than one of the file: it lies there, or in the sketch."""
        return self.levels[level].of is None or self.sketched(level)

    def sketched(self, level: int) -> bool:
        """Whether a level is drawn with approximate tiles."""
        return self.sketch is not None and self.sketch.has(level)

    def draw_with(self, sketch: Sketch | None) -> None:
        """Draw with approximate tiles from now on, or without; whoever reads never gets them."""
        self.sketch = sketch
        if sketch is not None:
            self._sketches.append(sketch)

    def want(
        self,
        owner: Hashable,
        tiles: Iterable[tuple[int, int, int]],
        deliver: Callable[[tuple[int, int, int], Pixels | SlideError], None],
        *,
        later: bool = False,
    ) -> None:
        """Decode tiles (level, row, col) in this order, before all reads or after them, and return at once.

        What the same owner wanted before and nobody has begun is dropped. `deliver` is called in a decode
        thread with each tile, or with the error.
        """

        def get(where: tuple[int, int, int]) -> None:
            found: Pixels | SlideError | None = self.fault(*where)  # since it was wanted
            try:
                if found is None:
                    with self.reading(ahead=later):
                        found = self._drawn(*where)
            except SlideError as error:
                found = error
            deliver(where, found)

        self._workers.want(owner, [partial(get, where) for where in tiles], later=later)

    def when_free(self, owner: Hashable, act: Callable[[], None]) -> None:
        """Do something in a decode thread once no tile is waited for, in the place of what the owner wanted
        later; return at once.
        """
        self._workers.want(owner, [act], later=True)

    def takes_s(self, tiles: int) -> float:
        """Seconds until so many tiles wanted now would be there, going by those before."""
        return self._workers.takes_s(tiles)

    def fault(self, level: int, row: int, col: int) -> SlideError | None:
        """Why a tile could not be read, until it may be tried again: later and later, 5 s to 5 min; or that
        the server is away, which is asked again after 10 s at most.
        """
        return self._faults.of((self.token, level, row, col))

    def pause_s(self, tiles: Iterable[tuple[int, int, int]]) -> float | None:
        """Seconds until one of the tiles that failed may be tried again, or None when none has."""
        return self._faults.pause_s((self.token, *tile) for tile in tiles)

    def _drawn(self, level: int, row: int, col: int) -> Pixels:
        """A tile for drawing: exact where it is at hand or there is no sketch of it."""
        sketch, exact = self.sketch, self.cache.get((self.token, level, row, col))
        if exact is not None:
            return exact
        if sketch is not None and sketch.has(level):
            try:
                return self._tile((self.token, SKETCHED + level, row, col))
            except SlideError:  # what can be made again is not worth a word
                self.draw_with(None)
        return self._tile((self.token, level, row, col))

    def _tile(self, key: Key) -> Pixels:
        tile = self.cache.get(key)
        if tile is not None:
            return tile
        with self._pending_lock:
            mine = key not in self._pending
            if mine:
                self._pending[key] = None
            else:  # somebody decodes it right now
                future = self._pending[key] = self._pending[key] or Future()
        if not mine:
            return future.result()
        try:
            tile = self._decoded(key)
            self.cache.put(key, tile)
        except BaseException as error:
            if (waits := self._waits(key)) is not None:
                waits.set_exception(error)
            raise
        if (waits := self._waits(key)) is not None:
            waits.set_result(tile)
        return tile

    def _waits(self, key: Key) -> Future[Pixels] | None:
        """By what other threads wait for a tile that is done."""
        with self._pending_lock:
            return self._pending.pop(key)

    def _decoded(self, key: Key) -> Pixels:
        """The tile from the source, asked twice where it must be; SlideError names the slide."""
        try:
            try:
                tile = self.decode(*key[1:])
            except UnreachableError:  # which was tried more than once
                raise
            except (SlideError, OSError):
                tile = self.decode(*key[1:])
        except (SlideError, OSError) as error:
            raise self._faults.failed(key, error, self.name) from error
        self._faults.came(key)
        return slots.keep(tile)

    def decode(self, level: int, row: int, col: int) -> Pixels:
        """A tile from the file, past the cache; from the sketch; or of a level that the file lacks."""
        if level >= SKETCHED:
            if self.sketch is None:
                raise SlideError("its sketch is gone.")
            return self.sketch.tile(level - SKETCHED, row, col)
        of = self.levels[level].of
        if of is None:
            try:
                return self.source.tile(level, row, col)
            finally:
                self.originals.check()

        def fine(r: int, c: int) -> Pixels:
            tile = self.cache.get((self.token, of, r, c))
            return self.decode(of, r, c) if tile is None else tile

        return made_of(self.levels[of], row, col, fine)


def made_of(of: LevelInfo, row: int, col: int, fine: Callable[[int, int], Pixels]) -> Pixels:
    """A tile of the level that is half as large as another one, made of up to four of that one's tiles."""
    (th, tw), (rows, cols), (h, w) = of.tile_px, of.lattice, of.shape_px
    y, x = 2 * row * th, 2 * col * tw
    out = np.empty((min(2 * th, h - y), min(2 * tw, w - x), 3), np.uint8)
    for r, c in itertools.product((2 * row, 2 * row + 1), (2 * col, 2 * col + 1)):
        if r < rows and c < cols:
            lay(out, (y, x, y + out.shape[0], x + out.shape[1]), fine(r, c), (r * th, c * tw))
    return reduced(out, (2, 2))


def dask_view(array: Any, name: str) -> Any:
    """`array` (a Level) as a lazy dask array in chunks of about 4096 px, made of whole tiles.

    Slices reach the engine as boxes: a small slice out of a large chunk reads the tiles of the slice only.
    """
    import dask.array as da

    # fancy=True only names dask's getter: with the other one its optimiser does not fuse slices
    chunks = tuple(max(tile, DASK_CHUNK_PX // tile * tile) for tile in array.tile_px)
    return da.from_array(
        array, chunks=(*chunks, 3), name=name, asarray=True, fancy=True, meta=np.empty((0, 0, 0), np.uint8)
    )


def _release(source: Source, cache: TileCache, token: int, workers: Workers, sketches: list[Sketch]) -> None:
    workers.stop()
    cache.drop(token)
    slots.give_back()
    source.close()
    for one in sketches:
        one.close()
