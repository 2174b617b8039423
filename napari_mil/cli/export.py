"""export: what people said, as a file of others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from napari_mil.cli.running import AsJson, ExistingProject, opened

app = typer.Typer()


@app.command(epilog="Example: `napari-mil export study/ case-17.geojson --slide case-17`")
def export(
    project: ExistingProject,
    path: Annotated[
        Path, typer.Argument(help="File to write: .geojson, .geojson.gz or .csv.", show_default=False)
    ],
    slide: Annotated[str | None, typer.Option(help="The slide; a CSV may hold all slides.")] = None,
    format: Annotated[str | None, typer.Option(help="geojson or csv; default: by suffix.")] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Write labels: GeoJSON for QuPath, or CSV."""
    with opened(project) as p:
        file = str(p.export(path, slide=slide, format=format))
    print(json.dumps({"result": {"file": file}}) if as_json else f"Wrote {file}.")
