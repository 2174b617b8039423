"""napari-mil: multiple-instance learning on whole-slide images, explained, corrected and retrained in one
program.

Glossary: *slide* the image on disk; *level* one resolution of it; *tile* the square a network sees; *cell*
its (row, col) on the lattice; *grid* the lattice and its tissue cells; *bag* one feature vector per tile;
*node* a label at any depth of the label tree; *map* one value per tile; *event* one thing a person said;
*correction* the event that states a label for a place; *method* an algorithm; *model* a trained instance of a
method, with its card; *case* what carries the label.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from napari_mil import masks, methods
    from napari_mil.slides import open_slide
    from napari_mil.workflow import Project

_PUBLIC = {
    "open_slide": ("napari_mil.slides", "open_slide"),
    "Project": ("napari_mil.workflow", "Project"),
    "masks": ("napari_mil.masks", None),
    "methods": ("napari_mil.methods", None),
}
__all__ = ["Project", "__version__", "masks", "methods", "open_slide"]


def __getattr__(name: str) -> Any:
    """Import the public names when they are first used: the package itself imports nothing heavy."""
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _PUBLIC[name]
    found = importlib.import_module(module)
    return getattr(found, attribute) if attribute else found
