"""Photographs: one is a small slide, a folder of them a montage, one photograph per cell.

A montage lays the photographs side by side in the order of their names, each as it is, without resampling, in
the middle of a cell that the largest one fits. Where they lie says nothing: where they were taken is unknown.
"""

from __future__ import annotations

import math
import re
import threading
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import tifffile
from PIL import Image, ImageOps

from napari_mil.errors import SlideError, reason
from napari_mil.slides.address import Address, SlidePath
from napari_mil.slides.cache import shared_cache
from napari_mil.slides.info import PROFILE, LevelInfo, Montage, Photograph, Pixels, SlideInfo
from napari_mil.slides.remote import RemoteFile, UnreachableError, listed
from napari_mil.slides.slide import RefusedError, UnknownError
from napari_mil.slides.tiffpage import over

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")
FORMATS = ("PNG", "JPEG", "BMP")  # a TIFF alone is a slide, which its own reader knows, unless it was turned
MOST_PX = 64_000_000
WHITE = (255, 255, 255)
_GAP = 0.02  # of a cell's longer side lies between photographs at least
_COARSEST_PX = 1024
_TILE_PX = 512
_DEPTHS = {
    "1",
    "L",
    "LA",
    "P",
    "PA",
    "RGB",
    "RGBA",
    "RGBX",
    "CMYK",
    "YCbCr",
}  # Pillow's names of 8-bit pictures
_RGB = {"RGB", "RGBA", "RGBX"}
_ORIENTATION, _BITS = 0x0112, 258  # tags of EXIF and TIFF
_TURNED = 5  # EXIF orientations from here on exchange height and width
_AT_ONCE = 8  # files on a server whose headers are read together

#: A photograph of this machine, or on a server.
File = Path | RemoteFile


class PhotographSource:
    """One photograph, decoded whole when it is first looked at."""

    def __init__(self, file: File) -> None:
        self._file, self._lock = file, threading.Lock()
        self._whole: Image.Image | None = None
        head = head_of(file, (*FORMATS, "TIFF"), alone=True)
        height, width = head.shape_px
        steps = range(_halvings(max(height, width)) + 1)
        shapes = [(math.ceil(height / 2**k), math.ceil(width / 2**k)) for k in steps]
        levels = tuple(LevelInfo(shape, (_TILE_PX, _TILE_PX)) for shape in shapes)
        profile, why_not = shared_profile((head,))
        says = {"format": "photograph", **why_not}
        self.info = SlideInfo(levels, (_place(file),), properties=says, icc_profile=profile)

    def tile(self, level: int, row: int, col: int) -> Pixels:
        """(h, w, 3) uint8, cut at the level's border."""
        with self._lock:
            if self._whole is None:
                pixels = decode(self._file)
                self._whole = Image.fromarray(pixels)
                shared_cache.reserve(self, pixels.nbytes)
            image = self._whole
        top, left, step = row * _TILE_PX, col * _TILE_PX, 2**level
        high, wide = self.info.levels[level].shape_px
        bottom, right = min(high, top + _TILE_PX), min(wide, left + _TILE_PX)
        box = (left * step, top * step, min(right * step, image.width), min(bottom * step, image.height))
        return np.array(image.crop(box) if level == 0 else image.reduce(step, box))

    def close(self) -> None:
        """Forget the pixels."""
        self._whole = None
        shared_cache.reserve(self, 0)
        _forget(self._file)


