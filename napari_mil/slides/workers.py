"""Decode threads of one slide: tiles that a view wants go first, then they help whoever reads a box, and then
they do what may be wanted later.
"""

from __future__ import annotations

import atexit
import math
import os
import threading
import time
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterable
from statistics import median

#: As many tiles are decoded at once as there are processors for it …
DECODE_THREADS = min(
    8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
)
#: … but for a view one less where a tile takes so long, that the thread which draws has a processor …
VIEW_THREADS, LONG_S = max(1, DECODE_THREADS - 1), 0.005
#: … and so many may be on their way where a file lets one wait rather than compute, as a remote one does.
WAITING_THREADS = 16
_WAITS_S = 0.01
_BUSY = 0.25
#: What a task takes is the median of so many done last: one that was held up says nothing of the file.
_LATE = 7

#: So long the threads of all slides are waited for when Python ends (s).
FAREWELL_S = 1.0

Task = Callable[[], None]
_all: weakref.WeakSet[Workers] = weakref.WeakSet()


@atexit.register
def _end() -> None:
    """Python ends with slides open: no thread tells a window of tiles while Qt takes it down."""
    until, left = time.monotonic() + FAREWELL_S, tuple(_all)
    for workers in left:
        workers.stop()
    for workers in left:
        workers.join(until)


class Batch:
    """Pieces of work of one reader, done by it and by every thread that helps; the first error ends it."""

    def __init__(self, count: int, piece: Callable[[int], None]) -> None:
        self._count, self._piece = count, piece
        self._at = self._running = 0
        self._error: BaseException | None = None
        self._state = threading.Condition()

    def step(self) -> bool:
        """Do the next piece; False when none is left to begin."""
        with self._state:
            if self._error is not None or self._at >= self._count:
                return False
            at, self._at = self._at, self._at + 1
            self._running += 1
        try:
            self._piece(at)
        except BaseException as error:  # noqa: BLE001 - it is raised in the reader's thread
            self._error = self._error or error
        finally:
            with self._state:
                self._running -= 1
                if not self._running:
                    self._state.notify_all()
        return True

    def finish(self) -> None:
        """Do what is left, wait for pieces under way in other threads, raise the first error."""
        while self.step():
            pass
        with self._state:
            self._state.wait_for(lambda: not self._running)
        if self._error is not None:
            raise self._error


class Workers:
    """Threads that begin with the first work and end with `stop`; safe from many threads.

    Tasks of the owner that asked last are done first, in their order; asking anew forgets what of the old was
    not begun. A few threads compute; more are started while tasks are found to wait, for a disk or a server.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._wanted: OrderedDict[Hashable, deque[Task]] = OrderedDict()
        self._later: OrderedDict[Hashable, deque[Task]] = OrderedDict()
        self._batches: deque[Batch] = deque()
        self._threads: list[threading.Thread] = []
        self._state = threading.Condition()
        self._idle = self._viewing = 0
        self._most = DECODE_THREADS
        self._late: deque[tuple[float, float]] = deque(maxlen=_LATE)
        self._task_s, self._waits = math.inf, False
        self._stopped = False
        _all.add(self)

    def want(self, owner: Hashable, tasks: Iterable[Task], *, later: bool = False) -> None:
        """Do `tasks` in their order, before everything else, or after it with half of the threads; what this
        owner wanted before is dropped.
        """
        queue, wanted = deque(tasks), self._later if later else self._wanted
        with self._state:
            wanted.pop(owner, None)
            if not queue or self._stopped:
                return
            wanted[owner] = queue
            self._wake(min(len(queue), self._spare if later else self._viewers))

    def takes_s(self, tasks: int) -> float:
        """Seconds that so many tasks of a view would take, by those of late; infinite before the first."""
        with self._state:
            return tasks * self._task_s / self._viewers if tasks else 0.0

    def share(self, batch: Batch) -> None:
        """Let idle threads help with a batch that somebody is about to finish."""
        with self._state:
            if not self._stopped:
                self._batches.append(batch)
                self._wake(DECODE_THREADS - 1)

    def withdraw(self, batch: Batch) -> None:
        """Begin nothing more of a batch."""
        with self._state:
            if batch in self._batches:
                self._batches.remove(batch)

    def stop(self) -> None:
        """Forget what was not begun and let the threads end, from whichever thread; idempotent."""
        with self._state:
            self._stopped = True
            self._wanted.clear()
            self._later.clear()
            self._batches.clear()
            self._state.notify_all()

    def join(self, until: float = math.inf) -> None:
        """Wait until the threads have ended, by the monotonic clock to `until` at most."""
        for thread in tuple(self._threads):
            if thread is not threading.current_thread():
                thread.join(None if until == math.inf else max(0.0, until - time.monotonic()))

    def _wake(self, count: int) -> None:
        """Wake idle threads for `count` tasks, start more where allowed; called with the state held."""
        for _ in range(min(count - self._idle, self._most - len(self._threads))):
            thread = threading.Thread(
                target=self._run, name=f"{self._name}-decode_{len(self._threads)}", daemon=True
            )
            self._threads.append(thread)
            thread.start()
        self._state.notify(count)

    def _run(self) -> None:
        while True:
            with self._state:
                self._idle += 1
                self._state.wait_for(
                    lambda: self._stopped or self._may_view or self._batches or self._may_later
                )
                self._idle -= 1
                if self._stopped:
                    return
                task, batch = self._next()
            if task is not None:
                self._timed(task)
            elif batch is not None and not batch.step():
                self.withdraw(batch)
            del task, batch  # an idle thread must not keep a slide alive

    @property
    def _spare(self) -> int:
        """How many threads may do what is wanted later, so that a view finds as many free."""
        return max(1, self._viewers // 2)

    @property
    def _may_later(self) -> bool:
        return bool(self._later) and not self._wanted and self._viewing < self._spare

    @property
    def _viewers(self) -> int:
        """How many threads may work for a view."""
        if self._waits:
            return self._most
        return DECODE_THREADS if self._task_s < LONG_S else VIEW_THREADS

    @property
    def _may_view(self) -> bool:
        return bool(self._wanted) and self._viewing < self._viewers

    def _next(self) -> tuple[Task | None, Batch | None]:
        if not self._may_view and self._batches:
            return None, self._batches[0]
        wanted = self._wanted if self._may_view else self._later
        self._viewing += 1
        owner, queue = next(reversed(wanted.items()))
        task = queue.popleft()
        if not queue:
            del wanted[owner]
        return task, None

    def _timed(self, task: Task) -> None:
        began, spent = time.perf_counter(), time.thread_time()
        try:
            task()
        finally:
            with self._state:
                self._viewing -= 1
        wall, spent = time.perf_counter() - began, time.thread_time() - spent
        with self._state:
            self._late.append((wall, spent))
            self._task_s, computed = map(median, zip(*self._late, strict=True))
            self._waits = self._task_s > _WAITS_S and computed < _BUSY * self._task_s
            if self._waits:  # idle threads may come to help now, and more than there are
                self._most = min(WAITING_THREADS, 2 * self._most)
                left, may = sum(map(len, self._wanted.values())), self._viewers - self._viewing
                self._wake(max(0, min(left, may)))
