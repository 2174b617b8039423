"""The registry of methods: the files of this folder, and entry points of the group `napari_mil.methods`.

A file here, or an entry point, brings one or more subclasses of MILModel; nothing else has to be changed.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from napari_mil.errors import ModelError, reason
from napari_mil.labeltree import LabelTree
from napari_mil.mil import MILModel, Preset
from napari_mil.options import build, expect

GROUP = "napari_mil.methods"


def names() -> tuple[str, ...]:
    """Names of all methods: our own first, then those of other packages."""
    return (*_own(), *(n for n in _foreign() if n not in _own()))


def get(name: str) -> type[MILModel]:
    """The class of a method; ModelError naming the methods there are."""
    if isinstance(name, str) and name in _own():
        return _own()[name]
    if not isinstance(name, str) or name not in _foreign():
        raise ModelError(f"There is no method {name!r}; there are {', '.join(names())}.")
    try:
        kind = _foreign()[name].load()
    except Exception as error:
        raise ModelError(f"Method {name!r} of another package does not load: {reason(error)}.") from error
    if not (inspect.isclass(kind) and issubclass(kind, MILModel)):
        raise ModelError(f"Method {name!r} of another package is no MILModel; ask its author.")
    return kind


def about(name: str) -> str:
    """What a method does, in a sentence or two."""
    return " ".join((inspect.getdoc(get(name)) or "").split("\n\n")[0].split())


def presets(name: str) -> Mapping[str, Preset]:
    """The settings of the papers that a method knows, by name."""
    return get(name).presets


def preset(name: str, which: str) -> Preset:
    """One of `presets`; ModelError naming those there are."""
    known = presets(name)
    if which not in known:
        names = ", ".join(known) or "none"
        raise ModelError(f"{name} has no preset {which!r}; its presets are {names}.")
    return known[which]


def create(
    name: str, config: Mapping[str, Any] | Any = None, *, in_features: int, tree: LabelTree
) -> MILModel:
    """A new, randomly initialised model of a method.

    Parameters
    ----------
    name : a name of `names()`
    config : the method's Config, a mapping of its fields, or None for the defaults; an unknown key or a value
        outside its bounds is a ModelError
    in_features : D, numbers per tile
    tree : labels to answer with
    """
    kind = get(name)
    expect(f"{name}: in_features", in_features, int)
    expect(f"{name}: tree", tree, LabelTree, "a LabelTree, or a Survival task")
    return kind(build(kind.Config, config, name), in_features, tree)


@cache
def _own() -> dict[str, type[MILModel]]:
    """Our own methods by name, file by file in alphabetical order."""
    found: dict[str, type[MILModel]] = {}
    for file in sorted(m.name for m in pkgutil.iter_modules(__path__)):
        module = importlib.import_module(f"{__name__}.{file}")
        for kind in vars(module).values():
            mine = inspect.isclass(kind) and issubclass(kind, MILModel) and kind.__module__ == module.__name__
            if mine and not inspect.isabstract(kind):
                found[kind.name] = kind
    return found


@cache
def _foreign() -> dict[str, EntryPoint]:
    """Entry points by name; loaded only when they are asked for."""
    return {e.name: e for e in entry_points(group=GROUP)}
