"""Tiles that the next step of a view is likely to show, decoded while the view rests."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from functools import partial

from napari_mil.errors import SlideError
from napari_mil.slides.boxes import lattice
from napari_mil.slides.info import Box, Pixels
from napari_mil.slides.slide import Level

Where = tuple[int, int, int]  # number of the level in the engine, row, column of a tile

#: They may take this part of the cache; what was looked at is not to be lost for what may be.
_PART = 4
_DEAR = 2  # halvings


def near(levels: Sequence[Level], at: int, box: Box) -> Iterator[tuple[Level, Box]]:
    """What may be shown after box y0, x0, y1, x1 of levels[at] (the largest first), the likeliest first:
    half a view more on every side, the middle at the next finer level, and the surroundings at the coarser
    one. The coarsest level is held in memory as a whole.
    """
    (y0, x0, y1, x1), here = box, levels[at]
    h, w = y1 - y0, x1 - x0
    yield here, _within(here, (y0 - h // 2, x0 - w // 2, y1 + h // 2, x1 + w // 2))
    for other in (*levels[max(0, at - 1) : at], *levels[at + 1 : -1][:1]):
        (fh, fw), (th, tw) = here.shape_px, other.shape_px
        y, x = int((y0 + y1) / 2 * th / fh) - h // 2, int((x0 + x1) / 2 * tw / fw) - w // 2
        yield other, _within(other, (y, x, y + h, x + w))


def _dear(level: Level) -> bool:
    """Whether a tile is made of more than sixteen of the file: the next view would wait for it to end."""
    engine, at, steps = level.engine, level.index, 0
    while not engine.sketched(at) and (of := engine.levels[at].of) is not None:
        at, steps = of, steps + 1
    return steps > _DEAR


def _within(level: Level, box: Box) -> Box:
    (h, w), (y0, x0, y1, x1) = level.shape_px, box
    return max(0, y0), max(0, x0), min(h, y1), min(w, x1)


class Ahead:
    """Wants such tiles of one slide, after all that anybody waits for, until the view moves.

    Which they are is found out in a decode thread: tiny tiles are many.

    Parameters
    ----------
    levels : all that are drawn, the largest first
    """

    def __init__(self, levels: Sequence[Level]) -> None:
        self._levels, self._engine = levels, levels[0].engine
        self._view: tuple[int, Box] | None = None
        self._lock = threading.Lock()

    def begin(self, level: int, box: Box) -> None:
        """A view rests: decode what is near it, unless somebody reads from the slide."""
        if not self._engine.closed and self._engine.idle:
            at = next(i for i, one in enumerate(self._levels) if one.index == level)
            with self._lock:
                self._view = view = (at, box)
                self._engine.when_free(self, partial(self._plan, view))

    def stop(self) -> None:
        """The view moves: begin nothing more."""
        with self._lock:
            self._view = None
            self._engine.want(self, (), self._come, later=True)

    def _plan(self, view: tuple[int, Box]) -> None:
        """Want what is missing near a view, unless it has moved meanwhile."""
        found = self._wanted(*view)
        with self._lock:
            if self._view is view:
                self._engine.want(self, found, self._come, later=True)

    def _come(self, where: Where, found: Pixels | SlideError) -> None:  # noqa: ARG002 - it is in the cache now
        if isinstance(found, SlideError):  # a server that is gone need not be asked for the rest
            self.stop()

    def _wanted(self, at: int, box: Box) -> list[Where]:
        """The tiles that are not there, as many as may be, those of the file first."""
        found: dict[Where, None] = {}
        room, engine = self._engine.cache.capacity // _PART, self._engine
        views = sorted(near(self._levels, at, box), key=lambda view: not engine.quick(view[0].index))
        for level, (y0, x0, y1, x1) in views:
            if y0 >= y1 or x0 >= x1 or _dear(level):
                continue
            th, tw = level.tile_px
            middle = (y0 + y1) / 2 / th - 0.5, (x0 + x1) / 2 / tw - 0.5
            cells = lattice((y0, x0, y1, x1), (th, tw))
            for row, col in sorted(cells, key=lambda c: (c[0] - middle[0]) ** 2 + (c[1] - middle[1]) ** 2):
                where = (level.index, row, col)
                if engine.cached(*where) is None and engine.fault(*where) is None:
                    room -= 3 * th * tw
                    if room < 0:
                        return list(found)
                    found[where] = None
        return list(found)
