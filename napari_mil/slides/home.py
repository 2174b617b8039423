"""Folders of this user, outside any project."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import platformdirs

#: One folder for everything, in the place of those that the system names.
VARIABLE = "NAPARI_MIL_HOME"


def cache_folder(name: str) -> Path:
    """Where large things lie that can be made again."""
    return _said(name) or platformdirs.user_cache_path("napari-mil", appauthor=False) / name


def state_folder(name: str) -> Path:
    """Where small things lie that a person left so, such as positions: without them time alone is lost."""
    return _said(name) or platformdirs.user_state_path("napari-mil", appauthor=False) / name


def data_folder(name: str) -> Path:
    """Where small things lie that a person said: nothing is deleted there unless they ask for it."""
    return _said(name) or platformdirs.user_data_path("napari-mil", appauthor=False) / name


def keep(file: Path, text: str, *, firmly: bool = False) -> None:
    """Write a small file, whole or not at all, in folders that are made where they are missing; OSError.

    firmly : wait until it would outlive a power cut
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    made = file.with_name(f".{uuid.uuid4().hex}")
    try:
        with made.open("w", encoding="utf-8") as stream:
            stream.write(text)
            if firmly:
                stream.flush()
                os.fsync(stream.fileno())
        made.replace(file)
    finally:
        made.unlink(missing_ok=True)


def _said(name: str) -> Path | None:
    said = os.environ.get(VARIABLE)
    return Path(said) / name if said else None
