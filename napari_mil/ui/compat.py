"""Every private or moved napari name that the window uses, each behind a function with a test."""

from __future__ import annotations

import contextlib
import io
import time
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
from qtpy.QtCore import QEvent, QObject, Qt, QTimer
from qtpy.QtGui import QKeySequence
from qtpy.QtWidgets import QMainWindow, QShortcut, QWidget

from napari_mil.errors import MILError

_BEFORE = "napari_mil_before"
#: A press that moved no further than this is a click.
STILL_PX = 4


def plain(viewer: Any) -> Any:
    """The viewer itself: napari hands plugins a proxy that hides its window, which dialogs and keys need."""
    return getattr(viewer, "__wrapped__", viewer)


def main_window(viewer: Any) -> QMainWindow:
    """The Qt main window of a viewer (dialogs get it as their parent, screenshots are taken of it)."""
    return viewer.window._qt_window


def is_open(viewer: Any) -> bool:
    """Whether a viewer still has its window."""
    try:
        return main_window(viewer).centralWidget() is not None
    except (RuntimeError, AttributeError):  # its C++ half is gone
        return False


def canvas_widget(viewer: Any) -> QWidget:
    """The Qt widget that the canvas is drawn on."""
    return main_window(viewer)._qt_viewer.canvas.native


def slice_before_painting(viewer: Any) -> None:
    """Let napari choose what its layers show of a moved view before it paints it; twice is once.

    It does so afterwards: it paints what the view before showed, and then all of it again.
    """
    canvas = main_window(viewer)._qt_viewer.canvas
    draw = canvas._scene_canvas.events.draw
    if _BEFORE in draw.callback_refs:
        return
    choose = weakref.WeakMethod(canvas.on_draw)

    def before(event: Any) -> None:
        act = choose()
        if act is not None:
            act(event)

    draw.connect(before, ref=_BEFORE, position="first")


def float_over_canvas(panel: QWidget, viewer: Any) -> None:
    """Give a panel that lies on the canvas the colours of the theme; its object's name is needed for that."""
    name, colours = panel.objectName(), theme_colours(viewer)
    panel.setStyleSheet(
        f"#{name} {{ background-color: {colours['background']}; border-radius: 4px; }}"
        f"#{name} QLabel {{ background-color: transparent; color: {colours['text']}; }}"
    )


def camera(viewer: Any) -> Any:
    """The camera; it moved from the viewer to its scene with napari 0.9."""
    scene = getattr(viewer, "scene", None)
    return scene.camera if scene is not None else viewer.camera


def canvas_size(viewer: Any) -> tuple[int, int]:
    """(height, width) of the canvas in screen pixels; `viewer.canvas` came with napari 0.9."""
    canvas = getattr(viewer, "canvas", None)
    return tuple(canvas.size if canvas is not None else viewer._canvas_size)  # type: ignore[return-value]


def visible_box(viewer: Any) -> tuple[float, float, float, float]:
    """y0, x0, y1, x1 of what the canvas shows, in world units."""
    height, width = canvas_size(viewer)
    centre, zoom = camera(viewer).center, max(camera(viewer).zoom, 1e-12)
    y, x = centre[-2], centre[-1]
    dy, dx = height / zoom / 2, width / zoom / 2
    return (y - dy, x - dx, y + dy, x + dx)


def show_scale_bar(viewer: Any) -> None:
    """Switch the scale bar on; it takes its unit from the layers."""
    canvas = getattr(viewer, "canvas", None)
    (canvas.overlays if canvas is not None else viewer).scale_bar.visible = True


def theme_colours(viewer: Any) -> dict[str, str]:
    """Background, foreground, text, highlight and so on of the viewer's theme, as "#rrggbb"."""
    from napari.utils.theme import get_theme

    theme = get_theme(viewer.theme)
    names = ("background", "foreground", "primary", "secondary", "highlight", "text", "warning", "current")
    colours = (getattr(theme, name).as_rgb_tuple(alpha=False) for name in names)  # as_hex differs by version
    return {name: "#{:02x}{:02x}{:02x}".format(*rgb) for name, rgb in zip(names, colours, strict=True)}


def watch_layers(viewer: Any, when_added: Callable[[Any], None]) -> Callable[[], None]:
    """Call `when_added(layer)` for every layer the viewer has or gets; returns what ends this."""

    def inserted(event: Any) -> None:
        when_added(event.value)

    for layer in viewer.layers:
        when_added(layer)
    viewer.layers.events.inserted.connect(inserted)
    return lambda: viewer.layers.events.inserted.disconnect(inserted)


