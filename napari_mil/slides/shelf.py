"""Folders of this user's cache for large things that can be made again: bounded together, and on the disk.

Whoever makes or reads something there says so by a file whose name ends with its process and `part` or
`open`; it counts as long as that process runs, so that nobody takes away what another one needs.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import platform
import re
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from napari_mil.errors import SlideError
from napari_mil.slides.home import cache_folder

#: So much of the disk is left free.
SPARE_BYTES = 2 * 2**30
_numbers = itertools.count()
_MACHINE = re.sub(r"\W", "-", platform.node())  # others may share this user's folder
_BELIEVED_S = 86_400


class FullError(SlideError):
    """There is no room for more."""


@dataclass
class Shelf:
    """One such folder, with a folder for each slide.

    Attributes
    ----------
    name : of the folder
    variable : of the environment; says how many GB all of it may take
    default_gb : what counts when nobody says it
    """

    name: str
    variable: str
    default_gb: int
    _said: list[int] = field(default_factory=list)

    @property
    def home(self) -> Path:
        """Where it is."""
        return cache_folder(self.name)

    def set_bound_gb(self, gigabytes: float | None) -> None:
        """Bound it; None is what the environment says, or the default."""
        self._said[:] = [] if gigabytes is None else [int(gigabytes * 2**30)]

    def bound_bytes(self) -> int:
        """How many bytes all of it may take."""
        if self._said:
            return self._said[0]
        said = os.environ.get(self.variable, "")
        try:
            return int(float(said or self.default_gb) * 2**30)
        except ValueError as error:
            raise SlideError(
                f"${self.variable} is {said!r}; give a number of gigabytes, such as {self.default_gb}."
            ) from error

    def total_bytes(self) -> int:
        """What all of it takes."""
        return sum(self._sizes().values())

    def remove_all(self) -> int:
        """Delete all that no running program needs; how many bytes that gave back."""
        before = self.total_bytes()
        self.clean()
        needed = [folder for folder in self._sizes() if in_use(folder)]
        if not needed:
            shutil.rmtree(self.home, ignore_errors=True)
        for folder in self._sizes().keys() - set(needed):
            shutil.rmtree(folder, ignore_errors=True)
        return before - self.total_bytes()

    def clean(self) -> None:
        """Remove what programs that run no more left unfinished, or seemed to be reading."""
        for file in [f for pattern in ("*.part", "*/*.part", "*/*.open") for f in self.home.glob(pattern)]:
            with contextlib.suppress(OSError):
                if not _of_the_living(file):
                    shutil.rmtree(file) if file.is_dir() else file.unlink()

    def unfinished(self, folder: Path) -> Path:
        """A name for a folder that is still being made."""
        return folder.with_name(f"{folder.name}.{next(_numbers)}.{_own()}.part")

    def make_room(self, own: Path, full: str, *, more: int = 0, spare: int = SPARE_BYTES) -> None:
        """Delete what was used longest ago until the bound and the disk have room for so many bytes more;
        FullError with the sentence `full` where that is not enough.
        """
        sizes = self._sizes()
        others = sorted((f for f in sizes if f != own), key=lambda f: f.stat().st_mtime)
        while (
            sum(sizes.values()) + more > self.bound_bytes() or free_bytes(self.home) - more < spare
        ):  # what a deleted file gives back counts for the disk at once
            while others and in_use(others[0]):
                others.pop(0)
            if not others:
                raise FullError(full)
            oldest = others.pop(0)
            shutil.rmtree(oldest, ignore_errors=True)
            sizes.pop(oldest)

    def _sizes(self) -> dict[Path, int]:
        """Bytes of each slide's folder."""
        found = {}
        with contextlib.suppress(OSError):
            for folder in self.home.iterdir():
                with contextlib.suppress(OSError):
                    found[folder] = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
        return found


def free_bytes(folder: Path) -> int:
    """What is free on the disk of a folder, which need not be there yet."""
    there = next((one for one in (folder, *folder.parents) if one.exists()), Path())
    return shutil.disk_usage(there).free


def mark(folder: Path) -> Path:
    """Say that this process reads what lies in a folder, until the file that this returns is gone; OSError
    when the folder is gone.
    """
    file = folder / f"{next(_numbers)}.{_own()}.open"
    file.touch()
    return file


def _own() -> str:
    return f"{os.getpid()}@{_MACHINE}"


def in_use(folder: Path) -> bool:
    """Whether a running program makes or reads what lies in a folder."""
    signs = [folder, *folder.glob("*.open"), *folder.glob("*.part")]
    return any(_of_the_living(sign) for sign in signs if sign.suffix in {".open", ".part"})


def _of_the_living(file: Path) -> bool:
    """Whether the process that a file names still runs: one that began later only has the same number. One
    of another machine is believed for a day.
    """
    pid, _, machine = file.name.split(".")[-2].partition("@")
    try:
        if machine not in {"", _MACHINE}:
            return time.time() - file.stat().st_mtime < _BELIEVED_S
        return pid.isdecimal() and psutil.Process(int(pid)).create_time() < file.stat().st_mtime + 5
    except (psutil.NoSuchProcess, OSError):
        return False
    except psutil.Error:  # nobody may know
        return True
