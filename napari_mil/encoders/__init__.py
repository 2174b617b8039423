"""Encoders: image to vector. The folder is the registry: a module in it with an Encoder subclass is one."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

from napari_mil.encoders.encoder import Encoder
from napari_mil.errors import ModelError

__all__ = ["Encoder", "create", "names"]


def _classes() -> dict[str, type[Encoder]]:
    """{name: class} of every Encoder defined in this folder."""
    found: dict[str, type[Encoder]] = {}
    for module in sorted(m.name for m in pkgutil.iter_modules(__path__)):
        loaded = importlib.import_module(f"{__name__}.{module}")
        for _, kind in inspect.getmembers(loaded, inspect.isclass):
            if issubclass(kind, Encoder) and kind is not Encoder and kind.__module__ == loaded.__name__:
                found[kind.name] = kind
    return found


def names() -> tuple[str, ...]:
    """The encoders that can be created, in alphabetical order."""
    return tuple(sorted(_classes()))


def create(name: str = "builtin") -> Encoder:
    """The encoder of that name; ModelError naming the known ones when there is none."""
    known = _classes()
    if name not in known:
        raise ModelError(f"There is no encoder {name!r}; choose one of: {', '.join(sorted(known))}.")
    return known[name]()