def watch_removed(viewer: Any, when_removed: Callable[[], Any]) -> Callable[[], None]:
    """Call `when_removed()` after a layer went; returns what ends this."""

    def removed(_event: Any) -> None:
        when_removed()

    viewer.layers.events.removed.connect(removed)
    return lambda: viewer.layers.events.removed.disconnect(removed)


def watch_pointer(viewer: Any, when_moved: Callable[[], Any]) -> Callable[[], None]:
    """Call `when_moved()` when the pointer moves over the canvas; returns what ends this."""

    def moved(_viewer: Any, _event: Any) -> None:
        when_moved()

    viewer.mouse_move_callbacks.append(moved)
    return lambda: viewer.mouse_move_callbacks.remove(moved)


def watch_theme(viewer: Any, when_changed: Callable[[], None]) -> Callable[[], None]:
    """Call `when_changed()` when the viewer's theme changes; returns what ends this."""

    def changed(_event: Any) -> None:
        when_changed()

    viewer.events.theme.connect(changed)
    return lambda: viewer.events.theme.disconnect(changed)


def watch_camera(viewer: Any, when_changed: Callable[[], None]) -> Callable[[], None]:
    """Call `when_changed()` whenever the viewer's zoom or middle changes; returns what ends this."""
    events = (camera(viewer).events.zoom, camera(viewer).events.center)

    def changed(_event: Any) -> None:
        when_changed()

    for event in events:
        event.connect(changed)
    return lambda: [event.disconnect(changed) for event in events] and None


def current_viewer() -> Any:
    """The viewer that the person works in, or None."""
    import napari

    return plain(napari.current_viewer())


class Pointer:
    """Whether the pointer is on the canvas, and has moved there: before, napari takes it to be at (1, 1)."""

    def __init__(self, viewer: Any) -> None:
        self._viewer = viewer
        self.moved = False
        viewer.mouse_move_callbacks.append(self._move)

    @property
    def known(self) -> bool:
        """Whether the position that napari tells was measured."""
        return self.moved and self._viewer.mouse_over_canvas

    def refresh(self) -> None:
        """Let the status bar say anew what lies under the pointer: the layers changed, it did not."""
        if self.known:
            cursor = self._viewer.cursor
            cursor.events.position(value=cursor.position)

    def clear(self) -> None:
        """Let the status bar say nothing more of what lay under the pointer: it is gone."""
        self._viewer.status = "Ready"

    def forget(self) -> None:
        """Stop watching."""
        self._viewer.mouse_move_callbacks.remove(self._move)

    def _move(self, _viewer: Any, _event: Any) -> None:
        self.moved = True


def when_clicked(viewer: Any, act: Callable[[float, float], Any], *, button: int = 1) -> Callable[[], None]:
    """Call `act(y, x)` (world units) for a click without a drag while one looks; returns what ends this.

    button : 1 left, 2 right
    """

    def pressed(_viewer: Any, event: Any) -> Any:
        active = viewer.layers.selection.active
        looking = active is None or str(active.mode) == "pan_zoom"
        start = np.array(event.pos, float)
        if event.button != button or event.modifiers or not looking:
            return
        yield
        while event.type == "mouse_move":
            yield
        if np.abs(np.array(event.pos, float) - start).max() <= STILL_PX:
            act(float(event.position[-2]), float(event.position[-1]))

    viewer.mouse_drag_callbacks.append(pressed)
    return lambda: viewer.mouse_drag_callbacks.remove(pressed)


def describe_cursor(layer: Any, describe: Callable[[float, float], str], pointer: Pointer) -> None:
    """Let the status bar end in `describe(y, x)` (world units) while the pointer is on the canvas.

    napari asks from a thread of its own, so `describe` must only read.
    """
    if getattr(layer.get_status, "describes", False):
        return
    plain = layer.get_status

    def get_status(position: Any = None, **options: Any) -> dict[str, str]:
        status = plain(position, **options)
        known = position is not None and pointer.known
        text = describe(float(position[-2]), float(position[-1])) if known else ""
        if text or not known:
            status["value"] = text
            status["coordinates"] = text
        return status

    get_status.describes = True  # type: ignore[attr-defined]
    layer.get_status = get_status


