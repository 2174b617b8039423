"""What every encoder is: pixels of tiles in, one vector per tile out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from napari_mil.errors import BagError


class Encoder(ABC):
    """Turns tiles into vectors. A tile's vector depends on its own pixels, not on the rest of the batch.

    Class attributes
    ----------------
    name : the registry's name ("builtin")
    id : name and version ("builtin-1"); bags and cards carry it. It changes whenever any number that the
    encoder
        gives for any tile changes, so that features of two definitions are never mixed
    width : D, numbers per tile
    tile_px : side of the tiles it is made for, pixels
    mpp : µm per pixel it is made for
    """

    name: ClassVar[str]
    id: str
    width: int
    tile_px: int
    mpp: float

    @abstractmethod
    def __call__(self, tiles: Tensor) -> Tensor:
        """(B, D) float32 on the tiles' device for tiles (B, H, W, 3) uint8 RGB; BagError for any other."""


def check_tiles(tiles: Tensor, *, smallest_px: int, owner: str) -> None:
    """Raise BagError unless `tiles` is (B, H, W, 3) uint8 with H and W at least `smallest_px`."""
    fits = tiles.ndim == 4 and tiles.shape[-1] == 3 and min(tiles.shape[1:3]) >= smallest_px
    if tiles.dtype != torch.uint8 or not fits:
        raise BagError(
            f"The encoder {owner} was given {tiles.dtype} of shape {tuple(tiles.shape)}; "
            f"it takes RGB tiles as uint8 (B, H, W, 3) with sides of at least {smallest_px} px."
        )
