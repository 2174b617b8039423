"""The command line: the same verbs as the window and Python, for five hundred slides overnight.

Exit status: 0 all went well, 1 some slides failed (the summary says which and why), 2 the input was not
usable, 130 interrupted, 143 ended by the system or a queue. Running again resumes: what is kept in the
project is not computed twice.
"""

from __future__ import annotations

import io
import signal
import sys
import warnings
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from napari_mil import __version__
from napari_mil.cli import export, labelgroup, modelgroup, models, pixels, project, review, slides, window
from napari_mil.cli.running import EndedError, disk_sentence, say_error
from napari_mil.errors import MILError, SaidWarning


class _InterruptedError(Exception):
    """Ctrl+C, by a name that the libraries below do not act upon in their own ways."""


class _Group(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise _InterruptedError from error


app = typer.Typer(
    name="napari-mil",
    cls=_Group,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    add_completion=False,
    help="Multiple-instance learning on whole-slide images: embed, train, predict, correct, retrain, export.",
)
for group in (window, slides, pixels, models, export, review):
    app.add_typer(group.app)
app.add_typer(labelgroup.app, name="labels")
app.add_typer(modelgroup.app, name="models")
app.add_typer(project.app, name="project")


@app.callback(invoke_without_command=True)
def _root(*, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(f"napari-mil {__version__}")
        raise typer.Exit


def main() -> None:
    """Entry point: a MILError is one line and exit status 2; Ctrl+C is 130; anything else keeps its
    traceback. What was said and cannot be read any more is one line as well.
    """
    as_before = warnings.showwarning

    def warn(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, SaidWarning):
            say_error(str(message))
        else:
            as_before(message, category, *where, **more)

    warnings.showwarning = warn
    if isinstance(
        sys.stdout, io.TextIOWrapper
    ):  # a name, or a µ, that the terminal lacks ends no night's work
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        app()
    except MILError as error:
        say_error(str(error))
        sys.exit(2)
    except (KeyboardInterrupt, _InterruptedError):
        say_error("Interrupted; what was finished is kept, run the same line again to go on.")
        sys.exit(130)
    except EndedError as error:
        name = signal.Signals(error.args[0]).name
        say_error(
            f"Ended from outside ({name}); what was finished is kept, run the same line again to go on."
        )
        sys.exit(128 + error.args[0])
    except OSError as error:
        say_error(disk_sentence(error))
        sys.exit(2)
