"""Slides as files: tiled JPEG pyramids that slide readers open, and the truth beside them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray

from napari_mil.errors import LabelError, reason

#: µm per pixel of every sample slide.
MPP = 0.5
#: JPEG quality of the tiles.
QUALITY = 80


@dataclass(frozen=True, slots=True, eq=False)
class SampleTruth:
    """What a synthetic slide really shows, per cell of the lattice of 256 px at 0.5 µm/px, row by row.

    Attributes
    ----------
    label : path of the slide's label in SAMPLE_TREE
    cells : (n, 2) int32, (row, col) of every cell of the lattice
    nodes : (n,) int32 node of SAMPLE_TREE, 0 where there is no tissue
    expression : (n,) float32, how strongly a lesion cell shows its lesion, 0–1; 0 elsewhere
    tissue : (h, w) bool, tissue (fat included) at 8 µm per sample, 16 px
    """

    label: str
    cells: NDArray[np.int32]
    nodes: NDArray[np.int32]
    expression: NDArray[np.float32]
    tissue: NDArray[np.bool_]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the truth as an .npz file, whole or not at all."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            with part.open("wb") as file:
                np.savez_compressed(
                    file,
                    label=np.array(self.label),
                    cells=self.cells,
                    nodes=self.nodes,
                    expression=self.expression,
                    tissue=self.tissue,
                )
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> SampleTruth:
        """The truth written by `save`; LabelError when the file holds none."""
        try:
            with np.load(path, allow_pickle=False) as d:
                return cls(str(d["label"]), d["cells"], d["nodes"], d["expression"], d["tissue"])
        except Exception as error:  # a damaged file may raise anything inside the parsers
            raise LabelError(
                f"{os.fspath(path)} holds no truth of a sample slide ({reason(error)}); "
                "make the samples again."
            ) from error


def write_pyramid(path: str | os.PathLike[str], pixels: NDArray[np.uint8], *, description: str = "") -> None:
    """Write (H, W, 3) pixels as a tiled JPEG TIFF of 0.5 µm/px with levels 1, 4, 16, …; whole or not at all.

    Levels follow as pages marked "reduced image", which OpenSlide and tifffile both take for a pyramid.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with tifffile.TiffWriter(part) as tiff:
            factor = 1
            while True:
                tiff.write(
                    pixels,
                    tile=(256, 256),
                    photometric="rgb",  # of what we give; it is stored as YCbCr
                    subsampling=(2, 2),
                    compression="jpeg",
                    compressionargs={"level": QUALITY},
                    resolution=(1e4 / (MPP * factor), 1e4 / (MPP * factor)),
                    resolutionunit="CENTIMETER",
                    subfiletype=0 if factor == 1 else 1,
                    description=description if factor == 1 else None,
                    software=False,
                    metadata=None,
                    maxworkers=1,
                )
                if max(pixels.shape[:2]) <= 512:
                    break
                pixels, factor = reduced(pixels), factor * 4
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def reduced(pixels: NDArray[np.uint8], factor: int = 4) -> NDArray[np.uint8]:
    """(h // factor, w // factor, 3): means of squares of `factor` pixels; what is left over is dropped."""
    h, w = pixels.shape[0] // factor, pixels.shape[1] // factor
    rows = pixels[: h * factor, : w * factor].reshape(h, factor, w * factor, 3)
    total = rows.sum(axis=1, dtype=np.uint16).reshape(h, w, factor, 3).sum(axis=2, dtype=np.uint16)
    means: NDArray[np.uint8] = ((total + factor * factor // 2) // (factor * factor)).astype(np.uint8)
    return means
