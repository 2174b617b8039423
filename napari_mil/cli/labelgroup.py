"""labels show, log, history, conflicts, contradictions, set, undo, withdraw, lock, unlock, hole, note,
verify, backup, restore.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from napari_mil.cli.running import AsJson, By, ExistingProject, opened, say_error
from napari_mil.errors import LabelError, printable

app = typer.Typer(
    help="What people said: show it and its history; say, take back, lock; verify, back up, restore.",
    epilog="Example: `napari-mil labels show study/` or `napari-mil labels log study/ --slide case-17`",
    no_args_is_help=True,
)

OneSlide = Annotated[str | None, typer.Option("--slide", help="Only this slide.")]
TheSlide = Annotated[str, typer.Option("--slide", help="Name or id of the slide.", show_default=False)]
Events = Annotated[
    list[int], typer.Argument(help="Numbers of events, as `labels show` lists them.", show_default=False)
]


def _print(rows: Iterable[dict[str, Any]], *, as_json: bool) -> None:
    """One row a line: JSON, or what there is to say with spaces between."""
    for row in rows:
        shown = (
            k if v is True else v
            for k, v in row.items()
            if v not in (None, "", False) and not isinstance(v, list)
        )
        print(json.dumps(row) if as_json else printable("  ".join(map(str, shown))))


@app.command(epilog="Example: `napari-mil labels show study/ --slide case-17`")
def show(project: ExistingProject, slide: OneSlide = None, *, as_json: AsJson = False) -> None:
    """Show the labels in force, each with the number of the event that stated it."""
    from napari_mil.workflow import label_rows

    with opened(project) as p:
        _print(label_rows(p, slide=slide), as_json=as_json)


@app.command(epilog="Example: `napari-mil labels log study/ --json`")
def log(project: ExistingProject, slide: OneSlide = None, *, as_json: AsJson = False) -> None:
    """Show every event in its order: who said what, when; what was taken back included."""
    from napari_mil.workflow import log_rows

    with opened(project) as p:
        _print(log_rows(p, slide=slide), as_json=as_json)


@app.command(
    epilog="Example: `napari-mil labels history study/ --slide case-17 --at 20480,10240`; without "
    "`--at` of the slide's label."
)
def history(
    project: ExistingProject,
    slide: TheSlide,
    at: Annotated[str | None, typer.Option(help="Y,X in pixels of level 0; none: the slide's label.")] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Show all that was ever said of a place: who, when, with which tool, what it was called before, what the
    model had said, what was visible, and whether it counts still.
    """
    from napari_mil.workflow import history_words, place_history

    with opened(project) as p:
        rows = place_history(p, slide, _place(at))
    if as_json or not rows:
        _print(rows or [{"history": "nothing was said of this place"}], as_json=as_json and bool(rows))
        return
    for row in rows:
        who = f"{row['event']}  {row['at'] or 'at an unknown time'}  {row['by'] or 'somebody'}  {row['tool']}"
        print(f"{who}  {history_words(row)}")


def _place(at: str | None) -> Any:
    """A tile of one pixel at Y,X, or the whole slide."""
    from napari_mil.correction import Cells, WholeSlide

    if at is None:
        return WholeSlide()
    try:
        y, x = (int(float(part)) for part in at.split(","))
    except ValueError as error:
        raise LabelError(
            f"{at!r} is no place; write Y,X in pixels of level 0, such as 20480,10240."
        ) from error
    return Cells([[y, x]], (1.0, 1.0))  # type: ignore[arg-type]


@app.command(epilog="Example: `napari-mil labels conflicts study/`")
def conflicts(project: ExistingProject, slide: OneSlide = None, *, as_json: AsJson = False) -> None:
    """List places that two people labelled differently without having seen each other's words. Exit status 1
    when there are any; who says again what such a place is settles it.
    """
    from napari_mil.workflow import conflict_rows, conflict_words

    with opened(project) as p:
        rows = conflict_rows(p, slide=slide)
    for row in rows:
        print(json.dumps(row) if as_json else conflict_words(row))
    if rows:
        raise typer.Exit(1)
    if not as_json:
        print("Nobody contradicts another.")


