"""The files of a MIRAX slide: beside NAME.mrxs a folder NAME, whose Slidedat.ini names what is in it."""

from __future__ import annotations

from configparser import ConfigParser
from configparser import Error as ConfigError
from pathlib import PurePosixPath, PureWindowsPath

from napari_mil.errors import SlideError

SUFFIX = ".mrxs"
SLIDEDAT = "Slidedat.ini"
_MOST_FILES = 10_000


def named_in(words: bytes) -> list[str]:
    """The names of the index and the data files in a Slidedat.ini; SlideError when it says none."""
    says = ConfigParser(interpolation=None, strict=False, delimiters="=", comment_prefixes=("#", ";"))
    try:
        says.read_string(words.decode("utf-8-sig", "replace"))
        count = min(int(says["DATAFILE"]["FILE_COUNT"]), _MOST_FILES)
        names = [says["HIERARCHICAL"]["INDEXFILE"], *(says["DATAFILE"][f"FILE_{n}"] for n in range(count))]
    except (KeyError, ValueError, ConfigError) as error:
        raise SlideError(f"its {SLIDEDAT} makes no sense") from error
    return [plain_name(name) for name in dict.fromkeys(names)]


def plain_name(name: str) -> str:
    """A name of a file; SlideError for one that would lead elsewhere."""
    if name in {"", ".", ".."} or any(kind(name).name != name for kind in (PurePosixPath, PureWindowsPath)):
        raise SlideError(f"{name!r} is no name of a file")
    return name
