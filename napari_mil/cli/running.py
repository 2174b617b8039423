"""How commands run: progress bars or JSON lines, slides that fail alone, settings as KEY=VALUE."""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from napari_mil.errors import MILError, ProjectError, printable
from napari_mil.steps import ASIDE, Progress, Steps, drain

T = TypeVar("T")

ExistingProject = Annotated[
    Path, typer.Argument(help="The project's folder; it must exist.", show_default=False)
]
SlideNames = Annotated[
    list[str] | None,
    typer.Argument(help="Slide names or ids; none: every slide of the project.", show_default=False),
]
ModelName = Annotated[str, typer.Option("--model", "-m", help="Name or id of a model of the project.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON lines for machines instead of text.")]
By = Annotated[str, typer.Option("--by", help="Who speaks; kept with every event.", envvar="NAPARI_MIL_USER")]


def say_error(sentence: str) -> None:
    """One line on standard error."""
    print(printable(f"napari-mil: {sentence}"), file=sys.stderr)


def disk_sentence(error: OSError) -> str:
    """A full disk, a missing permission and the like, as one sentence."""
    where = f" ({error.filename})" if error.filename else ""
    return (
        f"{error.strerror or error}{where}; what was kept before is safe: mend this and run the line again."
    )


def show(
    steps: Steps[T],
    *,
    as_json: bool = False,
    slide: str = "",
    case: str = "",
    stages: bool = False,
    heard: Callable[[Progress], Any] | None = None,
) -> T:
    """Run a long verb to its end with a progress bar, or as JSON lines.

    Where standard error is no terminal there is no bar; with `stages` each stage is then one line. JSON lines
    name the `slide` or the `case`, where one is given. `heard` is told in place of JSON and log.
    """
    if as_json and heard is None:
        about = {key: name for key, name in (("slide", slide), ("case", case)) if name}
        return _drained(steps, lambda now: print(json.dumps(about | _record(now)), flush=True))
    if as_json or not sys.stderr.isatty():
        return _drained(steps, heard or _plainly(stages=stages))
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    words = TextColumn("{task.description}", markup=False)  # a name may look like markup
    note = TextColumn("{task.fields[note]}", markup=False)
    columns = (words, BarColumn(24), MofNCompleteColumn(), TimeRemainingColumn(), note)
    with Bars(*columns, transient=True, console=Console(stderr=True)) as bars:
        tasks: dict[str, Any] = {}

        def tell(now: Progress) -> None:
            if now.stage == ASIDE:
                bars.console.print(f"napari-mil: {now.note}", markup=False, highlight=False, soft_wrap=True)
                return
            if now.stage not in tasks:
                tasks[now.stage] = bars.add_task(now.stage, total=now.total, note="")
            bars.update(tasks[now.stage], completed=now.done, total=now.total, note=now.note)

        return _drained(steps, tell)


def _drained(steps: Steps[T], tell: Callable[[Progress], Any]) -> T:
    """Run it to its end; `tell` hears of slides that are copied from servers on the way as well."""
    from napari_mil.slides import copies

    with copies.heard(tell):
        return drain(steps, tell)


def _plainly(*, stages: bool) -> Callable[[Progress], None]:
    """What a log gets to see: what was set aside, and each stage once where `stages`."""
    seen: set[str] = set()

    def tell(now: Progress) -> None:
        if now.stage == ASIDE:
            say_error(now.note)
        elif stages and now.stage not in seen:
            seen.add(now.stage)
            print(f"{now.stage} …", flush=True)

    return tell


def _record(now: Progress) -> dict[str, Any]:
    record: dict[str, Any] = {"stage": now.stage, "done": now.done, "total": now.total, "note": now.note}
    if isinstance(now.payload, dict):
        record["payload"] = now.payload
    return record


class EndedError(BaseException):
    """The system, a queue or a closed connection ends the program; nothing catches it on the way."""


@contextmanager
def ended_gently() -> Iterator[None]:
    """Let a signal that ends the program end it as Ctrl+C does: what was done is kept on the way out. One
    that is ignored, as by `nohup`, stays ignored.
    """

    def end(number: int, _frame: Any) -> None:
        raise EndedError(number)

    here = threading.current_thread() is threading.main_thread()
    wanted = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if here and hasattr(signal, name)]
    mine = [number for number in wanted if signal.getsignal(number) is signal.SIG_DFL]
    try:
        for number in mine:
            signal.signal(number, end)
        yield
    finally:
        for number in mine:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def opened(path: Path, *, by: str = "") -> Iterator[Any]:
    """The project at `path`, which must exist already; models that cannot be read are named."""
    from napari_mil.workflow import Project

    if not (path / "project.json").exists():
        raise ProjectError(f"{path} is no napari-mil project; `napari-mil import {path} SLIDE...` makes one.")
    with ended_gently(), Project(path, by=by) as project:
        for sentence in project.store.damaged_cards():
            say_error(sentence)
        yield project


