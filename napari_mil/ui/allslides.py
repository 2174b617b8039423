"""The chosen model is asked about every slide of the project, one after the other; the window goes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from qtpy.QtWidgets import QMenu, QPushButton, QWidget

from napari_mil.steps import ASIDE
from napari_mil.ui import acts, commandline
from napari_mil.ui.desk import Desk
from napari_mil.ui.job import Job
from napari_mil.ui.state import State
from napari_mil.ui.widgets import allow, button, column, hint, row
from napari_mil.ui.words import why_no_model

if TYPE_CHECKING:
    from napari_mil.card import ModelCard
    from napari_mil.steps import Progress
    from napari_mil.workflow import Answered, Project

ALL = "Ask the model about every slide of the project that it has not answered yet; each fails alone"
RUNS = "All slides are being asked already; Cancel below stops it."
RETRY = "; run it again to retry:"
#: So many slides that failed are named in the section; its tooltip names all.
NAMED = 5


class AllSlides(QWidget):
    """Beside Run: ask about all slides, and what else can be done with a model; what came of it.

    run_button : asks about the slide in front
    take : `take(prediction, grid, partial=...)` shows an answer for the slide in front
    """

    def __init__(self, desk: Desk, run_button: QPushButton, take: Callable[..., None]) -> None:
        super().__init__()
        self.desk, self._take = desk, take
        self._job: Job | None = None
        self._card: ModelCard | None = None
        self._project: Project | None = None
        self._done, self._wanted, self._again = 0, "", False
        self._look: tuple[str, Any] = ("", False)
        self.button = button("Run on all slides", self.run, ALL)
        self.more = button("⋯", lambda: None, "More ways to run, and the same as command lines")
        self.more.setFixedWidth(34)
        self.more.setStyleSheet("QPushButton::menu-indicator { image: none; }")
        self.more.setAccessibleName("More ways to run")
        self.menu = QMenu(self)
        self.again = self._entry("Run on all slides, answered ones too", lambda: self.run(again=True))
        self.copy_one = self._entry("Copy Run as a command line", self._copy_one)
        self.copy_all = self._entry("Copy Run on all slides as a command line", self._copy_all)
        self.more.setMenu(self.menu)
        self.said = hint()
        self.said.hide()
        column(self, row(run_button, self.button, self.more), self.said, margins=(0, 0, 0, 0), spacing=3)
        desk.changed.connect(self._looks)
        acts.whenever(desk, ("project",), self._arrive)
        acts.whenever(desk, ("project", "changed_models", "card"), self._enable)

    def run(self, *, again: bool = False) -> Job | None:
        """Ask about every slide that the model has not answered yet, or with `again` about all of them.

        Returns the Job, or None when there is nothing to ask or it runs already.
        """
        project, card = self.desk.state.project, self.desk.state.card
        if project is None or card is None or self._job is not None:
            self.desk.tell(RUNS if self._job is not None else why_no_model(self.desk.state))
            return None

        def make() -> Any:
            from napari_mil.workflow import answer_slides_steps

            about = {"again": again, "seen": self._seen, "wanted": lambda: self._wanted}
            return answer_slides_steps(project, model=card.id, **about)

        self._done, self._card, self._project = 0, card, project
        self._wanted, self._again = "", again
        self._say([])
        self._look = self._looking()
        self._job = self.desk.run(
            card.name,
            make,
            progressed=self._progressed,
            returned=self._returned,
            finished=self._finished,
        )
        self._job.cancelled.connect(self._cancelled)
        self._enable(self.desk.state)
        return self._job

    def comes_next(self) -> bool:
        """Whether all slides are being asked, by the model that is chosen, so that the slide in front need
        only be the next; it is then, and that is said.
        """
        record, card = self.desk.state.record, self.desk.state.card
        if self._job is None or record is None or card is not self._card:
            return False
        self._wanted = record.id
        self.desk.said.emit(
            f"All slides are being asked; {record.name} is next, unless it was asked already."
        )
        return True

    def _entry(self, words: str, act: Callable[[], Any]) -> Any:
        made = self.menu.addAction(words)
        made.triggered.connect(lambda _checked=False: act())
        return made

    def _seen(self, slide_id: str) -> Any:
        """Where a slide is looked at, or whether it is. Called in the job's thread."""
        front, box = self._look
        return (box or True) if front == slide_id else False

    def _looking(self) -> tuple[str, Any]:
        slide = self.desk.state.slide
        return ("", False) if slide is None else (slide.fingerprint, self.desk.view_box_px())

    def _looks(self, before: State, after: State) -> None:
        if self._job is not None and before.slide is not after.slide:
            self._look = self._looking()

    def _progressed(self, now: Progress) -> None:
        from napari_mil.workflow import PartialAnswer, SlideAnswer

        self._look = self._looking()
        if now.stage == ASIDE:
            self.desk.tell(now.note)
        if isinstance(now.payload, PartialAnswer):
            self._show(now.payload, partial=True)
        elif isinstance(now.payload, SlideAnswer):
            done = now.payload
            self._done += done.answer is not None
            if done.answer is not None:
                self.desk.answered.emit(done.record.id, done.answer.prediction)
            elif self.desk.state.card is self._card:
                self.desk.answered.emit(done.record.id, done.error)
            if done.answer is not None and self._show(done.answer, partial=False):
                acts.take_features(self.desk)

    def _show(self, answer: Any, *, partial: bool) -> bool:
        """Show an answer where it is of the slide in front and the model that is chosen."""
        said, state = answer.prediction, self.desk.state
        slide, card = state.slide, state.card
        its = slide is not None and slide.fingerprint == said.slide_id
        if not its or card is None or card.id != said.model_id:
            return False
        self._take(said, answer.grid, partial=partial)
        return True

    def _returned(self, found: Answered) -> None:
        if self.desk.state.project is self._project:
            lines = sentences(found)
            self._say(lines)  # the section may be folded away
            self.desk.said.emit(lines[0].replace(RETRY, "; section 2 names them."))

    def _cancelled(self) -> None:
        if self.desk.state.project is self._project:
            rest = "" if self._again else " Run it again to go on."
            self._say([f"Stopped: {_slides(self._done)} answered{' anew' if self._again else ''}.{rest}"])

    def _finished(self) -> None:
        self._job = None
        if self.desk.state.partial:
            self.desk.apply(partial=False)
        self._enable(self.desk.state)

    def _say(self, lines: Sequence[str]) -> None:
        few = [
            *lines[: NAMED + 1],
            *([f"… and {len(lines) - NAMED - 1:,} more."] if lines[NAMED + 1 :] else []),
        ]
        self.said.setText("\n".join(few))
        self.said.setToolTip("\n".join(lines) if lines[NAMED + 1 :] else "")
        self.said.setVisible(bool(lines))

    def _arrive(self, _state: State) -> None:
        """Another project is in front: what was asked of the one before is not gone on with."""
        self._say([])
        if self._job is not None:
            self._job.cancel()

    def _enable(self, state: State) -> None:
        why = why_no_model(state)
        allow(self.button, why or (RUNS if self._job is not None else ""))
        allow(self.more, why)
        self.again.setEnabled(self._job is None)

    def _copy_one(self) -> None:
        state = self.desk.state
        if state.project is not None and state.card is not None and state.record is not None:
            commandline.copy(self.desk, commandline.predict_line(state.project, state.card, state.record))

    def _copy_all(self) -> None:
        state = self.desk.state
        if state.project is not None and state.card is not None:
            commandline.copy(self.desk, commandline.predict_line(state.project, state.card))


def sentences(found: Answered) -> list[str]:
    """What came of all slides: how many were answered, then each that failed and why."""
    had = f" {_slides(found.kept)} answered already." if found.kept else ""
    if not found.asked and not found.failed:
        return ["Every slide is answered already." if found.kept else "The project has no slides yet."]
    failed = f" {len(found.failed):,} failed{RETRY}" if found.failed else ""
    return [
        f"{_slides(found.asked)} answered now.{had}{failed}",
        *(f"{name}: {why}" for name, why in found.failed),
    ]


def _slides(n: int) -> str:
    return "1 slide is" if n == 1 else f"{n:,} slides are"
