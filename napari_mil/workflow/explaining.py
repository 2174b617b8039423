"""A table of a slide's tiles: all that a method says of each, and why."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_mil.errors import ModelError
from napari_mil.interop.cells import cells
from napari_mil.interop.files import check_place, text_to
from napari_mil.labeltree import class_names, level_names
from napari_mil.ledger import SlideRecord
from napari_mil.steps import Progress, Steps
from napari_mil.workflow.analyse import slide_bag_steps
from napari_mil.workflow.project import Project, current_card, find_card

if TYPE_CHECKING:
    from napari_mil.bag import Bag
    from napari_mil.card import ModelCard
    from napari_mil.mil import MILModel


def explain_steps(
    project: Project,
    record: SlideRecord,
    *,
    model: str | None = None,
    mode: str = "clean",
    seed: int = 0,
    progress: float | None = None,
) -> Steps[dict[str, NDArray[Any]]]:
    """What a model says of every tile of a slide, as columns {name: (N,)}.

    First index, row, col, then y0_px, x0_px, pitch_y_px and pitch_x_px in level-0 pixels, then the columns of
    `MILModel.explain`; one with a number per class has a column for each, `attention/fine/ADH`.

    Parameters
    ----------
    model : name or id; None: the adopted one
    mode, seed : as of `MILModel.explain`; the same give the same table
    progress : the share of the training, in [0, 1], at which tiles are hidden where that follows a schedule;
        None: its begin

    ModelError when the project has no such model, the model has no such mode, hides no tiles whose share a
    progress would tell, or does not fit the tiles.
    """
    from napari_mil.blocks import HidesTiles
    from napari_mil.device import memory_guard

    card = asked_card(project, model)
    network = project.model(card.id)
    if mode not in network.modes:
        raise ModelError(f"{network.name} has no mode {mode!r}; choose one of: {', '.join(network.modes)}.")
    when: dict[str, float] = {} if progress is None else {"progress": progress}
    if when and not (isinstance(network, HidesTiles) and network.has_teacher()):
        raise ModelError(f"{card.name} hides no tiles, so there is no progress of a training to explain.")
    if when and not 0 <= when["progress"] <= 1:
        raise ModelError(f"progress is {progress}; it is the share of a training and must lie in [0, 1].")
    bag = yield from slide_bag_steps(project, record, encoder=card.encoder)
    card.check(bag)
    yield Progress("explaining", 0, 1)
    with memory_guard(f"the table of {len(bag)} tiles"):
        said = network.explain(bag, seed=seed, mode=mode, **when)
    yield Progress("explaining", 1, 1)
    return dict(_columns(said, bag, network))


def explain_table_steps(
    project: Project,
    record: SlideRecord,
    path: Path,
    *,
    model: str | None = None,
    mode: str = "clean",
    seed: int = 0,
    progress: float | None = None,
) -> Steps[dict[str, NDArray[Any]]]:
    """`explain_steps`, as a CSV file with one row per tile; the columns that it has. A place that cannot be
    written is a ProjectError before any work is done.
    """
    check_place(path)
    columns = yield from explain_steps(project, record, model=model, mode=mode, seed=seed, progress=progress)
    write_columns(path, columns)
    return columns


def asked_card(project: Project, model: str | None) -> ModelCard:
    """The card of a model by name or id, or for None of the adopted one; ModelError when there is none."""
    card = current_card(project) if model is None else find_card(project, model)
    if card is None:
        raise ModelError(f"{project.path.name} has no model that could be asked; train or import one first.")
    return card


def write_columns(path: Path, columns: Mapping[str, NDArray[Any]]) -> None:
    """Columns (N,) as a CSV file, one row per tile, written whole or not at all; ProjectError when it cannot
    be written.
    """
    texts = [_texts(values) for values in columns.values()]
    with text_to(path) as stream:
        table = csv.writer(stream)
        table.writerow(cells(columns))
        table.writerows(zip(*texts, strict=True))


def _texts(values: NDArray[Any]) -> list[str]:
    """Numbers as text: real ones as short as gives them back, masks as 0 and 1; texts as cells hold them."""
    plain = values.astype(np.uint8) if values.dtype == np.bool_ else values
    found: list[str] = plain.astype(str).tolist()
    return found if plain.dtype.kind in "iuf" else cells(found)


def _columns(
    said: Mapping[str, NDArray[Any]], bag: Bag, network: MILModel
) -> Iterator[tuple[str, NDArray[Any]]]:
    """The columns of a table, places first, those of several numbers taken apart."""
    for name in ("index", "row", "col"):
        yield name, said[name]
    corners, pitch = bag.grid.boxes_px[:, :2], bag.grid.pitch_px
    for axis, letter in enumerate("yx"):
        yield f"{letter}0_px", corners[:, axis]
    for axis, letter in enumerate("yx"):
        yield f"pitch_{letter}_px", np.full(len(bag), pitch[axis])
    for name, values in said.items():
        if values.ndim == 1 and name not in ("index", "row", "col"):
            yield name, values
        elif values.ndim > 1:
            parts = _parts(network, name, values.shape[1])
            yield from ((f"{name}/{part}", values[:, k]) for k, part in enumerate(parts))


def _parts(network: MILModel, name: str, width: int) -> list[str]:
    """What the numbers of a column are of: the classes, unless the method says otherwise."""
    other = network.parts.get(name, "")
    tree = network.tree
    if other or width != network.classes:
        return [f"{other or 'number'} {k}" for k in range(width)]
    return [f"{level_names(tree)[-1]}/{label}" for label in class_names(tree, tree.levels - 1)]
