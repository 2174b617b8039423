"""Opening slides: the readers are asked in order; when one refuses, the next is tried."""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from napari_mil.errors import SlideError, reason
from napari_mil.slides import mirax
from napari_mil.slides.address import Address, SlidePath, slide_path
from napari_mil.slides.colour import to_srgb
from napari_mil.slides.copies import CopyError
from napari_mil.slides.info import Montage, Photograph
from napari_mil.slides.mpp import anything_said, given_mpp, said_mpp
from napari_mil.slides.readers import READERS, Reader
from napari_mil.slides.remote import UnreachableError
from napari_mil.slides.slide import (
    LeftError,
    Level,
    RefusedError,
    Slide,
    UnknownError,
    sample_boxes,
)
from napari_mil.slides.tiles import Engine

if TYPE_CHECKING:
    from napari_mil.slides.info import Source

__all__ = [
    "READERS",
    "SUFFIXES",
    "Address",
    "Level",
    "Montage",
    "Photograph",
    "Reader",
    "Slide",
    "find_slides",
    "open_slide",
]

#: what slides' files are called; a folder is searched for these
SUFFIXES = (".svs", ".tif", ".tiff", ".btf", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".svslide")

_HERE = (
    "expected is an undamaged whole-slide image such as SVS, OME-TIFF, tiled TIFF, NDPI, MRXS, DICOM or "
    "OME-Zarr, a photograph or a folder of photographs as PNG, JPEG or TIFF"
)
_THERE = (
    "from a server SVS, OME-TIFF, tiled TIFF, OME-Zarr, DICOM, NDPI, MRXS, SCN, BIF, Philips TIFF, "
    "photographs and folders of them are read; copy other slides to this machine"
)
_DARK = 32  # on a bright-field scan something is brighter than this in all three colours

# what tifffile has to say about a damaged file is said once, in our SlideError
logging.getLogger("tifffile").addHandler(logging.NullHandler())


def open_slide(
    path: str | SlidePath, *, mpp: float | tuple[float, float] | None = None, srgb: bool = False
) -> Slide:
    """Open a whole-slide image, a photograph, or a folder of photographs as a montage, lazily.

    Parameters
    ----------
    path : the slide's file, or its address (https:// or s3://); for DICOM any of its files or their folder;
        for OME-Zarr and a montage the folder
    mpp : µm per level-0 pixel, one number or (y, x), where the file does not say or is wrong; None: what the
        file says, else what this user once said of the slide (`napari-mil mpp`, or asked in the window)
    srgb : convert colours by the profile in the file; the slide's properties say so under `colours`

    Raises
    ------
    SlideError
        one sentence: the file is missing, damaged, no bright-field RGB slide, or of an unknown format
    """
    path = slide_path(path)
    given = None if mpp is None else given_mpp(mpp)
    if isinstance(path, Path):
        path = path if path.name not in {"", ".."} else path.resolve()  # slides are called by the name
        _refuse_nothing(path)
    said: list[tuple[Reader, SlideError | OSError]] = []
    for reader in READERS:
        if not reader.may_read(path) or (reader.copies and _not_its_own(path, said)):
            continue
        try:
            return _looked_at(path, reader.open_source(path), given, srgb=srgb)
        except RefusedError as error:
            raise SlideError(f"{path.name} cannot be used as a slide: {reason(error)}.") from error
        except CopyError:
            raise
        except UnreachableError as error:
            raise SlideError(f"{path.name} cannot be opened: {reason(error)}.") from error
        except (SlideError, OSError) as error:
            said.append((reader, error))
    known = [one for one in said if not isinstance(one[1], UnknownError)] or said
    if len(known) > 1 and len({reason(error) for _, error in known}) == 1:
        raise SlideError(f"{path.name} cannot be opened: {reason(known[0][1])}.")
    named = f"{path.name}: "  # which the sentence begins with
    why = "; ".join(f"{reader.name}: {reason(error).removeprefix(named)}" for reader, error in known)
    expected = _THERE if isinstance(path, Address) else _HERE
    raise SlideError(f"{path.name} cannot be opened as a slide ({why}); {expected}.")


def _not_its_own(path: SlidePath, said: Sequence[tuple[Reader, SlideError | OSError]]) -> bool:
    """Whether nothing says of a slide on a server that it is worth copying for the reader of copies."""
    left = any(isinstance(error, LeftError) for _, error in said)
    return isinstance(path, Address) and not left and path.suffix.lower() != mirax.SUFFIX


def find_slides(folder: Path) -> Iterator[Path]:
    """Slides in a folder and the folders in it, by their suffixes; an OME-Zarr, a folder of DICOM files and
    one of photographs are a slide each. Of a folder with several DICOM slides it is a file of each.

    Pictures that lie beside a slide are taken for its thumbnails. A project's folder holds features and maps,
    not slides, and is left out, as is what begins with a dot. A folder that cannot be looked into, and a link
    to nothing, are found themselves, so that whoever opens what was found says so.
    """
    yield from _found(folder, frozenset())


