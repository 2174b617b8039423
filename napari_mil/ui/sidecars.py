"""Slides on show get their sidecars: found at once, made in the background where they are missing."""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any

from napari_mil.errors import MILError
from napari_mil.slides import sidecar
from napari_mil.slides.address import slide_path
from napari_mil.slides.colour import converted
from napari_mil.slides.slide import Slide

#: A slide has to be on show for so long before anything is made for it.
PATIENCE_S = 3.0
POLL_S = 0.2
_one_at_a_time = threading.Lock()


class Companion:
    """The sidecar of one slide on show: attached as soon as it is there, made while the slide is looked at.

    told : called in a thread with the sentence why none can be made
    """

    def __init__(self, engine: Any, path: str, told: Callable[[str], None]) -> None:
        self._engine, self._path, self._told = weakref.ref(engine), path, told
        self._gone = False
        self._bell: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="napari-mil sidecar", daemon=True)
        self._thread.start()

    def leave(self) -> None:
        """The slide is no longer on show: stop making. The garbage collector may say so, in whatever thread
        and in the midst of anything there, so that no lock is taken.
        """
        self._gone = True
        self._bell.put(None)

    def join(self, timeout_s: float = 10.0) -> None:
        """Wait until the thread has ended."""
        self._thread.join(timeout_s)

    @property
    def _over(self) -> bool:
        engine = self._engine()
        return self._gone or engine is None or engine.closed

    def _rest(self, seconds: float) -> None:
        with contextlib.suppress(queue.Empty):
            self._bell.get(timeout=seconds)

    def _run(self) -> None:
        with contextlib.suppress(MILError, OSError):  # a slide that goes meanwhile needs no sidecar
            if not self._attach():
                return
            self._rest(PATIENCE_S)
            if self._gone:
                return
            while not _one_at_a_time.acquire(timeout=POLL_S):
                if self._over:
                    return
            try:
                self._make()
            finally:
                _one_at_a_time.release()

    def _attach(self) -> bool:
        """Draw with what is there; whether something is still missing."""
        engine = self._engine()
        if engine is None or self._over:
            return False
        slide = Slide.of(slide_path(self._path), engine)
        found = sidecar.find(slide)
        if found is not None:
            engine.draw_with(found)
        return bool(sidecar.missing(slide))

    def _make(self) -> None:
        engine = self._engine()
        if engine is None:
            return
        words = [sys.executable, "-m", "napari_mil.slides.sidecarmake", self._path]
        words += ["--srgb"] if converted(engine.source.info.properties) else []
        del engine
        child = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        reader = threading.Thread(target=self._follow, args=(child,), daemon=True)
        reader.start()
        try:
            while child.poll() is None and not self._over:
                self._rest(POLL_S)
        finally:
            if child.stdin is not None:
                child.stdin.close()  # it ends with it
            try:
                child.wait(5)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
            reader.join()
            if child.stdout is not None:
                child.stdout.close()

    def _follow(self, child: subprocess.Popen[bytes]) -> None:
        """Attach every level when it is whole."""
        for line in child.stdout or ():
            said = json.loads(line)
            if "level" in said:
                with contextlib.suppress(MILError, OSError):
                    self._attach()
            elif not self._over:
                self._told(str(said["error"]))
