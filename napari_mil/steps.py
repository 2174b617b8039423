"""Long verbs as generators: they yield Progress and return their result.

A test drains them, the command line loops with a progress bar, the window runs them in a thread. Cancelling
is closing the generator, so that ``finally`` runs.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
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
    """

    stage: str
    done: int = 0
    total: int | None = None
    note: str = ""
    payload: Any = None


Steps = Generator[Progress, None, T]


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


def told(steps: Steps[T], retell: Callable[[Progress], Progress]) -> Steps[T]:
    """`steps` with every Progress told in other words; their result as it is, and closed with this."""
    try:
        while True:
            try:
                now = next(steps)
            except StopIteration as stop:
                result: T = stop.value
                return result
            yield retell(now)
    finally:
        steps.close()
