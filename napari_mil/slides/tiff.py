"""SVS, OME-TIFF and other tiled pyramids through tifffile and imagecodecs."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import tifffile

from napari_mil.errors import SlideError, reason
from napari_mil.slides import omexml
from napari_mil.slides.address import Address, SlidePath
from napari_mil.slides.info import LevelInfo, Pixels, SlideInfo
from napari_mil.slides.remote import RemoteFile
from napari_mil.slides.slide import LeftError, RefusedError, UnknownError, refuse_fluorescence
from napari_mil.slides.tiffpage import JPEG2000, Bytes, File, Page, Planes
from napari_mil.slides.tifftables import Tables

WHITE = (255, 255, 255)
_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
MOST_STRIPED_PX = 64_000_000
_OTHERS = {
    "ndpi": "Hamamatsu NDPI",
    "bif": "Ventana BIF",
    "scn": "Leica SCN",
    "philips": "Philips TIFF",
}
#: Units that ImageJ writes in full.
_IMAGEJ = {"micron": "µm", "microns": "µm", "inch": "in"}
_TURNED = range(2, 9)
_WORDS_OF_NDPI = 65449
#: Kinds of series of which tifffile guesses what is a level.
_GUESSED = {"generic", "uniform"}
#: Marks of a page (NewSubfileType): a smaller one of another, one of a document.
_REDUCED, _OF_DOCUMENT = 1, 2
_ASSOCIATED = ("label", "macro", "thumbnail", "overview")


class TiffSource:
    """The pages of one TIFF that form a pyramid; safe from many threads."""

    def __init__(self, file: Bytes, pages: tuple[Page | Planes, ...], info: SlideInfo) -> None:
        self._file, self._pages, self.info = file, pages, info

    def tile(self, level: int, row: int, col: int) -> Pixels:
        """(h, w, 3) uint8."""
        return self._pages[level].tile(self._file, row, col, self.info.background)

    def close(self) -> None:
        """Give the file back."""
        self._file.close()


def open_source(path: SlidePath) -> TiffSource:
    """The pyramid in a TIFF; SlideError when this reader cannot read it, RefusedError when none should."""
    if isinstance(path, Address) and path.text.endswith("/"):
        raise UnknownError("a folder")
    file = RemoteFile(path) if isinstance(path, Address) else File(path)
    try:
        pages, found, extra = _parsed(file, path)
        _probe(file, pages)
    except BaseException:
        file.close()
        raise
    associated: dict[str, Callable[[], Pixels]] = {
        name: partial(page.whole, file, WHITE) for name, page in extra.items() if page.end <= file.size
    }
    levels = tuple(LevelInfo(page.shape_px, page.tile_px) for page in pages)
    slow = pages[0].compression in JPEG2000
    info = SlideInfo(levels=levels, associated=associated, slow=slow, **found)
    return TiffSource(file, pages, info)


def _parsed(
    file: Bytes, path: SlidePath
) -> tuple[tuple[Page | Planes, ...], dict[str, Any], dict[str, Page | Planes]]:
    if isinstance(file, RemoteFile) and file.mark and not file.size:  # S3's folders have no mark
        raise RefusedError("it is empty (0 bytes); copy the slide there again")
    if file.read(128, 4) == b"DICM":
        raise UnknownError("a DICOM file")
    try:
        tables = Tables(file)
        with tifffile.TiffFile(io.BufferedReader(tables.stream()), name=path.name) as tif:
            return _understand(tif, path, tables)
    except SlideError:
        raise
    except Exception as error:  # a damaged file may raise anything inside the parser
        if file.read(0, 4) in _MAGIC:  # OpenSlide has been seen to end the process over such files
            why = reason(error) if isinstance(error, tifffile.TiffFileError) else "its tags make no sense"
            raise RefusedError(f"it is a damaged TIFF ({why}); copy the file again") from error
        raise UnknownError("not a TIFF") from error


def _understand(
    tif: tifffile.TiffFile, path: SlidePath, tables: Tables
) -> tuple[tuple[Page | Planes, ...], dict[str, Any], dict[str, Page | Planes]]:
    """The pages of the pyramid, the fields of SlideInfo, and the associated images."""
    for flag, vendor in _OTHERS.items():
        if getattr(tif, f"is_{flag}"):
            said = tif.pages.first.tags.valueof(_WORDS_OF_NDPI) if tif.is_ndpi else ""
            refuse_fluorescence(";".join(str(said).splitlines()))  # before anything is copied from a server
            raise LeftError(f"{vendor} is left to OpenSlide")
    if str(tif.pages.first.software).startswith("MedScan") and "OverlapsXY" in str(
        tif.pages.first.description
    ):
        raise LeftError("Trestle TIFF, whose tiles overlap, is left to OpenSlide")
    main = max((s for s in tif.series if not _is_associated(s)), key=_area, default=tif.series[0])
    _check_axes(main)
    sure = str(main.kind) not in _GUESSED
    pages = tuple(
        _level(level, tables)
        for level in main.levels
        if sure or level is main or _may_be_level(tif, _page(level), _page(main))
    )
    pages += tuple(_further_levels(tif, main, pages, tables))
    if not _page(main).is_tiled and _area(main) > MOST_STRIPED_PX:
        raise SlideError("it is neither tiled nor small, so that no part can be read on its own")
    page = _page(main)
    if not page.is_tiled and page.tags.valueof(274) in _TURNED and len(tif.pages) == 1:
        raise SlideError("a photograph that its camera turned is left to the reader of photographs")
    description = _page(main).description or ""
    aperio = _aperio(description) if tif.is_svs else {}
    words = tif.ome_metadata or ""
    image = _image(words, main)
    info = {
        "files": (path,),
        "mpp": _mpp(_page(main), image, aperio) or _imagej_mpp(tif, _page(main)),
        "objective_power": omexml.number(aperio.get("AppMag")) or omexml.objective(words, image),
        "properties": {"format": _kind(tif), **(aperio or _words(description))},
        "icc_profile": _profile(_page(main)),
    }
    return pages, info, dict(_associated(tif, tables))


def _page(series: Any) -> Any:
    page = series.pages[0]
    return page.aspage() if isinstance(page, tifffile.TiffFrame) else page


def _area(series: Any) -> int:
    page = _page(series)
    return int(page.imagelength) * int(page.imagewidth)


def _is_associated(series: Any) -> bool:
    return _associated_word(series) is not None


def _associated_word(series: Any) -> str | None:
    """What kind of associated picture a series is by its name, in which that stands as a word of its own."""
    said = re.findall(r"[a-z]+", (series.name or "").lower())
    return next((word for word in _ASSOCIATED if word in said), None)


def _check_axes(series: Any) -> None:
    axes = str(series.axes)
    if axes == "CYX" and _are_rgb(series):
        return
    if axes not in {"YX", "YXS", "SYX"}:
        shape = " × ".join(map(str, series.shape))
        raise RefusedError(
            f"it holds a stack of images or channels ({axes}: {shape}), "
            "while one bright-field RGB image is expected"
        )


def _level(series: Any, tables: Tables) -> Page | Planes:
    """A level of a series, whose colours may lie in three pages."""
    if str(series.axes) != "CYX":
        return Page.of(_page(series), tables)
    whole = (page.aspage() if isinstance(page, tifffile.TiffFrame) else page for page in series.pages[:3])
    found = [one for one in (Page.of(page, tables) for page in whole) if isinstance(one, Page)]
    if len(found) != 3 or len({(one.shape_px, one.tile_px) for one in found}) > 1:
        raise RefusedError("it is a damaged TIFF (its colours differ in size); copy the file again")
    return Planes(tuple(found))


def _are_rgb(series: Any) -> bool:
    """Whether the three channels of a series are called red, green and blue, or have these colours."""
    return series.shape[0] == 3 and omexml.is_rgb(series.pages[0].parent.ome_metadata or "", series.name)


def _further_levels(
    tif: tifffile.TiffFile, main: Any, pages: Sequence[Page | Planes], tables: Tables
) -> Iterator[Page | Planes]:
    """Tiled pages of the same picture, smaller, that tifffile did not take for levels, such as those of a
    factor that is nearly four.
    """
    first, seen = pages[0], pages[-1].shape_px
    others = [
        s
        for s in tif.series
        if s is not main
        and not _is_associated(s)
        and str(s.axes) == str(main.axes)
        and not _elsewhere(tif, s, main)
    ]
    for level in sorted((one for s in others for one in s.levels), key=_area, reverse=True):
        page = _page(level)
        shape = (int(page.imagelength), int(page.imagewidth))
        dy, dx = first.shape_px[0] / shape[0], first.shape_px[1] / shape[1]
        same_picture = abs(dy - dx) <= dy / shape[0] + dx / shape[1]
        smaller = shape[0] < seen[0] and shape[1] < seen[1]
        if page.is_tiled and same_picture and smaller and _may_be_level(tif, page, _page(main)):
            seen = shape
            yield _level(level, tables)


def _may_be_level(tif: tifffile.TiffFile, page: Any, first: Any) -> bool:
    """Whether a page of the same aspect is a smaller one of the same picture as far as its tags tell. Where
    they do not mark it, levels have the tiles of the first one, and are smaller by a power of two.
    """
    kind = int(page.subfiletype or 0)
    if kind & (_REDUCED | _OF_DOCUMENT):
        return bool(kind & _REDUCED)
    if tif.is_svs or tif.is_ome or len(page.treeindex) > 1:  # a page within the first says so as well
        return True
    factor = math.log2(first.imagelength / page.imagelength)
    rounding = 1.5 / min(page.imagelength, page.imagewidth) + 0.001
    return (page.tilelength, page.tilewidth) == (first.tilelength, first.tilewidth) and (
        abs(2 ** (factor - round(factor)) - 1) <= rounding
    )


def _elsewhere(tif: tifffile.TiffFile, series: Any, main: Any) -> bool:
    """Whether OME's words do not say of two images that they are as large in µm: most are of other places,
    and the levels of one are one image to them.
    """
    words = tif.ome_metadata
    if not words:
        return False
    sizes = []
    for one in (series, main):
        mpp, page = omexml.mpp(_image(words, one)), _page(one)
        if mpp is None:
            return True
        sizes.append((mpp[0] * page.imagelength, mpp[1] * page.imagewidth))
    step = omexml.mpp(_image(words, series)) or (0.0, 0.0)
    return any(abs(a - b) > 1.5 * s for a, b, s in zip(*sizes, step, strict=True))


def _associated(tif: tifffile.TiffFile, tables: Tables) -> Iterator[tuple[str, Page | Planes]]:
    for series in tif.series:
        word = _associated_word(series)
        if word is not None:
            try:
                yield word, Page.of(_page(series), tables)
            except SlideError:  # a label in an unknown codec is no reason to refuse the slide
                continue


def _probe(file: Bytes, pages: tuple[Page | Planes, ...]) -> None:
    """Refuse a file that ends early; decode one tile per level, so that an unknown codec shows now."""
    for page in pages:
        if page.end > file.size:
            raise RefusedError(
                f"it is cut short: its tiles reach to byte {page.end}, but it has only {file.size}; "
                "copy the file again"
            )
        first = int(np.argmax(page.counts > 0))
        page.tile(file, *divmod(first, page.lattice[1]), WHITE)


def _kind(tif: tifffile.TiffFile) -> str:
    return "Aperio SVS" if tif.is_svs else "OME-TIFF" if tif.is_ome else "TIFF"


def _profile(page: Any) -> bytes | None:
    """The colour profile (tag 34675), if it is there and not empty."""
    found = page.tags.valueof(34675)
    return bytes(found) if isinstance(found, (bytes, bytearray)) and found else None


def _aperio(description: str) -> dict[str, str]:
    """The `key = value` pairs that Aperio writes behind bars."""
    pairs = (part.split("=", 1) for part in description.split("|")[1:] if "=" in part)
    return {key.strip(): value.strip() for key, value in pairs}


def _words(description: str) -> dict[str, str]:
    """What a file that is no vendor's says of itself."""
    return {"description": description} if description and not description.startswith("<") else {}


