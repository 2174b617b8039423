"""The decode threads of a slide: how many there are, and that they end."""

from __future__ import annotations

import subprocess
import sys
import threading
from functools import partial

from napari_mil.slides.workers import DECODE_THREADS, Workers


def test_many_are_fetched_at_once_again_after_some_that_came_quickly():
    workers, done = Workers("again"), threading.Semaphore(0)
    at_once, most, lock = 0, 0, threading.Lock()

    def slow():
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        threading.Event().wait(0.03)
        with lock:
            at_once -= 1
        done.release()

    try:
        for tasks in ([slow] * 60, [done.release] * 60, [slow] * 60):
            most = 0
            workers.want("view", tasks)
            assert all(done.acquire(timeout=20) for _ in tasks)
        assert most > 2 * DECODE_THREADS
    finally:
        workers.stop()
        workers.join()


def test_a_tile_that_was_held_up_starts_no_more_threads():
    workers, done = Workers("held-up"), threading.Semaphore(0)
    try:
        for held_up in [0, 0, 0, 0.2, 0, 0.3, 0, 0, 0.2, 0]:
            workers.want("view", [partial(threading.Event().wait, held_up), done.release])
            assert done.acquire(timeout=20)
        workers.want("view", [*[partial(threading.Event().wait, 0.001)] * 40, done.release])
        assert done.acquire(timeout=20)
        names = [thread.name for thread in threading.enumerate()]
        assert 1 <= sum(name.startswith("held-up") for name in names) <= DECODE_THREADS
    finally:
        workers.stop()
        workers.join()


LEFT_OPEN = """
import atexit, threading, time
begun = threading.Event()
atexit.register(lambda: print([t.name for t in threading.enumerate() if "decode" in t.name]))  # after ours
from napari_mil.slides import workers

def tile():
    begun.set()
    time.sleep(0.3)

left = workers.Workers("left-open")
left.want("view", [tile] * 9)
assert begun.wait(10)
"""


def test_python_ends_with_slides_open_when_their_threads_have():
    done = subprocess.run(
        [sys.executable, "-c", LEFT_OPEN], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")
