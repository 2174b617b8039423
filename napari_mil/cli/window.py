"""demo, open, doctor: the commands that open a window, and the one that says what is there."""

from __future__ import annotations

import os
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from napari_mil.cli.running import By, show
from napari_mil.errors import MILError, ProjectError, SlideError
from napari_mil.slides.address import slide_path

app = typer.Typer()
#: Platforms of Qt that need a screen; there are others that need none.
_NEED_A_SCREEN = ("", "xcb", "wayland")
#: One of these is in the folder of every project, also of one that is damaged.
_MARKS = ("project.json", "ledger.sqlite")


@app.command(epilog="Example: `napari-mil demo --output demo-output`")
def demo(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the sample project, pictures and files.")
    ] = Path("demo-output"),
    *,
    keep_open: Annotated[
        bool, typer.Option(help="Leave the window open at the end, where there is a screen.")
    ] = True,
) -> None:
    """Do the main job on sample slides: analyse, explain, correct, retrain, export."""
    from napari_mil.demo import run

    if not _has_screen():
        _on_a_virtual_screen(
            "demo", "--output", str(output), "--keep-open" if keep_open else "--no-keep-open"
        )
    run(output, keep_open=keep_open, echo=partial(print, flush=True), show=partial(show, stages=True))


def _has_screen() -> bool:
    """Whether Qt can open a window here: without a screen it ends the program without a sentence."""
    if sys.platform in ("win32", "darwin"):
        return True
    platform = os.environ.get("QT_QPA_PLATFORM", "").partition(":")[0]
    return platform not in _NEED_A_SCREEN or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))


def _on_a_virtual_screen(*words: str) -> None:
    """Become the same command on a virtual screen."""
    maker = shutil.which("xvfb-run")
    if maker is None:
        raise MILError(
            "There is no screen here, and no xvfb-run to make one; install it, on Debian or Ubuntu with: "
            "apt install xvfb."
        )
    line = [maker, "--auto-servernum", "--server-args", "-screen 0 1600x1000x24"]
    line += [sys.executable, "-m", "napari_mil.cli", *words]
    os.execve(maker, line, {**os.environ, "NAPARI_MIL_VIRTUAL_SCREEN": "1"})  # noqa: S606


@app.command("open", epilog="Example: `napari-mil open case.svs` or `napari-mil open --project study/`")
def open_(
    slides: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Slides to show: files, folders, or addresses (https://, s3://).", show_default=False
        ),
    ] = None,
    project: Annotated[Path | None, typer.Option(help="Project to open, and to keep labels in.")] = None,
    *,
    new: Annotated[bool, typer.Option("--new", help="Make --project when it is not there yet.")] = False,
    by: By = "",
) -> None:
    """Open the window with slides or a project, the MIL workbench docked."""
    for path in map(slide_path, slides or []):
        if isinstance(path, Path) and not path.exists():
            raise SlideError(f"There is no file {path}; check the path.")
    if project is not None and not new and not any((project / n).exists() for n in _MARKS):
        _ask_for(project)
    if not _has_screen():
        raise MILError(
            "There is no screen here to open a window on; open it where there is one, or work on the command "
            "line: napari-mil --help."
        )
    try:
        from napari_mil.ui.workbench import run_window
    except ImportError as error:
        raise MILError(
            f"The window needs {error.name}; install it with: pip install 'napari-mil[pyqt5]'."
        ) from error
    run_window(list(map(slide_path, slides or [])), project=project, by=by)


def _ask_for(project: Path) -> None:
    """Whether a new project is wanted; ProjectError where it is not, or nobody can be asked."""
    asked = sys.stdin.isatty() and sys.stdout.isatty()
    if not asked or not typer.confirm(f"{project} is no project yet. Make a new one there?"):
        raise ProjectError(f"There is no project {project}; check the path, or add --new to make one there.")


@app.command(epilog="Example: `napari-mil doctor` or `napari-mil doctor --clean`")
def doctor(
    *,
    clean: Annotated[
        bool, typer.Option("--clean", help="Delete the sidecars of slides, and copies from servers.")
    ] = False,
) -> None:
    """Say what is installed, which GPU and readers there are, and the line that installs what is missing."""
    from napari_mil.workflow.doctor import findings

    if clean:
        from napari_mil.slides.copies import COPIES
        from napari_mil.slides.sidecar import SIDECARS

        for shelf, what in ((SIDECARS, "sidecars"), (COPIES, "copies from servers")):
            gone, left = shelf.remove_all() / 2**20, shelf.total_bytes() / 2**20
            stays = f" {left:,.0f} MB are in use and stay." if left else ""
            print(f"{gone:,.0f} MB of {what} deleted; they are made again when they are needed.{stays}")
        return

    for text in findings():
        print(text)
