"""Label files on disk: written whole or not at all, plain or gzipped."""

from __future__ import annotations

import contextlib
import errno
import gzip
import io
import json
import os
import shlex
import uuid
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from napari_mil.errors import LabelError, ProjectError, reason
from napari_mil.labeltree import LabelTree

#: so many tiles are written between two looks at whether to go on
AT_ONCE = 2000


@contextmanager
def text_to(path: Path) -> Iterator[TextIO]:
    """A text stream that becomes the file `path` when the block ends; gzipped when its name ends in .gz."""
    place = _aside(path)
    with _said(path, place):
        with place.open("wb") as raw:
            packed = gzip.GzipFile("", "wb", 6, raw, mtime=0) if path.name.lower().endswith(".gz") else raw
            with io.TextIOWrapper(packed, "utf-8", newline="") as text:
                yield text
                text.flush()
                if packed is not raw:
                    packed.close()
                raw.flush()
                os.fsync(raw.fileno())
        place.replace(path)


def check_place(path: Path) -> None:
    """ProjectError where `text_to` could not write, so that it is said before the work for a file is done."""
    place = _aside(path)
    with _said(path, place):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        place.touch()


def _aside(path: Path) -> Path:
    """Where a file is written before it takes its name."""
    return path.with_name(f".{path.name}-{uuid.uuid4().hex}")


@contextmanager
def _said(path: Path, place: Path) -> Iterator[None]:
    """Say what the file system refuses as one sentence; nothing is left at `place`."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        why = "the disk is full, free some space" if full else reason(error)
        why = f"{why}; nothing was written, try again"
        if not path.absolute().parent.is_dir():
            why = f"there is no folder {path.parent}; make it first"
        raise ProjectError(f"{path} cannot be written: {why}.") from error
    finally:
        with contextlib.suppress(OSError):
            place.unlink(missing_ok=True)


def text_of(path: Path) -> str:
    """The text of a label file, unpacked when it is gzipped; LabelError when it cannot be read."""
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        return data.decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise LabelError(
            f"{path.name} cannot be read: {reason(error)}; expected a UTF-8 text file, plain or gzipped."
        ) from error


def parsed(text: str) -> Any:
    """The value of a JSON text; ValueError when it is none, LabelError when an escape in it is half a
    character, which no file could hold.
    """
    value = json.loads(text)
    if "\\ud" in text or "\\uD" in text:  # the escapes of pairs; json lets one of a pair stand alone
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            half = ascii(error.object[error.start])[1:-1]
            raise LabelError(f"it holds half a character, {half}; save it again as UTF-8") from error
    return value


def meant(tree: LabelTree, text: str) -> int:
    """The node of a label text of a file; LabelError that says how another label of others can be read."""
    try:
        return tree.node(text)
    except LabelError as error:
        raise LabelError(
            f"{str(error).rstrip('.')}; say which of them it is with --map {shlex.quote(f'{text}=LABEL')} "
            f"(`mapping` in Python), or leave it aside with --map {shlex.quote(f'{text}=')}."
        ) from error
