"""export: what people said, or a model's maps, as a file of others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from napari_mil.cli.running import AsJson, ExistingProject, opened, show
from napari_mil.errors import MILError

app = typer.Typer()


@app.command(
    epilog="Example: `napari-mil export study/ case-17.geojson --slide case-17` or "
    "`napari-mil export study/ case-17-maps.geojson --slide case-17 --maps --model mhim-1`"
)
def export(
    project: ExistingProject,
    path: Annotated[
        Path, typer.Argument(help="File to write: .geojson, .geojson.gz or .csv.", show_default=False)
    ],
    slide: Annotated[str | None, typer.Option(help="The slide; a CSV of labels may hold all slides.")] = None,
    format: Annotated[str | None, typer.Option(help="geojson or csv; default: by suffix.")] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Whose maps, with --maps; default: the adopted.")
    ] = None,
    *,
    maps: Annotated[
        bool, typer.Option("--maps", help="Write the maps of a model's kept answer instead of labels.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write labels: GeoJSON for QuPath, or CSV. With --maps every map of a model's answer, tile by tile."""
    if maps and slide is None:
        raise MILError("Maps are of one slide; say which with --slide NAME.")
    if model is not None and not maps:
        raise MILError("--model belongs to --maps; labels are what people said.")
    with opened(project) as p:
        if maps:
            from napari_mil.workflow import export_maps_steps, find_record

            record = find_record(p, slide or "")
            steps = export_maps_steps(p, record, path, model=model, format=format)
            show(steps, as_json=as_json, slide=record.name)
            file = str(path)
        else:
            file = str(p.export(path, slide=slide, format=format))
    print(json.dumps({"result": {"file": file}}) if as_json else f"Wrote {file}.")
