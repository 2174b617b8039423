"""A small slide of every family of formats: what the tests of all readers, of faults and of damage use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from dicomslides import write_dicom
from PIL import Image
from slidefiles import write_pyramid, write_svs, write_zarr
from vendorslides import write_mirax, write_ndpi, write_philips, write_scn


def _photograph(folder: Path, image: np.ndarray) -> Path:
    Image.fromarray(image).save(folder / "a.png")
    return folder / "a.png"


def _montage(folder: Path, image: np.ndarray) -> Path:
    (folder / "p").mkdir()
    for i in range(3):
        Image.fromarray(image).save(folder / "p" / f"{i}.png")
    return folder / "p"


#: name -> the reader's module, and what writes (folder, (h, w, 3) image) a slide and returns its path
FAMILIES: dict[str, tuple[str, Callable[[Path, np.ndarray], Path]]] = {
    "tiled TIFF": ("tiff", lambda f, i: write_pyramid(f / "a.tif", i, "jpeg-ycbcr", levels=2)),
    "SVS": ("tiff", lambda f, i: write_svs(f / "a.svs", i, "jp2-rgb")),
    "OME-Zarr 0.4": ("zarr", lambda f, i: write_zarr(f / "a.zarr", i, "0.4", levels=2)),
    "OME-Zarr 0.5": ("zarr", lambda f, i: write_zarr(f / "b.zarr", i, "0.5", levels=2)),
    "DICOM": ("dicom", lambda f, i: write_dicom(f / "d", i, "jpeg-ycbcr", levels=2)),
    "Philips": ("openslide", lambda f, i: write_philips(f / "a.tiff", i)),
    "SCN": ("openslide", lambda f, i: write_scn(f / "a.scn", i, mpp=0.25)),
    "NDPI": ("openslide", lambda f, i: write_ndpi(f / "a.ndpi", i)),
    "MRXS": ("openslide", lambda f, i: write_mirax(f / "a.mrxs", i)),
    "photograph": ("photos", _photograph),
    "montage": ("photos", _montage),
}
