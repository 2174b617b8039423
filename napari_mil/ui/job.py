"""Long verbs run off the GUI thread.

Three lanes, a thread each. The *job lane* drives one Steps at a time; a second queues. The *interactive lane*
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
from typing import Any, NamedTuple

from qtpy.QtCore import QObject, QTimer, Signal

from napari_mil.errors import UnavailableError
from napari_mil.steps import Progress, Steps

#: Progress without payload is passed on at most this often (s); the last of a stage always is, payloads
#: always are.
PAUSE_S = 0.15


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
        self._stage_began = ("", 0.0, 0)

    def cancel(self) -> None:
        """Ask for the end: the generator is closed in its own thread, so that its `finally` runs."""
        self._cancel.set()

    def seconds_left(self) -> float | None:
        """Estimate for the current stage, or None while nothing can be said."""
        stage, began, first = self._stage_began
        done, total = self.last.done, self.last.total
        if stage != self.last.stage or not total or done <= first:
            return None
        return (time.monotonic() - began) * (total - done) / (done - first)

    def run(self) -> None:
        """Drive the steps to their end. Called by the lane, in its thread."""
        outcome: tuple[Any, ...] = (self.cancelled,)
        try:
            if not self._cancel.is_set():
                _emit(self.started)
                steps = self._make()
                try:
                    outcome = self._drive(steps)
                finally:
                    steps.close()
        except BaseException as error:  # noqa: BLE001 - everything goes to the person, with its traceback
            self.error = error
            outcome = (self.failed, error)
        _emit(*outcome)
        _emit(self.finished)

    def _drive(self, steps: Steps[Any]) -> tuple[Any, ...]:
        shown = 0.0
        while not self._cancel.is_set():
            leave_a_core()  # before every step: torch may have been loaded by the last one
            try:
                now = next(steps)
            except StopIteration as stop:
                self.result = stop.value
                return (self.returned, self.result)
            if now.stage != self._stage_began[0]:
                self._stage_began, shown = (now.stage, time.monotonic(), now.done), 0.0
            self.last = now
            if now.payload is not None or time.monotonic() - shown > PAUSE_S or now.done == now.total:
                shown = time.monotonic()
                _emit(self.progressed, now)
        return (self.cancelled,)


class JobLane(QObject):
    """Runs jobs one after the other in a thread of its own."""

    began = Signal(object)
    idle = Signal()

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._waiting: deque[Job] = deque()
        self._kept: deque[Job] = deque(maxlen=16)  # a job must outlive the delivery of its last signal
        self._ready = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False
        self.current: Job | None = None

    @property
    def busy(self) -> bool:
        """Whether a job runs or waits."""
        return self.current is not None or bool(self._waiting)

    def start(self, job: Job) -> Job:
        """Queue a job. Connect to its signals before: it may be done at once."""
        with self._ready:
            if self._closed:
                raise RuntimeError("The window is closing; no new work is taken.")
            self._waiting.append(job)
            self._kept.append(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._loop, name="napari-mil jobs", daemon=True)
                self._thread.start()
            self._ready.notify()
        return job

    def cancel(self) -> None:
        """Cancel the running job; those that wait stay."""
        if self.current is not None:
            self.current.cancel()

    def close(self, timeout_s: float = 10.0) -> None:
        """Cancel everything and wait until the thread has ended."""
        with self._ready:
            self._closed = True
            for job in (*self._waiting, *([self.current] if self.current else [])):
                job.cancel()
            self._ready.notify()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _loop(self) -> None:
        while True:
            with self._ready:
                while not self._waiting and not self._closed:
                    self._ready.wait()
                if not self._waiting:
                    return
                job = self._waiting.popleft()
                self.current = job
            _emit(self.began, job)
            job.run()
            with self._ready:
                self.current = None
                quiet = not self._waiting
            if quiet:
                _emit(self.idle)


class AskLane(QObject):
    """Answers short questions in a thread of its own; of one topic only the latest question is answered."""

    _answered = Signal(object, object, object)

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._asked: dict[str, tuple[int, Callable[[], Any], Callable[[Any], None]]] = {}
        self._latest: dict[str, int] = {}
        self._count = 0
        self._ready = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._open = 0
        self._answered.connect(self._deliver)

    @property
    def busy(self) -> bool:
        """Whether a question is waiting, being answered, or its answer not yet delivered."""
        return self._open > 0

    def ask(self, topic: str, work: Callable[[], Any], then: Callable[[Any], None]) -> None:
        """Compute `work()` in the lane and call `then(answer)` in the GUI thread, unless asked anew
        meanwhile.
        """
        with self._ready:
            if self._closed:
                return
            self._count += 1
            self._open += topic not in self._asked
            self._asked[topic] = (self._count, work, then)
            self._latest[topic] = self._count
            if self._thread is None:
                self._thread = threading.Thread(target=self._loop, name="napari-mil answers", daemon=True)
                self._thread.start()
            self._ready.notify()

    def close(self, timeout_s: float = 5.0) -> None:
        """Take no more questions and wait until the thread has ended."""
        with self._ready:
            self._closed = True
            self._asked.clear()
            self._ready.notify()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _loop(self) -> None:
        while True:
            with self._ready:
                while not self._asked and not self._closed:
                    self._ready.wait()
                if self._closed:
                    return
                topic = next(iter(self._asked))
                number, work, then = self._asked.pop(topic)
            leave_a_core()
            try:
                answer: Any = work()
            except BaseException as error:  # noqa: BLE001 - shown by the GUI thread
                answer = error
            _emit(self._answered, (topic, number), then, answer)

    def _deliver(self, asked: tuple[str, int], then: Callable[[Any], None], answer: Any) -> None:
        topic, number = asked
        self._open -= 1
        if self._closed or self._latest.get(topic) != number:
            return
        if isinstance(answer, BaseException):
            from napari_mil.ui.compat import tell

            tell(answer)
            return
        then(answer)


class _Write(NamedTuple):
    """Something to keep, and what follows."""

    work: Callable[[], Any]
    then: Callable[[Any], None]
    failed: Callable[[BaseException], None]


class WriteLane(QObject):
    """Keeps what a person says in a thread of its own: everything, in the order in which it was said.

    So nobody waits for a disk or a server. Where one refuses for now (UnavailableError: the disk is full,
    the ledger locked, its server gone), the same is tried again until it is kept, and the rest waits behind
    it. What is not kept yet is kept before the lane closes.
    """

    #: The error for which keeping is tried again; it is kept now.
    stuck = Signal(object)
    freed = Signal()
    _done = Signal(object)
    #: Seconds until the next attempt.
    patience_s = 3.0

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._waiting: deque[_Write] = deque()
        self._ready = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._open = 0
        self._done.connect(self._deliver)

    @property
    def busy(self) -> bool:
        """Whether something is not kept yet, or its keeping not yet delivered."""
        return self._open > 0

    def write(
        self,
        work: Callable[[], Any],
        then: Callable[[Any], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        """Do `work()` in the lane, then call `then(result)`, or `failed(error)`, in the GUI thread.

        `failed` is for what would fail again, and for what could not be kept before the lane closed.
        """
        with self._ready:
            if self._closed:
                raise RuntimeError("The window is closing; nothing more can be said.")
            self._open += 1
            self._waiting.append(_Write(work, then, failed))
            if self._thread is None:
                self._thread = threading.Thread(target=self._loop, name="napari-mil writes", daemon=True)
                self._thread.start()
            self._ready.notify()

    def close(self, timeout_s: float = 30.0) -> None:
        """Take nothing more and wait until everything is kept; what failed is told."""
        with self._ready:
            self._closed = True
            self._ready.notify()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _loop(self) -> None:
        while True:
            with self._ready:
                while not self._waiting and not self._closed:
                    self._ready.wait()
                if not self._waiting:
                    return
                write = self._waiting.popleft()
            _emit(self._done, self._kept(write))

    def _kept(self, write: _Write) -> Callable[[], None]:
        """Do it, again and again where that may help; what the GUI thread then has to call."""
        told = False
        while True:
            try:
                result = write.work()
            except UnavailableError as error:
                if self._closed:
                    return partial(write.failed, error)
                if not told:
                    _emit(self.stuck, error)
                told = True
                with self._ready:
                    self._ready.wait_for(lambda: self._closed, self.patience_s)
            except BaseException as error:  # noqa: BLE001 - told by the GUI thread
                return partial(write.failed, error)
            else:
                if told:
                    _emit(self.freed)
                return partial(write.then, result)

    def _deliver(self, call: Callable[[], None]) -> None:
        self._open -= 1
        call()


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


def _emit(signal: Any, *values: Any) -> None:
    """Emit from a thread that may outlive the window by a moment."""
    try:
        signal.emit(*values)
    except RuntimeError:  # the C++ half is gone: nobody listens any more
        return
