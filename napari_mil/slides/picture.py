"""What is drawn of a slide: within 6 ms, from what is there; sharper with every tile that arrives.

Only drawing sees these pixels. Whoever reads a `Level` gets exact ones, or waits.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from napari_mil.errors import SlideError
from napari_mil.slides.ahead import Ahead, Where
from napari_mil.slides.boxes import WHOLE_PX, enlarged, hatch, lattice, lay
from napari_mil.slides.canvases import Canvases
from napari_mil.slides.info import Box, Pixels
from napari_mil.slides.slide import Level

#: So long a view waits for tiles that will be there by then: it is drawn once, and sharp, in place of twice.
_PATIENCE_S = 0.006


class Picture:
    """The part of one slide that one layer shows.

    Parameters
    ----------
    levels : all levels of the slide that are drawn, the largest first
    arrived : called in a decode thread when there is more to draw; True with the last of what was wanted
    later : calls a function when what was drawn is on the screen: until then decoding would take processors
        away from it

    Attributes
    ----------
    errors : one SlideError per tile that could not be read, in the order in which they failed; whoever shows
        them takes them out
    drawn_at : when it was asked for last, time.monotonic()
    """

    def __init__(
        self,
        levels: Sequence[Level],
        arrived: Callable[[bool], None],
        later: Callable[[Callable[[], None]], None] = lambda act: act(),
    ) -> None:
        self.errors = deque[SlideError]()
        self.drawn_at = 0.0
        self._levels = {level.index: level for level in levels}
        self._next = {a.index: b.index for a, b in pairwise(levels)}
        self._engine, self._told = levels[0].engine, arrived
        last = levels[-1]
        self._base = last.read(0, 0, *last.shape_px) if last.size // 3 <= WHOLE_PX else None
        self._drawing, self._lock = threading.RLock(), threading.Condition()
        self._waiting = False
        self._serial = 0
        self._shown: tuple[int, Box] | None = None
        self._canvas: Pixels = np.empty((0, 0, 3), np.uint8)
        self._canvases = Canvases()
        self._ahead = Ahead(levels)
        self._later = later
        self._missing: set[Where] = set()
        self._awaited: set[Where] = set()
        self._failed: set[Where] = set()
        self._came: deque[tuple[Where, Pixels | SlideError]] = deque()

    @property
    def sharp(self) -> bool:
        """Whether what was drawn last shows the very pixels of its level everywhere."""
        with self._lock:
            return not self._missing

    @property
    def behind(self) -> bool:
        """Whether something has come for what was drawn last that is not painted yet."""
        with self._lock:
            return bool(self._came)

    @property
    def retry_s(self) -> float | None:
        """Seconds until a tile on show that failed may be tried again, or None when none has failed."""
        with self._lock:
            there = self._missing and not self._engine.closed
            return self._engine.pause_s(self._missing) if there else None

    def look_ahead(self) -> None:
        """The view rests: once it is sharp, decode what the next step is likely to show."""
        with self._lock:
            if self._shown is not None and not self._missing and not self._awaited:
                self._ahead.begin(*self._shown)

    def exact(self, level: int) -> Pixels | None:
        """The whole level where it is held in memory, as the coarsest one is."""
        return None if level in self._next else self._base

    def draw(self, level: int, box: Box) -> Pixels:
        """(h, w, 3) uint8 of a box y0, x0, y1, x1 within a level, after at most a few milliseconds.

        The same box gives the same array, with what has arrived since painted into it.
        """
        with self._drawing, self._lock:
            if self._shown != (level, box):
                self._begin(level, box)
            else:
                self._take()
            if self._missing:
                self._later(self._ask)
            self.drawn_at = time.monotonic()
            return self._canvas

    def leave(self, level: int, box: Box) -> None:
        """Another view, of a level that is held in memory: nothing more is wanted for the one before."""
        with self._drawing, self._lock:
            if self._shown != (level, box):
                self._stop()
                self._shown, self._canvas, self._missing = (level, box), self._canvas[:0], set()

    def _stop(self) -> None:
        """What was wanted for a view, or ahead of it, is so no longer."""
        self._serial += 1
        self._came.clear()
        self._awaited.clear()
        self._failed.clear()
        self._ahead.stop()
        self._engine.want(self, (), _nothing)

    def _begin(self, level: int, box: Box) -> None:
        """Another view: what the one before showed of it, what is in the cache, and coarser pixels where
        nothing is.
        """
        self._stop()
        before, old, absent = self._shown, self._canvas, self._missing
        self._shown = (level, box)
        self._canvas = self._canvases.blank(max(0, box[2] - box[0]), max(0, box[3] - box[1]))
        held = self._canvases.nbytes + (0 if self._base is None else self._base.nbytes)
        self._engine.cache.make_room(self, held)
        there, self._missing = self._cached(level, box)
        kept = before[1] if before is not None and before[0] == level else (0, 0, 0, 0)
        lay(self._canvas, box, old, kept[:2])
        for where, tile in there:
            if where in absent or not self._within(where, box, kept):
                self._paint(where, tile)
        if 0 < self._engine.takes_s(len(self._missing)) < _PATIENCE_S:
            self._wait()
        self._enlarge({where for where in self._missing if not self._within(where, box, kept)})

    def _wait(self) -> None:
        """Paint the tiles that come within a moment; what does not is wanted again later."""
        self._waiting = True
        self._want(self._wanted)
        self._lock.wait_for(lambda: not self._awaited, _PATIENCE_S)
        self._waiting = False
        self._engine.want(self, (), _nothing)
        self._awaited.clear()
        self._take()

    def _within(self, where: Where, box: Box, kept: Box) -> bool:
        """Whether what a box shows of a tile lies in another box."""
        y0, x0, y1, x1 = self._box_of(where)
        return (
            max(y0, box[0]) >= kept[0]
            and max(x0, box[1]) >= kept[1]
            and min(y1, box[2]) <= kept[2]
            and min(x1, box[3]) <= kept[3]
        )

    def _ask(self) -> None:
        """Want what is missing: coarser tiles first, then from the centre out."""
        with self._lock:
            wanted = self._wanted
            if self._shown is not None and not wanted <= self._awaited:
                self._want(wanted, self._coarser(*self._shown))
            later = self._missing - wanted
            for where in later - self._failed:
                self._fail(where)
        if later:  # whoever draws should know when to come again
            self._told(not wanted)

    def _fail(self, where: Where, error: SlideError | None = None) -> None:
        """A tile of this view cannot be read, or could not just now when nobody looked at it."""
        error = self._engine.fault(*where) or error
        if error is not None:
            self._failed.add(where)
            self.errors.append(error)

    @property
    def _wanted(self) -> set[Where]:
        """The missing tiles, but for those that failed just now."""
        if self._engine.closed:
            return set()
        return {where for where in self._missing if self._engine.fault(*where) is None}

    def _want(self, wanted: Iterable[Where], first: Iterable[Where] = ()) -> None:
        assert self._shown is not None  # noqa: S101 - something was drawn
        level, (y0, x0, y1, x1) = self._shown
        th, tw = self._levels[level].tile_px
        middle = ((y0 + y1) / 2 / th - 0.5, (x0 + x1) / 2 / tw - 0.5)
        fine = sorted(wanted, key=lambda w: (w[1] - middle[0]) ** 2 + (w[2] - middle[1]) ** 2)
        tiles = [*first, *fine]
        self._awaited = set(tiles)
        serial = self._serial

        def deliver(where: Where, found: Pixels | SlideError) -> None:
            with self._lock:
                if serial != self._serial or self._engine.closed:
                    return
                self._came.append((where, found))
                self._awaited.discard(where)
                last = not self._awaited
                if self._waiting:
                    if last:
                        self._lock.notify_all()
                    return
            self._told(last)

        self._engine.want(self, tiles, deliver)

    def _coarser(self, level: int, box: Box) -> list[Where]:
        """Tiles of the next coarser level, which are few and help at once, unless they are there."""
        coarser = self._next.get(level)
        while coarser is not None and not self._engine.quick(coarser):
            coarser = self._next.get(coarser)
        if coarser is None or (self._base is not None and coarser not in self._next):
            return []
        _, missing = self._cached(coarser, self._under(level, box, coarser))
        return [where for where in missing if self._engine.fault(*where) is None]

    def _take(self) -> None:
        """Paint what has come; under a coarser tile, what is missing is enlarged anew."""
        anew: set[Where] = set()
        while self._came:
            where, found = self._came.popleft()
            if isinstance(found, SlideError):
                self._fail(where, found)
                anew |= self._missing & {where}
            elif where in self._missing:
                self._missing.discard(where)
                self._paint(where, found)
            else:
                anew |= self._over(where)
        if anew & self._missing:
            self._enlarge(anew & self._missing)

    def _paint(self, where: Where, tile: Pixels) -> None:
        assert self._shown is not None  # noqa: S101 - there is a canvas to paint on
        lay(self._canvas, self._shown[1], tile, self._box_of(where)[:2])

    def _enlarge(self, tiles: set[Where]) -> None:
        """Coarser pixels in the place of tiles that are missing, hatched where they will not come."""
        assert self._shown is not None  # noqa: S101 - there is a canvas to paint on
        level, box = self._shown
        (th, tw), (h, w) = self._levels[level].tile_px, self._levels[level].shape_px
        cells: dict[int | None, set[tuple[int, int]]] = {}
        for where in tiles:
            cells.setdefault(self._coarser_of(where), set()).add(where[1:])
        for coarser, some in cells.items():
            for area in blocks(some):
                y0, x0 = max(box[0], area[0] * th), max(box[1], area[1] * tw)
                y1, x1 = min(box[2], area[2] * th, h), min(box[3], area[3] * tw, w)
                part = self._canvas[y0 - box[0] : y1 - box[0], x0 - box[1] : x1 - box[1]]
                self._fill(part, level, (y0, x0, y1, x1), coarser)
        for where in tiles:
            if self._engine.fault(*where) is not None:
                self._hatch(where)

    def _coarser_of(self, where: Where) -> int | None:
        """The finest coarser level that is there under a whole tile, or None."""
        coarser = self._next.get(where[0])
        while coarser is not None:
            if coarser not in self._next and self._base is not None:
                return coarser
            under = self._under(where[0], self._box_of(where), coarser)
            tiles = lattice(under, self._levels[coarser].tile_px)
            if all(self._engine.cached(coarser, *cell) is not None for cell in tiles):
                return coarser
            coarser = self._next.get(coarser)
        return None

    def _fill(self, out: Pixels, level: int, box: Box, coarser: int | None) -> None:
        """Enlarge a coarser level into `out`, which shows `box` of this one."""
        if coarser is None:
            out[:] = self._engine.source.info.background
            return
        under = self._under(level, box, coarser)
        coarse = self._known(coarser, under)
        (ry, rx), (ch, cw) = self._smaller(level, coarser), self._levels[coarser].shape_px
        rows = centres(box[0], box[2], ry, ch) - under[0]
        cols = centres(box[1], box[3], rx, cw) - under[1]
        enlarged(coarse, rows, cols, out)

    def _known(self, level: int, box: Box) -> Pixels:
        """A box of a coarser level from what is in the cache."""
        if level not in self._next and self._base is not None:
            return np.ascontiguousarray(self._base[box[0] : box[2], box[1] : box[3]])
        out = np.empty((box[2] - box[0], box[3] - box[1], 3), np.uint8)
        there, missing = self._cached(level, box)
        if missing:  # gone just now
            out[:] = self._engine.source.info.background
        for where, tile in there:
            lay(out, box, tile, self._box_of(where)[:2])
        return out

    def _over(self, coarse: Where) -> set[Where]:
        """The missing tiles that a coarser tile lies under."""
        assert self._shown is not None  # noqa: S101 - there is a canvas to paint on
        level = self._shown[0]
        y0, x0, y1, x1 = self._box_of(coarse)
        ry, rx = self._smaller(level, coarse[0])
        area = (y0 / ry - 1, x0 / rx - 1, y1 / ry + 1, x1 / rx + 1)

        def touches(box: Box) -> bool:
            return box[0] < area[2] and box[2] > area[0] and box[1] < area[3] and box[3] > area[1]

        return {where for where in self._missing if touches(self._box_of(where))}

    def _hatch(self, where: Where) -> None:
        """Mark a tile that cannot be read."""
        assert self._shown is not None  # noqa: S101 - there is a canvas to paint on
        (y, x, _, _), (th, tw), box = self._box_of(where), self._levels[where[0]].tile_px, self._shown[1]
        part = self._canvas[max(0, y - box[0]) : y + th - box[0], max(0, x - box[1]) : x + tw - box[1]]
        hatch(part, (max(0, y), max(0, x)))

    def _cached(self, level: int, box: Box) -> tuple[list[tuple[Where, Pixels]], set[Where]]:
        """The tiles under a box that are in the cache, and the others."""
        there, missing = [], set()
        if box[2] > box[0] and box[3] > box[1]:
            for row, col in lattice(box, self._levels[level].tile_px):
                tile = self._engine.cached(level, row, col)
                if tile is None:
                    missing.add((level, row, col))
                else:
                    there.append(((level, row, col), tile))
        return there, missing

    def _box_of(self, where: Where) -> Box:
        """Of a tile, in its level's pixels."""
        (th, tw), (h, w) = self._levels[where[0]].tile_px, self._levels[where[0]].shape_px
        y, x = where[1] * th, where[2] * tw
        return y, x, min(h, y + th), min(w, x + tw)

    def _under(self, level: int, box: Box, coarser: int) -> Box:
        """The box of a coarser level that holds the centres of this one's pixels."""
        (ry, rx), (ch, cw) = self._smaller(level, coarser), self._levels[coarser].shape_px

        def at(i: int, ratio: float, length: int) -> int:
            return min(int((i + 0.5) * ratio), length - 1)  # as in `centres`

        y0, y1 = at(box[0], ry, ch), at(box[2] - 1, ry, ch)
        x0, x1 = at(box[1], rx, cw), at(box[3] - 1, rx, cw)
        return y0, x0, y1 + 1, x1 + 1

    def _smaller(self, level: int, coarser: int) -> tuple[float, float]:
        """Pixels (y, x) of a coarser level per pixel of this one, below 1."""
        (y, x), (cy, cx) = self._levels[level].downsample, self._levels[coarser].downsample
        return y / cy, x / cx


