"""A thread beside the window, and how it is left behind when the window goes."""

from __future__ import annotations

import atexit
import contextlib
import threading
import weakref
from collections.abc import Callable
from typing import Any

from qtpy.QtCore import QObject, Signal

_lanes: weakref.WeakSet[Lane] = weakref.WeakSet()


@atexit.register
def _close_lanes() -> None:
    """Python ends with a window open: what was said is kept, and no thread emits what Qt takes down."""
    for lane in tuple(_lanes):
        if not lane.closed:
            lane.close()


class Lane(QObject):
    """A thread that does one piece of work after the other; it begins with the first of them.

    Attributes
    ----------
    current : the work that is being done, or None
    """

    _posted = Signal(object)
    #: So long a lane that is closed is waited for (s).
    farewell_s = 5.0

    def __init__(self, name: str, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.current: Any = None
        self._name = name
        self._waiting: dict[Any, Any] = {}
        self._ready = threading.Condition()
        self._thread: threading.Thread | None = None
        self._speaking = threading.Lock()
        self._posted.connect(self._receive)  # of the lane itself: what is on its way goes when it goes
        _lanes.add(self)
        self._closed, self._heard = False, True

    @property
    def closed(self) -> bool:
        """Whether it takes no more work: it is being closed, or is."""
        return self._closed

    def close(self, timeout_s: float | None = None) -> None:
        """Take no more work and wait until the thread has ended, so long at most; then it is unheard."""
        with self._ready:
            self._closed = True
            self._leave()
            self._ready.notify()
        if self._thread is not None:
            self._thread.join(self.farewell_s if timeout_s is None else timeout_s)
        with self._speaking:
            self._heard = False

    def _put(self, key: Any, work: Any) -> None:
        """Let work wait for its turn, in the place of what waits under the same key."""
        with self._ready:
            if self._closed:
                raise RuntimeError("The window is closing; no new work is taken.")
            self._waiting[key] = work
            if self._thread is None:
                self._thread = threading.Thread(target=self._loop, name=self._name, daemon=True)
                self._thread.start()
            self._ready.notify()

    def _loop(self) -> None:
        while True:
            with self._ready:
                self.current = None
                self._ready.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    return
                self.current = self._waiting.pop(next(iter(self._waiting)))
            self._do(self.current)

    def post(self, act: Callable[[], None]) -> None:
        """Have `act()` done in the GUI thread. Called in the thread, which may outlive the window: not while
        the window goes, nor after that.

        The signal is looked up only here. One that is held while work is done may have lost what it belongs
        to, and Qt then emits from memory that is no longer its own.
        """
        with self._speaking, contextlib.suppress(RuntimeError):  # the C++ half went without a farewell
            if self._heard:
                self._posted.emit(act)

    def emit(self, whose: QObject, signal: str, *values: Any) -> None:
        """The same for a signal, which nobody waits for once the lane is closed."""

        def emit() -> None:
            if not self._closed:
                getattr(whose, signal).emit(*values)

        self.post(emit)

    def _receive(self, act: Callable[[], None]) -> None:
        act()

    def _do(self, work: Any) -> None:
        """Do a piece of work, in the thread."""
        raise NotImplementedError

    def _leave(self) -> None:
        """What becomes of what runs and waits when the lane closes; what still waits then is done."""
