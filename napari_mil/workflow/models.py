"""Models between the project's bytes and torch."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from napari_mil.card import ModelCard
from napari_mil.errors import ModelError, reason
from napari_mil.workflow.comparing import held_out
from napari_mil.workflow.figures import figure_words, figures_in, held_out_cases, stands_on, told_value

if TYPE_CHECKING:
    from napari_mil.mil import MILModel
    from napari_mil.workflow.project import Project

#: what is said of an option that the other method has
NO_OPTION = "no such option"
#: fields of a card that tell one model from another
ABOUT = ("method", "encoder", "in_features", "tile_px", "mpp", "parent", "calibrated", "assumed", "note")


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


def compare_cards(
    one: ModelCard, other: ModelCard, project: Project | None = None
) -> tuple[tuple[str, str, str], ...]:
    """(what, of one, of the other) where two cards differ, and all their held-out figures; where their
    project is given, with the cases that each stands on.
    """
    about = [(what, getattr(one, what), getattr(other, what)) for what in ABOUT]
    about += [("classes", _leaves(one), _leaves(other))]
    for kind in ("config", "recipe"):
        a, b = (_options(card, kind) for card in (one, other))
        about += [(key, a.get(key, NO_OPTION), b.get(key, NO_OPTION)) for key in dict.fromkeys([*a, *b])]
    rows = [(what, _said(a), _said(b)) for what, a, b in about if a != b]
    figures = figures_in({**one.metrics, **other.metrics})
    held = held_out(one), held_out(other)
    if figures and held[0] != held[1]:
        mine, its = (f"{len(h)}, {len(held[0] & held[1])} of them the other's too" for h in held)
        rows.append(("held-out slides", mine, its))
    on = [(None, None) if project is None else held_out_cases(project, card) for card in (one, other)]
    rows += [(key, _figure(key, one, *on[0]), _figure(key, other, *on[1])) for key in figures]
    return tuple(rows)


def _leaves(card: ModelCard) -> str:
    return ", ".join(card.tree.path(leaf) for leaf in card.tree.leaves)


def _options(card: ModelCard, kind: str) -> dict[str, Any]:
    """Its config or recipe; the recipe of a model that was trained elsewhere is told by no file."""
    value = getattr(card, kind)
    told = dict(value) if isinstance(value, Mapping) else dataclasses.asdict(value)
    foreign = kind == "recipe" and not (card.made_with or card.slides)
    return dict.fromkeys(told, "not told") if foreign else told


def _said(value: Any) -> str:
    return "none" if value is None else str(value)


def _figure(key: str, card: ModelCard, cases: int | None, validation: int | None) -> str:
    """A figure, with the cases that it stands on where that is known."""
    if key not in card.metrics:
        return "none"
    on = stands_on(key, card.metrics, cases, validation)
    return figure_words(told_value(key, card.metrics[key]), on)
