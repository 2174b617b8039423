"""Slides that napari opens: beside others, in one unit, and from servers without waiting for them."""

from __future__ import annotations

from functools import partial
from typing import Any

from napari_mil.errors import MILError
from napari_mil.slides import Slide, copies, open_slide, overview
from napari_mil.slides.address import Address, SlidePath
from napari_mil.ui import compat, reader
from napari_mil.ui.dialogs import AddressDialog, MppDialog
from napari_mil.ui.fetching import CopyBar
from napari_mil.ui.front import GAP
from napari_mil.ui.job import NO_ANSWER_S, AskLane
from napari_mil.ui.layers import OPENED, OURS, opened_path, slide_layer
from napari_mil.ui.pixelsize import fingerprint_of, keep_said, show_in_um

AFTER = (
    "Slides lie side by side only when this is known of each. Your answer is kept; Cancel does not open "
    "the new one."
)
LOOKED = "{} has one large level alone and is looked through once; the window goes on meanwhile."
LANE = "slides from servers"
FETCHED = "{} is being opened from {}; the window goes on meanwhile."


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
    """Open what lies on a server in a thread; ask for the size of a pixel when a slide in µm and one in
    pixels would share a window.

    Returns False for a slide of this machine that is simply shown.
    """
    viewer = compat.current_viewer()
    if viewer is None:
        return False
    if isinstance(path, Address):
        compat.tell(FETCHED.format(path.name, path.server))
        arrived, lane = partial(_arrived, viewer), _lane(viewer)
        bar = CopyBar(compat.main_window(viewer), lane)
        lane.ask(str(path), lambda: _opened(path, bar), arrived, unwanted=lambda slide: slide.close())
        return True
    if not _others(viewer):
        return False
    slide = open_slide(path)
    if _asked(viewer, slide):
        return True
    slide.close()
    return False


def look_through(slide: Slide) -> bool:
    """Show a slide later whose file has no small level: that is computed in a thread. False for others."""
    viewer = compat.current_viewer()
    if viewer is None or not overview.needed(slide):
        return False
    compat.tell(LOOKED.format(slide.name))
    arrived = partial(_arrived, viewer)
    _lane(viewer).ask(
        str(slide.path), lambda: overview.prepare(slide), arrived, unwanted=lambda found: found.close()
    )
    return True


def show(viewer: Any, path: SlidePath) -> None:
    """Open whatever is said to be a slide, which napari's own suffixes do not know of all; what is none is
    told.
    """
    from napari.layers import Layer

    try:
        for data, *others in reader.read(path):
            if data is not None:
                viewer.add_layer(Layer.create(data, *others))
    except MILError as error:
        compat.tell(error)


def ask_address(viewer: Any = None) -> AddressDialog:
    """Ask for the address of a slide on a server, and open it."""
    viewer = compat.plain(viewer) if viewer is not None else compat.current_viewer()
    dialog = AddressDialog(compat.main_window(viewer))
    dialog.accepted.connect(lambda: any(take(dialog.value()) for take in tuple(reader.TAKERS)))
    dialog.open()
    return dialog


def _lane(viewer: Any) -> AskLane:
    """The window's thread for slides on servers; it ends with the window, which waits for no server."""
    window = compat.main_window(viewer)
    lane = window.findChild(AskLane, LANE)
    if lane is None:
        lane = AskLane(window, f"napari-mil {LANE}")
        lane.setObjectName(LANE)
        compat.when_closing(viewer, lambda: lane.close(NO_ANSWER_S))
    return lane


def _opened(address: Address, bar: CopyBar) -> Slide:
    """The slide, with everything known that the window would else ask the server for."""
    try:
        with copies.heard(bar.hear):
            slide = open_slide(address)
        assert slide.fingerprint  # noqa: S101 - it is kept
        return overview.prepare(slide)
    finally:
        bar.end()


def _arrived(viewer: Any, slide: Slide) -> None:
    if not compat.is_open(viewer):
        slide.close()
    elif not _asked(viewer, slide):
        _show(viewer, slide, [], None)


def _others(viewer: Any) -> list[Any]:
    return [layer for layer in viewer.layers if "path" in layer.metadata.get(OURS, {})]


def _asked(viewer: Any, slide: Slide) -> bool:
    """Ask for the size of a pixel where slides would not fit together; False where they do."""
    there = _others(viewer)
    unknown = [layer for layer in there if str(layer.units[-1]) == "pixel"]
    if not there or bool(unknown) == (slide.mpp is None):
        return False
    names = [layer.name for layer in unknown] or [slide.name]
    dialog = MppDialog(names, compat.main_window(viewer), after=AFTER)
    dialog.accepted.connect(lambda: _show(viewer, slide, unknown, dialog.value()))
    dialog.rejected.connect(slide.close)
    dialog.open()
    return True


def _show(viewer: Any, slide: Slide, unknown: list[Any], mpp: float | None) -> None:
    """Put what was in pixels into µm, then add the slide."""
    placed = slide
    if mpp is not None:
        show_in_um(viewer, unknown, mpp)
        placed = slide if slide.mpp else slide.with_mpp(mpp)
        keep_said([fingerprint_of(layer) for layer in unknown] or [slide.fingerprint], mpp)
    levels, options, _ = slide_layer(placed, key=OPENED)
    viewer.add_image(levels, **options)
