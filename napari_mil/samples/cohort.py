"""A cohort of small synthetic slides with a manifest: enough cases to train and to measure on."""

from __future__ import annotations

import csv
import json
import os
import queue
import shutil
import subprocess
import sys
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from napari_mil.errors import MILError, ProjectError, reason
from napari_mil.samples.scene import Difficulty
from napari_mil.samples.slide import SAMPLE_TREE, make_slide
from napari_mil.steps import Progress, Steps

#: Changes whenever the same arguments would give other slides.
EDITION = 2


@dataclass(frozen=True, slots=True)
class Row:
    """One slide of a cohort: its name, case, label, seed, size, and whether its lesion is hard to find."""

    name: str
    case: str
    label: str
    seed: int
    shape_px: tuple[int, int]
    hard: bool


def plan_cohort(*, slides: int = 120, seed: int = 0, difficulty: Difficulty | None = None) -> list[Row]:
    """Which slides a cohort has.

    About one case in eight has two slides; 45 % of the cases are N, the rest spread evenly over the lesions.

    Raises
    ------
    ProjectError
        When fewer than seven slides are asked for.
    """
    if slides < len(SAMPLE_TREE.leaves):
        raise ProjectError(
            f"A cohort needs at least {len(SAMPLE_TREE.leaves)} slides, one per label; got {slides}."
        )
    difficulty = difficulty or Difficulty()
    rng = np.random.default_rng([seed, 1912])
    cases = slides - slides * 14 // 120
    normal = max(1, round(0.45 * cases))
    paths = [SAMPLE_TREE.path(n) for n in SAMPLE_TREE.leaves]
    lesions = [p for p in paths if SAMPLE_TREE.node(p) not in SAMPLE_TREE.normal]
    if cases - normal < len(lesions):
        normal, cases = 1, max(cases, 1 + len(lesions))
    labels = [paths[0]] * normal + [lesions[i % len(lesions)] for i in range(cases - normal)]
    labels = [labels[i] for i in rng.permutation(cases)]
    twice = set(rng.permutation(cases)[: slides - cases].tolist())
    turn = dict.fromkeys(paths, float(rng.random()))  # spreads the hard slides evenly over each label
    rows: list[Row] = []
    for i, label in enumerate(labels):
        for part in "ab"[: 1 + (i in twice)]:
            turn[label] += difficulty.hard_slides
            hard = label != paths[0] and int(turn[label]) != int(turn[label] - difficulty.hard_slides)
            shape = (256 * int(rng.integers(9, 12)), 256 * int(rng.integers(11, 13)))
            rows.append(
                Row(
                    f"case{i + 1:03d}{part}",
                    f"case{i + 1:03d}",
                    label,
                    seed * 100_003 + len(rows),
                    shape,
                    hard,
                )
            )
    return rows


