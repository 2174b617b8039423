"""Writing into a project folder whole or not at all, and what the file system or a broken file says."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from napari_mil import __version__
from napari_mil.errors import MILError, ProjectError, reason
from napari_mil.options import expect

FORMAT = "napari-mil project"
#: 2: the ledger lies elsewhere, at the address that the marker names; 1: in the folder
VERSION = 2
#: What the system refuses whatever is in a file
_NO_DAMAGE = (
    *(errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EACCES, errno.EPERM),
    *(errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EINTR),
)
_FORGOTTEN_S = 7 * 24 * 3600


def folder_of(path: str | Path) -> Path:
    """Where a project is; ProjectError where no folder is named, not even the current one."""
    expect("The project", path, (str, os.PathLike), "the path of its folder", ProjectError)
    if not str(path):
        raise ProjectError("The project is '', an empty path; give its folder, '.' for the current one.")
    return Path(path).absolute()


def read_marker(folder: Path) -> dict[str, Any]:
    """What project.json says, {} where there is none; ProjectError when `folder` is no project that this
    program can open, or make.
    """
    if folder.exists() and not folder.is_dir():
        raise ProjectError(f"{folder} is a file; a project is a folder.")
    marker = folder / "project.json"
    if not marker.exists():
        if (folder / "ledger.sqlite").exists():
            raise ProjectError(
                f"The project {folder} is damaged: project.json is missing; restore it from a backup."
            )
        return {}
    with damage(folder, marker):
        found: dict[str, Any] = json.loads(marker.read_bytes())
        kind, version = found["format"], int(found["version"])
    if kind != FORMAT:
        raise ProjectError(f"{folder} is no napari-mil project: project.json speaks of {kind!r}.")
    if version > VERSION:
        raise ProjectError(
            f"The project {folder} has format version {version}, napari-mil {__version__} knows versions up "
            f"to {VERSION}; it was written by a newer napari-mil, update the program."
        )
    with damage(folder, marker):
        return found | {"ledger": str(found["ledger"]) if version == 2 else ""}


def write_marker(folder: Path, *, ledger: str = "") -> None:
    """Write project.json, or say in it where the ledger is from now on: at an address, or in the folder."""
    about = read_marker(folder) or {
        "format": FORMAT,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    about |= {"version": 2 if ledger else 1, "program": __version__, "ledger": ledger}
    if not ledger:
        del about["ledger"]
    with said(folder, "written"):
        put(folder / "project.json", json.dumps(about, indent=1).encode())


def ledger_of(folder: Path) -> Path | str:
    """Where a project's ledger is: a file, or the address of a database."""
    return read_marker(folder).get("ledger") or folder / "ledger.sqlite"


def name_of(key: str, empty: str = "-") -> str:
    """A folder's name for a key, readable where that is possible."""
    text = quote(key, safe="")
    if text.startswith("."):
        text = "%2E" + text[1:]
    return (text if len(text) <= 100 else hashlib.sha256(key.encode()).hexdigest()) or empty


@contextmanager
def said(folder: Path, act: str) -> Iterator[None]:
    """Turn what the file system refuses into one sentence."""
    try:
        yield
    except MILError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            why = "the disk is full; nothing was lost, free some space and try again"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            why = "it is read-only for you; get write permission or choose another folder"
        else:
            why = f"{reason(error)}; check the folder and try again"
        raise ProjectError(f"The project {folder} cannot be {act}: {why}.") from error


@contextmanager
def damage(project: Path, part: Path) -> Iterator[None]:
    """Turn whatever a broken file leads to into one sentence that names it; where the file may well be sound,
    nobody is told to delete it.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, MemoryError) or getattr(error, "errno", None) in _NO_DAMAGE:
            why = "there is not enough memory" if isinstance(error, MemoryError) else reason(error)
            raise ProjectError(
                f"{part.relative_to(project)} of the project {project} cannot be read now: {why}; it need "
                "not be damaged, mend this and try again."
            ) from error
        remade = part.relative_to(project).parts[0] in {"bags", "maps"}
        mend = "delete it to have it made again" if remade else "restore it from a backup"
        raise ProjectError(
            f"The project {project} is damaged: {part.relative_to(project)} cannot be read "
            f"({type(error).__name__}: {reason(error)}); {mend}."
        ) from error


def sync_file(path: Path) -> None:
    """Have a file on disk before it gets its name."""
    with path.open("rb+") as stream:
        os.fsync(stream.fileno())


def sync(folder: Path) -> None:
    """Have everything in a folder on disk before it gets its name."""
    for path in folder.rglob("*"):
        if path.is_file():
            sync_file(path)


@contextmanager
def whole(project: Path, target: Path) -> Iterator[Path]:
    """A folder to write into; it stands at `target` when the block ends, whole, or not at all."""
    place = project / "unfinished" / f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex}"
    old = place.with_name(place.name + "-old")
    with said(project, "written"):
        try:
            place.mkdir(parents=True)
            yield place
            sync(place)
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.exists():
                target.rename(old)
            try:
                place.rename(target)
            except OSError:
                if not target.exists():  # else another program was faster with the same thing
                    raise
        finally:
            shutil.rmtree(place, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)


def put(target: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    place = target.with_name(f".{target.name}-{uuid.uuid4().hex}")
    try:
        place.write_bytes(data)
        sync_file(place)
        place.replace(target)
    finally:
        place.unlink(missing_ok=True)


def clean(project: Path) -> None:
    """Remove what programs that are no longer running left unfinished, and parts nobody came back for."""
    import psutil

    for place in (project / "parts").glob("*/*/*"):
        if time.time() - place.stat().st_mtime > _FORGOTTEN_S:
            shutil.rmtree(place, ignore_errors=True)

    for place in (project / "unfinished").glob("*-*-*"):
        host, pid, *_ = place.name.removesuffix("-old").rsplit("-", 2)
        gone = host == socket.gethostname() and not psutil.pid_exists(int(pid))
        if gone or time.time() - place.stat().st_mtime > _FORGOTTEN_S:
            shutil.rmtree(place, ignore_errors=True)


def checked(folder: Path, name: str) -> bytes:
    """A file whose checksum was kept beside it."""
    data = (folder / name).read_bytes()
    if hashlib.sha256(data).hexdigest() != json.loads((folder / "checksums.json").read_bytes())[name]:
        raise ValueError(f"the content of {name} does not give its checksum")
    return data
