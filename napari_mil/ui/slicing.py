"""How a slide's layer comes to its pixels: every level where it belongs, and drawn without waiting.

napari makes a request for each slice of a layer; here the requests of one layer are wrapped. `layer.data`
stays as it is: whoever reads it gets exact pixels.
"""

from __future__ import annotations

import dataclasses
import time
import weakref
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
from qtpy.QtCore import QObject, Qt, QTimer, Signal

from napari_mil.errors import SlideError
from napari_mil.slides.picture import Picture
from napari_mil.slides.remote import UnreachableError
from napari_mil.slides.slide import Level
from napari_mil.ui.sidecars import Companion

#: While tiles arrive the layer is drawn anew so often at most, and for so small a share of the time; and so
#: long after the view moved, which draws what has arrived by itself.
PAUSE_MS, SHARE = 60, 0.25
#: Tiles that failed are tried again no sooner, whoever asks.
SOONEST_S = 1.0
#: A view that rests so long looks ahead.
REST_MS = 150
WAITS = (
    "This napari ({version}) slices layers in a way that napari-mil does not know: slides are drawn exactly, "
    "and the window waits for their tiles. Use napari 0.6 to 0.9."
)


def place_levels(layer: Any) -> None:
    """Prepare a layer that shows one of our slides; any other is left alone, and twice is once."""
    if "napari-mil" not in layer.metadata or not getattr(layer, "multiscale", False):
        return
    owner, name = _maker(layer)
    made = getattr(owner, name, None)
    if made is None:
        say_unknown()
    if made is None or hasattr(made, "sharpening"):
        return
    sharpening = None
    if all(isinstance(level, Level) for level in layer.data):
        sharpening = Sharpening(layer)

    def request(*args: Any, **kwargs: Any) -> Callable[[], Any]:
        plain = made(*args, **kwargs)
        return _Centred(plain if sharpening is None else sharpening.drawn(plain))

    request.sharpening = sharpening  # type: ignore[attr-defined]
    setattr(owner, name, request)
    layer.refresh()


def sharpening_of(layer: Any) -> Sharpening | None:
    """What makes a layer sharper as tiles arrive, or None for one that is drawn exactly."""
    owner, name = _maker(layer)
    return getattr(getattr(owner, name, None), "sharpening", None)


@cache
def say_unknown() -> None:
    """Say, once, why slides are drawn without the help of what is there already."""
    import napari

    from napari_mil.ui import compat

    compat.tell(WAITS.format(version=napari.__version__))


def _maker(layer: Any) -> tuple[Any, str]:
    """The object and the name of its attribute that makes slice requests."""
    state = getattr(layer, "_slicing_state", None)
    # up to napari 0.6 the layer itself made its slice requests
    return (state, "_slice_request_class") if state is not None else (layer, "_make_slice_request_internal")


class _Centred:
    """A slice request whose answer sits half a coarse pixel, less half a fine one, further down and right.

    A pixel of a level that is d times smaller covers level-0 pixels i·d … i·d + d − 1, so its centre is at
    i·d + (d − 1)/2; napari 0.9 draws it at i·d.
    """

    def __init__(self, request: Any) -> None:
        self.request = request

    def __getattr__(self, name: str) -> Any:
        return getattr(self.request, name)

    def __call__(self) -> Any:
        response = self.request()
        affine = response.tile_to_data
        shifted = affine.translate + (affine.scale - 1) / 2
        moved = type(affine)(scale=affine.scale, translate=shifted, ndim=affine.ndim, name=affine.name)
        return dataclasses.replace(response, tile_to_data=moved)


