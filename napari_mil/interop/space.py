"""The one place where y, x of level 0 becomes x, y as another program sees them, and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class SlideFacts(Protocol):
    """What a label file needs to know of a slide; a Slide says it."""

    @property
    def fingerprint(self) -> str:
        """Identity of the slide."""

    @property
    def shape_px(self) -> tuple[int, int]:
        """(H, W) of level 0."""

    @property
    def bounds_px(self) -> tuple[int, int, int, int]:
        """(y0, x0, y1, x1) of the scanned area, level-0 pixels."""


@dataclass(frozen=True, slots=True)
class Space:
    """Coordinates of level 0 with the corner of the first pixel as origin, cropped to the scanned area.

    Viewers on top of OpenSlide show a slide cropped to its bounds, so the bounds' corner is their origin.

    >>> Space((100.0, 20.0)).outwards([[101.0, 22.0]]).tolist()
    [[2.0, 1.0]]
    """

    origin_px: tuple[float, float]

    @classmethod
    def of(cls, slide: SlideFacts) -> Space:
        """The space of a slide as other programs see it."""
        y0, x0 = slide.bounds_px[:2]
        return cls((float(y0), float(x0)))

    def outwards(self, points_px: Any) -> NDArray[np.float64]:
        """(n, 2) y, x in level-0 pixels -> (n, 2) x, y as the file holds them."""
        shifted: NDArray[np.float64] = np.asarray(points_px, np.float64) - self.origin_px
        return shifted[:, ::-1]

    def inwards(self, points: Any) -> NDArray[np.float64]:
        """(n, 2) x, y of the file -> (n, 2) y, x in level-0 pixels."""
        flipped: NDArray[np.float64] = np.asarray(points, np.float64)[:, ::-1] + self.origin_px
        return flipped
