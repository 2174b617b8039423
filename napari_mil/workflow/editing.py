"""Saying what places are, beyond one stroke: outlines that are mended, many tiles at once, and acts on what
was said before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from napari_mil.correction import Cells, Correction, Place, Polygon, WholeSlide, from_record, region
from napari_mil.errors import LabelError, ModelError, ProjectError
from napari_mil.ledger import Event
from napari_mil.workflow.project import Project, find_card, find_record, label_before

NO_AREA = "The region has no area: draw an outline of at least three points that are no line."


def state(
    project: Project, slide: str, places: Sequence[Place], label: str | None, **about: Any
) -> list[Correction]:
    """State one label for several places of a slide as one act.

    about : further fields of Correction
    """
    said = stated(project, slide, places, label, **about)
    project.ledger.correct(*said)
    return said


def stated(
    project: Project, slide: str, places: Sequence[Place], label: str | None, **about: Any
) -> list[Correction]:
    """What `state` writes, not written yet."""
    record = find_record(project, slide)
    text = project.tree.path(project.tree.node(label)) or None
    by = about.pop("by", project.by)
    said = []
    for place in places:
        was = about["was"] if "was" in about else label_before(project, record, place)
        said.append(Correction(record.id, place, text, by=by, **(about | {"was": was})))
    return said


def slide_labels(
    project: Project, slides: Iterable[str], label: str | None, *, model: str | None = None, **about: Any
) -> list[Correction]:
    """One label for several slides, each with what a model's latest kept answer says of it; not written
    yet.
    """
    text = project.tree.path(project.tree.node(label)) or None
    by = about.pop("by", project.by)
    said = []
    for record in (find_record(project, which) for which in slides):
        was = label_before(project, record, WholeSlide())
        known = _latest_said(project, record.id, model) if model else {}
        more = {"tool": "selected slides", "was": was} | known | about
        said.append(Correction(record.id, WholeSlide(), text, by=by, **more))
    return said


def _latest_said(project: Project, slide_id: str, model: str) -> dict[str, Any]:
    answer = project.store.latest_answer(slide_id, model)
    if answer is None or not answer.probabilities:
        return {}
    node, confidence = answer.best(project.tree)[-1]
    return {"model_id": model, "model_said": project.tree.path(node), "model_confidence": confidence}


def label_slides(
    project: Project, slides: Iterable[str], label: str | None, *, model: str | None = None, **about: Any
) -> list[Correction]:
    """State one label for several slides as one act."""
    said = slide_labels(project, slides, label, model=model, **about)
    project.ledger.correct(*said)
    return said


def draw(
    project: Project,
    slide: str,
    outline: Polygon,
    label: str | None,
    *,
    remark: Callable[[str], None] = lambda _sentence: None,
    **about: Any,
) -> list[Correction]:
    """State a label for a drawn region. It is kept as drawn, holes and all; an outline that crosses itself is
    mended first, and `remark` is told how.
    """
    places, sentence = mended(outline)
    if sentence:
        remark(sentence)
    return state(project, slide, places, label, **({"tool": "region"} | about))


def mended(outline: Polygon) -> tuple[tuple[Polygon, ...], str]:
    """Regions with valid outlines that cover what a drawn one covers, and a sentence about what was mended,
    "" when nothing had to be. LabelError for an outline without area.

    >>> eight = Polygon((np.array([[0.0, 0], [8, 8], [8, 0], [0, 8]]),))
    >>> parts, sentence = mended(eight)
    >>> len(parts), sentence
    (2, 'The outline crossed itself: it was kept as 2 regions that cover the same area.')
    """
    import shapely

    shape = region(outline)
    if shape.area <= 0:
        raise LabelError(NO_AREA)
    if shapely.Polygon(outline.rings[0], outline.rings[1:]).is_valid:
        return (outline,), ""
    parts = tuple(_place(part) for part in shapely.get_parts(shape))
    regions = "one region that covers" if len(parts) == 1 else f"{len(parts)} regions that cover"
    return parts, f"The outline crossed itself: it was kept as {regions} the same area."


def cut(project: Project, event: int, outline: Polygon, **about: Any) -> Correction:
    """Cut a hole into the region that an event states: one event, which one undo takes back. Errors of
    `with_hole`; ProjectError when the event states no label in force, or is locked.
    """
    said = from_record(_stated(project, [event])[event].payload["correction"])
    made = with_hole(said, outline, **({"by": project.by, "tool": "hole"} | about))
    project.ledger.correct(made)
    return made


def cut_file(project: Project, event: int, path: Path) -> Correction:
    """Cut the areas of a GeoJSON file out of the region that an event states: one event, which one undo takes
    back. Errors of `cut`; LabelError when the file cannot be read, or holds no area.
    """
    from napari_mil.interop import geojson

    said = from_record(_stated(project, [event])[event].payload["correction"])
    slide = project.slide(find_record(project, said.slide_id))
    made = said
    for area in geojson.read(path, slide, project.tree, label=said.label):
        if isinstance(area.place, Polygon):
            made = with_hole(made, area.place, by=project.by, tool="hole")
    if made is said:
        raise LabelError(f"{path.name} holds no area that could be a hole; draw its outline as a polygon.")
    made = replace(made, replaces=said.id)
    project.ledger.correct(made)
    return made


def with_hole(said: Correction, outline: Polygon, **about: Any) -> Correction:
    """What takes the place of a region's statement when a hole is cut into it; not written yet. The hole is
    kept as drawn where it meets no other.

    about : further fields of Correction

    Raises
    ------
    LabelError : it is no region; the outline has no area, does not lie inside it or lies in a hole of it
        already; or it would be cut in pieces
    """
    import shapely

    if not isinstance(said.place, Polygon):
        raise LabelError("Only a drawn region can have a hole; take the label away from painted tiles.")
    whole, hole = region(said.place), region(outline)
    if hole.area <= 0:
        raise LabelError(NO_AREA)
    if not encloses(said.place, outline):
        raise LabelError("A hole lies wholly inside its region; draw its outline so.")
    with np.errstate(all="ignore"):  # the geometry engine sets floating-point flags on its way
        left = shapely.difference(whole, hole)
    if left.area == whole.area:
        raise LabelError("There is a hole already where the outline was drawn.")
    place = Polygon((*said.place.rings, *outline.rings))
    if not shapely.Polygon(place.rings[0], place.rings[1:]).is_valid:
        if left.is_empty or left.geom_type != "Polygon":
            raise LabelError(
                "The hole would leave nothing of the region, or cut it in pieces; draw it smaller."
            )
        place = _place(left)
    kept = {"note": said.note, "replaces": said.id, "was": said.label}
    return Correction(said.slide_id, place, said.label, **(kept | about))


def encloses(place: Polygon, outline: Polygon) -> bool:
    """Whether an outline lies wholly inside a region, holes and all."""
    import shapely

    parts = shapely.get_parts(region(Polygon(place.rings[:1])))
    return any(bool(shapely.covers(part, region(outline))) for part in parts)


def _place(shape: Any) -> Polygon:
    rings = (shape.exterior, *shape.interiors)
    return Polygon(tuple(np.asarray(ring.coords)[:-1] for ring in rings))


def label_tiles(
    project: Project, slide: str, rows: Iterable[int], label: str | None, *, model: str, **about: Any
) -> Correction:
    """State a label for tiles by their numbers in the slide's bag, such as the selected rows of a table.
    LabelError for a number that no tile has.
    """
    _, grid, card = _kept(project, slide, model)
    numbers = np.unique(np.fromiter(rows, np.int64))
    if not len(numbers) or numbers[0] < 0 or numbers[-1] >= len(grid):
        raise LabelError(
            f"Tiles are numbered from 0 to {len(grid) - 1} here; got {numbers[[0, -1]].tolist() or 'none'}."
            if len(numbers)
            else "No tile was chosen; choose at least one."
        )
    cells = Cells(grid.cells[numbers], grid.pitch_px)
    return state(project, slide, [cells], label, **({"tool": "rows", "model_id": card.id} | about))[0]


def label_above(
    project: Project,
    slide: str,
    map_name: str,
    threshold: float,
    label: str | None,
    *,
    model: str,
    **about: Any,
) -> Correction:
    """State a label for all tiles of which a map of a model's kept answer says at least `threshold`; the rule
    is kept as the note.

    Raises
    ------
    ModelError : no answer is kept, or it has no such map
    LabelError : no tile is so high
    """
    answer, grid, card = _kept(project, slide, model)
    found = next((m for m in answer.maps if m.name == map_name), None)
    if found is None:
        names = ", ".join(m.name for m in answer.maps)
        raise ModelError(f"{card.name} has no map {map_name!r} of this slide; there are {names}.")
    chosen = np.asarray(found.values) >= threshold
    if not chosen.any():
        raise LabelError(
            f"No tile has {map_name} ≥ {threshold:g}, nothing was said; the highest has "
            f"{np.nanmax(found.values):g}."
        )
    rule = f"{map_name} ≥ {threshold:g}"
    cells = Cells(grid.cells[chosen], grid.pitch_px)
    kept = {"tool": "above threshold", "note": rule, "model_id": card.id}
    return state(project, slide, [cells], label, **(kept | about))[0]


def _kept(project: Project, slide: str, model: str) -> Any:
    """A model's kept answer for a slide, its grid, and the model's card."""
    record, card = find_record(project, slide), find_card(project, model)
    bag = project.store.load_bag(
        record.id, card.encoder, card.tile_px, None if record.mpp is None else card.mpp
    )
    answer = bag and project.store.load_prediction(record.id, bag.grid.id, card.id)
    if bag is None or answer is None:
        raise ModelError(
            f"{card.name} has not answered for {record.name} yet; run `napari-mil predict` first."
        )
    return answer, bag.grid, card


def withdraw(project: Project, *events: int) -> list[Correction]:
    """Take corrections of any time back, by the numbers of their events, as one act per slide: what was said
    before them counts again. ProjectError when one is not in force, or locked.
    """
    return _act_on(project, "withdraw", events)


def lock(project: Project, *events: int) -> list[Correction]:
    """Let corrections count whatever is said later, until they are unlocked."""
    return _act_on(project, "lock", events)


def unlock(project: Project, *events: int) -> list[Correction]:
    """Let later corrections count again."""
    return _act_on(project, "unlock", events)


def _act_on(project: Project, kind: str, events: Sequence[int]) -> list[Correction]:
    known = _stated(project, events)
    slides: dict[str, list[int]] = {}
    for seq in events:
        slides.setdefault(known[seq].slide_id, []).append(seq)
    for slide_id, theirs in slides.items():
        project.ledger.append(kind, slide_id, {"events": theirs}, project.by)
    return [from_record(known[seq].payload["correction"]) for seq in events]


def _stated(project: Project, events: Sequence[int]) -> dict[int, Event]:
    """The events of these numbers; ProjectError when one states no label."""
    first = min(events, default=1) - 1
    known = {e.seq: e for e in project.ledger.events(kind="correct", after=first) if e.seq in events}
    missing = [seq for seq in events if seq not in known]
    if missing:
        raise ProjectError(
            f"Event {missing[0]} states no label; `napari-mil labels show` lists those in force by number."
        )
    return known


def note(project: Project, slide: str | None, text: str, *, event: int | None = None) -> Event:
    """Write down a remark about a slide, about what an event said, or about the project; it changes no
    label.
    """
    if not text.strip():
        raise LabelError("An empty note says nothing; write what is to be remembered.")
    where = None if slide is None else find_record(project, slide).id
    about: dict[str, Any] = {"text": text.strip()}
    if event is not None:
        where = _stated(project, [event])[event].slide_id
        about["events"] = [event]
    return project.ledger.append("note", where, about, project.by)
