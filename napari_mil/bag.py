"""One feature vector per tile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_mil.arrays import frozen
from napari_mil.errors import BagError
from napari_mil.grid import TileGrid

#: an encoder's id ends so where a vector is the mean over the tiles of a photograph: another kind of feature
PHOTOGRAPH = "+photograph"
#: and so where colours were converted by the scanner's profile before
SRGB = "+srgb"


def encoder_of(features: str) -> str:
    """The encoder's own id of that of features.

    >>> encoder_of("builtin-1+photograph+srgb"), encoder_of("builtin-1")
    ('builtin-1', 'builtin-1')
    """
    return features.removesuffix(SRGB).removesuffix(PHOTOGRAPH)


@dataclass(frozen=True, slots=True, eq=False)
class Bag:
    """The features of a slide's tiles, in the order of its grid.

    Attributes
    ----------
    slide_id : fingerprint of the slide
    grid : TileGrid of N tiles
    features : (N, D) float16 or float32, finite
    encoder : id of the encoder that made them ("builtin-1", of photographs "builtin-1+photograph")
    pixel_hash : of the slide's coarsest level (`Slide.pixel_hash`), so that the same picture under another
        name does not stand among what is learned from and what is held out; "" where it is not known
    """

    slide_id: str
    grid: TileGrid
    features: NDArray[Any]
    encoder: str
    pixel_hash: str = ""

    def __post_init__(self) -> None:
        features = np.asarray(self.features)
        if features.dtype not in (np.float16, np.float32):
            raise BagError(f"features are {features.dtype}; a bag holds float16 or float32.")
        object.__setattr__(self, "features", frozen(features, shape=(len(self.grid), None), name="features"))

    def __len__(self) -> int:
        return len(self.grid)

    @property
    def width(self) -> int:
        """D, numbers per tile."""
        return int(self.features.shape[1])

    def crop(self, box_px: tuple[float, float, float, float]) -> Bag:
        """The tiles that overlap a box y0, x0, y1, x1 in level-0 pixels."""
        keep = self.grid.inside(box_px)
        grid = self.grid.with_cells(self.grid.cells[keep])
        return Bag(self.slide_id, grid, self.features[keep], self.encoder, self.pixel_hash)
