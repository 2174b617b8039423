"""Another user for a while: root may read everything, so that a test of permissions would see nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NOBODY = 65534


@contextmanager
def as_one_who_may_not(folder: Path) -> Iterator[None]:
    """Run as a user without rights where this is root; the folder and those above it can be entered."""
    if os.geteuid() != 0:
        yield
        return
    modes = {place: place.stat().st_mode & 0o7777 for place in (folder, *folder.parents)}
    changed = {place: mode for place, mode in modes.items() if mode & 0o055 != 0o055}
    for place, mode in changed.items():
        place.chmod(mode | 0o055)
    try:
        os.seteuid(_NOBODY)
        yield
    finally:
        os.seteuid(0)
        for place, mode in changed.items():
            place.chmod(mode)