def each(
    project: Any,
    names: list[str] | None,
    act: Callable[[Any, str], dict[str, Any]],
    *,
    as_json: bool,
    done: Callable[[Any, dict[str, Any]], Any] = lambda _record, _row: None,
    said: tuple[str, ...] = (),
) -> int:
    """Do `act` for every slide, given its record and what it is called; each succeeds or fails alone. Returns
    the number that failed.

    done : told every slide's record and row as it comes
    said : what of a row is printed as text; all of it when empty
    """
    from napari_mil.workflow import shown_names

    shown = shown_names(project.slides)
    things = [(shown[record.id], record) for record in chosen(project, names)]
    return each_of(things, act, as_json=as_json, done=done, said=said)


def chosen(project: Any, names: list[str] | None) -> list[Any]:
    """The records of the slides named, or of all; ProjectError when there are none."""
    from napari_mil.workflow import find_record

    records = [find_record(project, name) for name in names] if names else list(project.slides)
    if not records:
        raise ProjectError(f"{project.path} has no slides yet; add some with `napari-mil import`.")
    return records


def each_of(
    things: list[tuple[str, Any]],
    act: Callable[[Any, str], dict[str, Any]],
    *,
    as_json: bool,
    done: Callable[[Any, dict[str, Any]], Any],
    said: tuple[str, ...] = (),
    what: str = "slide",
) -> int:
    """`each` for things with their names: slides, or `what` else they are."""
    failed = 0
    for n, (name, thing) in enumerate(things, 1):
        try:
            row = {what: name, "ok": True, **act(thing, name)}
        except (MILError, OSError) as error:
            row, failed = {what: name, "ok": False, "error": str(error)}, failed + 1
        done(thing, row)
        print(json.dumps(row) if as_json else f"[{n}/{len(things)}] {line(row, said, what)}", flush=True)
    say_failed(failed, len(things), what)
    return failed


def say_failed(failed: int, of: int, what: str = "slide") -> None:
    """How many failed, where some did."""
    if failed:
        many = f"1 {what}" if of == 1 else f"{of:,} {what}s"
        say_error(f"{failed:,} of {many} failed, as said above; run again to retry.")


def line(row: dict[str, Any], said: tuple[str, ...] = (), what: str = "slide") -> str:
    """The row of a slide, or of `what` it is, as text."""
    wanted = {k: v for k, v in row.items() if k not in (what, "ok", "error") and (not said or k in said)}
    rest = ", ".join(f"{k} {_short(v)}" for k, v in wanted.items())
    return printable(f"{row[what]}: {rest}" if row["ok"] else f"{row[what]}: FAILED, {row['error']}")


def _short(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def settings(pairs: list[str] | None) -> dict[str, Any]:
    """`key=value` pairs as a mapping; values are read as JSON where they are, else as text."""
    out: dict[str, Any] = {}
    for pair in pairs or []:
        key, sep, value = pair.partition("=")
        if not sep:
            raise MILError(f"{pair!r} is no setting; write KEY=VALUE, such as mask_ratio=0.03.")
        try:
            out[key] = json.loads(value)
        except ValueError:
            out[key] = value
    return out


def label_mapping(pairs: list[str] | None) -> dict[str, str | None]:
    """`THEIRS=OURS` pairs as a mapping; nothing after the sign is None."""
    out: dict[str, str | None] = {}
    for pair in pairs or []:
        theirs, sep, ours = pair.rpartition("=")
        if not sep or not theirs:
            raise MILError(f"{pair!r} maps no label; write THEIRS=OURS, such as Tumor=Malignant, or THEIRS=.")
        out[theirs] = ours or None
    return out


def metric_lines(metrics: dict[str, Any], *, cases: int | None = None) -> list[str]:
    """Figures with their intervals as text, and the cases they stand on."""
    from napari_mil.workflow.figures import figure_lines

    return figure_lines(metrics, cases=cases)
