"""Many short trainings, kept one line each, so that a benchmark goes on where it was stopped."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def kept(file: Path, fits: Callable[[Row], bool]) -> list[Row]:
    """The finished runs of a file that fit; a line cut short by a crash is passed over."""
    found = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if fits(row):
            found.append(row)
    return found


def finish(do: Callable[[Any], Row], jobs: Sequence[Any], file: Path, workers: int) -> Iterable[Row]:
    """Do every job, write its row to the file, and yield it; with one worker, in this process."""
    if not jobs:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as out:
        for i, row in enumerate(_rows(do, jobs, workers), 1):
            out.write(json.dumps(row) + "\n")
            out.flush()
            os.fsync(out.fileno())
            where = f"{row.get('set', 'sample')}, {row['arm']}, seed {row['seed']}, fold {row['fold']}"
            print(f"{i}/{len(jobs)} {where}: {row['seconds']} s", flush=True)
            yield row


def _rows(do: Callable[[Any], Row], jobs: Sequence[Any], workers: int) -> Iterable[Row]:
    if workers < 2:
        yield from map(do, jobs)
        return
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        for future in as_completed([pool.submit(do, job) for job in jobs]):
            yield future.result()
