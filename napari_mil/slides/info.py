"""What a reader of a family of formats returns: pixels tile by tile, and what the file says besides."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from napari_mil.slides.address import Address

if TYPE_CHECKING:
    from napari_mil.slides.address import SlidePath

Pixels = NDArray[np.uint8]
Box = tuple[int, int, int, int]  # y0, x0, y1, x1, half-open


#: The property that says why a file's colour profile cannot be used.
PROFILE = "colour profile"


@dataclass(frozen=True, slots=True)
class LevelInfo:
    """Size of a level and of the tiles it is read by, (height, width) in that level's pixels.

    of : the file lacks this level: it is this one's pixels, two by two; None for a level of the file
    """

    shape_px: tuple[int, int]
    tile_px: tuple[int, int]
    of: int | None = None

    @property
    def lattice(self) -> tuple[int, int]:
        """Rows and columns of tiles."""
        (h, w), (th, tw) = self.shape_px, self.tile_px
        return -(-h // th), -(-w // tw)

    def smaller_than(self, other: LevelInfo) -> bool:
        """Whether it has fewer pixels."""
        return math.prod(self.shape_px) < math.prod(other.shape_px)


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
    slow : whether a tile takes so long to decode that a copy of it is worth its disk
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
    slow: bool = False

    @property
    def served(self) -> bool:
        """Whether its bytes come from a server, part by part."""
        return any(isinstance(file, Address) for file in self.files)


class Sketch(Protocol):
    """Approximate tiles of some levels, for drawing alone: where exact ones take long."""

    def has(self, level: int) -> bool:
        """Whether it holds a level."""
        ...

    def tile(self, level: int, row: int, col: int) -> Pixels:
        """(h, w, 3) uint8; SlideError when it is damaged."""
        ...

    def close(self) -> None:
        """Give its files back."""
        ...


class Source(Protocol):
    """An open file: what a reader of a family of formats returns."""

    info: SlideInfo

    def tile(self, level: int, row: int, col: int) -> Pixels:
        """The (h, w, 3) uint8 tile, cut at the level's border; called from many threads at once."""
        ...

    def close(self) -> None:
        """Give the file back."""
        ...