def when_painted(labels: Any, act: Callable[[], None]) -> None:
    """Call `act()` once after every finished stroke or fill on a Labels layer.

    napari tells of some edits before it makes them, hence the turn of the event loop in between.
    """
    timer = QTimer()
    timer.setSingleShot(True)
    timer.timeout.connect(act)
    labels.events.paint.connect(lambda _event: timer.start(0))


def fill_while_painting(
    labels: Any,
    opacity: float,
    begun: Callable[[], Any] = lambda: None,
    looking_too: Callable[[], bool] = lambda: False,
) -> None:
    """Let a Labels layer be filled while a tool that changes it is at hand, and empty while one looks, unless
    `looking_too()`.

    `begun()` is called whenever such a tool is taken up, also one of napari's own.
    """

    def mode_changed(_event: Any = None) -> None:
        looking = str(labels.mode) in ("pan_zoom", "transform", "pick")
        labels.opacity = 0.0 if looking and not looking_too() else opacity
        if not looking:
            begun()

    labels.events.mode.connect(mode_changed)
    mode_changed()


def forget_history(labels: Any) -> None:
    """Drop a Labels layer's own undo history: undo goes through the ledger."""
    labels._reset_history()


def bind(target: Any, key: str, act: Callable[[], Any]) -> None:
    """Bind a key to `act()` on a viewer or layer, replacing what the key did there."""
    target.bind_key(key, lambda _target: act() and None, overwrite=True)


def tell(error: BaseException | str) -> None:
    """Show a sentence: a MILError or text as it is; any other exception with its traceback behind it."""
    from napari.utils.notifications import notification_manager, show_info, show_warning

    if isinstance(error, str):
        show_info(error)
    elif isinstance(error, MILError):
        show_warning(str(error))
    else:
        notification_manager.receive_error(type(error), error, error.__traceback__)


def dismiss_notifications(viewer: Any) -> None:
    """Close the notifications that lie over the canvas."""
    from napari._qt.dialogs.qt_notification import NapariQtNotification

    for shown in main_window(viewer).findChildren(NapariQtNotification):
        shown.close()


class _Nowhere(io.TextIOBase):
    """Takes what tqdm would print: the bar is on screen already."""

    def write(self, words: str) -> int:
        """Forget the words."""
        return len(words)


class activity:  # noqa: N801 - used like a function
    """A bar in napari's activity dock. It runs the event loop whenever it is told something, so it is told
    seldom.
    """

    def __init__(self, title: str) -> None:
        from napari.utils.progress import progress

        # tqdm switches itself off where there is no terminal, and napari then never takes the bar away
        self._bar = progress(desc=title, total=0, disable=False, file=_Nowhere())
        self._told = time.monotonic()

    def set(self, done: int, total: int | None) -> None:
        """Show where the work stands; more often than once a second is ignored."""
        if time.monotonic() - self._told < 1.0:
            return
        self._told = time.monotonic()
        if total != self._bar.total:
            self._bar.total = total or 0
        self._bar.n = done
        self._bar.events.value(value=done)

    def close(self) -> None:
        """Take the bar away."""
        with contextlib.suppress(RuntimeError):
            self._bar.close()


class _Closing(QObject):
    def __init__(self, window: QObject, act: Callable[[], None]) -> None:
        super().__init__(window)
        self._act: Callable[[], None] | None = act
        window.installEventFilter(self)

    def eventFilter(self, _watched: QObject, event: QEvent) -> bool:  # noqa: N802 - Qt's name
        """Call the act once when the window really closes."""
        if event.type() == QEvent.Type.Close and self._act is not None:
            act, self._act = self._act, None
            act()
        return False


def when_closing(viewer: Any, act: Callable[[], None]) -> Callable[[], None]:
    """Call `act()` when the viewer's window is about to close; returns what ends this."""
    watcher = _Closing(main_window(viewer), act)
    return watcher.deleteLater


def shortcut(viewer: Any, key: str, act: Callable[[], Any]) -> QShortcut:
    """A key that works wherever the focus is in the viewer's window."""
    made = QShortcut(QKeySequence(key), main_window(viewer))
    made.setContext(Qt.ShortcutContext.WindowShortcut)
    made.activated.connect(act)
    return made


def is_over(layer: Any, y: float, x: float) -> bool:
    """Whether a world position lies on the layer's extent."""
    low, high = np.asarray(layer.extent.world)[:, -2:]
    return bool(low[0] <= y <= high[0] and low[1] <= x <= high[1])
