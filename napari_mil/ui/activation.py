"""What happens when napari first uses the plugin, with the workbench or without."""

from __future__ import annotations

import gc
from functools import partial
from typing import Any

from napari_mil.ui import compat, opening, pixelsize, reader
from napari_mil.ui.slicing import place_levels

ATTENDED = "napari-mil attends"
_spared: set[int] = set()


def activate(_context: Any = None) -> None:
    """Called by npe2 when the plugin is first used: slides opened without the workbench are placed rightly
    too.
    """
    if opening.take not in reader.TAKERS:
        reader.TAKERS += [arrive, opening.take]
    if opening.look_through not in reader.LATER:
        reader.LATER.append(opening.look_through)
    follow_preferences()
    attend()


def arrive(_path: Any) -> bool:
    """A slide is about to be opened, perhaps in a window that is newer than the plugin's first use."""
    attend()
    return False


def attend() -> None:
    """Do for the window in front what its slides need; twice is once."""
    viewer = compat.current_viewer()
    if viewer is None or compat.main_window(viewer).property(ATTENDED):
        return
    compat.main_window(viewer).setProperty(ATTENDED, True)
    spare_the_window(viewer)
    compat.slice_before_painting(viewer)
    compat.watch_layers(viewer, place_levels)
    compat.watch_layers(viewer, partial(opening.lie_beside, viewer))
    compat.watch_layers(viewer, partial(pixelsize.ask_once, viewer))


def spare_the_window(viewer: Any) -> None:
    """Leave what is in memory by now out of garbage collection until the window goes: to look through all
    that napari and its libraries hold stops the window for a seventh of a second, again and again.
    """
    window = compat.main_window(viewer)
    _spared.add(id(window))
    gc.freeze()
    window.destroyed.connect(partial(_gone, id(window)))


def _gone(window: int) -> None:
    """With the last window garbage is looked for everywhere again."""
    _spared.discard(window)
    if not _spared:
        gc.unfreeze()


def follow_preferences() -> bool:
    """Give cache, sidecars and copies the size that the preferences say, now and whenever that changes.

    False where this napari has no preferences of plugins (before 0.9): the environment counts then.
    """
    from napari import settings

    from napari_mil.slides.cache import set_cache_mb
    from napari_mil.slides.copies import COPIES
    from napari_mil.slides.sidecar import SIDECARS

    if not hasattr(settings, "get_plugin_settings"):
        return False
    try:
        slides = settings.get_plugin_settings("napari-mil").slides
    except (KeyError, AttributeError):  # the plugin is not registered, as in a test
        return False
    set_cache_mb(slides.cache_mb)
    slides.events.cache_mb.connect(lambda event: set_cache_mb(event.value))
    for shelf, name in ((SIDECARS, "sidecar_gb"), (COPIES, "copies_gb")):
        said = getattr(slides, name)
        if said != shelf.default_gb:  # else the environment may say
            shelf.set_bound_gb(said)
        getattr(slides.events, name).connect(lambda event, shelf=shelf: shelf.set_bound_gb(event.value))
    return True