class Sharpening(QObject):
    """Draws one layer from what is there, and asks for one refresh at a time while tiles arrive."""

    _arrived, _failed, _drew = Signal(bool), Signal(str), Signal(object)

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self._layer = weakref.ref(layer)
        self._told = self._all_there = False
        self._cost_ms = 0.0
        self._soon, self._again, self._rest = QTimer(), QTimer(), QTimer()
        for timer, act in (
            (self._soon, self._sharpen),
            (self._again, self.refresh),
            (self._rest, self._look_ahead),
        ):
            timer.setSingleShot(True)
            timer.timeout.connect(act)
        self._arrived.connect(self._arrive)
        self._failed.connect(_tell)
        self._drew.connect(_do, Qt.QueuedConnection)  # after the picture that is being painted
        self._begin(layer)

    def _begin(self, layer: Any) -> None:
        """Draw the slide that the layer shows now."""
        self.picture = Picture(layer.data, self._tell, self._drew.emit)
        self._drawn = {level.index: _Drawn(self.picture, level) for level in layer.data}
        # napari makes them of the shapes, which a level that the file lacks has rounded up
        self._factors = np.array([level.downsample for level in layer.data])
        self._complained = False
        self._absence: SlideError | None = None
        if (damage := layer.data[0].engine.damage) is not None:
            self._drew.emit(partial(self._complain, damage))
        path = layer.metadata["napari-mil"].get("path", "")
        companion = Companion(layer.data[0].engine, path, partial(_fail, weakref.ref(self)))
        self._leave = weakref.finalize(self, companion.leave)

    def drawn(self, request: Any) -> Any:
        """The same request, answered from what is there."""
        self._drew.emit(partial(self._rest.start, REST_MS))
        fields, layer = getattr(request, "__dataclass_fields__", {}), self._layer()
        if not {"data_at_data_level", "data"} & fields.keys():
            say_unknown()
            return request
        level = None if layer is None else layer.data[request.data_level]
        if not isinstance(level, Level):
            return request
        drawn = self._drawn.get(level.index)
        if drawn is None or not drawn.of(level):  # another slide's by now
            self._leave()
            self._begin(layer)
        if self.picture.exact(level.index) is not None:  # napari may hold its pixels itself, and ask no more
            (y0, x0), (y1, x1) = request.corner_pixels[:, :2].tolist()
            self.picture.leave(level.index, (y0, x0, y1 + 1, x1 + 1))
        changed: dict[str, Any] = {"downsample_factors": self._factors}
        if "data" in fields:  # up to napari 0.6 the request chooses the level
            changed["data"] = [d.whole() for d in self._drawn.values()]
        elif isinstance(request.data_at_data_level, Level):
            changed["data_at_data_level"] = self._drawn[level.index]
        return dataclasses.replace(request, **changed)

    @property
    def pending(self) -> bool:
        """Whether something has arrived that was not drawn yet."""
        return self._told or self._soon.isActive()

    def _sharpen(self) -> None:
        """Draw what has arrived, unless it was drawn with a view since; while the view moves, later."""
        still_ms = (time.monotonic() - self.picture.drawn_at) * 1000
        if not self._all_there and still_ms < PAUSE_MS:
            self._soon.start(int(PAUSE_MS - still_ms) + 1)
            return
        self._told = self._all_there = False
        if self.picture.behind:
            self.refresh()
        else:
            self._look_after()

    def _look_ahead(self) -> None:
        self.picture.look_ahead()

    def refresh(self) -> None:
        """Draw the layer anew with what has arrived."""
        self._told = self._all_there = False
        layer = self._layer()
        if layer is None:
            return
        began = time.perf_counter()
        layer.refresh(thumbnail=False, highlight=False, extent=False)
        self._cost_ms = (time.perf_counter() - began) * 1000
        self._look_after()

    def _look_after(self) -> None:
        """Say once why tiles are hatched, and try them again later."""
        errors, wait = self.picture.errors, self.picture.retry_s
        if errors:
            self._complain(errors.popleft())
            errors.clear()
        layer = self._layer()
        if wait is not None and layer is not None and layer.visible and not self._again.isActive():
            self._again.start(int(max(wait, SOONEST_S) * 1000) + 1)

    def _complain(self, error: SlideError) -> None:
        """Say the first error about a slide's tiles, and one whenever its server goes."""
        from napari_mil.ui import compat

        away = isinstance(error, UnreachableError)
        known = error is self._absence if away else self._complained
        if away:
            self._absence = error
        else:
            self._complained = True
        if not known:
            compat.tell(error)

    def _tell(self, last: bool) -> None:  # in a decode thread
        if last or not self._told:
            self._told = True
            self._arrived.emit(last)

    def _arrive(self, last: bool) -> None:
        if last:
            self._all_there = True
            self._soon.start(0)
        elif not self._soon.isActive():
            self._soon.start(int(max(PAUSE_MS, self._cost_ms / SHARE)))


def _do(act: Callable[[], None]) -> None:
    act()


def _fail(layer: weakref.ref[Sharpening], sentence: str) -> None:
    """Say in the GUI thread what failed, unless the layer has gone: a signal of its own, held by a thread,
    would be emitted from memory that is no longer its own.
    """
    if (there := layer()) is not None:
        there._failed.emit(sentence)


def _tell(sentence: str) -> None:
    from napari_mil.ui import compat

    compat.tell(sentence)


class _Drawn:
    """A level as drawing sees it: what napari slices is answered at once."""

    def __init__(self, picture: Picture, level: Level) -> None:
        self._picture, self._level = picture, level

    def __getattr__(self, name: str) -> Any:
        return getattr(self._level, name)  # shape, ndim, dtype, size, chunks

    def of(self, level: Level) -> bool:
        """Whether this is how that very level is drawn."""
        return self._level is level

    def whole(self) -> Any:
        """The level's pixels where they are held in memory, else this."""
        exact = self._picture.exact(self._level.index)
        return self if exact is None else exact

    def __getitem__(self, key: tuple[Any, ...]) -> Any:
        (h, w), keys = self._level.shape_px, key if isinstance(key, tuple) else (key,)
        exact = self._picture.exact(self._level.index)
        if exact is not None:
            return exact[keys]
        if not all(isinstance(k, slice) and k.step in {None, 1} for k in keys[:2]) or len(keys) < 2:
            return self._level[keys]
        (y0, y1, _), (x0, x1, _) = keys[0].indices(h), keys[1].indices(w)
        drawn = self._picture.draw(self._level.index, (y0, x0, max(y0, y1), max(x0, x1)))
        return drawn[(slice(None), slice(None), *keys[2:])]