def _nothing(where: Where, found: Pixels | SlideError) -> None:
    """Nobody waits for it."""


def centres(start: int, stop: int, ratio: float, length: int) -> NDArray[np.intp]:
    """For pixels start … stop − 1 of an axis the pixel of a coarser one, of `length`, under their centre."""
    return np.minimum(((np.arange(start, stop) + 0.5) * ratio).astype(np.intp), length - 1)


def blocks(cells: set[tuple[int, int]]) -> list[Box]:
    """Cells (row, col) as few rectangles row0, col0, row1, col1, half-open.

    >>> sorted(blocks({(0, 0), (0, 1), (1, 0), (1, 1), (1, 4)}))
    [(0, 0, 2, 2), (1, 4, 2, 5)]
    """
    open_runs: dict[tuple[int, int], int] = {}
    found: list[Box] = []
    rows: dict[int, list[int]] = {}
    for row, col in sorted(cells):
        rows.setdefault(row, []).append(col)
    for row in range(min(rows, default=0), max(rows, default=-1) + 2):
        cols = np.array(rows.get(row, []), int)
        cuts = np.flatnonzero(np.diff(cols) > 1) + 1
        runs = {(int(part[0]), int(part[-1]) + 1) for part in np.split(cols, cuts) if len(part)}
        found += [(open_runs.pop(run), run[0], row, run[1]) for run in set(open_runs) - runs]
        for run in runs:
            open_runs.setdefault(run, row)
    return found
