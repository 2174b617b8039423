"""The files of an open slide on this machine: whether they are still those that were opened."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from napari_mil.errors import SlideError, reason
from napari_mil.slides.address import SlidePath

#: The first so many files are looked at after each tile, further ones no more often than this.
FEW, PAUSE_S = 8, 0.25


class Originals:
    """Sizes and times of files, taken when a slide is opened; safe from many threads.

    What was read is good when they are still the same afterwards. One that was another in between stays
    refused, since a reader may have kept something of that; one that was gone may come back. A server's files
    are looked after by their marks (`remote`).
    """

    def __init__(self, files: Sequence[SlidePath]) -> None:
        here = [file for file in files if isinstance(file, Path) and file.is_file()]
        self._known = {file: _state(file) for file in here}
        self._seen_s = 0.0
        self._changed = ""

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Read within it, and `check`."""
        try:
            yield
        finally:
            self.check()

    def check(self) -> None:
        """After something was read: SlideError when a file is gone, or has been changed or replaced."""
        began = time.monotonic()
        few = began - self._seen_s < PAUSE_S
        for file, known in islice(self._known.items(), FEW if few else None):
            try:
                now = _state(file)
            except OSError as error:
                raise SlideError(
                    f"the file {file.name} cannot be read any more ({reason(error)}); put it back, or open "
                    "the slide where it lies now."
                ) from error
            if now != known:
                self._changed = f"another program has changed the file {file.name}; open the slide again."
        if self._changed:
            raise SlideError(self._changed)
        if not few:
            self._seen_s = began


def _state(file: Path) -> tuple[int, int]:
    """Size, and when it was written last."""
    there = os.stat(file)  # noqa: PTH116 - Path.stat takes as long again
    return there.st_size, there.st_mtime_ns
