"""Long verbs run off the GUI thread.

Lanes of three kinds, a thread each. The *job lane* drives one Steps at a time; a second queues. An *ask lane*
answers short questions while a long job runs, and of several questions on one topic only the latest is
answered. The *write lane* keeps what a person says, in order, and leaves nothing out. None touches a widget
or a layer: what they find arrives in the GUI thread as Qt signals.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from qtpy.QtCore import QObject, QTimer, Signal

from napari_mil.errors import UnavailableError
from napari_mil.slides import copies
from napari_mil.steps import Progress, Steps
from napari_mil.ui import compat
from napari_mil.ui.lane import Lane

#: Progress without payload is passed on at most this often (s); the last of a stage always is, payloads
#: always are.
PAUSE_S = 0.15
#: A window that closes waits no longer for what a server was asked (s).
NO_ANSWER_S = 0.2


def leave_a_core() -> None:
    """Give torch every core but one in this thread, so that the window keeps one; nothing before torch is
    loaded.
    """
    torch = sys.modules.get("torch")
    threads = max(1, (os.cpu_count() or 2) - 1)
    if hasattr(torch, "get_num_threads") and torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


class Job(QObject):
    """One long verb: `make` is called in the lane's thread and returns its Steps.

    Exactly one of returned, failed, cancelled is emitted, then finished.
    """

    started = Signal()
    progressed = Signal(object)
    returned = Signal(object)
    failed = Signal(object)
    cancelled = Signal()
    finished = Signal()

    def __init__(self, title: str, make: Callable[[], Steps[Any]]) -> None:
        super().__init__()
        self.title = title
        self.result: Any = None
        self.error: BaseException | None = None
        self.last = Progress("waiting")
        self._make = make
        self._cancel = threading.Event()
        self._stage_began, self._shown = ("", 0.0, 0.0), 0.0

    def cancel(self) -> None:
        """Ask for the end: the generator is closed in its own thread, so that its `finally` runs."""
        self._cancel.set()

    def seconds_left(self) -> float | None:
        """Estimate for the current stage, or None while nothing can be said."""
        stage, began, first = self._stage_began
        done, total = self.last.done + self.last.within, self.last.total
        if stage != self.last.stage or not total or done <= first:
            return None
        return (time.monotonic() - began) * (total - done) / (done - first)

    def run(self, emit: Callable[..., None]) -> None:
        """Drive the steps to their end. Called by the lane, in its thread.

        emit : called with the name of a signal, and its values
        """
        outcome: tuple[Any, ...] = ("cancelled",)
        self._emit = emit
        try:
            if not self._cancel.is_set():
                self._emit("started")
                steps = self._make()
                try:
                    with copies.heard(self._hear):
                        outcome = self._drive(steps)
                finally:
                    steps.close()
        except _StopError:
            pass
        except BaseException as error:  # noqa: BLE001 - everything goes to the person, with its traceback
            self.error = error
            outcome = ("failed", error)
        self._emit(*outcome)
        self._emit("finished")

    def _drive(self, steps: Steps[Any]) -> tuple[Any, ...]:
        while not self._cancel.is_set():
            leave_a_core()  # before every step: torch may have been loaded by the last one
            try:
                now = next(steps)
            except StopIteration as stop:
                self.result = stop.value
                return ("returned", self.result)
            self._tell(now)
        return ("cancelled",)

    def _tell(self, now: Progress) -> None:
        if now.stage != self._stage_began[0]:
            self._stage_began, self._shown = (now.stage, time.monotonic(), now.done + now.within), 0.0
        self.last = now
        if now.payload is not None or time.monotonic() - self._shown > PAUSE_S or now.done == now.total:
            self._shown = time.monotonic()
            self._emit("progressed", now)

    def _hear(self, now: Progress) -> None:
        """A step waits for a slide that is copied from its server: how far that is, and its end."""
        if self._cancel.is_set():
            raise _StopError
        self._tell(now)


class _StopError(BaseException):
    """A job was cancelled in the midst of a step."""


class JobLane(Lane):
    """Runs jobs one after the other; closing it cancels them."""

    began = Signal(object)
    farewell_s = 10.0

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__("napari-mil jobs", parent)
        self._kept: deque[Job] = deque(maxlen=16)  # a job must outlive the delivery of its last signal

    @property
    def busy(self) -> bool:
        """Whether a job runs or waits."""
        return self.current is not None or bool(self._waiting)

    def start(self, job: Job) -> Job:
        """Queue a job. Connect to its signals before: it may be done at once."""
        self._kept.append(job)
        self._put(job, job)
        return job

    def cancel(self) -> None:
        """Cancel the running job; those that wait stay."""
        if (job := self.current) is not None:
            job.cancel()

    def _leave(self) -> None:
        for job in (*self._waiting.values(), *([self.current] if self.current else [])):
            job.cancel()

    def _do(self, work: Job) -> None:
        self.emit(self, "began", work)
        work.run(partial(self.emit, work))


class _FollowedLane(Lane):
    """A lane after whose work something follows in the GUI thread."""

    def __init__(self, name: str, parent: QObject | None = None) -> None:
        super().__init__(name, parent)
        self._open = 0

    @property
    def busy(self) -> bool:
        """Whether something waits or is being done, or what follows has not followed yet."""
        return self._open > 0

    def _put(self, key: Any, work: Callable[[], Callable[[], None]]) -> None:
        """What `work()` returns in the thread is called in the GUI thread."""
        with self._ready:
            known = key in self._waiting
            super()._put(key, work)
            self._open += not known

    def _do(self, work: Callable[[], Callable[[], None]]) -> None:
        self.post(partial(self._follow, work()))

    def _follow(self, call: Callable[[], None]) -> None:
        self._open -= 1
        call()


class AskLane(_FollowedLane):
    """Answers short questions; of one topic only the latest question is answered, and none once it is closed.

    A window has more than one, so that a server that does not answer holds up no other question.
    """

    def __init__(self, parent: QObject | None = None, name: str = "napari-mil answers") -> None:
        super().__init__(name, parent)
        self._latest: dict[str, int] = {}
        self.tell: Callable[[BaseException], None] = compat.tell

    def ask(
        self,
        topic: str,
        work: Callable[[], Any],
        then: Callable[[Any], None],
        *,
        failed: Callable[[BaseException], None] | None = None,
        unwanted: Callable[[Any], None] = lambda _answer: None,
    ) -> None:
        """Compute `work()` in the lane and call `then(answer)` in the GUI thread, or `failed(error)` (None:
        it is told); `unwanted(answer)` where it was asked anew meanwhile. A slide that would have to be
        copied from its server first is a LaterError.
        """
        if self._closed:
            return
        number = self._latest[topic] = self._latest.get(topic, 0) + 1

        def answer() -> Callable[[], None]:
            leave_a_core()
            try:
                with copies.unasked():
                    found = work()
            except BaseException as error:  # noqa: BLE001 - told by the GUI thread
                return partial(deliver, error, failed or self.tell)
            if self.closed:  # perhaps nobody is there any more to let go of it
                unwanted(found)
                return lambda: None
            return partial(deliver, found, then)

        def deliver(found: Any, follow: Callable[[Any], None]) -> None:
            if not self._closed and self._latest[topic] == number:
                follow(found)
            elif follow is then:
                unwanted(found)

        self._put(topic, answer)

    def _leave(self) -> None:
        self._open -= len(self._waiting)
        self._waiting.clear()


class WriteLane(_FollowedLane):
    """Keeps what a person says: everything, in the order in which it was said.

    So nobody waits for a disk or a server. Where one refuses for now (UnavailableError: the disk is full,
    the ledger locked, its server gone), the same is tried again until it is kept, and the rest waits behind
    it. What is not kept yet is kept before the lane closes.
    """

    #: The error for which keeping is tried again; it is kept now.
    stuck = Signal(object)
    freed = Signal()
    #: Seconds until the next attempt.
    patience_s = 3.0
    farewell_s = 30.0

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__("napari-mil writes", parent)

    def write(
        self,
        work: Callable[[], Any],
        then: Callable[[Any], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        """Do `work()` in the lane, then call `then(result)`, or `failed(error)`, in the GUI thread.

        `failed` is for what would fail again, and for what could not be kept before the lane closed.
        """
        self._put(object(), lambda: self._kept(work, then, failed))

    def _kept(
        self,
        work: Callable[[], Any],
        then: Callable[[Any], None],
        failed: Callable[[BaseException], None],
    ) -> Callable[[], None]:
        """Do it, again and again where that may help; what the GUI thread then has to call."""
        told = False
        while True:
            try:
                result = work()
            except UnavailableError as error:
                if self._closed:
                    return partial(failed, error)
                if not told:
                    self.emit(self, "stuck", error)
                told = True
                with self._ready:
                    self._ready.wait_for(lambda: self._closed, self.patience_s)
            except BaseException as error:  # noqa: BLE001 - told by the GUI thread
                return partial(failed, error)
            else:
                if told:
                    self.emit(self, "freed")
                return partial(then, result)


class Pauses(QObject):
    """Work that follows when something has rested for a while."""

    @property
    def busy(self) -> bool:
        """Whether work will follow in a moment."""
        return any(timer.isActive() for timer in self.findChildren(QTimer))

    def after(self, ms: int, act: Callable[[], None]) -> Callable[[], None]:
        """A function that runs `act` once, when it has not been called for so long."""
        timer = QTimer(self)
        timer.setSingleShot(True)
        timer.setInterval(ms)
        timer.timeout.connect(act)
        return timer.start

    def end(self) -> None:
        """What has not followed yet follows no more."""
        for timer in self.findChildren(QTimer):
            timer.stop()
