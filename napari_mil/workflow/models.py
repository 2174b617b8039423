"""Models between the project's bytes and torch."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import TYPE_CHECKING

from napari_mil.card import ModelCard
from napari_mil.errors import ModelError, reason

if TYPE_CHECKING:
    from pathlib import Path

    from napari_mil.mil import MILModel
    from napari_mil.workflow.project import Project


def load_model(card: ModelCard, weights: bytes) -> MILModel:
    """The model of a card and its safetensors bytes, in evaluation mode; ModelError when they do not belong
    together.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    from napari_mil import methods

    model = methods.create(card.method, card.config, in_features=card.in_features, tree=card.tree)
    try:
        state = {key: value.to(torch.float32) for key, value in load(weights).items()}
        model.load_state_dict(state)
    except (SafetensorError, RuntimeError) as error:
        raise ModelError(
            f"The weights of {card.name} do not fit its card ({reason(error)}); "
            "take the model from its source again."
        ) from error
    return model.eval()


def weight_bytes(model: MILModel, *, half: bool = False) -> bytes:
    """The model's state as safetensors bytes, float32, or float16 for models that travel."""
    import torch
    from safetensors.torch import save

    state = model.state_dict()
    cast = {k: v.detach().cpu().contiguous().to(torch.float16 if half else v.dtype) for k, v in state.items()}
    return bytes(save(cast))


def model_id(weights: bytes, method: str) -> str:
    """Content id of a model: its method and the hash of its weights."""
    return f"{method}-{hashlib.sha256(weights).hexdigest()[:12]}"


def import_model(
    project: Project,
    path: Path,
    *,
    encoder: str | None = None,
    tile_px: int = 256,
    mpp: float | None = 0.5,
) -> ModelCard:
    """Take a published checkpoint into the project; what the file does not say is marked as assumed on its
    card.

    Parameters
    ----------
    path : PyTorch file (read as weights only) or safetensors, of a layout that `methods.official` knows
    encoder : id of the encoder whose features it reads; None: unknown, so that it answers for no bag yet
    tile_px, mpp : the tiles it was trained on

    Raises
    ------
    ModelError : a file that holds code, is damaged, of another layout, or of other classes than the
        project's tree
    """
    from napari_mil.methods import official

    model = official.load(path, tree=project.tree)
    weights = weight_bytes(model)
    said = () if encoder else ("which encoder made the features it reads",)
    card = ModelCard(
        id=model_id(weights, model.name),
        name=path.stem,
        method=model.name,
        config=dataclasses.asdict(model.config),
        encoder=encoder or "unknown",
        in_features=model.in_features,
        tile_px=tile_px,
        mpp=mpp,
        tree=project.tree,
        assumed=(*model.assumed, f"tiles of {tile_px} px at {mpp} µm/px", "the order of the classes", *said),
        note=f"imported from {path.name}",
    )
    project.store.save_model(card, weights)
    return card
