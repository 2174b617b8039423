"""What could not be read of one slide, and when it may be asked for again."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterable

from napari_mil.errors import SlideError, reason
from napari_mil.slides.cache import Key
from napari_mil.slides.remote import UnreachableError

#: How soon a tile that failed is tried again for drawing; twice as long after each failure.
RETRY_S, LONGEST_RETRY_S = 5.0, 300.0
#: A server that does not answer is asked again after RETRY_S, and never later than after so long.
LONGEST_ABSENCE_S = 10.0

#: Why, the pause after it, and when it ends (time.monotonic).
_Fault = tuple[SlideError, float, float]


class Faults:
    """Of the tiles of one slide; safe from many threads.

    A damaged tile is a matter of that tile. A server that does not answer is one of them all: nothing is
    asked for drawing until the pause is over, and the error is the same one until the server is back.
    """

    def __init__(self) -> None:
        self._tiles: dict[Key, _Fault] = {}
        self._absence: _Fault | None = None
        self._lock = threading.Lock()

    def of(self, key: Key) -> SlideError | None:
        """Why a tile could not be read, until it may be tried again."""
        if not self._tiles and self._absence is None:
            return None
        with self._lock:
            now = time.monotonic()
            for fault in (self._absence, self._tiles.get(key)):
                if fault is not None and now < fault[2]:
                    return fault[0]
        return None

    def pause_s(self, keys: Iterable[Key]) -> float | None:
        """Seconds until one of the tiles that failed may be tried again, or None when none has."""
        with self._lock:
            if self._absence is not None:
                ends = self._absence[2]
            else:
                ends = min((self._tiles[key][2] for key in keys if key in self._tiles), default=math.inf)
        return None if ends == math.inf else max(0.0, ends - time.monotonic())

    def failed(self, key: Key, error: SlideError | OSError, name: str) -> SlideError:
        """The error to raise for a tile, which names the slide; from now on the tile or the server rests."""
        why = f"{name}: {error if isinstance(error, SlideError) else reason(error)}"
        with self._lock:
            now = time.monotonic()
            if isinstance(error, UnreachableError):
                said, pause, until = self._absence or (UnreachableError(why), RETRY_S / 2, 0.0)
                if now >= until:  # not one of those asked at the same time
                    pause = min(2 * pause, LONGEST_ABSENCE_S)
                    self._absence = (said, pause, now + pause)
                return UnreachableError(why)
            named = SlideError(why)
            _, pause, _ = self._tiles.get(key, (named, RETRY_S / 2, 0.0))
            pause = min(2 * pause, LONGEST_RETRY_S)
            self._tiles[key] = (named, pause, now + pause)
            return named

    def came(self, key: Key) -> None:
        """A tile was read: it is sound, and the server is back, unless it had sent that before it went."""
        if not self._tiles and self._absence is None:
            return
        with self._lock:
            self._tiles.pop(key, None)
            if self._absence is not None and time.monotonic() >= self._absence[2]:
                self._absence = None
