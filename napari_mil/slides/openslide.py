"""MRXS, NDPI and the rest of the vendors' formats through OpenSlide."""

from __future__ import annotations

import contextlib
import math
import re
import threading
import weakref
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from weakref import WeakValueDictionary

import numpy as np
import openslide
import tifffile

from napari_mil.errors import SlideError, reason
from napari_mil.slides import mirax
from napari_mil.slides.address import Address, SlidePath
from napari_mil.slides.cache import shared_cache
from napari_mil.slides.copies import copied
from napari_mil.slides.dicomfiles import first_dicom
from napari_mil.slides.info import LevelInfo, Pixels, SlideInfo
from napari_mil.slides.slide import RefusedError, UnknownError, refuse_fluorescence
from napari_mil.slides.tiffpage import over

#: What OpenSlide keeps by itself, of all handles together: so much, and no more than this part of the bound
#: of all tiles.
_MOST_BYTES, _PART = 64 * 2**20, 8
_given: WeakValueDictionary[int, openslide.OpenSlideCache] = WeakValueDictionary()
_giving = threading.Lock()
_SMALLEST_TILE = 256
_LARGEST_TILE = 1024
#: A file's own tiles hold at most so many pixels, of 4 bytes each.
_MOST_PX = 2**29


class OpenSlideSource:
    """An open OpenSlide handle, which is safe from many threads."""

    def __init__(self, handle: openslide.OpenSlide, info: SlideInfo, kept: Path | None = None) -> None:
        self._handle, self.info = handle, info
        self._leave = weakref.finalize(self, _leave, kept)
        self._steps = handle.level_downsamples  # its own rounding, by which it finds pixels
        self._share()

    def _share(self) -> None:
        """Keep tiles in the cache of all handles, which is as large as the bound of now allows."""
        self._bound = shared_cache.capacity
        size = min(_MOST_BYTES, self._bound // _PART)
        with _giving:
            self._cache = _given.get(size) or openslide.OpenSlideCache(size)
            _given[size] = self._cache
            self._handle.set_cache(self._cache)
        shared_cache.reserve(self._cache, size)

    def tile(self, level: int, row: int, col: int) -> Pixels:
        """(h, w, 3) uint8, cut at the level's border; transparent areas show the background."""
        (height, width), (th, tw) = self.info.levels[level].shape_px, self.info.levels[level].tile_px
        top, left = row * th, col * tw
        size = (min(tw, width - left), min(th, height - top))
        step = self._steps[level]
        if self._bound != shared_cache.capacity:
            self._share()
        try:
            region = self._handle.read_region((round(left * step), round(top * step)), level, size)
        except openslide.OpenSlideError as error:
            raise SlideError(
                f"level {level} cannot be read at row {row}, column {col} ({reason(error)}); "
                "get an undamaged copy of the file."
            ) from error
        return over(np.asarray(region), self.info.background)

    def close(self) -> None:
        """Give the file back."""
        self._handle.close()
        self._leave()


def _leave(kept: Path | None) -> None:
    """A copy is no longer needed."""
    if kept is not None:
        kept.unlink(missing_ok=True)


def open_source(path: SlidePath) -> OpenSlideSource:
    """The slide as OpenSlide sees it; SlideError when it does not, RefusedError for fluorescence.

    Of a folder it can read one of DICOM files. One on a server is copied first (CopyError, UnreachableError).
    """
    if not isinstance(path, Address):
        return _opened(path)
    here, kept = copied(path)
    try:
        return _opened(here, kept)
    except BaseException:
        _leave(kept)
        raise


def _opened(path: Path, kept: Path | None = None) -> OpenSlideSource:
    if path.is_dir():
        path = first_dicom(path) or path
    _refuse_boards(path)
    try:
        handle = openslide.OpenSlide(path)
    except (openslide.OpenSlideError, OSError) as error:
        if (
            path.suffix.lower() == mirax.SUFFIX
        ):  # the file itself is a picture of the slide as photographs are
            raise RefusedError(_why_no_mirax(path, error)) from error
        if isinstance(error, openslide.OpenSlideUnsupportedFormatError):
            raise UnknownError("not a format that it knows") from error
        raise SlideError(reason(error)) from error
    try:
        return OpenSlideSource(handle, _understand(handle, path), kept)
    except openslide.OpenSlideError as error:
        handle.close()
        raise SlideError(reason(error)) from error
    except BaseException:
        handle.close()
        raise


def _why_no_mirax(path: Path, error: Exception) -> str:
    folder = path.with_suffix("")
    if path.suffix != mirax.SUFFIX:
        return f"OpenSlide knows MIRAX by the ending {mirax.SUFFIX}, in small letters; rename {path.name}"
    if (folder / mirax.SLIDEDAT).is_file():
        why = reason(error)
        return f"the files in its folder {folder.name} are damaged or not all there ({why}); copy both again"
    return f"a MIRAX slide needs the folder {folder.name} with {mirax.SLIDEDAT} beside it; copy both"


def _refuse_boards(path: Path) -> None:
    """SlideError for a TIFF with tiles that no memory holds, as a damaged one claims: OpenSlide would ask for
    that memory all the same, and end the program.
    """
    try:
        with tifffile.TiffFile(path) as tif:
            tiles = [] if tif.is_ndpi else [page.tile or () for page in tif.pages]
    except Exception:  # noqa: BLE001 - no TIFF, or damaged in another way, which OpenSlide tells
        return
    sizes = [tile for tile in tiles if all(isinstance(n, int) for n in tile)]  # a damaged tag may hold more
    largest = max(sizes, key=math.prod, default=())
    if math.prod(largest) > _MOST_PX:
        size = " × ".join(map(str, reversed(largest)))
        raise SlideError(f"it claims tiles of {size} px, as a damaged file does")


def _understand(handle: openslide.OpenSlide, path: Path) -> SlideInfo:
    says = _properties(handle)
    refuse_fluorescence(
        ";".join(f"{key}={value}" for key, value in says.items() if key.startswith("hamamatsu."))
    )
    levels = tuple(
        LevelInfo((height, width), _tile_px(says, i))
        for i, (width, height) in enumerate(handle.level_dimensions)
    )
    colour = says.get(openslide.PROPERTY_NAME_BACKGROUND_COLOR, "FFFFFF")
    background = (int(colour[:2], 16), int(colour[2:4], 16), int(colour[4:6], 16))
    associated: dict[str, Callable[[], Pixels]] = {
        name: partial(_associated, handle, name, background) for name in handle.associated_images
    }
    mpp = (_number(says, "mpp-y"), _number(says, "mpp-x"))
    return SlideInfo(
        levels=levels,
        files=_files(path, says.get(openslide.PROPERTY_NAME_VENDOR, "")),
        mpp=None if None in mpp else mpp,  # type: ignore[arg-type]
        bounds_px=_bounds(says),
        background=background,
        objective_power=_number(says, "objective-power"),
        properties=says,
        associated=associated,
        icc_profile=_profile(handle),
    )


def _profile(handle: openslide.OpenSlide) -> bytes | None:
    """The colour profile; one that is damaged is none."""
    try:
        found = handle.color_profile
    except (openslide.OpenSlideError, OSError):
        return None
    return None if found is None else bytes(found.tobytes())


def _properties(handle: openslide.OpenSlide) -> dict[str, str]:
    """What the vendor says; a damaged file may name words that it does not hold."""
    said = {}
    for key in handle.properties:
        with contextlib.suppress(KeyError, UnicodeDecodeError):
            said[key] = handle.properties[key]
    return said


def _number(says: Mapping[str, str], key: str) -> float | None:
    try:
        return float(says[f"openslide.{key}"])
    except (KeyError, ValueError):
        return None


def _bounds(says: Mapping[str, str]) -> tuple[int, int, int, int] | None:
    values = [_number(says, f"bounds-{key}") for key in ("y", "x", "height", "width")]
    if None in values:
        return None
    y, x, height, width = (int(v) for v in values if v is not None)
    return (y, x, y + height, x + width)


def _tile_px(says: Mapping[str, str], level: int) -> tuple[int, int]:
    """The file's tiles, but neither slivers (NDPI strips of 8 rows) nor boards."""
    sizes = (_number(says, f"level[{level}].tile-{key}") for key in ("height", "width"))
    high, wide = (int(s or _SMALLEST_TILE) for s in sizes)
    return (min(max(high, _SMALLEST_TILE), _LARGEST_TILE), min(max(wide, _SMALLEST_TILE), _LARGEST_TILE))


def _associated(handle: openslide.OpenSlide, name: str, background: tuple[int, int, int]) -> Pixels:
    try:
        return over(np.asarray(handle.associated_images[name]), background)
    except openslide.OpenSlideError as error:
        raise SlideError(f"The {name} image cannot be read ({reason(error)}).") from error


def _files(path: Path, vendor: str) -> tuple[Path, ...]:
    """The file and its companions: MRXS keeps tiles in a folder of its own name, the others beside it."""
    companions: list[Path] = []
    if vendor == "dicom":
        companions = [
            file
            for file in path.parent.iterdir()
            if file.suffix == path.suffix and file != path and file.is_file()
        ]
    if path.suffix.lower() == mirax.SUFFIX and path.with_suffix("").is_dir():
        companions = _of_mirax(path.with_suffix(""))
    elif path.suffix.lower() in {".vms", ".vmu"}:
        named = re.findall(r"=\s*(\S.*?)\s*$", path.read_text("latin-1"), flags=re.MULTILINE)
        companions = [path.parent / name for name in sorted(set(named)) if (path.parent / name).is_file()]
    return (path, *companions)


def _of_mirax(folder: Path) -> list[Path]:
    """What the slide names in its folder, or all of it: others lay notes beside."""
    try:
        words = (folder / mirax.SLIDEDAT).read_bytes()
        named = [folder / name for name in (mirax.SLIDEDAT, *mirax.named_in(words))]
    except OSError:
        named = list(folder.rglob("*"))
    return [file for file in named if file.is_file()]
