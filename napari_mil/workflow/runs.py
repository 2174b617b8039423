"""What a training leaves in a project besides its model: logs while it runs, recordings for replay.

::

    runs/<name>/history.csv                   one row per epoch, while it goes on
    runs/<name>/events.out.tfevents.*         the same for TensorBoard, where asked
    runs/<name>/*.ckpt                        what a killed run goes on from; removed when it is done
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from napari_mil.card import ModelCard, Recipe
from napari_mil.errors import ModelError
from napari_mil.store.disk import name_of
from napari_mil.workflow.project import Project, find_card, find_record

if TYPE_CHECKING:
    from napari_mil.train.recording import Recording


def run_folder(project: Project, name: str) -> Path:
    """The folder of a run's log and checkpoint; made when missing."""
    folder = project.path / "runs" / name_of(name)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def clear_checkpoints(folder: Path) -> None:
    """Remove what a run that is done, or was given up for other options, could go on from."""
    for left in folder.glob("*.ckpt"):
        left.unlink()


def with_recorded_ids(project: Project, recipe: Recipe) -> Recipe:
    """The recipe with the slides to record by id; cases stay as they are. ProjectError on an unknown name."""
    cases = {record.case for record in project.slides}
    ids = (name if name in cases else find_record(project, name).id for name in recipe.record)
    return dataclasses.replace(recipe, record=tuple(dict.fromkeys(ids)))


def has_recording(project: Project, card: ModelCard) -> bool:
    """Whether the training of a model was recorded."""
    return "recording.safetensors" in project.store.model_files(card.id)


def recordings(project: Project, model: str) -> dict[str, Recording]:
    """What was recorded while a model was trained, by slide id; ModelError when nothing was."""
    from napari_mil.train import recording

    card = find_card(project, model)
    if not has_recording(project, card):
        raise ModelError(
            f"The training of {card.name} was not recorded; train it with `--record SLIDE` to replay it."
        )
    return recording.load(project.store.model_bytes(card.id, recording.FILE))
