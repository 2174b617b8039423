"""How large a pixel is of slides that do not say it: asked once, kept for this person, changed, forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QDialogButtonBox

from napari_mil.errors import MILError
from napari_mil.slides.mpp import forget_mpp, say_mpp
from napari_mil.ui import compat
from napari_mil.ui.dialogs import MppDialog
from napari_mil.ui.front import Shown, front
from napari_mil.ui.layers import OURS, opened_path

KEPT = "Your answer is kept for whenever it is opened again. Cancel leaves it in pixels."
CHANGED = "Your answer takes the place of what you said before; a project keeps its own."
STATED = "{} says itself that a pixel is {:g} µm wide; that counts."
NO_SLIDE = "No slide is open; open one first."
FORGOTTEN = "What you said of {} is forgotten; you are asked again when it is opened."
NOTHING_SAID = "You have not said how large a pixel of {} is, so there is nothing to forget."
ASKS = "asks for µm per pixel"
#: Fingerprints of slides that were asked about since the program began.
_asked: set[str] = set()


def ask_once(viewer: Any, layer: Any) -> MppDialog | None:
    """Ask about a slide in pixels that comes to a window, once; it can be looked at meanwhile.

    Beside another that stays in pixels it is not asked for: they fit together.
    """
    window = compat.main_window(viewer)
    if not _in_pixels(layer) or not window.isVisible() or fingerprint_of(layer) in _asked:
        return None
    before = [one for one in window.findChildren(MppDialog, ASKS) if one.isVisible()]
    unknown = _unknown(viewer)
    if len(unknown) > 1 and not before:
        return None
    for dialog in before:  # the new one asks of all
        dialog.reject()
    _asked.add(fingerprint_of(layer))
    return _open(viewer, unknown, KEPT)


def ask(viewer: Any = None) -> MppDialog | None:
    """Ask for another size of a pixel of the slide in front, or to forget what was said."""
    viewer = compat.plain(viewer) if viewer is not None else compat.current_viewer()
    shown = None if viewer is None else front(viewer)
    if shown is None:
        compat.tell(NO_SLIDE)
        return None
    layer = shown.layer
    if shown.stated_mpp is not None:
        compat.tell(STATED.format(layer.name, shown.stated_mpp[1]))
        return None
    if opened_path(layer) is None:
        return _ask_project(viewer, shown)
    dialog = _open(viewer, [layer] if shown.in_um else _unknown(viewer), CHANGED)
    _fill(dialog, shown)
    box = dialog.findChild(QDialogButtonBox)
    away = box.addButton("Forget", QDialogButtonBox.ButtonRole.ResetRole)
    away.clicked.connect(partial(_forget, layer, dialog))
    return dialog


def fingerprint_of(layer: Any) -> str:
    """The fingerprint of the slide that a layer shows."""
    return str(layer.metadata[OURS]["slide"])


def keep_said(fingerprints: Sequence[str], mpp: float) -> None:
    """Keep what a person said; that it cannot be kept is told."""
    try:
        for one in fingerprints:
            say_mpp(one, mpp)
    except MILError as error:
        compat.tell(error)


def show_in_um(viewer: Any, layers: Sequence[Any], mpp: float) -> None:
    """Give slides that napari opened a pixel size; they lie side by side as before, and the view stays."""
    from napari_mil.ui.opening import lie_beside

    shown, camera = front(viewer), compat.camera(viewer)
    at = None if shown is None else (shown, shown.px(*camera.center[-2:]), camera.zoom * shown.scale[1])
    for layer in layers:
        layer.scale, layer.units = (mpp, mpp), ("um", "um")
    for layer in viewer.layers:
        if opened_path(layer) is not None:
            layer.translate = (0.0, 0.0)
            lie_beside(viewer, layer)
    if at is not None:
        camera.center = (*camera.center[:-2], *at[0].world(*at[1]))
        camera.zoom = at[2] / at[0].scale[1]


def _open(viewer: Any, layers: list[Any], after: str) -> MppDialog:
    dialog = MppDialog([layer.name for layer in layers], compat.main_window(viewer), after=after)
    dialog.setObjectName(ASKS)
    dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)

    def said() -> None:
        there = [layer for layer in layers if layer in viewer.layers]
        keep_said([fingerprint_of(layer) for layer in layers], dialog.value())
        show_in_um(viewer, there, dialog.value())

    def left() -> None:
        if not any(layer in viewer.layers for layer in layers):
            dialog.reject()

    end = compat.watch_removed(viewer, left)
    dialog.finished.connect(lambda _how: end())
    dialog.accepted.connect(said)
    dialog.show()
    return dialog


def _ask_project(viewer: Any, shown: Shown) -> MppDialog:
    """Ask about a slide of the project that is open in the workbench, which keeps the answer."""
    from napari_mil.ui.sections.slides import SlidesSection

    section = compat.main_window(viewer).findChild(SlidesSection)
    state = section.desk.state
    slides = [one for one in (state.slide, *state.beside) if one.fingerprint == shown.fingerprint]
    return _fill(section.ask_mpp(slides), shown)


def _fill(dialog: MppDialog, shown: Shown) -> MppDialog:
    """Begin with what is known."""
    if shown.in_um:
        dialog.field.setText(f"{shown.scale[1]:g}")
    return dialog


def _forget(layer: Any, dialog: MppDialog, _checked: bool = False) -> None:
    there = forget_mpp(fingerprint_of(layer))
    _asked.discard(fingerprint_of(layer))
    compat.tell((FORGOTTEN if there else NOTHING_SAID).format(layer.name))
    dialog.reject()


def _unknown(viewer: Any) -> list[Any]:
    """The slides that napari opened and that are shown in pixels."""
    return [layer for layer in viewer.layers if _in_pixels(layer)]


def _in_pixels(layer: Any) -> bool:
    return opened_path(layer) is not None and not Shown(layer).in_um
