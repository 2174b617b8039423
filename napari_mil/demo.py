"""The main job on sample slides, from an empty folder to exported labels."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from napari_mil.steps import Steps, drain


def run(
    output: Path,
    *,
    keep_open: bool = True,
    echo: Callable[[str], Any] = print,
    show: Callable[[Steps[Path]], Path] = drain,
) -> None:
    """Make the sample project in `output` if needed, then do the main job in a real window.

    Leaves numbered screenshots and the exported files in `output`; one line per step (what, seconds), and
    `show` drives what takes minutes. MILError when the window's libraries are not installed.
    """
    from importlib.util import find_spec

    from napari_mil.errors import MILError
    from napari_mil.workflow import sample_project_steps

    if find_spec("napari") is None:
        raise MILError(
            "The demo needs napari and a Qt binding; install them with: pip install 'napari-mil[pyqt5]'."
        )
    began = time.monotonic()
    echo(f"sample project: its slides are drawn and embedded once, in {output / 'project'}")
    project = show(sample_project_steps(output / "project"))
    echo(f"sample project ready in {project} ({time.monotonic() - began:.1f} s)")
    from napari_mil.ui.tour import tour

    tour(project, output, echo, keep_open=keep_open)
    echo(f"done in {time.monotonic() - began:.1f} s; see {output}")
