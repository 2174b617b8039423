"""Folders of this user, outside any project: what is kept there can go at any time and costs time alone."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

#: One folder for everything, in the place of those that the system names.
VARIABLE = "NAPARI_MIL_HOME"


def cache_folder(name: str) -> Path:
    """Where large things lie that can be made again."""
    return _said(name) or platformdirs.user_cache_path("napari-mil", appauthor=False) / name


def state_folder(name: str) -> Path:
    """Where small things lie that a person left so, such as positions."""
    return _said(name) or platformdirs.user_state_path("napari-mil", appauthor=False) / name


def _said(name: str) -> Path | None:
    said = os.environ.get(VARIABLE)
    return Path(said) / name if said else None
