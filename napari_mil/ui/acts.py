"""The acts of a person, composed from the desk and the project: short ones at once, slow ones through the
lanes.
"""

from __future__ import annotations

import getpass
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_mil.correction import Place, Polygon, WholeSlide, covered, nodes_after, tile_nodes, tiles_of
from napari_mil.errors import MILError
from napari_mil.labeltree import class_names, level_names
from napari_mil.ui.desk import Desk, State, fresh

if TYPE_CHECKING:
    from napari_mil.bag import Bag
    from napari_mil.correction import Correction
    from napari_mil.ledger import Ledger, SlideRecord
    from napari_mil.prediction import Prediction
    from napari_mil.slides import Slide
    from napari_mil.workflow import Project

#: Tiles before a model says otherwise.
TILE_PX, MPP = 256, 0.5
#: What a model says of tiles that it calls nothing.
NO_CALL = "no call"


def open_project(desk: Desk, path: str | Path, *, by: str = "") -> None:
    """Open or make a project; its first slide and its adopted model come to the front.

    by : who speaks in this window; the name of the account when empty
    """
    from napari_mil.workflow import Project, current_card

    try:
        project = Project(path, by=by or getpass.getuser())
        card = current_card(project)
    except MILError as error:
        desk.tell(error)
        return
    previous = desk.state.project
    desk.apply(**fresh(desk.state) | {"project": project, "card": card, "node": None, "heard": 0})
    if previous is not None:
        previous.close()
    if project.slides:
        open_slide(desk, project.slides[0])


def open_slide(desk: Desk, record: SlideRecord) -> None:
    """Bring a slide to the front, with what people and the chosen model have said of it."""
    project = _project(desk)
    card = desk.state.card

    def work() -> Any:
        slide = project.slide(record)
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

    desk.asks.ask("slide", work, show)


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


def said(project: Project, slide: Slide, state: State) -> dict[str, Any]:
    """What people have said of a slide, as changes of the state."""
    from napari_mil.tissue import lattice as lattice_of

    card = state.card
    tile_px, mpp = (card.tile_px, card.mpp) if card else (TILE_PX, MPP)
    lattice = state.lattice if state.slide is slide else None
    if lattice is None or (lattice.tile_px, lattice.mpp) != (tile_px, mpp if slide.mpp else None):
        lattice = lattice_of(slide, tile_px=tile_px, mpp=mpp)
    corrections = tuple(project.ledger.corrections(slide.fingerprint))
    if state.nodes is not None and lattice is state.lattice:
        nodes = nodes_after(state.nodes, state.corrections, corrections, lattice, project.tree)
    else:
        nodes = tile_nodes(corrections, lattice, project.tree)
    return {
        "lattice": lattice,
        "corrections": corrections,
        "nodes": nodes,
        "heard": project.ledger.seq,
    }


def hear(desk: Desk) -> None:
    """Show what is said by now, of the slide in front and in the list."""
    project, state = _project(desk), desk.state
    changes: dict[str, Any] = {"heard": project.ledger.seq}
    if state.slide is not None:
        changes |= said(project, state.slide, state)
    if changes.get("corrections") == state.corrections:
        changes |= {"corrections": state.corrections, "nodes": state.nodes}  # only elsewhere something is new
    desk.apply(**changes)


def correct(desk: Desk, place: Place, label: str | None, *, tool: str, note: str = "") -> Correction | None:
    """State a label for a place: written at once, with what the model had said and what was on screen."""

    def write(project: Project, slide: Slide, about: dict[str, Any]) -> list[Correction]:
        return [project.correct(slide, place, label, **about)]

    made = _write(desk, place, tool, note, write)
    return made[0] if made else None


def draw(desk: Desk, outline: Polygon, label: str | None) -> list[Correction]:
    """State a label for a drawn region; the person is told how many tiles that are, and what was mended."""
    from napari_mil.workflow import draw as draw_region

    remarks: list[str] = []

    def write(project: Project, slide: Slide, about: dict[str, Any]) -> list[Correction]:
        return draw_region(project, slide.fingerprint, outline, label, remark=remarks.append, **about)

    made = _write(desk, outline, "region", "", write)
    lattice = desk.state.lattice
    if made and lattice is not None:
        n = len(np.unique(np.concatenate([tiles_of(c.place, lattice) for c in made])))
        tiles = f"{n:,} tile{'' if n == 1 else 's'}"
        what = f"labels {tiles} {label}" if label else f"takes the label from {tiles}"
        desk.said.emit(" ".join([*remarks, f"The region {what}."]))
    return made


def _write(
    desk: Desk,
    place: Place,
    tool: str,
    note: str,
    write: Callable[[Project, Slide, dict[str, Any]], list[Correction]],
) -> list[Correction]:
    """Have corrections written with what the model had said and what was on screen, and show them; what is
    not kept is not shown.
    """
    project, state = _project(desk), desk.state
    if state.slide is None:
        return []
    about = model_said(state, place) | {"tool": tool, "note": note, "visible": state.seen}
    try:
        made = write(project, state.slide, about | {"was": _called(state, place)})
    except MILError as error:
        desk.tell(error)
        desk.draw()
        return []
    desk.apply(**said(project, state.slide, desk.state))
    return made


def _called(state: State, place: Place) -> str | None:
    """What the place on the slide in front is called: None where it is nothing, or several things."""
    if isinstance(place, WholeSlide):
        return state.slide_label
    if state.nodes is None or state.lattice is None or state.project is None:
        return None
    nodes = np.unique(state.nodes[tiles_of(place, state.lattice)])
    return state.project.tree.path(int(nodes[0])) or None if len(nodes) == 1 else None


def undo(desk: Desk) -> bool:
    """Take back the latest act on the slide in front; False when there is none."""
    return _step_ledger(desk, "undo", "There is nothing of yours to undo on this slide.")


def redo(desk: Desk) -> bool:
    """Restore what was undone last; False when there is nothing."""
    return _step_ledger(desk, "redo", "There is nothing of yours to redo on this slide.")


def _step_ledger(desk: Desk, verb: str, nothing: str) -> bool:
    project, slide = _project(desk), desk.state.slide
    if slide is None:
        return False
    try:
        done = getattr(project, verb)(slide)
    except MILError as error:
        desk.tell(error)
        return False
    if not done:
        desk.said.emit(nothing)
        return False
    desk.apply(**said(project, slide, desk.state))
    return True


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
