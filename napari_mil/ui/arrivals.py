"""Slides on their way into the project: each is taken, however fast one comes after the other."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from napari_mil.errors import MILError
from napari_mil.slides.address import SlidePath
from napari_mil.slides.copies import LaterError
from napari_mil.slides.mpp import say_mpp
from napari_mil.ui.desk import Desk
from napari_mil.ui.fetching import copy_first

if TYPE_CHECKING:
    from napari_mil.slides import Slide
    from napari_mil.workflow import Project


class Batch(NamedTuple):
    """What was dropped, chosen or opened at once; `within` looks for slides in its folders, `copied` says
    that slides of it were copied from their servers.
    """

    project: Project
    paths: Sequence[str | SlidePath]
    mpp: float | None
    within: bool
    copied: bool = False


class Arrived(NamedTuple):
    """Slides that a project has now, why others are not among them, and those to be copied from their servers
    first.
    """

    project: Project | None
    found: list[Slide]
    sentences: list[MILError]
    later: list[tuple[Batch, LaterError]]


class Arrivals:
    """Takes batches in a thread and tells of all that have arrived in one go, so that nothing is asked twice.

    napari opens several files one after the other: what still waits goes with what comes later.
    """

    def __init__(self, desk: Desk, then: Callable[[list[Slide], list[MILError]], None]) -> None:
        self._desk, self._then = desk, then
        self._waiting: deque[Batch] = deque()
        self._arrived: list[Arrived] = []

    def take(self, batch: Batch) -> None:
        """Take a batch into its project, and return at once."""
        self._waiting.append(batch)
        self._desk.asks.ask("add slides", self._work, self._tell, unwanted=self._keep)

    def _work(self) -> list[Arrived]:
        """Take what waits; of a window that closes no more is taken, and what was begun is whole."""
        done = []
        while self._waiting and not self._desk.asks.closed:
            done.append(_taken(self._waiting.popleft(), lambda: self._desk.asks.closed))
        return done

    def _keep(self, done: list[Arrived]) -> None:
        """More are on their way: it is told with these."""
        self._arrived += done

    def _tell(self, done: list[Arrived]) -> None:
        here = [one for one in (*self._arrived, *done) if one.project is self._desk.state.project]
        self._arrived.clear()
        for batch, error in (each for one in here for each in one.later):
            copy_first(self._desk, batch.paths[0], partial(self.take, batch))(error)
        self._then([slide for one in here for slide in one.found], [e for one in here for e in one.sentences])


def _taken(batch: Batch, over: Callable[[], bool]) -> Arrived:
    found, sentences, later = [], [], []
    for path in _files(batch):
        if over():
            break
        try:
            slide = batch.project.add(path, mpp=batch.mpp)
            found.append(slide)
            if batch.mpp is not None and slide.stated_mpp is None:
                say_mpp(slide.fingerprint, batch.mpp)  # for when it is opened without the project
        except LaterError as error:
            if batch.copied:
                sentences.append(error)
            else:
                later.append((batch._replace(paths=[path], within=False, copied=True), error))
        except MILError as error:
            sentences.append(error)
    return Arrived(batch.project, found, sentences, later)


def _files(batch: Batch) -> list[str | SlidePath]:
    if not batch.within:
        return list(batch.paths)
    return [f for p in map(Path, map(str, batch.paths)) for f in (_inside(p) if p.is_dir() else [p])]


def _inside(folder: Path) -> list[Path]:
    """What a folder brings: the slides and folders of photographs in it, else all its files."""
    from napari_mil.slides import find_slides

    return list(find_slides(folder)) or [f for f in sorted(folder.iterdir()) if f.is_file()]
