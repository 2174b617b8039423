"""npe2 reader: a path becomes layer tuples. Pure: neither Qt nor torch is imported.

Suffixes that only slides have are claimed; of *.tif and *.tiff only tiled pyramids, and of folders, beside
OME-Zarr, those with DICOM files, found out by looking into them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_mil.slides.address import Address, SlidePath, slide_path
from napari_mil.slides.dicomfiles import SUFFIXES, first_dicom
from napari_mil.ui.layers import OPENED, LayerData, slide_layer

if TYPE_CHECKING:
    from napari_mil.slides import Slide

#: Suffixes that say by themselves that a file or folder is a slide.
SLIDE_SUFFIXES = (
    ".svs",
    ".ndpi",
    ".mrxs",
    ".scn",
    ".bif",
    ".vms",
    ".vmu",
    ".svslide",
    ".ome.tif",
    ".ome.tiff",
    ".btf",
    ".zarr",
    ".dcm",
)


#: Asked in turn before a slide becomes a layer: whether they take care of its path themselves. The workbench
#: takes slides into its project; `opening` asks for a pixel's size where two slides would not fit together.
TAKERS: list[Callable[[SlidePath], bool]] = []
#: Asked in turn about a slide that is open and would be a layer now: whether they make one of it later.
LATER: list[Callable[[Slide], bool]] = []


def get_reader(path: Any) -> Callable[[Any], list[LayerData]] | None:
    """A function that reads `path`, or None when it is no slide of ours (then other readers are asked)."""
    if not isinstance(path, str | Path):
        return None
    where = slide_path(path)
    name = where.name.lower()
    if name.endswith(SLIDE_SUFFIXES) or isinstance(where, Address):
        return read
    if name.endswith((".tif", ".tiff")):
        return read if is_tiled_pyramid(path) else None
    return read if where.is_dir() and first_dicom(where, suffixes=SUFFIXES) is not None else None


def read(path: Any) -> list[LayerData]:
    """The slide as one multiscale image layer, or napari's sign for "nothing to add" when it was taken.

    SlideError says why when it cannot be opened.
    """
    from napari_mil.slides import open_slide

    if any(take(slide_path(path)) for take in tuple(TAKERS)):
        return [(None,)]  # type: ignore[list-item]
    slide = open_slide(path)
    if any(later(slide) for later in tuple(LATER)):
        return [(None,)]  # type: ignore[list-item]
    return [slide_layer(slide, key=OPENED)]


def is_tiled_pyramid(path: Any) -> bool:
    """Whether a TIFF holds a tiled image in at least two sizes; False when it cannot be read."""
    import tifffile

    try:
        with tifffile.TiffFile(path) as tiff:
            first = tiff.series[0]
            page = first.keyframe
            return bool(page.is_tiled and len(first.levels) > 1)
    except Exception:  # noqa: BLE001 - a damaged file may raise anything inside the parser
        return False
