"""Files that the window writes, one after the other, as jobs with progress and Cancel."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from napari_mil.steps import ASIDE, Progress
from napari_mil.ui import acts, writing

if TYPE_CHECKING:
    from napari_mil.ui.desk import Desk
    from napari_mil.ui.exporting import Kind
    from napari_mil.ui.job import Job
    from napari_mil.ui.state import State


class FileWriter:
    """Writes what `exporting.KINDS` name; `say(sentence)` tells what becomes of a file, "" when that is told
    elsewhere.

    Where a model may have work with it, a file waits for its turn among the other work of models; else it
    waits only for files.
    """

    def __init__(self, desk: Desk, say: Callable[[str], None]) -> None:
        self._desk, self._say = desk, say
        self._jobs: list[Job] = []

    def write(self, kind: Kind, state: State, path: str) -> Job | None:
        """Write a kind of file of a state to the path that somebody chose, when all that was said is kept.

        Nothing that they did not choose is written over. Returns the Job, or None when it cannot be written;
        they are told why.
        """
        file = Path(kind.complete(path))
        why = kind.why_not(state)
        if not why and str(file) != path and file.exists():
            why = f"{file} is there already; choose it by its whole name to write over it."
        if why:
            self._desk.tell(why)
            return None
        lane = self._desk.jobs if kind.asks_model(state) else self._desk.files
        if self._desk.writes.busy:
            self._say("Written as soon as everything that you said is kept.")
        elif lane.busy:
            self._say("Written when the work that runs now is over.")
        job = self._desk.run(
            file.name,
            writing.kept_first(self._desk, lambda: kind.steps(state, file)),
            progressed=partial(self._hear, state),
            finished=lambda: self._ended(job, kind, state, file),
            lane=lane,
        )
        self._jobs.append(job)
        return job

    def cancel(self) -> None:
        """Write nothing more of what was begun."""
        for job in self._jobs:
            job.cancel()

    def _hear(self, state: State, now: Progress) -> None:
        """Tell the list of slides what a model says of them meanwhile."""
        from napari_mil.workflow import SlideAnswer

        if now.stage == ASIDE:
            self._desk.tell(now.note)
        done = now.payload
        if isinstance(done, SlideAnswer) and self._desk.state.card is state.card:
            said = done.error if done.answer is None else done.answer.prediction
            self._desk.answered.emit(done.record.id, said)

    def _ended(self, job: Job, kind: Kind, state: State, file: Path) -> None:
        self._jobs.remove(job)
        now = self._desk.state
        if now.project is not state.project:
            return
        if job.error is not None:
            self._say("")  # it was told
            return
        if job.result is None:
            self._say(kind.stopped(file, job.last))
        else:
            self._say(
                f"Written: {file} ({file.stat().st_size:,} bytes). {kind.said(state, job.result)}".strip()
            )
        if kind.asks_model(state) and now.answer is None and now.card is state.card and now.card is not None:
            acts.use_model(self._desk, now.card)  # the slide in front may be answered now