def make_cohort(
    folder: str | os.PathLike[str],
    *,
    slides: int = 120,
    seed: int = 0,
    workers: int = 2,
    difficulty: Difficulty | None = None,
) -> Steps[Path]:
    """Make a cohort: `folder/slides/*.tif`, `folder/truth/*.npz`, `folder/manifest.csv` (slide, case, label).

    Everything is made in a folder beside `folder` and renamed when whole, so that cancelling (closing the
    generator) leaves nothing behind. A folder that already holds this very cohort is left as it is.

    Parameters
    ----------
    folder : where the cohort goes; must not exist, be empty, or hold the same cohort
    slides : how many slides, at least seven
    seed : decides everything that is random
    workers : processes that draw; 1 draws in this process
    difficulty : how much lesion there is and how weak; the tuned defaults when None

    Returns
    -------
    The path of the manifest; its slides are relative to it.

    Raises
    ------
    ProjectError
        When the folder holds something else or cannot be written, or a process fails.
    """
    target = Path(folder)
    difficulty = difficulty or Difficulty()
    rows = plan_cohort(slides=slides, seed=seed, difficulty=difficulty)
    recipe = json.dumps(
        {"edition": EDITION, "slides": slides, "seed": seed, "difficulty": asdict(difficulty)}, sort_keys=True
    )
    manifest = target / "manifest.csv"
    if _holds(target, recipe):
        yield Progress("sample slides", len(rows), len(rows), "already there")
        return manifest
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        part.mkdir(parents=True)
        yield Progress("sample slides", 0, len(rows))
        make = _drawn_here if workers <= 1 else _drawn_by_workers
        for done, name in enumerate(make(part, rows, difficulty, workers), 1):
            yield Progress("sample slides", done, len(rows), name)
        _write_manifest(part, rows, recipe)
        if target.exists():
            target.rmdir()
        part.replace(target)
    except OSError as error:
        if isinstance(error, MILError):
            raise
        raise ProjectError(
            f"The sample slides cannot be written to {target} ({reason(error)}); "
            "free some space or choose another folder."
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return manifest


def _holds(target: Path, recipe: str) -> bool:
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return False
    told = target / "cohort.json"
    if told.is_file() and told.read_text(encoding="utf-8") == recipe:
        return True
    raise ProjectError(
        f"{target} already holds something other than these sample slides; choose a new or empty folder."
    )


def _write_manifest(folder: Path, rows: Sequence[Row], recipe: str) -> None:
    (folder / "cohort.json").write_text(recipe, encoding="utf-8")
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(("slide", "case", "label"))
        table.writerows((f"slides/{row.name}.tif", row.case, row.label) for row in rows)


def _job(part: Path, row: Row, difficulty: Difficulty) -> dict[str, Any]:
    return {"folder": str(part), "row": asdict(row), "difficulty": asdict(difficulty)}


def draw_job(job: dict[str, Any]) -> str:
    """Draw one slide of a cohort and its truth, as `_job` describes it; returns its name."""
    row = Row(**job["row"])
    knobs: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in job["difficulty"].items()}
    folder = Path(job["folder"])
    truth = make_slide(
        folder / "slides" / f"{row.name}.tif",
        seed=row.seed,
        label=row.label,
        shape_px=(row.shape_px[0], row.shape_px[1]),
        difficulty=Difficulty(**knobs),
        hard=row.hard,
    )
    truth.save(folder / "truth" / f"{row.name}.npz")
    return row.name


def _drawn_here(part: Path, rows: Sequence[Row], difficulty: Difficulty, workers: int) -> Generator[str]:
    del workers
    for row in rows:
        yield draw_job(_job(part, row, difficulty))


def _drawn_by_workers(
    part: Path, rows: Sequence[Row], difficulty: Difficulty, workers: int
) -> Generator[str]:
    """Names of slides as processes finish them; each process is given its next slide when it reports one."""
    waiting = [json.dumps(_job(part, row, difficulty)) for row in reversed(rows)]
    answers: queue.Queue[tuple[int, str]] = queue.Queue()
    with _workers(min(workers, len(rows)), answers) as children:
        for child in children:
            _give(child, waiting)
        for _ in rows:
            which, line = answers.get()
            answer = json.loads(line) if line else {"error": f"it ended with status {children[which].wait()}"}
            if "error" in answer:
                raise ProjectError(
                    f"A process drawing sample slides failed: {answer['error']}; try again with one worker."
                )
            yield answer["done"]
            _give(children[which], waiting)


def _give(child: subprocess.Popen[str], waiting: list[str]) -> None:
    assert child.stdin is not None  # noqa: S101 – it was opened with a pipe
    if waiting:
        child.stdin.write(waiting.pop() + "\n")
        child.stdin.flush()


@contextmanager
def _workers(n: int, answers: queue.Queue[tuple[int, str]]) -> Generator[list[subprocess.Popen[str]]]:
    """Processes that read jobs and print answers as JSON lines; killed on leaving."""
    root = str(Path(__file__).resolve().parents[2])
    env = dict(os.environ, OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1")
    env["PYTHONPATH"] = os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH")) if p)
    command = [sys.executable, "-m", "napari_mil.samples.worker"]
    children: list[subprocess.Popen[str]] = []
    threads: list[threading.Thread] = []
    try:
        for i in range(n):
            child = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
            )
            children.append(child)
            threads.append(threading.Thread(target=_listen, args=(i, child, answers), daemon=True))
            threads[-1].start()
        yield children
    finally:
        for child in children:
            child.kill()
            child.wait()
        for thread in threads:
            thread.join()
        for child in children:
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    pipe.close()


def _listen(which: int, child: subprocess.Popen[str], answers: queue.Queue[tuple[int, str]]) -> None:
    assert child.stdout is not None  # noqa: S101 – it was opened with a pipe
    for line in child.stdout:
        answers.put((which, line))
    answers.put((which, ""))
