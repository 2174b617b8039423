"""Follow a run while it goes on: one row per epoch in history.csv, and TensorBoard files where asked."""

from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from napari_mil.errors import ModelError, ProjectError
from napari_mil.train.files import replace_whole

Row = Mapping[str, Any]


class Log:
    """The live log of a run.

    `history.csv` is replaced as a whole after every epoch, so that it never holds an epoch twice, however
    often a run was killed and gone on with. TensorBoard's files are appended to; a resumed run tells
    TensorBoard from which step on to forget.

    Parameters
    ----------
    folder : where to write; made when missing
    tensorboard : write TensorBoard event files too; ModelError when the package for it is not installed
    """

    def __init__(self, folder: Path, *, tensorboard: bool = False) -> None:
        self.folder = folder
        self._writer: Any = None
        self._tensorboard, self._told = tensorboard, 0
        if tensorboard:
            _writer_class()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ProjectError(f"The log folder {folder} cannot be made: {error.strerror}.") from error

    def write(self, history: Sequence[Row]) -> None:
        """Tell of every epoch so far, those before a resumption included."""
        replace_whole(self.folder / "history.csv", table(history).encode(), "The log")
        if not self._tensorboard:
            return
        if self._writer is None:
            self._told = len(history) - 1
            # the package names files by the second: two writers of one second would be one file
            own = {"filename_suffix": f".{time.time_ns()}", "flush_secs": 5}
            self._writer = _writer_class()(str(self.folder), purge_step=len(history), **own)
        for step, row in enumerate(history[self._told :], self._told + 1):
            for name, value in row.items():
                if isinstance(value, int | float) and math.isfinite(value) and name != "epoch":
                    self._writer.add_scalar(f"{row['stage']}/{name}", value, step)
        self._told = len(history)
        self._writer.flush()

    def close(self) -> None:
        """Let go of the files."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def table(history: Sequence[Row]) -> str:
    """Rows as CSV text; the columns are those of any row, in the order in which they first occur."""
    columns = list(dict.fromkeys(name for row in history for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return text.getvalue()


def _writer_class() -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise ModelError(
            "TensorBoard files need tensorboardX: `pip install napari-mil[tensorboard]`; or leave them out, "
            "history.csv is written always."
        ) from error
    return SummaryWriter