@app.command(epilog="Example: `napari-mil labels contradictions study/ --slide case-17`")
def contradictions(project: ExistingProject, slide: OneSlide = None, *, as_json: AsJson = False) -> None:
    """List what cannot both hold: a part that is called what its slide's label excludes, and what two people
    said without having seen each other's words. Exit status 1 when there is any.
    """
    from napari_mil.workflow import contradictions as find
    from napari_mil.workflow.history import place_words

    with opened(project) as p:
        found = find(p, slide=slide)
    for one in found:
        about = {"slide": one.name, "place": place_words(one.place), "between": one.between}
        print(json.dumps(about | {"words": one.words, "events": one.events}) if as_json else str(one))
    if found:
        raise typer.Exit(1)
    if not as_json:
        print("Nothing contradicts itself.")


@app.command(
    "set",
    epilog="Example: `napari-mil labels set study/ Malignant/IC --slide case-17` of the slide, or "
    "`napari-mil labels set study/ ADH --slide case-17 -m mhim-1 --above probability/fine/ADH=0.9` of tiles",
)
def set_(
    project: ExistingProject,
    label: Annotated[
        str, typer.Argument(help="Label of the tree; none takes labels away.", show_default=False)
    ],
    slide: Annotated[
        list[str], typer.Option("--slide", help="Name or id; repeat it to label several slides.")
    ],
    model: Annotated[str | None, typer.Option("--model", "-m", help="Whose tiles are meant.")] = None,
    above: Annotated[str | None, typer.Option(help="MAP=VALUE: tiles with at least VALUE.")] = None,
    rows: Annotated[str | None, typer.Option(help="Numbers of tiles, such as 0,4,17.")] = None,
    note: Annotated[str, typer.Option(help="Why; kept with it.")] = "",
    *,
    as_json: AsJson = False,
    by: By = "",
) -> None:
    """Label a slide, several slides, or many tiles of one, as one act."""
    from napari_mil.correction import Cells, to_record
    from napari_mil.workflow import label_above, label_slides, label_tiles

    if bool(above) + bool(rows) != (model is not None):
        raise LabelError(
            "Tiles are chosen by --above MAP=VALUE or by --rows, and --model says of which grid."
        )
    if model is not None and len(slide) > 1:
        raise LabelError("Tiles are those of one slide; give --slide once.")
    text, about = None if label == "none" else label, {"note": note} if note else {}
    with opened(project, by=by) as p:
        if above and model:
            name, _, value = above.rpartition("=")
            said = [label_above(p, slide[0], name, _number(value, above), text, model=model, **about)]
        elif rows and model:
            numbers = [int(_number(n, rows)) for n in rows.split(",")]
            said = [label_tiles(p, slide[0], numbers, text, model=model, **about)]
        else:
            said = label_slides(p, slide, text, **({"tool": "command line"} | about))
    for c in said if as_json else said[:1]:
        n = len(c.place.cells) if isinstance(c.place, Cells) else 0
        what = f"{n} tiles" if n else "The slide" if len(said) == 1 else f"{len(said)} slides"
        print(json.dumps(to_record(c)) if as_json else f"{what} → {c.label or 'label taken away'}")


