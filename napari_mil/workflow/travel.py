"""Models that travel between projects: a folder with a card and its weights."""

from __future__ import annotations

import json
from pathlib import Path

from napari_mil.card import ModelCard
from napari_mil.errors import ModelError
from napari_mil.labeltree import LabelTree, Survival
from napari_mil.store import WEIGHTS
from napari_mil.store.disk import checked
from napari_mil.workflow.models import load_model
from napari_mil.workflow.project import Project

CARD = "card.json"


def model_folder(path: Path) -> Path | None:
    """The folder of a model that is meant by the folder itself, its card or its weights; None when `path` is
    something else.
    """
    folder = path if path.is_dir() else path.parent
    meant = path.is_dir() or path.name in (CARD, WEIGHTS)
    return folder if meant and (folder / CARD).is_file() and (folder / WEIGHTS).is_file() else None


def read_card(folder: Path) -> ModelCard:
    """The card in a model's folder; ModelError when it cannot be read."""
    try:
        return ModelCard.from_json((folder / CARD).read_bytes())
    except OSError as error:
        raise ModelError(f"The card {folder / CARD} cannot be read ({error.strerror}).") from error


def take_model(project: Project, folder: Path) -> ModelCard:
    """Take a model as it is: id, card, weights and what else was kept with it; it answers as where it comes
    from.

    ModelError when its card or weights are damaged or do not belong together, or when it answers with labels
    that are not the project's; ProjectError when the project has another model of that id.
    """
    card = read_card(folder)
    if not isinstance(card.tree, Survival) and not _alike(card.tree, project.tree):
        theirs, ours = (", ".join(t.path(leaf) for leaf in t.leaves) for t in (card.tree, project.tree))
        raise ModelError(
            f"{card.name} answers with {theirs}, the labels of {project.path.name} are {ours}; take it into "
            "a project with its labels."
        )
    files = _files(folder)
    load_model(card, files[WEIGHTS])
    extra = {name: data for name, data in files.items() if name not in (CARD, WEIGHTS)}
    project.store.save_model(card, files[WEIGHTS], extra=extra)
    return card


def _alike(one: LabelTree, other: LabelTree) -> bool:
    """Whether two trees have the same labels in the same order; colours are a matter of taste."""
    return (one.names, one.parent, one.normal) == (other.names, other.parent, other.normal)


def _files(folder: Path) -> dict[str, bytes]:
    """The model's files; those of a project are held against their checksums."""
    try:
        if not (folder / "checksums.json").is_file():
            return {WEIGHTS: (folder / WEIGHTS).read_bytes()}
        names = json.loads((folder / "checksums.json").read_bytes())
        return {Path(name).name: checked(folder, Path(name).name) for name in names}
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ModelError(
            f"The model in {folder} is damaged ({error}); take it from its source again."
        ) from error