def _found(folder: Path, above: frozenset[Path]) -> Iterator[Path]:
    """Slides of a folder that lies in others, which links in it may lead back to."""
    from napari_mil.slides.dicomfiles import SUFFIXES as OF_DICOM
    from napari_mil.slides.dicomfiles import first_dicom, slides_in
    from napari_mil.slides.photos import leads_nowhere, photographs_in
    from napari_mil.slides.zarr import is_zarr

    home = folder.resolve()
    if home in above:
        return
    try:
        if (folder / "project.json").is_file() and (folder / "labeltree.json").is_file():
            return
        inside = sorted(one for one in folder.iterdir() if not one.name.startswith("."))
        if is_zarr(folder):
            yield folder
            return
        if first_dicom(folder, suffixes=OF_DICOM):
            yield from slides_in(folder)
            return
        photographs = photographs_in(folder)
        files = [one for one in inside if one.is_file() and one not in photographs]
        nowhere = [one for one in inside if leads_nowhere(one)]
        folders = [one for one in inside if one.is_dir()]
    except OSError:
        yield folder
        return
    slides = [file for file in files if file.name.lower().endswith(SUFFIXES)]
    montage = not slides and any(one not in nowhere for one in photographs)
    if montage:
        yield folder  # the links among its photographs are said when it is opened
    gone = [one for one in nowhere if not (montage and one in photographs)]
    yield from sorted(slides + [one for one in gone if one.name.lower().endswith(SUFFIXES)])
    for one in folders:
        yield from _found(one, above | {home})


def _refuse_nothing(path: Path) -> None:
    """Raise SlideError when nothing is there, or nothing that can be read."""
    if not os.path.lexists(path):
        if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+:[/\\]", str(path)):
            raise SlideError(f"{path} cannot be opened: addresses of slides begin with https:// or s3://.")
        raise SlideError(f"There is no file {path}; check the path.")
    if path.is_symlink() and not path.exists():
        raise SlideError(
            f"{path.name} cannot be read: it is a link to {path.readlink()}, where there is nothing; mend "
            "or delete the link."
        )
    try:
        channel = path.is_fifo() or path.is_socket()  # nothing may ever come out of it
        first = None if channel else next(path.iterdir(), None) if path.is_dir() else _head(path, 1)
        if isinstance(first, Path):
            first.lstat()  # a folder may be listed, and what is in it not looked at
    except OSError as error:
        raise SlideError(f"{path.name} cannot be read ({error.strerror}); check its permissions.") from error
    if channel:
        raise SlideError(f"{path.name} is no file but a channel between programs; give a slide's file.")
    if not first:
        what = "an empty folder" if path.is_dir() else "empty (0 bytes)"
        raise SlideError(f"{path.name} is {what}; copy the slide again.")


def _head(file: Path, count: int) -> bytes:
    with file.open("rb") as stream:
        return stream.read(count)


def _looked_at(
    path: SlidePath, source: Source, mpp: tuple[float, float] | None, *, srgb: bool = False
) -> Slide:
    """The slide that a source gives, once its coarsest level has been read and found to be bright-field."""
    try:
        engine = Engine(to_srgb(source) if srgb else source, path.name)
    except BaseException:
        source.close()
        raise
    try:
        slide = Slide.of(path, engine, mpp)
        _refuse_dark(slide)
        if slide.mpp is None and anything_said() and (said := said_mpp(slide.fingerprint)) is not None:
            slide = slide.with_mpp(said)
    except BaseException:
        engine.close()
        raise
    return slide


def _refuse_dark(slide: Slide) -> None:
    """Raise RefusedError when nothing in the coarsest level is bright: a fluorescence or dark-field image."""
    level = slide.levels[-1]
    boxes = sample_boxes(level, 4_000_000)
    if slide.montage is not None:
        level.read(0, 0, *level.shape_px)  # each photograph is decoded once: a damaged one shows now
        boxes = _photograph_boxes(slide)
    for box in boxes:
        pixels = level.read(*box)
        for step in (8, 1):  # most slides show it in the first look
            if pixels[::step, ::step].min(axis=2).max(initial=0) >= _DARK:
                return
    raise RefusedError(
        "it is dark everywhere, as fluorescence images are, while a bright-field RGB slide is expected, "
        "such as an H&E scan"
    )


def _photograph_boxes(slide: Slide) -> list[tuple[int, int, int, int]]:
    """Where the photographs of a montage lie on its coarsest level: around them everything is bright."""
    (dy, dx), found = slide.levels[-1].downsample, slide.montage.photographs if slide.montage else ()
    low = ((math.ceil(p.box_px[0] / dy), math.ceil(p.box_px[1] / dx), p.box_px) for p in found)
    return [(y, x, max(y + 1, int(box[2] // dy)), max(x + 1, int(box[3] // dx))) for y, x, box in low]
