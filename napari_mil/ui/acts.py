"""The acts of a person, composed from the desk and the project: short ones at once, slow ones through the
lanes.
"""

from __future__ import annotations

import getpass
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_mil.correction import Place, nodes_after, tile_nodes
from napari_mil.slides.overview import prepare
from napari_mil.ui.desk import Desk
from napari_mil.ui.fetching import copy_first
from napari_mil.ui.state import State, fresh

if TYPE_CHECKING:
    from napari_mil.bag import Bag
    from napari_mil.card import ModelCard
    from napari_mil.correction import Correction
    from napari_mil.ledger import Acts, Ledger, SlideRecord
    from napari_mil.prediction import Prediction
    from napari_mil.slides import Slide
    from napari_mil.workflow import Project

#: Tiles before a model says otherwise.
TILE_PX, MPP = 256, 0.5
#: What a model says of tiles that it calls nothing.
NO_CALL = "no call"


def open_project(
    desk: Desk, path: str | Path, *, by: str = "", then: Callable[[], None] = lambda: None
) -> None:
    """Open or make a project while the window goes on: its first slide and its adopted model come to the
    front, and `then()` is called. Where that fails the person is told, and what was open stays open.

    by : who speaks in this window; the name of the account when empty
    """

    def show(found: tuple[Project, ModelCard | None]) -> None:
        _take_up(desk, *found)
        then()

    desk.said.emit(f"Opening {Path(path).name} …")
    desk.openings.ask(
        "project",
        lambda: _opened(path, by),
        show,
        failed=desk.tell,
        unwanted=lambda found: found[0].close(),
    )


def _opened(path: str | Path, by: str) -> tuple[Project, ModelCard | None]:
    """A project whose answers wait for nobody from now on, and its adopted model. It waits for a disk or a
    server itself, so it is not for the GUI thread.
    """
    from napari_mil.workflow import Project, current_card

    project = Project(path, by=by or getpass.getuser())
    try:
        project.ledger.follow = False
        return project, current_card(project)
    except BaseException:
        project.close()
        raise


def _take_up(desk: Desk, project: Project, card: ModelCard | None) -> None:
    """Have a project in front instead of the one that is."""
    desk.said.emit("")
    previous = desk.state.project
    about = {"project": project, "card": card, "node": None, "heard": 0, "pending": ()}
    desk.apply(**fresh(desk.state) | about)
    if previous is not None:  # when what was said last is kept
        desk.writes.write(previous.close, lambda _done: None, desk.tell)
    if project.slides:
        open_slide(desk, project.slides[0])


def open_slide(
    desk: Desk, record: SlideRecord, *, then: Callable[[], None] = lambda: None, copied: bool = False
) -> None:
    """Bring a slide to the front, with what people and the chosen model have said of it; then call
    `then()`. One that has to be copied from its server first comes when it is here, if nobody has gone to
    another one.
    """
    project, front = _project(desk), desk.state.record
    card = desk.state.card

    def work() -> Any:
        slide = prepare(project.slide(record))
        return slide, *kept_answer(project, slide, card)

    def show(found: tuple[Slide, Bag | None, Prediction | None]) -> None:
        slide, bag, answer = found
        desk.apply(
            **fresh(desk.state)
            | {"record": record, "slide": slide, "bag": bag, "answer": answer}
            | {"answer_grid": bag.grid if answer is not None and bag is not None else None}
            | said(project, slide, desk.state)
        )
        desk.look_at_slide()
        then()

    def here() -> None:
        if desk.state.project is project and desk.state.record is front:
            open_slide(desk, record, then=then, copied=True)
        else:
            desk.said.emit(f"{record.name} is here now.")

    desk.asks.ask("slide", work, show, failed=None if copied else copy_first(desk, record.path, here))


def visit(desk: Desk, record: SlideRecord, place: Place) -> None:
    """Have a place at hand and in the middle of the view, on whichever slide it lies."""
    front = desk.state.record
    if front is not None and front.id == record.id and desk.state.slide is not None:
        desk.go_to(place)
    else:
        open_slide(desk, record, then=lambda: desk.go_to(place))


def show_beside(desk: Desk, record: SlideRecord) -> None:
    """Show a slide beside the one in front, or take it away again."""
    project, state = _project(desk), desk.state
    if state.slide is None or record is state.record:
        return
    if any(one.fingerprint == record.id for one in state.beside):
        desk.apply(beside=tuple(one for one in state.beside if one.fingerprint != record.id))
        return
    front = state.slide

    def show(slide: Slide) -> None:
        if desk.state.slide is not front:
            return
        if (slide.mpp is None) != (front.mpp is None):
            desk.tell(f"{slide.name} cannot lie beside {front.name}: the µm per pixel of only one are known.")
            return
        desk.apply(beside=(*desk.state.beside, slide))
        desk.viewer.reset_view()

    desk.asks.ask(
        f"slide beside {record.id}",
        lambda: prepare(project.slide(record)),
        show,
        failed=copy_first(desk, record.path, lambda: desk.said.emit(f"{record.name} is here now.")),
    )


def step_slide(desk: Desk, step: int) -> None:
    """The next slide of the project (step 1) or the one before (−1)."""
    records = _project(desk).slides
    ids = [r.id for r in records]
    if not ids:
        return
    at = ids.index(desk.state.record.id) if desk.state.record else -step
    open_slide(desk, records[(at + step) % len(ids)])


def kept_answer(project: Project, slide: Slide, card: Any) -> tuple[Bag | None, Prediction | None]:
    """The slide's kept features and the model's kept answer, as far as there are any."""
    if card is None:
        return None, None
    mpp = None if slide.mpp is None else card.mpp
    bag = project.store.load_bag(slide.fingerprint, card.encoder, card.tile_px, mpp)
    if bag is None:
        return None, None
    return bag, project.store.load_prediction(slide.fingerprint, bag.grid.id, card.id)


