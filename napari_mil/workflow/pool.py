"""The slides of a project that are open: those that somebody holds, and the last few in any case."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

if TYPE_CHECKING:
    from napari_mil.slides import Slide

#: slides that stay open though nobody holds them
OPEN_SLIDES = 16


class SlidePool:
    """Open slides by their fingerprint; a project of a thousand does not hold a thousand files open."""

    def __init__(self) -> None:
        self._open: WeakValueDictionary[str, Slide] = WeakValueDictionary()
        self._recent: deque[Slide] = deque(maxlen=OPEN_SLIDES)

    def get(self, slide_id: str) -> Slide | None:
        """The slide, if it is open."""
        return self._open.get(slide_id)

    def keep(self, slide: Slide) -> Slide:
        """Note that a slide was used just now."""
        self._open[slide.fingerprint] = slide
        if slide in self._recent:
            self._recent.remove(slide)
        self._recent.append(slide)
        return slide

    def close(self) -> None:
        """Close every slide; the next use opens it anew."""
        for slide in [*self._open.values(), *self._recent]:
            slide.close()
        self._open.clear()
        self._recent.clear()
