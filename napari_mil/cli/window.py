"""demo, open, doctor: the commands that open a window, and the one that says what is there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from napari_mil.cli.running import By

app = typer.Typer()


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

    run(output, keep_open=keep_open, echo=lambda text: print(text, flush=True))


@app.command("open", epilog="Example: `napari-mil open case.svs` or `napari-mil open --project study/`")
def open_(
    slides: Annotated[list[Path] | None, typer.Argument(help="Slides to show.", show_default=False)] = None,
    project: Annotated[Path | None, typer.Option(help="Project to open, and to keep labels in.")] = None,
    by: By = "",
) -> None:
    """Open the window with slides or a project, the MIL workbench docked."""
    from napari_mil.errors import MILError, SlideError

    for path in slides or []:
        if not path.exists():
            raise SlideError(f"There is no file {path}; check the path.")
    try:
        from napari_mil.ui.workbench import run_window
    except ImportError as error:
        raise MILError(
            f"The window needs {error.name}; install it with: pip install 'napari-mil[pyqt5]'."
        ) from error
    run_window(list(slides or []), project=project, by=by)


@app.command(epilog="Example: `napari-mil doctor`")
def doctor() -> None:
    """Say what is installed, which GPU and readers there are, and the line that installs what is missing."""
    from napari_mil.workflow.doctor import findings

    for text in findings():
        print(text)
