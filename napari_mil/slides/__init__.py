"""Opening slides: the readers are asked in order; when one refuses, the next is tried."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from napari_mil.errors import SlideError, reason
from napari_mil.slides.slide import Level, RefusedError, Slide, given_mpp, sample_boxes
from napari_mil.slides.tiles import Engine

if TYPE_CHECKING:
    from napari_mil.slides.tiles import Source

__all__ = ["SUFFIXES", "Level", "Slide", "open_slide"]

#: what slides' files are called; a folder is searched for these
SUFFIXES = (".svs", ".tif", ".tiff", ".btf", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".svslide")

# tifffile first: OpenSlide opens OME-TIFF but hides its levels
READERS = {"TIFF reader": "tiff", "OpenSlide": "openslide"}
_DARK = 32  # on a bright-field scan something is brighter than this in all three colours


def open_slide(path: str | Path, *, mpp: float | tuple[float, float] | None = None) -> Slide:
    """Open a whole-slide image lazily.

    Parameters
    ----------
    path : the slide's file; for DICOM any of its files or their folder
    mpp : µm per level-0 pixel, one number or (y, x), where the file does not say or is wrong

    Raises
    ------
    SlideError
        one sentence: the file is missing, damaged, no bright-field RGB slide, or of an unknown format
    """
    path = Path(path)
    given = None if mpp is None else given_mpp(mpp)
    entrance, said = _entrance(path), []
    for name, module in READERS.items():
        reader = importlib.import_module(f"napari_mil.slides.{module}")
        try:
            return _looked_at(path, reader.open_source(entrance), given)
        except RefusedError as error:
            raise SlideError(f"{path.name} cannot be used as a slide: {reason(error)}.") from error
        except SlideError as error:
            said.append(f"{name}: {reason(error)}")
    raise SlideError(
        f"{path.name} cannot be opened as a slide ({'; '.join(said)}); "
        "expected is an undamaged whole-slide image such as SVS, OME-TIFF, tiled TIFF, NDPI or MRXS."
    )


def _entrance(path: Path) -> Path:
    """The file to open: the path itself, or the first file of a folder that holds a DICOM slide."""
    if not os.path.lexists(path):
        raise SlideError(f"There is no file {path}; check the path.")
    try:
        file = _first_dicom(path) if path.is_dir() else path
        empty = file is not None and not _head(file, 1)
    except OSError as error:
        raise SlideError(f"{path.name} cannot be read ({error.strerror}); check its permissions.") from error
    if file is None:
        raise SlideError(f"{path} is a folder; give the file of one slide, such as an SVS or a tiled TIFF.")
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
    for box in sample_boxes(level, 4_000_000):
        if level.read(*box).min(axis=2).max(initial=0) >= _DARK:
            return
    raise RefusedError(
        "it is dark everywhere, as fluorescence images are, while a bright-field RGB slide is expected, "
        "such as an H&E scan"
    )
