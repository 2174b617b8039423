"""What the queue asks: the places where a word tells most, or places to be read a second time, blind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any, Protocol

from napari_mil.correction import Cells, Place
from napari_mil.ledger import SlideRecord
from napari_mil.steps import ASIDE, Progress
from napari_mil.ui import writing
from napari_mil.ui.desk import Desk
from napari_mil.ui.words import percent

if TYPE_CHECKING:
    from napari_mil.workflow.review import Question

#: places that are looked for at once; then the labels given are looked at anew
BATCH = 20
BLIND = "Why, and what the model says, is hidden until you have given this slide a label (read blind first)."
READ_BLIND = "What others said of it, and what the model says, is hidden until you end the second reading."


class Asked(Protocol):
    """A place that is asked about."""

    record: SlideRecord
    name: str
    place: Place


class Source(Protocol):
    """Where the queue gets its places from, and what becomes of the answers."""

    next_words: str
    answer_words: str
    done: str

    def find(self, desk: Desk, found: Callable[[Sequence[Any]], None], finished: Callable[[], None]) -> bool:
        """Look for places off the GUI thread; False, and it is told, when nothing can be asked."""

    def words(self, asked: Any, *, veiled: bool) -> tuple[str, str]:
        """What the model says of it, and why it is asked."""

    def answer(self, desk: Desk, asked: Any, label: str) -> bool:
        """Keep an answer; False when it was not taken."""

    def skip(self, desk: Desk, asked: Any, then: Callable[[], None]) -> None:
        """Set a place aside, then call `then()`."""


class WhatTellsMost:
    """The review queue of the chosen model."""

    next_words = "Next to review"
    answer_words = "Relabel"
    done = "Nothing is left to review: every place was labelled or skipped."

    def find(self, desk: Desk, found: Callable[[Sequence[Any]], None], finished: Callable[[], None]) -> bool:
        """In the job lane."""
        from napari_mil.workflow import review_steps

        project, card = desk.state.project, desk.state.card
        if project is None or card is None:
            desk.tell("Open a project and choose a model first: the queue is made from its answers.")
            return False

        def progressed(now: Progress) -> None:
            if now.stage == ASIDE:
                desk.said.emit(now.note)

        desk.run(
            "Finding what to review",
            lambda: review_steps(project, model=card.id, n=BATCH),
            progressed=progressed,
            returned=found,
            finished=finished,
        )
        return True

    def words(self, asked: Question, *, veiled: bool) -> tuple[str, str]:
        """Hidden from who reads blind."""
        if veiled:
            return "", BLIND
        return f"model: {escape(asked.label)} {escape(percent(asked.sure))}", asked.item.reason

    def answer(self, desk: Desk, asked: Question, label: str) -> bool:
        """A correction."""
        return writing.correct(desk, asked.place, label, tool="review") is not None

    def skip(self, desk: Desk, asked: Question, then: Callable[[], None]) -> None:
        """An event: it is not asked of this person again."""
        from napari_mil.workflow import skip_question

        project = desk.state.project
        if project is not None:
            writing.do(desk, lambda: skip_question(project, asked), lambda _kept: then())


class SecondReading:
    """Places that others have labelled and this person has not, in random order."""

    next_words = "Next for a second reading"
    answer_words = "It is this"
    done = "Nothing is left to read a second time: others have labelled no place that you have not."

    def find(self, desk: Desk, found: Callable[[Sequence[Any]], None], finished: Callable[[], None]) -> bool:
        """In the interactive lane."""
        from napari_mil.workflow import second_questions

        project = desk.state.project
        if project is None:
            desk.tell("Open a project first.")
            return False

        def show(places: Sequence[Any]) -> None:
            finished()
            if desk.state.project is project:
                found(places)

        desk.asks.ask("second reading", lambda: second_questions(project, n=BATCH), show)
        return True

    def words(self, asked: Any, *, veiled: bool) -> tuple[str, str]:  # noqa: ARG002
        """Nothing but that it is read blind."""
        return "", READ_BLIND

    def answer(self, desk: Desk, asked: Any, label: str) -> bool:
        """A reading, which takes nothing's place."""
        from napari_mil.workflow import read_again

        project = desk.state.project
        if project is None:
            return False
        writing.do(desk, lambda: read_again(project, asked.record.id, asked.place, label), lambda _kept: None)
        return True

    def skip(self, desk: Desk, asked: Any, then: Callable[[], None]) -> None:  # noqa: ARG002
        """Left out this time; it may be asked again another time."""
        then()


def where_words(asked: Asked) -> str:
    """The slide, and the tile."""
    place = asked.place
    tile = "tile {}, {}".format(*place.cells[0]) if isinstance(place, Cells) else "the whole slide"
    return f"<b>{escape(asked.name)}</b>, {tile}"
