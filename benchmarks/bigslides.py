"""Slides of gigapixels for the benchmarks: a few tiles are encoded once and written again and again."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

TILE_PX = 256
WORDS = "Aperio Image Library v12.0.16\r\n{w}x{h} (256x256) JPEG/RGB Q=80|AppMag = 40|MPP = 0.25"
CODECS = {"jpeg": "jpeg", "jpeg2000": "aperio_jp2000_rgb"}


def tissue(side: int, seed: int) -> NDArray[np.uint8]:
    """(side, side, 3) of about the detail of stained tissue: a JPEG tile takes some 20 kB."""
    rng = np.random.default_rng(seed)
    noise = sum(
        gaussian_filter(rng.standard_normal((side, side)), s, mode="wrap") * s * a
        for s, a in ((1.2, 1), (4, 1), (25, 1))
    )
    colours = np.array([[110.0, 60, 130], [225, 150, 200]])
    mixed = 1 / (1 + np.exp(-2 * noise))[..., None]
    return np.clip(colours[0] + mixed * (colours[1] - colours[0]), 0, 255).astype(np.uint8)


def encoded(codec: str, count: int = 16) -> list[bytes]:
    """Different tiles, encoded as Aperio does."""
    side = int(count**0.5)
    whole = tissue(side * TILE_PX, 0)
    tiles = [
        np.ascontiguousarray(whole[y : y + TILE_PX, x : x + TILE_PX])
        for y, x in itertools.product(range(0, side * TILE_PX, TILE_PX), repeat=2)
    ]
    if codec == "jpeg2000":
        return [imagecodecs.jpeg2k_encode(t, level=38, codecformat="j2k", mct=True) for t in tiles]
    return [imagecodecs.jpeg8_encode(t, level=80, colorspace="RGB", outcolorspace="YCBCR") for t in tiles]


def write_slide(
    path: Path, shape_px: tuple[int, int], *, codec: str = "jpeg", step: int = 4, empty: int = 0
) -> Path:
    """An Aperio-like pyramid; `empty` tiles of glass follow each tile of tissue on level 0."""
    kinds = encoded(codec)
    glass = imagecodecs.jpeg8_encode(
        np.full((TILE_PX, TILE_PX, 3), 240, np.uint8), level=80, colorspace="RGB", outcolorspace="YCBCR"
    )
    shapes = [shape_px]
    while max(shapes[-1]) > 2048:
        shapes.append((shapes[-1][0] // step, shapes[-1][1] // step))
    common = {"dtype": np.uint8, "compression": CODECS[codec], "metadata": None, "software": False}
    colour = {"photometric": "ycbcr", "subsampling": (2, 2)} if codec == "jpeg" else {"photometric": "rgb"}
    with tifffile.TiffWriter(path, bigtiff=True) as out:
        for i, (h, w) in enumerate(shapes):
            count = -(-h // TILE_PX) * -(-w // TILE_PX)
            out.write(
                _tiles(kinds, glass, count, empty if i == 0 else 0),
                shape=(h, w, 3),
                tile=(TILE_PX, TILE_PX),
                description=WORDS.format(h=h, w=w),
                **colour,
                **common,
            )
            if i == 0:  # Aperio's second page is the thumbnail
                out.write(tissue(512, 1), photometric="rgb", metadata=None, description="Aperio thumbnail")
    return path


def _tiles(kinds: list[bytes], glass: bytes, count: int, empty: int) -> Iterator[bytes]:
    for i in range(count):
        yield kinds[i * 7 % len(kinds)] if i % (empty + 1) == 0 else glass
