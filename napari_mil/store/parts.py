"""Features computed so far: kept in files until the whole bag is, so that nobody computes them twice."""

from __future__ import annotations

import io
import shutil
import uuid
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_mil.store.disk import put, said


class Parts:
    """The unfinished features of one slide's tiles; together they take no more room than the bag will.

    Parameters
    ----------
    project : the project's folder, for errors
    folder : one folder per slide, encoder and grid
    tiles : N of the grid
    """

    def __init__(self, project: Path, folder: Path, tiles: int) -> None:
        self._project, self._folder, self._tiles = project, folder, tiles

    def load(self, width: int) -> tuple[NDArray[np.int64], NDArray[np.float16]]:
        """Indices (n,) and features (n, width) of the tiles that are done; damaged files are left out."""
        done = np.zeros(self._tiles, bool)
        features = np.zeros((self._tiles, width), np.float16)
        for file in sorted(self._folder.glob("*.npz")):
            try:
                with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as part:
                    features[part["indices"]] = part["features"]
                    done[part["indices"]] = True
            except (OSError, ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile):
                file.unlink(missing_ok=True)
        return np.flatnonzero(done), features[done]

    def add(self, indices: Any, features: Any) -> None:
        """Keep indices (n,) and features (n, D) of tiles; on return they are on disk. ProjectError when the
        file system refuses.
        """
        buffer = io.BytesIO()
        np.savez(buffer, indices=indices, features=features)
        with said(self._project, "written"):
            put(self._folder / f"{uuid.uuid4().hex}.npz", buffer.getvalue())

    def clear(self) -> None:
        """The bag is kept: its parts are not needed any more."""
        shutil.rmtree(self._folder, ignore_errors=True)
