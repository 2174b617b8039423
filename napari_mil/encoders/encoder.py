"""What every encoder is: pixels of tiles in, one vector per tile out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar, Self

import torch
from torch import Tensor

from napari_mil.errors import BagError, ModelError


class Encoder(ABC):
    """Turns tiles into vectors. A tile's vector depends on its own pixels, not on the rest of the batch.

    Class attributes
    ----------------
    name : the registry's name ("builtin")
    needs_weights : whether it is made from a file of weights, by `from_weights`
    id : name and version ("builtin-1"), or name and content of the weights; bags and cards carry it. It
        changes whenever any number that the encoder gives for any tile changes, so that features of two
        definitions are never mixed
    width : D, numbers per tile
    tile_px : side of the tiles it is made for, pixels
    mpp : µm per pixel it is made for
    """

    name: ClassVar[str]
    needs_weights: ClassVar[bool] = False
    id: str
    width: int
    tile_px: int
    mpp: float

    @classmethod
    def from_weights(cls, path: Path) -> Self:
        """The encoder with the weights of a file; ModelError when it has none, or they do not fit."""
        raise ModelError(f"The encoder {cls.name} has no weights; leave {path.name} out.")

    def weights(self) -> bytes | None:
        """The weights in use as safetensors, which `from_weights` reads; None where there are none."""
        return None

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
