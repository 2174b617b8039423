"""A model's answers for all slides of a project: each succeeds or fails alone, and running again goes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_mil.errors import MILError, ProjectError
from napari_mil.steps import ASIDE, Progress, Steps, told_as
from napari_mil.workflow.analyse import PartialAnswer, analyse_steps, kept_grid
from napari_mil.workflow.encoding import find_encoder
from napari_mil.workflow.naming import shown_names
from napari_mil.workflow.project import Box, Project, find_card
from napari_mil.workflow.tables import Table, about_slide, answer_columns, answer_numbers

if TYPE_CHECKING:
    from napari_mil.card import ModelCard
    from napari_mil.ledger import SlideRecord

#: The stage that counts slides.
STAGE = "all slides"


@dataclass(frozen=True, slots=True, eq=False)
class SlideAnswer:
    """What came of one slide: the model's answer on the slide's tiles, or why there is none.

    Attributes
    ----------
    record, name : the slide, and what it is called
    answer : the answer and its grid, or None
    error : one sentence, or ""
    """

    record: SlideRecord
    name: str
    answer: PartialAnswer | None = None
    error: str = ""


@dataclass(slots=True)
class Answered:
    """What came of all slides.

    Attributes
    ----------
    asked : of how many slides there is a new answer; in a table, an answer
    kept : how many had one already and were not asked
    failed : (name, why) of the slides that could not be asked
    """

    asked: int = 0
    kept: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)


def answer_slides_steps(
    project: Project,
    *,
    model: str,
    slides: Sequence[SlideRecord] | None = None,
    again: bool = False,
    seen: Callable[[str], Box | bool] = lambda _slide_id: False,
    wanted: Callable[[], str] = lambda: "",
) -> Steps[Answered]:
    """A model's answer for every slide of the project, or for those given, as `analyse_steps` has it.

    A slide that this model has answered already is not asked; with `again` it is, after those that have no
    answer. A slide that fails is left, with its sentence, and the next one is asked.

    Parameters
    ----------
    seen : asked as a slide's turn comes, and while it lasts: the box of that slide (by its id) that somebody
        looks at, whose tiles are then done first, or True or False for whether anybody does. Only then
        Progress carries PartialAnswers.
    wanted : asked before every turn: the id of a slide that shall come next, where its turn is still to come

    Yields Progress of the stage `STAGE`, which counts them; when one is done its payload is a SlideAnswer.

    Raises
    ------
    ModelError : no such model, or one whose weights or encoder are not there; said before any slide
    """
    card = find_card(project, model)
    project.model(card.id)
    find_encoder(project, card.encoder)
    records = list(project.slides if slides is None else slides)
    names, found = shown_names(project.slides), Answered()
    known = set[str]()
    for n, record in enumerate(records):
        yield Progress("looking for answers", n, len(records))
        known |= {record.id} if has_answer(project, record, card) else set()
    if not again:
        found.kept = len(known)
    turn = [r for r in records if r.id not in known] + [r for r in records if again and r.id in known]
    for n in range(len(turn)):
        if asked := wanted():
            turn[n:] = sorted(turn[n:], key=lambda r: r.id != asked)  # the others stay as they are
        record = turn[n]
        done = yield from _one(project, record, card, n, len(turn), names[record.id], seen, again=again)
        if done.error:
            found.failed.append((done.name, done.error))
        else:
            found.asked += 1
        yield Progress(STAGE, n + 1, len(turn), done.name, done)
    return found


def answer_table_steps(project: Project, path: Path, *, model: str, again: bool = False) -> Steps[Answered]:
    """A model's answer for every slide of the project as a CSV file, one row each; slides that it has not
    answered yet are asked, and those that fail have their sentence in the column `error`.

    The file grows as the answers come, see `Table`: one that is ended early holds whole rows.

    Yields Progress of the stage `STAGE` as `answer_slides_steps` does, with a SlideAnswer for every slide.

    Raises
    ------
    ModelError : no such model, or one whose weights or encoder are not there; said before any slide
    ProjectError : no slides, or the file cannot be written; said before any slide
    """
    card, records = find_card(project, model), project.slides
    project.model(card.id)
    find_encoder(project, card.encoder)
    if not records:
        raise ProjectError(f"{project.path.name} has no slides yet; add some first.")
    names, found, total = shown_names(records), Answered(), len(records)
    with Table(path, answer_columns(card)) as table:
        for n, record in enumerate(records):
            name = names[record.id]
            done = yield from _one(project, record, card, n, total, name, lambda _id: False, again=again)
            row: dict[str, Any] = {"slide": name, "error": done.error}
            if done.answer is None:
                found.failed.append((name, done.error))
            else:
                row |= answer_numbers(done.answer.prediction, card)
                found.asked += 1
            table.add(row | about_slide(record, card))
            yield Progress(STAGE, n + 1, total, name, done)
    return found


def has_answer(project: Project, record: SlideRecord, card: ModelCard) -> bool:
    """Whether the project keeps a model's answer for the tiles that the slide has now; its file is not looked
    at. What is damaged is no answer.
    """
    try:
        answer = project.store.latest_answer(record.id, card.id)
        grid = None if answer is None else kept_grid(project, record, encoder=card.encoder)
    except MILError:
        return False
    return answer is not None and grid is not None and answer.grid_id == grid.id


def _one(
    project: Project,
    record: SlideRecord,
    card: ModelCard,
    n: int,
    total: int,
    name: str,
    seen: Callable[[str], Box | bool],
    *,
    again: bool,
) -> Steps[SlideAnswer]:
    """Ask about one slide; what it says last is kept for the end, so that it is shown once."""
    last: PartialAnswer | None = None

    def tell(now: Progress) -> Progress:
        nonlocal last
        if now.stage == ASIDE:
            return now
        if now.stage == "answer":
            last, now = now.payload or last, replace(now, payload=None)
        note, share = f"{name}: {now.stage}", float(now.stage == "answer")
        if now.stage == "features" and now.total:
            note, share = f"{note} {now.done:,} of {now.total:,}", now.done / now.total
        return Progress(STAGE, n, total, note, now.payload, share)

    try:
        yield Progress(STAGE, n, total, name)
        view = seen(record.id)
        steps = analyse_steps(
            project,
            record if isinstance(view, bool) else project.slide(record),
            model=card.id,
            view=None if isinstance(view, bool) else view,
            again=again,
            watched=lambda: seen(record.id) is not False,
        )
        yield from told_as(steps, tell)
    except (MILError, OSError) as error:
        return SlideAnswer(record, name, error=str(error))
    return SlideAnswer(record, name, last)
