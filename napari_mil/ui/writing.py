"""What a person says, shown at once and kept in the write lane, so that the window never waits for a ledger.

What was said and is not kept yet is in `State.pending`, on show like everything in force. Where a disk or a
server refuses for now it stays there and is tried again; the person is told, and told when it is kept. What
can never be kept is said and goes from the screen again, so that it is never taken for kept.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_mil.correction import Correction, Place, Polygon, WholeSlide, covered, tiles_of
from napari_mil.errors import LabelError, MILError
from napari_mil.labeltree import class_names, level_names
from napari_mil.steps import Progress, Steps
from napari_mil.ui.acts import said
from napari_mil.ui.desk import Desk
from napari_mil.ui.state import State
from napari_mil.ui.widgets import tiles

if TYPE_CHECKING:
    from napari_mil.ledger import Event

#: What a model says of tiles that it calls nothing.
NO_CALL = "no call"


def correct(desk: Desk, place: Place, label: str | None, *, tool: str, note: str = "") -> Correction | None:
    """State a label for a place, with what the model had said and what was on screen."""
    made = _state(desk, [place], label, model_said(desk.state, place), tool=tool, note=note)
    return made[0] if made else None


def draw(desk: Desk, outline: Polygon, label: str | None) -> list[Correction]:
    """State a label for a drawn region; the person is told how many tiles that are, and what was mended."""
    from napari_mil.workflow import mended

    try:
        places, remark = mended(outline)
    except MILError as error:
        desk.tell(error)
        return []
    made = _state(desk, places, label, model_said(desk.state, outline), tool="region")
    lattice = desk.state.lattice
    if made and lattice is not None:
        n = len(np.unique(np.concatenate([tiles_of(c.place, lattice) for c in made])))
        what = f"labels {tiles(n)} {label}" if label else f"takes the label from {tiles(n)}"
        desk.said.emit(f"{remark} The region {what}.".strip())
    return made


def cut(desk: Desk, outline: Polygon) -> Correction | None:
    """Cut a hole into the region of this person that an outline lies in, the latest of them; they are told
    how many tiles lose their label.
    """
    from napari_mil.workflow import with_hole
    from napari_mil.workflow.editing import encloses

    state = desk.state
    if state.project is None or refused(desk):
        return None
    try:
        regions = own_regions(state)
        said = next((c for c in reversed(regions) if encloses(c.place, outline)), None)
        if said is None:
            raise LabelError("A hole lies wholly inside a region that you drew; draw its outline so.")
        about = model_said(state, said.place) | {"by": state.project.by, "tool": "hole"}
        made = with_hole(said, outline, visible=_visible(desk), **about)
    except MILError as error:
        desk.tell(error)
        return None
    before = state.nodes
    keep(desk, [made])
    if before is not None and desk.state.nodes is not None:
        n = int(np.count_nonzero(before != desk.state.nodes))
        few = "no tile: the region still covers a quarter of each"
        desk.said.emit(f"The hole takes {said.label} from {tiles(n) if n else few}.")
    return made


def own_regions(state: State) -> list[Correction]:
    """The regions of this person into which holes can be cut, in the order in which they count."""
    return [c for event, c in _own_regions(state) if event not in state.locked]


def uncuttable(state: State) -> str:
    """Why no hole can be cut just now, "" where one can."""
    if state.second:
        return SECOND
    drawn = _own_regions(state)
    if any(event not in state.locked for event, _ in drawn):
        return ""
    if drawn:
        return "What you drew here is locked (Alt+K unlocks what is chosen)."
    return "There is no region of yours on this slide to cut a hole into; draw one first (Alt+R)."


def _own_regions(state: State) -> list[tuple[int, Correction]]:
    regions = [
        (event, c)
        for event, c in zip(state.events, state.corrections, strict=True)
        if isinstance(c.place, Polygon) and c.label is not None
    ]
    return [(event, c) for event, c in regions if state.project is not None and c.by == state.project.by]


#: Why nothing can be labelled just now.
SECOND = "You read a second time: answer with Alt+E. To label, end the second reading first."


def refused(desk: Desk) -> bool:
    """Whether nothing may be labelled now; the person is told why."""
    if desk.state.second:
        desk.tell(SECOND)
    return desk.state.second


def _state(
    desk: Desk, places: Sequence[Place], label: str | None, about: dict[str, Any], **more: Any
) -> list[Correction]:
    """State a label for places of the slide in front as one act."""
    from napari_mil.workflow.editing import stated

    state = desk.state
    if state.project is None or state.record is None or state.slide is None or refused(desk):
        return []
    about |= {"was": _called(state, places[0]), "visible": _visible(desk), **more}
    made = stated(state.project, state.record.id, places, label, **about)
    keep(desk, made)
    _tell_locked(desk, made)
    return made


def _visible(desk: Desk) -> tuple[str, ...]:
    """Names of the maps that are on screen."""
    on = ((name, desk.layer(f"map/{name}")) for name in desk.state.seen)
    return tuple(name for name, layer in on if layer is not None and layer.visible)


def keep(desk: Desk, made: Sequence[Correction]) -> None:
    """Show corrections, and have them kept as one act."""
    project, seen = desk.state.project, desk.state.heard
    if project is None or not made:
        return

    def over() -> None:
        show(desk, tuple(c for c in desk.state.pending if not any(c is one for one in made)))

    def failed(error: BaseException) -> None:
        over()
        desk.draw()  # what was painted goes from the layer too
        desk.tell(error)

    show(desk, (*desk.state.pending, *made))
    desk.writes.write(lambda: project.ledger.correct(*made, seen=seen), lambda _events: over(), failed)


def show(desk: Desk, pending: tuple[Correction, ...] | None = None) -> None:
    """Show what is said by now of the slide in front: kept, and `pending` (None: as it is)."""
    state = desk.state
    changes: dict[str, Any] = {} if pending is None else {"pending": pending}
    if state.project is not None:
        changes["heard"] = state.project.ledger.seq
        if state.slide is not None:
            changes |= said(state.project, state.slide, state, pending)
    desk.apply(**changes)


def _tell_locked(desk: Desk, made: Sequence[Correction]) -> None:
    """Say how many tiles keep another label because it is locked."""
    state = desk.state
    if not state.locked or state.nodes is None or state.lattice is None or state.project is None:
        return
    here = np.unique(np.concatenate([tiles_of(c.place, state.lattice) for c in made]))
    kept = int(np.count_nonzero(state.nodes[here] != state.project.tree.node(made[0].label)))
    if kept:
        what = "keeps its label: it is" if kept == 1 else "keep their labels: they are"
        desk.said.emit(f"{tiles(kept)} {what} locked (Alt+K unlocks what is chosen).")


def label_slides(desk: Desk, slide_ids: Sequence[str], label: str | None) -> None:
    """State a label for several slides as one act, with what the chosen model had said of each."""
    from napari_mil.workflow.editing import slide_labels

    project, card, seen = desk.state.project, desk.state.card, desk.state.heard
    if project is None or not slide_ids or refused(desk):
        return
    model, at, made = None if card is None else card.id, datetime.now(UTC), []

    def work() -> list[Correction]:
        if not made:  # tried again, it is the same act
            made.extend(slide_labels(project, slide_ids, label, model=model, at=at))
        project.ledger.correct(*made, seen=seen)
        return made

    def then(corrections: list[Correction]) -> None:
        show(desk)
        what = f"labelled {label}" if label else "without a label now"
        desk.said.emit(f"{len(corrections):,} slides are {what}; Undo is one step for all of them.")

    do(desk, work, then)


def undo(desk: Desk, slide_id: str | None = None) -> None:
    """Take back the person's latest act on a slide (None: the one in front), on every slide that it labelled,
    and say so when there is none.
    """
    _step(desk, "undo", "undone", slide_id)


def redo(desk: Desk) -> None:
    """Restore what was undone last on the slide in front, and say so when there is nothing."""
    _step(desk, "redo", "restored", None)


def _step(desk: Desk, verb: str, done: str, slide_id: str | None) -> None:
    project, record = desk.state.project, desk.state.record
    if project is None or record is None or refused(desk):
        return
    where = slide_id or record.id

    def then(event: Event | None) -> None:
        show(desk)
        if event is None:
            desk.said.emit(f"There is nothing of yours to {verb} on this slide.")
        elif "slides" in event.payload:
            desk.said.emit(f"An act on {event.payload['slides']:,} slides is {done}.")

    do(desk, lambda: getattr(project.ledger, verb)(where, project.by, everywhere=True), then)


def act_on(desk: Desk, verb: str, event: int) -> None:
    """Withdraw, lock or unlock what an event said."""
    from napari_mil import workflow

    project = desk.state.project
    if project is not None:
        do(desk, lambda: getattr(workflow, verb)(project, event), lambda _said: show(desk))


def note(desk: Desk, text: str, event: int | None, then: Callable[[Event], None]) -> None:
    """Write down a remark about what an event said, or about the slide in front."""
    from napari_mil import workflow

    project, record = desk.state.project, desk.state.record
    if project is not None and record is not None:
        do(desk, lambda: workflow.note(project, record.id, text, event=event), then)


def do(desk: Desk, work: Callable[[], Any], then: Callable[[Any], None]) -> None:
    """Have something kept; the person is told when that failed."""
    desk.writes.write(work, then, desk.tell)


def after(desk: Desk, act: Callable[[], None]) -> None:
    """Call `act()` when everything that was said is kept."""
    if not desk.writes.busy:
        act()
        return
    desk.writes.write(lambda: None, lambda _kept: act(), desk.tell)


def kept_first(desk: Desk, make: Callable[[], Steps[Any]]) -> Callable[[], Steps[Any]]:
    """Steps that begin when everything that was said up to now is kept."""
    kept = threading.Event()
    desk.writes.write(lambda: None, lambda _kept: kept.set(), lambda _error: kept.set())

    def steps() -> Steps[Any]:
        while not kept.wait(0.1):
            yield Progress("keeping what was said", 0, None)
        return (yield from make())

    return steps


def _called(state: State, place: Place) -> str | None:
    """What the place on the slide in front is called: None where it is nothing, or several things."""
    if isinstance(place, WholeSlide):
        return state.slide_label
    if state.nodes is None or state.lattice is None or state.project is None:
        return None
    nodes = np.unique(state.nodes[tiles_of(place, state.lattice)])
    return state.project.tree.path(int(nodes[0])) or None if len(nodes) == 1 else None


def model_said(state: State, place: Place) -> dict[str, Any]:
    """What the model on show had said of a place, for the record.

    Of a slide: its label and probability. Of tiles, painted or under a region: what all of them are called,
    with their mean probability for it, or that none is called; where they are called differently there is no
    one thing that it said, and only the model is named.
    """
    answer, project, grid = state.answer, state.project, state.answer_grid
    if answer is None or project is None or answer.scope != "slide":
        return {}
    about: dict[str, Any] = {"model_id": answer.model_id}
    if isinstance(place, WholeSlide) and answer.probabilities:
        node, confidence = answer.best(project.tree)[-1]
        return about | {"model_said": project.tree.path(node), "model_confidence": confidence}
    tree, level = project.tree, project.tree.levels - 1
    name = level_names(tree)[level]
    called = state.map(f"class/{name}")
    if called is None or grid is None:
        return about
    inside = covered(place, grid)
    nodes = set(called[0].values[inside].tolist())
    if len(nodes) != 1:
        return about
    [node] = nodes
    if not node:
        return about | {"model_said": NO_CALL}
    label = class_names(tree, level)[tree.class_index(node, level)]
    sure = state.map(f"probability/{name}/{label}")
    mean = None if sure is None else float(sure[0].values[inside].mean())
    return about | {"model_said": tree.path(node), "model_confidence": mean}
