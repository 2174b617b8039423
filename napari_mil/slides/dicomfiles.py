"""DICOM files known by their first bytes, without a library, and which of them are one slide."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

MICROSCOPY = "1.2.840.10008.5.1.4.1.1.77.1.6"
_INDEX = "DICOMDIR"  # a table of contents, which lies above the folders of the files


def is_dicom(file: Path) -> bool:
    """Whether a file begins as DICOM files do."""
    with file.open("rb") as stream:
        return stream.read(132)[128:] == b"DICM"


def dicom_files(folder: Path, *, suffixes: tuple[str, ...] | None = None) -> Iterator[Path]:
    """The DICOM files that lie directly in a folder; `suffixes` spares looking into the others."""
    for file in sorted(folder.iterdir()):
        if file.name.upper() == _INDEX:
            continue
        if (suffixes is None or file.suffix.lower() in suffixes) and file.is_file() and is_dicom(file):
            yield file


def first_dicom(folder: Path, *, suffixes: tuple[str, ...] | None = None) -> Path | None:
    """The first of them, or None."""
    return next(dicom_files(folder, suffixes=suffixes), None)


def microscopy_in(files: Iterable[Path]) -> dict[Path, Any]:
    """What the heads of the files say that are of whole-slide images: SeriesInstanceUID and bits of a pixel.

    It needs pydicom, and raises whatever that does over a damaged file.
    """
    import pydicom

    wanted = ["SeriesInstanceUID", "SOPClassUID", "BitsAllocated", "BitsStored"]
    heads = {f: pydicom.dcmread(f, stop_before_pixels=True, specific_tags=wanted) for f in files}
    return {file: says for file, says in heads.items() if says.get("SOPClassUID") == MICROSCOPY}


def first_of_each(heads: dict[Path, Any]) -> list[Path]:
    """The first file of every series, in the order of their names."""
    found: dict[str, Path] = {}
    for file in sorted(heads):
        found.setdefault(str(heads[file].get("SeriesInstanceUID")), file)
    return list(found.values())


def slides_in(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """A folder of DICOM files as one slide, or a file of each where it holds several."""
    try:
        found = first_of_each(microscopy_in(dicom_files(folder, suffixes=suffixes)))
    except Exception:  # noqa: BLE001 - no pydicom, or damaged: it is said when the folder is opened
        return [folder]
    return found if len(found) > 1 else [folder]
