"""Long verbs as generators: they yield Progress and return their result.

A test drains them, the command line loops with a progress bar, the window runs them in a thread. Cancelling
is closing the generator, so that ``finally`` runs.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import Any, TypeVar

T = TypeVar("T")

#: the stage of a Progress whose note tells what was left out: to be said for good, not as a step of the work
ASIDE = "set aside"


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a long verb stands.

    Attributes
    ----------
    stage : what is being done, as a person would say it ("features")
    done : units finished
    total : units in all, or None when unknown
    note : a short remark ("on CPU")
    payload : an intermediate result to show already (a partial Prediction, one epoch's metrics), or None
    within : share of the next unit that is done already, 0 to 1, where units are large
    """

    stage: str
    done: int = 0
    total: int | None = None
    note: str = ""
    payload: Any = None
    within: float = 0.0


Steps = Generator[Progress, None, T]


def told_as(steps: Steps[T], tell: Callable[[Progress], Progress]) -> Steps[T]:
    """The same steps with each Progress told otherwise."""
    try:
        while True:
            try:
                now = next(steps)
            except StopIteration as stop:
                result: T = stop.value
                return result
            yield tell(now)
    finally:
        steps.close()


def part_of(stage: str, done: int, total: int, name: str) -> Callable[[Progress], Progress]:
    """For `told_as`: one of many like it, as one bar over all; its own progress goes to the note. What is set
    aside is told as such.
    """

    def tell(now: Progress) -> Progress:
        if now.stage == ASIDE:
            return replace(now, note=f"{name}: {now.note}")
        of = "" if now.total is None else f" of {now.total}"
        return Progress(stage, done, total, f"{name}: {now.stage} {now.done}{of}", now.payload)

    return tell


def drain(steps: Steps[T], progress: Callable[[Progress], None] | None = None) -> T:
    """Run `steps` to its end and return its result; `progress` is called with every Progress.

    Closes the generator when the callback raises, so that cleanup runs at once.
    """
    try:
        while True:
            try:
                now = next(steps)
            except StopIteration as stop:
                result: T = stop.value
                return result
            if progress is not None:
                progress(now)
    finally:
        steps.close()
