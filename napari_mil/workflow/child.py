"""Our own command lines as child processes, for work that must not touch the window's process."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import IO, Any

from napari_mil.errors import MILError
from napari_mil.steps import ASIDE, Progress, Steps

Stop = Callable[[], bool]
#: A child that says nothing for so long (s) is silent.
SILENT_S, SILENCE = 0.2, "silence"


def child_steps(line: Sequence[str]) -> Steps[dict[str, Any]]:
    """Run one of our own command lines as a child that prints JSON lines; returns its result record.

    MILError with the child's last words when it fails.
    """
    threads = str(max(1, (os.cpu_count() or 2) - 1))
    words = tempfile.TemporaryFile("w+")  # noqa: SIM115  a pipe nobody reads could fill and block the child
    child = subprocess.Popen(
        [sys.executable, "-m", "napari_mil.cli", *line],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=words,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": threads},
    )
    if hasattr(os, "setpriority"):
        with contextlib.suppress(OSError):  # window and viewer come first where cores are few
            os.setpriority(os.PRIO_PROCESS, child.pid, 5)
    lines = queue.SimpleQueue[str]()
    reader = threading.Thread(target=_read, args=(child.stdout, lines), daemon=True, name="napari-mil child")
    reader.start()
    result: dict[str, Any] | None = None
    now, begun = Progress("starting", 0, None), False
    try:
        yield now
        while text := _next(lines):
            if text is SILENCE:  # whoever waits may have been told to stop
                yield now
                continue
            record, begun = json.loads(text), True
            if "result" in record:
                result = record["result"]
                continue
            said = Progress(record["stage"], record["done"], record["total"], record["note"])
            now = now if said.stage == ASIDE else said
            yield replace(said, payload=record.get("payload"))
        if child.wait() or result is None:
            words.seek(0)
            last = words.read().strip().splitlines() or ["Training ended without a word; start it again."]
            raise MILError(last[-1].removeprefix("napari-mil: "))
        return result
    finally:
        _end(child, ask=begun)
        reader.join()
        words.close()


def _read(stream: IO[str], lines: queue.SimpleQueue[str]) -> None:
    """Put every line of a stream into a queue, and "" at its end."""
    try:
        with stream:
            for line in stream:
                lines.put(line)
    finally:
        lines.put("")


def _next(lines: queue.SimpleQueue[str]) -> str:
    """The next line; SILENCE when there was none for a while."""
    try:
        return lines.get(timeout=SILENT_S)
    except queue.Empty:
        return SILENCE


def _end(child: subprocess.Popen[str], *, ask: bool) -> None:
    """Ask a child to stop and give it time to keep its best, then end it; at once where it has not begun."""
    if not ask:
        child.kill()
    elif child.poll() is None and child.stdin is not None:
        try:
            child.stdin.write("stop\n")
            child.stdin.flush()
            child.wait(60)
        except (OSError, ValueError, subprocess.TimeoutExpired):
            child.kill()
    child.wait()
    if child.stdin is not None:
        child.stdin.close()


def told_to_stop(stream: IO[str]) -> Stop:
    """Whether "stop" was written to a stream, or its writer is gone; a daemon thread listens."""
    told = threading.Event()

    def listen() -> None:
        stream.readline()
        told.set()

    threading.Thread(target=listen, daemon=True, name="napari-mil stop").start()
    return told.is_set
