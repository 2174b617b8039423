"""Opening slides: the readers are asked in order; when one refuses, the next is tried."""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from napari_mil.errors import SlideError, reason
from napari_mil.slides.slide import Level, RefusedError, Slide, given_mpp, sample_boxes
from napari_mil.slides.tiles import Engine, Montage, Photograph

if TYPE_CHECKING:
    from napari_mil.slides.tiles import Source

__all__ = ["SUFFIXES", "Level", "Montage", "Photograph", "Slide", "find_slides", "open_slide"]

#: what slides' files are called; a folder is searched for these
SUFFIXES = (".svs", ".tif", ".tiff", ".btf", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".svslide")

# tifffile first: OpenSlide opens OME-TIFF but hides its levels
READERS = {"TIFF reader": "tiff", "OpenSlide": "openslide", "photographs": "photos"}
_FOLDERS = {"photographs": "photos"}
_DARK = 32  # on a bright-field scan something is brighter than this in all three colours


def open_slide(path: str | Path, *, mpp: float | tuple[float, float] | None = None) -> Slide:
    """Open a whole-slide image, a photograph, or a folder of photographs as a montage, lazily.

    Parameters
    ----------
    path : the slide's file; for DICOM any of its files or their folder; for a montage the folder
    mpp : µm per level-0 pixel, one number or (y, x), where the file does not say or is wrong

    Raises
    ------
    SlideError
        one sentence: the file is missing, damaged, no bright-field RGB slide, or of an unknown format
    """
    path = Path(path)
    given = None if mpp is None else given_mpp(mpp)
    entrance, said = _entrance(path), []
    for name, module in (_FOLDERS if entrance.is_dir() else READERS).items():
        reader = importlib.import_module(f"napari_mil.slides.{module}")
        try:
            return _looked_at(path, reader.open_source(entrance), given)
        except RefusedError as error:
            raise SlideError(f"{path.name} cannot be used as a slide: {reason(error)}.") from error
        except SlideError as error:
            said.append(f"{name}: {reason(error)}")
    raise SlideError(
        f"{path.name} cannot be opened as a slide ({'; '.join(said)}); "
        "expected is an undamaged whole-slide image such as SVS, OME-TIFF, tiled TIFF, NDPI or MRXS, "
        "or photographs as PNG, JPEG or TIFF."
    )


def find_slides(folder: Path) -> Iterator[Path]:
    """Slides in a folder and the folders in it, by their suffixes, and folders of photographs.

    Pictures that lie beside a slide are taken for its thumbnails.
    """
    from napari_mil.slides.photos import photographs_in

    photographs = photographs_in(folder)
    inside = sorted(folder.iterdir())
    slides = [f for f in inside if f.is_file() and f.name.lower().endswith(SUFFIXES) and f not in photographs]
    yield from slides
    if photographs and not slides:
        yield folder
    for path in inside:
        if path.is_dir():
            yield from find_slides(path)


def _entrance(path: Path) -> Path:
    """What to open: the path itself, or the first file of a folder that holds a DICOM slide."""
    from napari_mil.slides.photos import photographs_in

    if not os.path.lexists(path):
        raise SlideError(f"There is no file {path}; check the path.")
    try:
        file = (_first_dicom(path) or path) if path.is_dir() else path
        empty = not file.is_dir() and not _head(file, 1)
        hollow = file.is_dir() and not photographs_in(file)
    except OSError as error:
        raise SlideError(f"{path.name} cannot be read ({error.strerror}); check its permissions.") from error
    if hollow:
        raise SlideError(
            f"{path} is a folder without photographs; give the file of one slide, such as an SVS or a tiled "
            "TIFF, or a folder of photographs as PNG, JPEG or TIFF."
        )
    if empty:
        raise SlideError(f"{path.name} is empty (0 bytes); copy the slide again.")
    return file


def _first_dicom(folder: Path) -> Path | None:
    files = (file for file in sorted(folder.iterdir()) if file.is_file())
    return next((file for file in files if _head(file, 132)[128:] == b"DICM"), None)


def _head(file: Path, count: int) -> bytes:
    with file.open("rb") as stream:
        return stream.read(count)


def _looked_at(path: Path, source: Source, mpp: tuple[float, float] | None) -> Slide:
    """The slide that a source gives, once its coarsest level has been read and found to be bright-field."""
    engine = Engine(source, path.name)
    try:
        slide = Slide.of(path, engine, mpp)
        _refuse_dark(slide)
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
        if level.read(*box).min(axis=2).max(initial=0) >= _DARK:
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
