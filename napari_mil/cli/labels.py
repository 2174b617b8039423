"""labels, export: what people said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from napari_mil.cli.running import AsJson, By, ExistingProject, opened
from napari_mil.errors import ProjectError

app = typer.Typer()


@app.command(
    epilog="Example: `napari-mil labels study/ --slide case-17` or `napari-mil labels study/ --verify`"
)
def labels(
    project: ExistingProject,
    slide: Annotated[str | None, typer.Option(help="Only this slide.")] = None,
    *,
    log: Annotated[bool, typer.Option("--log", help="Every event instead of what is in force.")] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Take back the latest act on --slide.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Recompute the hash chain of the ledger.")] = False,
    as_json: AsJson = False,
    by: By = "",
) -> None:
    """Show, take back or verify what people said."""
    from napari_mil.workflow import label_rows

    if verify:
        _verify(project, as_json=as_json)
        return
    with opened(project, by=by) as p:
        rows = label_rows(p, slide=slide, log=log, undo=undo)
    for row in rows:
        print(json.dumps(row) if as_json else "  ".join(str(v) for v in row.values() if v not in (None, "")))


def _verify(project: Path, *, as_json: bool) -> None:
    """Say whether a ledger is whole; one that is too damaged to be opened is read as far as that goes."""
    from napari_mil.ledger import verify

    ledger = project / "ledger.sqlite"
    if not ledger.exists():
        raise ProjectError(f"There is no ledger {ledger}; give the folder of a project, or restore it.")
    report = verify(ledger)
    row = {"ledger": str(report), "ok": report.ok, "sound": len(report.sound), "head": report.head}
    print(json.dumps(row) if as_json else str(report))
    if not report.ok:
        raise typer.Exit(1)


@app.command(epilog="Example: `napari-mil export study/ case-17.geojson --slide case-17`")
def export(
    project: ExistingProject,
    path: Annotated[
        Path, typer.Argument(help="File to write: .geojson, .geojson.gz or .csv.", show_default=False)
    ],
    slide: Annotated[str | None, typer.Option(help="The slide; a CSV may hold all slides.")] = None,
    format: Annotated[str | None, typer.Option(help="geojson or csv; default: by suffix.")] = None,
) -> None:
    """Write labels: GeoJSON for QuPath, or CSV."""
    with opened(project) as p:
        print(f"Wrote {p.export(path, slide=slide, format=format)}.")
