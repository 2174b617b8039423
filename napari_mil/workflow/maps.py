"""The maps of a kept answer as a file of others: what a model says of every tile of a slide."""

from __future__ import annotations

from pathlib import Path

from napari_mil.correction import tile_nodes
from napari_mil.errors import ModelError
from napari_mil.interop import csv_labels, geojson
from napari_mil.ledger import SlideRecord
from napari_mil.prediction import Prediction
from napari_mil.steps import Steps
from napari_mil.workflow.analyse import kept_grid
from napari_mil.workflow.explaining import asked_card
from napari_mil.workflow.labels import file_kind
from napari_mil.workflow.project import Project


def export_maps_steps(
    project: Project, record: SlideRecord, path: Path, *, model: str | None = None, format: str | None = None
) -> Steps[Prediction]:
    """Write every map of the answer that the project keeps for a slide: as GeoJSON tiles with a measurement
    per map, or as a CSV table of tiles with a column per map and the labels that people gave. Returns the
    answer.

    Parameters
    ----------
    model : name or id; None: the adopted one
    format : geojson or csv; None: by suffix

    Yields Progress of the stage "writing"; the file is written whole or not at all.

    Raises
    ------
    LabelError : another suffix or format
    ModelError : no such model, or one that has not answered for the slide
    ProjectError : the file cannot be written
    """
    kind, card = file_kind(path, format, "maps"), asked_card(project, model)
    grid = kept_grid(project, record, encoder=card.encoder)
    answer = None if grid is None else project.store.load_prediction(record.id, grid.id, card.id)
    if grid is None or answer is None:
        raise ModelError(
            f"{card.name} has not answered for {record.name} yet, so there are no maps; ask it first, with "
            "`napari-mil predict` or Run."
        )
    tree = project.tree
    if kind == "geojson":
        slide = project.slide(record)
        yield from geojson.write_steps(path, slide, [], tree, grid=grid, prediction=answer)
    else:
        nodes = tile_nodes(project.ledger.corrections(record.id), grid, tree)
        yield from csv_labels.write_tiles_steps(path, record.id, grid, nodes, tree, prediction=answer)
    return answer
