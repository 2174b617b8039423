"""The encoders of a project: those that need no weights, and those whose weights the project keeps."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from napari_mil.bag import encoder_of
from napari_mil.errors import ModelError, ProjectError
from napari_mil.store.encoders import kept_encoders, save_encoder

if TYPE_CHECKING:
    from napari_mil.encoders import Encoder
    from napari_mil.workflow.project import Project

#: the encoder on the card of a model of which nobody said what it reads
UNKNOWN = "unknown"


def add_encoder(project: Project, name: str, weights: Path) -> Encoder:
    """The encoder of a file of weights, which the project keeps: nobody needs the file again.

    ModelError when there is no such encoder, or the weights do not fit it.
    """
    from napari_mil.encoders import create

    return keep_encoder(project, create(name, weights=weights))


def keep_encoder(project: Project, made: Encoder) -> Encoder:
    """Keep the weights of an encoder, where it has any, in the project; the same encoder."""
    kept = made.weights()
    if kept is not None:
        save_encoder(project.path, made.id, kept)
    return made


def encoder_inside(checkpoint: Path) -> Encoder | None:
    """The encoder whose weights a checkpoint holds beside those of its model, or None; ModelError when they
    do not fit it.
    """
    import torch

    from napari_mil.encoders import create
    from napari_mil.methods import official

    if official.describe(checkpoint).encoder is None:
        return None
    name, weights = official.encoder_weights(checkpoint)
    with TemporaryDirectory() as folder:
        alone = Path(folder) / checkpoint.name
        torch.save(weights, alone)
        return create(name, weights=alone)


def find_encoder(project: Project, which: str) -> Encoder:
    """The encoder of a name or an id, such as a bag or a card carries.

    ModelError when there is none, when its weights are not in the project, or when the project keeps several
    of that name.
    """
    return encoder_in(project.path, which)


def encoder_in(folder: Path, which: str) -> Encoder:
    """`find_encoder` in the project at `folder`, which need not be there yet: then nothing is kept."""
    from napari_mil.encoders import create, name_of, needs_weights

    if which == UNKNOWN:
        raise ModelError(
            f"There is no encoder {UNKNOWN!r}: so says the card of a model of which nobody knew what it "
            "reads. It answers for no slide; take its checkpoint in again and say which encoder it reads (on "
            "the command line --encoder NAME)."
        )
    which = encoder_of(which)
    name, kept = name_of(which), kept_encoders(folder)
    if which in kept:
        return _loaded(which, name, kept[which])
    if not needs_weights(name):
        return create(name)
    mine = [one for one in kept if name_of(one) == name]
    if which != name:
        raise ModelError(
            f"The weights of {which} are not in {folder.name}, which keeps "
            f"{', '.join(mine) or 'none'} of this kind; give their file once with "
            f"`napari-mil embed --encoder {name} --encoder-weights FILE`."
        )
    if len(mine) > 1:
        raise ModelError(
            f"{folder.name} keeps several encoders {name}; say which of them: {', '.join(mine)}."
        )
    return _loaded(mine[0], name, kept[mine[0]]) if mine else create(name)


@lru_cache(maxsize=2)
def _loaded(encoder: str, name: str, file: Path) -> Encoder:
    """The encoder of kept weights, whose id is their content; a few stay in memory from slide to slide."""
    from napari_mil.encoders import create

    made = create(name, weights=file)
    if made.id != encoder:
        raise ProjectError(
            f"The weights kept as {encoder} are now {made.id}: {file} was changed; restore it from a backup, "
            "or delete it and give the file of weights again."
        )
    return made
