"""Slides that napari opens beside others: everything in a window is measured in one unit."""

from __future__ import annotations

from typing import Any

from napari_mil.slides import Slide, open_slide
from napari_mil.slides.address import SlidePath
from napari_mil.ui import compat
from napari_mil.ui.dialogs import MppDialog
from napari_mil.ui.layers import GAP, OPENED, OURS, opened_path, slide_layer

AFTER = "Slides lie side by side only when this is known of each. Cancel does not open the new one."


def lie_beside(viewer: Any, layer: Any) -> None:
    """Put a slide that napari opened to the right of those before it, so that both are seen."""
    if opened_path(layer) is None or any(layer.translate):
        return
    before = viewer.layers[: viewer.layers.index(layer)]
    there = [one for one in before if opened_path(one) is not None]
    if there:
        left = max(one.translate[-1] + one.scale[-1] * one.data[0].shape[1] * GAP for one in there)
        layer.translate = (0.0, left)


def take(path: SlidePath) -> bool:
    """Ask for the size of a pixel when a slide in µm and one in pixels would share a window.

    Returns False when they fit together, and when there is no other slide: the slide is simply shown.
    """
    viewer = compat.current_viewer()
    there = [layer for layer in viewer.layers if "path" in layer.metadata.get(OURS, {})] if viewer else []
    if not there:
        return False
    slide = open_slide(path)
    unknown = [layer for layer in there if str(layer.units[-1]) == "pixel"]
    if bool(unknown) == (slide.mpp is None):
        slide.close()
        return False
    names = [layer.name for layer in unknown] or [slide.name]
    dialog = MppDialog(names, compat.main_window(viewer), after=AFTER)
    dialog.accepted.connect(lambda: _show(viewer, slide, unknown, dialog.value()))
    dialog.rejected.connect(slide.close)
    dialog.open()
    return True


def _show(viewer: Any, slide: Slide, unknown: list[Any], mpp: float) -> None:
    """Put what was in pixels into µm, then add the slide."""
    for layer in unknown:
        layer.scale, layer.units = (mpp, mpp), ("um", "um")
    levels, options, _ = slide_layer(slide if slide.mpp else slide.with_mpp(mpp), key=OPENED)
    viewer.add_image(levels, **options)
