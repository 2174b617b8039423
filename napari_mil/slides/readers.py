"""Which readers there are, in the order in which they are asked; each decides by looking into the file."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from napari_mil.slides.address import Address, SlidePath

if TYPE_CHECKING:
    from napari_mil.slides.info import Source


@dataclass(frozen=True, slots=True)
class Reader:
    """One family of formats.

    Attributes
    ----------
    name : what it is called in sentences
    module : the file of this folder that has it; its `open_source(path)` returns a Source, raises SlideError
        for what it does not know, and RefusedError for what no other reader needs to be asked about
    reads : the formats, for people
    files, folders : whether a slide of it is a file, a folder, or either
    remote : whether it reads from a server too
    copies : whether a slide on a server is copied first, so that it is asked about those alone that are its
        own
    needs, extra : a library that is optional, and the extra that brings it
    """

    name: str
    module: str
    reads: str
    files: bool = True
    folders: bool = False
    remote: bool = False
    copies: bool = False
    needs: str = ""
    extra: str = ""

    def open_source(self, path: SlidePath) -> Source:
        """Open a slide; SlideError when it is none that this reader knows."""
        module: Any = importlib.import_module(f"napari_mil.slides.{self.module}")
        source: Source = module.open_source(path)
        return source

    def may_read(self, path: SlidePath) -> bool:
        """Whether a slide of this family can lie there."""
        if isinstance(path, Address):
            return self.remote
        return self.folders if path.is_dir() else self.files

    @property
    def installed(self) -> bool:
        """Whether the library that it needs is there."""
        return not self.needs or importlib.util.find_spec(self.needs) is not None

    @property
    def install(self) -> str:
        """The line that installs what is missing."""
        return f"pip install 'napari-mil[{self.extra}]'"


# TIFF before OpenSlide, which opens OME-TIFF but hides its levels
READERS = (
    Reader("TIFF reader", "tiff", "Aperio SVS, OME-TIFF, tiled TIFF and BigTIFF", remote=True),
    Reader("OME-Zarr reader", "zarr", "OME-Zarr 0.4 and 0.5", files=False, folders=True, remote=True),
    Reader(
        "DICOM reader", "dicom", "DICOM slides", folders=True, remote=True, needs="wsidicom", extra="dicom"
    ),
    Reader(
        "OpenSlide",
        "openslide",
        "NDPI, MRXS, SCN, BIF, Philips TIFF, VMS, Trestle, Sakura",
        folders=True,
        remote=True,
        copies=True,
    ),
    Reader(
        "photographs",
        "photos",
        "PNG, JPEG, BMP, and folders of photographs as montages",
        folders=True,
        remote=True,
    ),
)
