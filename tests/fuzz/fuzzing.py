"""One way to try damaged files: a child process uses them seed by seed, and says how each ended.

A target says what it damages (files or folders that `make` writes) and what is done with the damaged copy
(`use`). A seed has to end in success or in a MILError of one sentence; another exception, a hang, a crash, or
more memory than a person's machine has is a finding. The child stops where it crashes or hangs; the next one
goes on behind that seed.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import json
import math
import multiprocessing
import os
import resource
import shutil
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TextIO

from mutations import damage_folder, damaged

from napari_mil.errors import MILError

HANG_S = 60
MEMORY_BYTES = 6 * 2**30
#: children are forked from a process that has imported what they use
CHILDREN = multiprocessing.get_context("forkserver")
CHILDREN.set_forkserver_preload(
    ["targets", *(f"napari_mil.{used}" for used in ("infer", "interop.geojson", "tissue", "workflow.models"))]
)
REAL = "real-"  # files of others, which may be of a kind that is refused

#: `attempt(act, *arguments)`: a MILError of the act is heard, and the next act goes on
Try = Callable[..., object]


@dataclass(frozen=True)
class Target:
    """What is damaged and what is then done with it.

    make(folder, beside) writes whole files or folders into `folder`; `beside` holds what they refer to.
    use(path, attempt) uses one of them.
    most_s, most_bytes : processor time and memory that one use may take, where that is bounded
    """

    make: Callable[[Path, Path], None]
    use: Callable[[Path, Try], None]
    most_s: float = math.inf
    most_bytes: float = math.inf


@dataclass
class Tally:
    """How the seeds ended."""

    succeeded: int = 0
    refused: int = 0
    findings: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        found = "\n\n".join(self.findings[:20])
        return f"{self.succeeded} succeeded, {self.refused} refused, {len(self.findings)} findings\n{found}"


def fuzz(name: str, folder: Path, seeds: range, *, module: str = "targets", hang_s: float = HANG_S) -> Tally:
    """Try `seeds` of a target whose originals lie in `folder`, in as many children as it takes."""
    tally, first = Tally(), seeds.start
    said, failed = folder.parent / "said", folder.parent / "failed"
    while first < seeds.stop:
        for told in (said, failed):  # a child that cannot begin must not be read as the one before
            told.write_text("")
        child = CHILDREN.Process(
            target=main, args=(module, name, folder, range(first, seeds.stop), hang_s, said, failed)
        )
        child.start()
        child.join()
        for line in map(json.loads, said.read_text().splitlines()):
            tally.succeeded += line["how"] == "succeeded"
            tally.refused += line["how"] == "refused"
            if line["how"] == "found":
                tally.findings.append(f"{name} seed {line['seed']}: {line['why']}")
            first = line["seed"] + 1
        if child.exitcode:
            words = failed.read_text()[-3000:]
            tally.findings.append(f"{name} seed {first}: ended with {child.exitcode}: {words}")
            first += 1
    return tally


def main(module: str, name: str, folder: Path, seeds: range, hang_s: float, said: Path, failed: Path) -> None:
    """The child: one line of JSON per seed in the file `said`; its last words in `failed`."""
    with said.open("w") as tells, failed.open("w") as last_words:
        os.dup2(last_words.fileno(), 2)
        _each(module, name, folder, seeds, hang_s, tells)


def _each(module: str, name: str, folder: Path, seeds: range, hang_s: float, tells: TextIO) -> None:
    target = importlib.import_module(module).TARGETS[name]
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    faulthandler.enable()
    warnings.simplefilter("error")
    work = folder.parent / f"damaged-{os.getpid()}"
    for seed in seeds:
        faulthandler.dump_traceback_later(hang_s, exit=True)
        work.mkdir()
        path, whole = _damaged_copy(folder, work, Random(f"{name} {seed}"), seed)  # noqa: S311
        how, why = _measured(target, path)
        if whole and how == "refused" and not path.name.startswith(REAL):
            how, why = "found", f"{path.name} is whole and was refused: {why}"
        shutil.rmtree(work)
        tells.write(json.dumps({"seed": seed, "how": how, "why": why}) + "\n")
        tells.flush()


def _damaged_copy(folder: Path, work: Path, draw: Random, seed: int) -> tuple[Path, bool]:
    """A copy of the original in turn, and whether it is whole: the first round is, and has to succeed."""
    originals = sorted(folder.iterdir())
    original, whole = originals[seed % len(originals)], seed < len(originals)
    path = work / original.name
    files = [f for o in originals for f in (sorted(o.rglob("*")) if o.is_dir() else [o]) if f.is_file()]
    lender = draw.choice(files).read_bytes()
    if original.is_dir():
        shutil.copytree(original, path)
        if not whole:
            damage_folder(path, draw, [lender])
    else:
        data = original.read_bytes()
        path.write_bytes(data if whole else damaged(data, draw, [lender]))
    return path, whole


def _measured(target: Target, path: Path) -> tuple[str, str]:
    """How the use of a file ended; one that took more than the target allows is a finding."""
    started, before = time.process_time(), _memory("VmRSS")
    how, why = _attempt(target, path)
    took, grown = time.process_time() - started, _memory("VmHWM") - before
    if took > target.most_s or grown > target.most_bytes:
        return (
            "found",
            f"{path.name} took {took:.1f} s of processor time and {grown / 2**20:.0f} MB: {how} {why}",
        )
    return how, why


def _memory(what: str) -> int:
    """Bytes that this process holds (VmRSS), or held at most since it was asked (VmHWM); 0 where unknown."""
    status, refs = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not status.exists():
        return 0
    if what == "VmRSS":
        with contextlib.suppress(OSError):
            refs.write_text("5")  # the peak counts from here
    return int(status.read_text().split(f"{what}:")[1].split()[0]) * 1024


def _attempt(target: Target, path: Path) -> tuple[str, str]:
    """How the use of a file ended, and why."""
    refusals: list[str] = []

    def attempt(act: Callable[..., object], *given: object, **options: object) -> object:
        try:
            return act(*given, **options)
        except MILError as error:
            refusals.append(str(error))
        return None

    try:
        attempt(target.use, path, attempt)
    except BaseException:  # noqa: BLE001 - whatever it is, it is a finding
        return "found", traceback.format_exc()
    if odd := next((said for said in refusals if not one_sentence(said)), None):
        return "found", f"this is not one sentence: {odd!r}"
    return ("refused", refusals[0]) if refusals else ("succeeded", "")


def one_sentence(said: str) -> bool:
    """Whether a person can read this on one line."""
    return said.isprintable() and said.endswith(".") and not said.endswith("..") and len(said) < 2000
