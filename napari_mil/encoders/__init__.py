"""Encoders: image to vector. The folder is the registry: a module in it with an Encoder subclass is one."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from pathlib import Path

from napari_mil.encoders.encoder import Encoder
from napari_mil.errors import ModelError

__all__ = ["Encoder", "create", "name_of", "names", "needs_weights", "tiles_of"]


def _classes() -> dict[str, type[Encoder]]:
    """{name: class} of every Encoder with a name of its own that is defined in this folder."""
    found: dict[str, type[Encoder]] = {}
    for module in sorted(m.name for m in pkgutil.iter_modules(__path__)):
        loaded = importlib.import_module(f"{__name__}.{module}")
        for _, kind in inspect.getmembers(loaded, inspect.isclass):
            if issubclass(kind, Encoder) and kind.__module__ == loaded.__name__ and "name" in vars(kind):
                found[kind.name] = kind
    return found


def names() -> tuple[str, ...]:
    """The encoders that can be created, in alphabetical order."""
    return tuple(sorted(_classes()))


def name_of(encoder: str) -> str:
    """The registry's name in an encoder's name or id: "builtin" of "builtin-1"."""
    return encoder if encoder in _classes() else encoder.rsplit("-", 1)[0]


def needs_weights(name: str) -> bool:
    """Whether an encoder is made from a file of weights; ModelError naming the known encoders."""
    return _kind(name).needs_weights


def tiles_of(name: str) -> tuple[int, float]:
    """Side in pixels and µm per pixel of the tiles that an encoder is made for; ModelError naming the known
    encoders.
    """
    kind = _kind(name)
    return kind.tile_px, kind.mpp


def create(name: str = "builtin", *, weights: Path | None = None) -> Encoder:
    """The encoder of that name.

    Parameters
    ----------
    name : one of `names()`
    weights : the file that a trained network is made from (safetensors, or a PyTorch state dict)

    Raises
    ------
    ModelError
        No encoder has the name, the weights are missing or do not fit it, or it takes none.
    """
    kind = _kind(name)
    if weights is not None:
        return kind.from_weights(weights)
    if kind.needs_weights:
        raise ModelError(
            f"The encoder {name} needs weights, which napari-mil does not bring along; give their file once "
            "with --encoder-weights FILE: safetensors, or a state dict saved by PyTorch."
        )
    return kind()


def _kind(name: str) -> type[Encoder]:
    known = _classes()
    if name not in known:
        raise ModelError(f"There is no encoder {name!r}; choose one of: {', '.join(sorted(known))}.")
    return known[name]
