"""Files of a run, replaced as a whole: after a crash there is the old one or the new one."""

from __future__ import annotations

import os
from pathlib import Path

from napari_mil.errors import ProjectError


def replace_whole(path: Path, data: bytes | memoryview, what: str) -> None:
    """Write a file beside its place, then move it there; ProjectError when the disk refuses."""
    beside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise ProjectError(f"{what} {path} cannot be written: {error.strerror}; free some space.") from error
