"""A small slide of every family of formats: what the tests of all readers, of faults and of damage use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import tifffile
from dicomslides import write_dicom
from PIL import Image
from slidefiles import half, write_modern, write_pyramid, write_svs, write_zarr
from vendorslides import BIF_TILE_PX, write_bif, write_mirax, write_ndpi, write_philips, write_scn


def _photograph(folder: Path, image: np.ndarray) -> Path:
    Image.fromarray(image).save(folder / "a.png")
    return folder / "a.png"


def _montage(folder: Path, image: np.ndarray) -> Path:
    (folder / "p").mkdir()
    for i in range(3):
        Image.fromarray(image).save(folder / "p" / f"{i}.png")
    return folder / "p"


def _ome(folder: Path, image: np.ndarray) -> Path:
    """Two levels, the second in a SubIFD, where the image has more than a pixel."""
    path, levels = folder / "a.ome.tif", 1 + (min(image.shape[:2]) > 1)
    with tifffile.TiffWriter(path, ome=True) as tif:
        more = {"tile": (128, 128), "photometric": "rgb", "compression": "zlib", "predictor": True}
        about = {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
        tif.write(image, subifds=levels - 1, metadata=about, **more)
        for _ in range(levels - 1):
            tif.write(half(image), subfiletype=1, **more)
    return path


def _bif(folder: Path, image: np.ndarray) -> Path:
    """Two by two tiles of the scanner, white around the image."""
    whole = np.full((2 * BIF_TILE_PX[0], 2 * BIF_TILE_PX[1], 3), 255, np.uint8)
    whole[: image.shape[0], : image.shape[1]] = image
    return write_bif(folder / "a.bif", whole)


#: name -> the reader's module, and what writes (folder, (h, w, 3) image) a slide and returns its path
FAMILIES: dict[str, tuple[str, Callable[[Path, np.ndarray], Path]]] = {
    "tiled TIFF": ("tiff", lambda f, i: write_pyramid(f / "a.tif", i, "jpeg-ycbcr", levels=2)),
    "TIFF of WebP": ("tiff", lambda f, i: write_modern(f / "w.tif", i, "webp", 50001)),
    "TIFF of JPEG XL": ("tiff", lambda f, i: write_modern(f / "x.tif", i, "jxl", 50002)),
    "SVS": ("tiff", lambda f, i: write_svs(f / "a.svs", i, "jp2-rgb")),
    "OME-TIFF": ("tiff", _ome),
    "OME-Zarr 0.4": ("zarr", lambda f, i: write_zarr(f / "a.zarr", i, "0.4", levels=2)),
    "OME-Zarr 0.5": ("zarr", lambda f, i: write_zarr(f / "b.zarr", i, "0.5", levels=2)),
    "DICOM": ("dicom", lambda f, i: write_dicom(f / "d", i, "jpeg-ycbcr", levels=2)),
    "Philips": ("openslide", lambda f, i: write_philips(f / "a.tiff", i)),
    "SCN": ("openslide", lambda f, i: write_scn(f / "a.scn", i, mpp=0.25)),
    "BIF": ("openslide", _bif),
    "NDPI": ("openslide", lambda f, i: write_ndpi(f / "a.ndpi", i)),
    "MRXS": ("openslide", lambda f, i: write_mirax(f / "a.mrxs", i)),
    "photograph": ("photos", _photograph),
    "montage": ("photos", _montage),
}
