"""DICOM files known by their first bytes, without a library."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


def is_dicom(file: Path) -> bool:
    """Whether a file begins as DICOM files do."""
    with file.open("rb") as stream:
        return stream.read(132)[128:] == b"DICM"


def dicom_files(folder: Path, *, suffixes: tuple[str, ...] | None = None) -> Iterator[Path]:
    """The DICOM files that lie directly in a folder; `suffixes` spares looking into the others."""
    for file in sorted(folder.iterdir()):
        if (suffixes is None or file.suffix.lower() in suffixes) and file.is_file() and is_dicom(file):
            yield file


def first_dicom(folder: Path, *, suffixes: tuple[str, ...] | None = None) -> Path | None:
    """The first of them, or None."""
    return next(dicom_files(folder, suffixes=suffixes), None)