def said(
    project: Project, slide: Slide, state: State, pending: Sequence[Correction] | None = None
) -> dict[str, Any]:
    """What people have said of a slide, as changes of the state; what stays is the same object as before.

    pending : said and not kept yet, on whichever slide; None: that of the state
    """
    from napari_mil.tissue import lattice as lattice_of

    card = state.card
    tile_px, mpp = (card.tile_px, card.mpp) if card else (TILE_PX, MPP)
    lattice = state.lattice if state.slide is slide else None
    if lattice is None or (lattice.tile_px, lattice.mpp) != (tile_px, mpp if slide.mpp else None):
        lattice = lattice_of(slide, tile_px=tile_px, mpp=mpp)
    known = project.ledger.acts(slide.fingerprint)
    entries = _with_pending(known, slide, state.pending if pending is None else pending)
    before = {c.id: c for c in state.corrections}
    corrections = tuple(before.get(c.id, c) for _, c in entries)
    if corrections == state.corrections:
        corrections = state.corrections
    if corrections is state.corrections and state.nodes is not None and lattice is state.lattice:
        nodes = state.nodes
    elif state.nodes is not None and lattice is state.lattice:
        nodes = nodes_after(state.nodes, state.corrections, corrections, lattice, project.tree)
    else:
        nodes = tile_nodes(corrections, lattice, project.tree)
    return {
        "lattice": lattice,
        "corrections": corrections,
        "events": tuple(seq for seq, _ in entries),
        "locked": state.locked if known.locked == state.locked else known.locked,
        "nodes": nodes,
        "heard": project.ledger.seq,
    }


def _with_pending(known: Acts, slide: Slide, pending: Sequence[Correction]) -> list[tuple[int, Correction]]:
    """What counts on a slide in its order, what is not kept yet before what is locked, as event 0; what
    replaces another counts in its turn.
    """
    if not pending:
        return list(known.in_force)
    kept = {c.id for _, c in known.in_force}
    more = [(0, c) for c in pending if c.slide_id == slide.fingerprint and c.id not in kept]
    instead = {c.replaces: (0, c) for _, c in more if c.replaces}

    def latest(entry: tuple[int, Correction]) -> tuple[int, Correction]:
        while entry[1].id in instead:
            entry = instead[entry[1].id]
        return entry

    free = sum(seq not in known.locked for seq, _ in known.in_force)
    new = (entry for entry in more if not entry[1].replaces)
    return list(map(latest, (*known.in_force[:free], *new, *known.in_force[free:])))


def show_map(desk: Desk, name: str, *, alone: bool = True) -> None:
    """Put a map on show, or take it away when it is on show; `alone` takes the others away."""
    shown = desk.state.shown
    if name in shown:
        desk.apply(shown=tuple(n for n in shown if n != name))
    else:
        desk.apply(shown=(name,) if alone else (*shown, name))


def use_model(desk: Desk, card: Any, *, then: Callable[[], None] | None = None) -> None:
    """Choose a model; its kept answer for the slide in front is shown, and `then()` is called."""
    project, slide = _project(desk), desk.state.slide
    desk.apply(card=card, answer=None, answer_grid=None, simulated=(), partial=False)
    if slide is None:
        return

    def show(found: tuple[Bag | None, Prediction | None]) -> None:
        bag, answer = found
        if desk.state.card is card and desk.state.slide is slide:
            grid = bag.grid if answer is not None and bag is not None else None
            desk.apply(bag=bag, answer=answer, answer_grid=grid)
            if then is not None:
                then()

    desk.asks.ask("kept answer", lambda: kept_answer(project, slide, card), show)


def take_features(desk: Desk) -> None:
    """Fetch the slide's features, which the project keeps now; hidden tiles are simulated from them."""
    project, state = _project(desk), desk.state
    slide, card = state.slide, state.card
    if slide is None or card is None:
        return

    def show(found: tuple[Bag | None, Prediction | None]) -> None:
        if desk.state.card is card and desk.state.slide is slide:
            desk.apply(bag=found[0])

    desk.asks.ask("kept answer", lambda: kept_answer(project, slide, card), show)


def whenever(desk: Desk, names: tuple[str, ...], act: Callable[[State], None]) -> None:
    """Call `act(state)` now and whenever one of the named fields of the state has changed."""

    def look(before: State, after: State) -> None:
        if any(getattr(before, n) is not getattr(after, n) for n in names):
            act(after)

    desk.changed.connect(look)
    act(desk.state)


def _project(desk: Desk) -> Project:
    if desk.state.project is None:
        raise RuntimeError("no project is open")
    return desk.state.project


def painted(before: Any, after: Any) -> list[tuple[int, Any]]:
    """(node, (n, 2) int32 cells) for every node that cells of a raster were changed to."""
    changed = np.asarray(before) != np.asarray(after)
    nodes = np.unique(np.asarray(after)[changed])
    return [(int(n), np.argwhere(changed & (np.asarray(after) == n)).astype(np.int32)) for n in nodes]


def corrections_since(project: Project, head: str | None) -> tuple[Correction, ...]:
    """Corrections in force that were said after the ledger's event with hash `head`; all of them for None."""
    after = 0 if head is None else _number(project.ledger, head)
    said = [entry for r in project.slides for entry in project.ledger.acts(r.id).in_force if entry[0] > after]
    return tuple(c for _, c in sorted(said, key=lambda entry: entry[0]))


@lru_cache(maxsize=16)
def _number(ledger: Ledger, head: str) -> int:
    """Number of the event with a hash, 0 where there is none; events never change, so it is asked once."""
    return next((e.seq for e in ledger.events() if e.hash == head), 0)