def _image(words: str, series: Any) -> str:
    """What OME's words say of a series; "" where there are none."""
    page = _page(series)
    return omexml.image_of(words, series.name, (int(page.imagelength), int(page.imagewidth)))


def _mpp(page: Any, image: str, aperio: dict[str, str]) -> tuple[float, float] | None:
    """µm per pixel (y, x) from Aperio's words, OME's attributes, or the resolution tags."""
    stated = omexml.number(aperio.get("MPP"))
    if stated:
        return (stated, stated)
    return omexml.mpp(image) or _resolution(page, {2: 25400.0, 3: 10000.0}.get(int(page.resolutionunit or 1)))


def _imagej_mpp(tif: tifffile.TiffFile, page: Any) -> tuple[float, float] | None:
    """µm per pixel (y, x) of a file of ImageJ's, which names the unit of the resolution in its words."""
    unit = str((tif.imagej_metadata or {}).get("unit", "")).replace(r"\u00B5", "µ")
    return _resolution(page, omexml.UM.get(_IMAGEJ.get(unit, unit)) if unit else None)


def _resolution(page: Any, um: float | None) -> tuple[float, float] | None:
    """µm per pixel (y, x) of the resolution tags in a unit of so many µm."""
    x, y = (page.tags.valueof(code) for code in (282, 283))
    if um is None or not x or not y or not all((*x, *y)):
        return None
    return (um * y[1] / y[0], um * x[1] / x[0])
