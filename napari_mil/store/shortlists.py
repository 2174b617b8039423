"""Shortlists of the review queue, kept in the project folder: they can be made again at any time."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_mil.store.disk import name_of, put, said

_KEY = "made from"


def load_shortlist(
    folder: Path, slide_id: str, model_id: str, made_from: str
) -> dict[str, NDArray[Any]] | None:
    """The arrays that the project at `folder` keeps of a slide and a model, or None: there are none, they
    were made from something else, or the file is damaged.
    """
    try:
        with np.load(io.BytesIO(_file(folder, slide_id, model_id).read_bytes()), allow_pickle=False) as kept:
            arrays = {name: kept[name] for name in kept.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return arrays if str(arrays.pop(_KEY, "")) == made_from else None


def save_shortlist(
    folder: Path, slide_id: str, model_id: str, made_from: str, arrays: Mapping[str, NDArray[Any]]
) -> None:
    """Keep a shortlist; an earlier one of the same slide and model is replaced."""
    buffer = io.BytesIO()
    everything: dict[str, Any] = {_KEY: np.array(made_from), **arrays}
    np.savez(buffer, **everything)
    with said(folder, "written"):
        put(_file(folder, slide_id, model_id), buffer.getvalue())


def _file(folder: Path, slide_id: str, model_id: str) -> Path:
    return folder / "review" / name_of(slide_id) / f"{name_of(model_id)}.npz"