class MontageSource:
    """Photographs side by side; a tile is one of them, decoded when it is looked at."""

    def __init__(self, folder: SlidePath, files: Sequence[File]) -> None:
        self._files = tuple(files)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            heads = list(pool.map(partial(head_of, formats=(*FORMATS, "TIFF")), files))
        sizes = [head.shape_px for head in heads]
        cell, (rows, self._cols), levels = _layout(sizes)
        self._cell = cell
        photographs = []
        for i, (file, size) in enumerate(zip(files, sizes, strict=True)):
            at = divmod(i, self._cols)
            y, x = (at[k] * cell[k] + (cell[k] - size[k]) // 2 for k in (0, 1))
            photographs.append(Photograph(file.name, at, (y, x, y + size[0], x + size[1])))
        shape = (rows * cell[0], self._cols * cell[1])
        steps = [2**k for k in range(levels + 1)]
        profile, why_not = shared_profile(heads)
        self.info = SlideInfo(
            levels=tuple(
                LevelInfo((shape[0] // s, shape[1] // s), (cell[0] // s, cell[1] // s)) for s in steps
            ),
            files=tuple(map(_place, self._files)),
            properties={
                "format": f"montage of {len(files)} photographs of {folder.name}",
                "positions": "the photographs lie in the order of their names; where they lie says nothing",
                **why_not,
            },
            icc_profile=profile,
            montage=Montage(cell, tuple(photographs)),
        )

    def tile(self, level: int, row: int, col: int) -> Pixels:
        """(h, w, 3) uint8 of one cell: its photograph, and background around it."""
        canvas = np.full((*self._cell, 3), WHITE, np.uint8)
        i = row * self._cols + col
        if i < len(self._files):
            pixels = decode(self._files[i])
            y, x = ((self._cell[k] - pixels.shape[k]) // 2 for k in (0, 1))
            canvas[y : y + pixels.shape[0], x : x + pixels.shape[1]] = pixels
        return np.array(Image.fromarray(canvas).reduce(2**level)) if level else canvas

    def close(self) -> None:
        """Forget what servers sent; nothing is held open."""
        for file in self._files:
            _forget(file)


def open_source(path: SlidePath) -> PhotographSource | MontageSource:
    """A photograph, or the montage of a folder of them; SlideError when it is neither.

    On a server a folder is one whose address ends with a slash, or has no dot in its name.
    """
    if isinstance(path, Address):
        try:
            return _photograph(RemoteFile(path))
        except (RefusedError, UnreachableError):
            raise
        except SlideError:
            if path.suffix and not path.text.endswith("/"):
                raise
    elif not path.is_dir():
        return _photograph(path)
    files = photographs_in(path)
    if not files:
        raise UnknownError("a folder without photographs")
    return MontageSource(path, files)


def _photograph(file: File) -> PhotographSource:
    try:
        return PhotographSource(file)
    except (RefusedError, UnreachableError):
        raise
    except SlideError as error:
        raise UnknownError("not a photograph") from error


def photographs_in(folder: SlidePath) -> list[File]:
    """The photographs that lie directly in a folder, in the order of their names, photo2 before photo10.

    PNG, JPEG and BMP files, and TIFF files of a single untiled page, which is how cameras write them.
    """
    found: list[File]
    if isinstance(folder, Address):
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            found = list(pool.map(RemoteFile, filter(_may_be, listed(folder))))
    else:
        found = [
            file for file in folder.iterdir() if _may_be(file) and (file.is_file() or leads_nowhere(file))
        ]
    return sorted((file for file in found if _is_photograph(file)), key=_natural)


def _forget(file: File) -> None:
    if isinstance(file, RemoteFile):
        file.close()


def _may_be(file: SlidePath) -> bool:
    return not file.name.startswith(".") and file.suffix.lower() in (*SUFFIXES, ".tif", ".tiff")


def leads_nowhere(file: Path) -> bool:
    """Whether it is a link to nothing, which is not to be left out in silence."""
    return file.is_symlink() and not file.exists()


def _place(file: File) -> SlidePath:
    return file.address if isinstance(file, RemoteFile) else file


def _open(file: File, *, whole: bool = False) -> BinaryIO:
    """A file's bytes; what is to be read whole comes from a server at once."""
    if isinstance(file, Path):
        return file.open("rb")
    return BytesIO(file.read(0, file.size)) if whole else file.stream()


def _is_photograph(file: File) -> bool:
    if _place(file).suffix.lower() in SUFFIXES or (isinstance(file, Path) and leads_nowhere(file)):
        return True
    try:
        with _open(file) as stream, tifffile.TiffFile(stream, name=file.name) as tif:
            return len(tif.pages) == 1 and not tif.pages.first.is_tiled
    except SlideError:  # of the server
        raise
    except Exception:  # noqa: BLE001 - a damaged file may raise anything inside the parser; it is no photograph
        return False


def _natural(file: File) -> tuple[list[Any], str]:
    """Numbers count as numbers."""
    parts = re.split(r"(\d+)", file.name.lower())
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], file.name


class Head(NamedTuple):
    """What a photograph's header says: (h, w) upright, its colour profile or b"", and whether it is stored in
    RGB.
    """

    shape_px: tuple[int, int]
    profile: bytes
    rgb: bool


def head_of(file: File, formats: tuple[str, ...], *, alone: bool = False) -> Head:
    """The header of a photograph; SlideError when it is none, or too large for one, or when it is to be one
    `alone` and is a TIFF, which is a slide then unless a camera turned it.
    """
    try:
        with _open(file) as stream, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # large pictures are refused below, damaged ones as well
            image = Image.open(stream, formats=formats)
            wide, high = _stored_px(image)
            frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)  # a JPEG with its preview
            mode, deep, orientation = image.mode, _deep(image), _orientation(image)
            profile = image.info.get("icc_profile") or b""
            slide = image.format == "TIFF" and (orientation == 1 or frames != 1)
    except SlideError:  # of the server
        raise
    except (OSError, ValueError, SyntaxError, TypeError, KeyError, Image.DecompressionBombError) as error:
        raise SlideError(
            f"{file.name} is no photograph that can be read; copy it again, or take it out"
        ) from error
    if alone and slide:
        raise SlideError("a TIFF, which is a slide")
    if frames != 1:
        raise RefusedError(f"{file.name} holds {frames} pictures, while one photograph is expected")
    if mode not in _DEPTHS:
        raise RefusedError(
            f"{file.name} has pixels of the kind {mode!r}, while 8-bit colour or grey is expected; save it so"
        )
    if deep:
        raise RefusedError(
            f"{file.name} has pixels of 16 bit, while 8-bit colour or grey is expected; save it so"
        )
    if high * wide > MOST_PX:
        raise RefusedError(
            f"{file.name} has {wide} × {high} pixels, too many for a photograph; save it as a tiled TIFF"
        )
    return Head((wide, high) if orientation >= _TURNED else (high, wide), profile, mode in _RGB)


def shared_profile(heads: Sequence[Head]) -> tuple[bytes | None, dict[str, str]]:
    """The colour profile that photographs share, and, where they have some that cannot be used for all of
    them, why, as a property.
    """
    found = {(head.profile, head.rgb) for head in heads}
    if len(found) > 1:
        differ = len({profile for profile, _ in found}) > 1
        why = "the photographs have different colour profiles" if differ else "some are not stored in RGB"
        return None, {PROFILE: why} if any(profile for profile, _ in found) else {}
    ((profile, rgb),) = found
    if profile and not rgb:
        return None, {PROFILE: "its colour profile is not for RGB"}
    return profile or None, {}


def _deep(image: Image.Image) -> bool:
    """Whether its samples have more than 8 bit, of which Pillow would give the upper ones without a word."""
    if image.format == "TIFF":
        bits = image.tag_v2.get(_BITS, 8)  # type: ignore[attr-defined]
        return bool(np.max(bits, initial=0) > 8)
    return image.format == "PNG" and ";16" in str(getattr(image, "tile", ""))


def _stored_px(image: Image.Image) -> tuple[int, int]:
    """(w, h) as stored; of a TIFF Pillow says it as turned, depending on its version."""
    if image.format == "TIFF":
        return int(image.tag_v2[256]), int(image.tag_v2[257])  # type: ignore[attr-defined]
    return image.size


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, as far as the header says it: looking further would decode a PNG whole."""
    said = "exif" in image.info or image.format == "TIFF"
    return int(image.getexif().get(_ORIENTATION, 1)) if said else 1


def decode(file: File) -> Pixels:
    """(h, w, 3) uint8 of a photograph, upright; grey is tripled, transparency shows white."""
    try:
        with _open(file, whole=True) as stream, Image.open(stream) as image:
            upright = image if _orientation(image) == 1 else ImageOps.exif_transpose(image)
            if upright.has_transparency_data:
                return over(np.asarray(upright.convert("RGBA")), WHITE)
            return np.array(upright.convert("RGB"))
    except SlideError:  # of the server
        raise
    except (OSError, ValueError, SyntaxError) as error:
        raise SlideError(
            f"the photograph {file.name} cannot be read ({reason(error)}); copy it again, or take it out."
        ) from error


def _layout(sizes: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], tuple[int, int], int]:
    """Cell (h, w), lattice (rows, cols) and number of halvings of a montage about as wide as 4 : 3."""
    high, wide = (max(size[k] for size in sizes) for k in (0, 1))
    gap = max(4, math.ceil(_GAP * max(high, wide)))
    high, wide = high + gap, wide + gap
    cols = min(len(sizes), max(1, round(math.sqrt(len(sizes) * 4 / 3 * high / wide))))
    rows = math.ceil(len(sizes) / cols)
    levels = _halvings(max(rows * high, cols * wide))
    whole = 2**levels  # cells of every level have whole pixels
    return (math.ceil(high / whole) * whole, math.ceil(wide / whole) * whole), (rows, cols), levels


def _halvings(side: int) -> int:
    return max(0, math.ceil(math.log2(side / _COARSEST_PX)))
