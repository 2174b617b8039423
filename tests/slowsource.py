"""A slide whose tiles take their time, fail on demand, and are remembered."""

from __future__ import annotations

import threading
import time

from napari_mil.errors import SlideError
from napari_mil.slides import Slide
from napari_mil.slides.cache import TileCache
from napari_mil.slides.tiff import open_source
from napari_mil.slides.tiles import Engine


class SlowSource:
    """Passes tiles on after `seconds`, and none while the `gate` is shut; those in `broken` fail; `asked` is
    what was asked for, in order.
    """

    def __init__(self, source, seconds):
        self.info, self.seconds, self._source = source.info, seconds, source
        self.broken, self.asked, self.gate = set(), [], threading.Event()
        self.gate.set()

    def tile(self, level, row, col):
        self.asked.append((level, row, col))
        time.sleep(self.seconds)
        self.gate.wait(30)
        if (level, row, col) in self.broken:
            raise SlideError(f"the tile in row {row}, column {col} is damaged; get another copy.")
        return self._source.tile(level, row, col)

    def close(self):
        self._source.close()


def slow_slide(path, seconds, *, cache_bytes=2**28):
    """The slide in a TIFF, with a cache of its own, `seconds` per tile."""
    source = SlowSource(open_source(path), seconds)
    return Slide.of(path, Engine(source, path.name, cache=TileCache(cache_bytes)))


def until(condition, seconds=20.0):
    """Wait for what decode threads do."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)
