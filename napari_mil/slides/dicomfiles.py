"""DICOM files known by their first bytes, without a library, and which of them are one slide."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from napari_mil.slides.address import Address
from napari_mil.slides.remote import RemoteFile, listed

MICROSCOPY = "1.2.840.10008.5.1.4.1.1.77.1.6"
#: Suffixes of files that are looked into where many others lie.
SUFFIXES = (".dcm", "")
_INDEX = "DICOMDIR"  # a table of contents, which lies above the folders of the files
_AT_ONCE = 8  # files of a server that are looked into together
_LAST = 0x0028FFFF  # what a file says of its pixels' format; large tables of positions follow
_File = TypeVar("_File", Path, RemoteFile)


def is_dicom(file: Path | RemoteFile) -> bool:
    """Whether a file begins as DICOM files do."""
    if isinstance(file, RemoteFile):
        return file.read(128, 4) == b"DICM"
    with file.open("rb") as stream:
        return stream.read(132)[128:] == b"DICM"


def served(folder: Address, suffixes: tuple[str, ...]) -> list[RemoteFile]:
    """The DICOM files that lie directly in a folder of a server, in the order of their names."""
    may_be = [one for one in listed(folder) if one.suffix.lower() in suffixes and one.name.upper() != _INDEX]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        files = list(pool.map(RemoteFile, may_be))
        found = [file for file, yes in zip(files, pool.map(is_dicom, files), strict=True) if yes]
    return sorted(found, key=lambda file: file.name)


def dicom_files(folder: Path, *, suffixes: tuple[str, ...] | None = None) -> Iterator[Path]:
    """The DICOM files that lie directly in a folder; `suffixes` spares looking into the others. OSError where
    one of them cannot be read.
    """
    return filter(is_dicom, _asked(folder, suffixes))


def first_dicom(folder: Path, *, suffixes: tuple[str, ...] | None = None) -> Path | None:
    """The first of them, or None; what cannot be read is passed over."""
    for file in _asked(folder, suffixes):
        with contextlib.suppress(OSError):
            if is_dicom(file):
                return file
    return None


def _asked(folder: Path, suffixes: tuple[str, ...] | None) -> Iterator[Path]:
    """The files of a folder with one of the suffixes."""
    for file in sorted(folder.iterdir()):
        named = suffixes is None or file.suffix.lower() in suffixes
        if named and file.name.upper() != _INDEX and file.is_file():
            yield file


def microscopy_in(files: Iterable[_File]) -> dict[_File, Any]:
    """What the heads of the files say that are of whole-slide images: SeriesInstanceUID and bits of a pixel.

    It needs pydicom, and raises whatever that does over a damaged file.
    """
    files = list(files)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        heads = dict(zip(files, pool.map(_head, files), strict=True))
    return {file: says for file, says in heads.items() if says.get("SOPClassUID") == MICROSCOPY}


def _head(file: Path | RemoteFile) -> Any:
    from pydicom.filereader import read_partial

    with file.open("rb") if isinstance(file, Path) else file.stream() as stream:
        return read_partial(stream, stop_when=lambda tag, *_: tag > _LAST)


def first_of_each(heads: dict[_File, Any]) -> list[_File]:
    """The first file of every series, in the order of their names."""
    found: dict[str, _File] = {}
    for file in sorted(heads, key=lambda one: one.name):
        found.setdefault(str(heads[file].get("SeriesInstanceUID")), file)
    return list(found.values())


def slides_in(folder: Path) -> list[Path]:
    """A folder of DICOM files as one slide, or a file of each where it holds several."""
    try:
        found = first_of_each(microscopy_in(dicom_files(folder, suffixes=SUFFIXES)))
    except Exception:  # noqa: BLE001 - no pydicom, or damaged: it is said when the folder is opened
        return [folder]
    return found if len(found) > 1 else [folder]