def _number(text: str, whole: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise LabelError(f"{whole!r} has no number at {text!r}; write MAP=0.9, or rows as 0,4,17.") from error


@app.command(epilog="Example: `napari-mil labels undo study/ --slide case-17 --by ann`")
def undo(project: ExistingProject, slide: TheSlide, *, as_json: AsJson = False, by: By = "") -> None:
    """Take back the latest act on a slide: of the person named by --by, else of anybody."""
    from napari_mil.workflow import undo_row

    with opened(project, by=by) as p:
        row = undo_row(p, slide)
    if as_json or "at" not in row:
        _print([row], as_json=as_json)
    else:
        print(f"undone: {row['slide']}  {row['undo']}  ({row['by'] or 'somebody'}, {row['at']})")


@app.command(epilog="Example: `napari-mil labels withdraw study/ 17 18 --by ann`")
def withdraw(project: ExistingProject, events: Events, *, as_json: AsJson = False, by: By = "") -> None:
    """Take back what these events said, however long ago; undo brings it back."""
    _name(project, events, by, "withdraw", "withdrawn", as_json=as_json)


@app.command(epilog="Example: `napari-mil labels lock study/ 17 --by ann`")
def lock(project: ExistingProject, events: Events, *, as_json: AsJson = False, by: By = "") -> None:
    """Let what these events said count whatever is said later, until it is unlocked."""
    _name(project, events, by, "lock", "locked", as_json=as_json)


@app.command(epilog="Example: `napari-mil labels unlock study/ 17 --by ann`")
def unlock(project: ExistingProject, events: Events, *, as_json: AsJson = False, by: By = "") -> None:
    """Let later words count again."""
    _name(project, events, by, "unlock", "unlocked", as_json=as_json)


def _name(project: Path, events: list[int], by: str, verb: str, done: str, *, as_json: bool) -> None:
    from napari_mil import workflow

    with opened(project, by=by) as p:
        said = getattr(workflow, verb)(p, *events)
    for event, c in zip(events, said, strict=True):
        _tell(c, done, as_json=as_json, event=event)


def _tell(said: Any, done: str, *, as_json: bool, **about: Any) -> None:
    """What was done with a correction: a sentence, or its record."""
    from napari_mil.correction import to_record
    from napari_mil.workflow import said_words

    print(
        json.dumps({"done": done, **about, **to_record(said)}) if as_json else f"{done}: {said_words(said)}"
    )


@app.command(epilog="Example: `napari-mil labels hole study/ 17 hole.geojson --by ann`")
def hole(
    project: ExistingProject,
    event: Annotated[
        int,
        typer.Argument(help="Number of its event, as `labels show` lists it.", show_default=False),
    ],
    file: Annotated[
        Path, typer.Argument(help="GeoJSON with the outlines, such as QuPath writes.", show_default=False)
    ],
    *,
    as_json: AsJson = False,
    by: By = "",
) -> None:
    """Cut holes into a drawn region: the areas of a file, as one act, which undo takes back."""
    from napari_mil.workflow import cut_file

    with opened(project, by=by) as p:
        made = cut_file(p, event, file)
    _tell(made, "cut", as_json=as_json, event=event)


@app.command(epilog='Example: `napari-mil labels note study/ "ask for a second reading" --slide case-17`')
def note(
    project: ExistingProject,
    text: Annotated[str, typer.Argument(help="What is to be remembered.", show_default=False)],
    slide: OneSlide = None,
    event: Annotated[int | None, typer.Option(help="Number of the event that it is about.")] = None,
    *,
    as_json: AsJson = False,
    by: By = "",
) -> None:
    """Write down a remark about a slide, about what an event said, or about the project; the log shows it."""
    from napari_mil.workflow import note as write

    with opened(project, by=by) as p:
        made = write(p, slide, text, event=event)
    row = {"event": made.seq, "at": str(made.at), "by": made.by, "text": made.payload["text"]}
    print(json.dumps(row) if as_json else f"Noted as event {made.seq}.")


@app.command(epilog="Example: `napari-mil labels verify study/`")
def verify(project: ExistingProject, *, as_json: AsJson = False) -> None:
    """Recompute the chain of hashes; a ledger that is too damaged to be opened is read as far as that goes.
    Exit status 1 when it is damaged.
    """
    from napari_mil.workflow import verify_ledger

    report = verify_ledger(project)
    row = {"ledger": str(report), "ok": report.ok, "sound": len(report.sound), "head": report.head}
    print(json.dumps(row) if as_json else str(report))
    if not report.ok:
        raise typer.Exit(1)


@app.command(epilog="Example: `napari-mil labels backup study/ backups/monday.sqlite`")
def backup(
    project: ExistingProject,
    file: Annotated[Path, typer.Argument(help="File to write; it must not exist.", show_default=False)],
    *,
    as_json: AsJson = False,
) -> None:
    """Write a verified copy of the whole ledger, wherever it lives, as one SQLite file."""
    from napari_mil.workflow import backup as write

    row = write(project, file)
    print(json.dumps(row) if as_json else f"Wrote {file}: {row['events']} events, head {row['head']}.")


@app.command(epilog="Example: `napari-mil labels restore study/ backups/monday.sqlite`")
def restore(
    project: ExistingProject,
    file: Annotated[Path, typer.Argument(help="A backup.", show_default=False)],
    *,
    as_json: AsJson = False,
) -> None:
    """Put a backup in the place of a damaged or missing ledger; what is sound in the damaged one and goes on
    from the backup is kept too, and the damaged file stays under another name.
    """
    from napari_mil.workflow import restore as put_back

    row = put_back(project, file)
    more = row["events"] - row["from_backup"]
    if as_json:
        print(json.dumps(row))
        return
    print(f"Restored {row['events']} events, {max(more, 0)} of them newer than the backup.")
    if row["was_shared"]:
        say_error(
            f"The ledger is in the folder now; share it again with a new database: {row['was_shared']}."
        )
