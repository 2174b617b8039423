"""Places of which two things were said that cannot both hold: a region and its slide, or two people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from napari_mil.correction import Cells, Correction, Place, Polygon, WholeSlide, region, tiles_of
from napari_mil.labeltree import LabelTree, excluded
from napari_mil.ledger import Acts, SlideRecord, conflicts_of
from napari_mil.ledger.conflicts import areas, bounds_px
from napari_mil.workflow.history import place_words
from napari_mil.workflow.naming import shown_names
from napari_mil.workflow.project import Project, find_record
from napari_mil.workflow.readings import cells_grid


@dataclass(frozen=True, slots=True, eq=False)
class Contradiction:
    """Two statements that cannot both hold, of which nobody has taken one back.

    Attributes
    ----------
    record, name : the slide, and what it is called
    place : where
    between : "levels" a part and its slide, or "people" who had not seen each other's words
    words : a sentence without the slide's name
    events : numbers of the events that state them; a manifest's label has none
    """

    record: SlideRecord
    name: str
    place: Place
    between: str
    words: str
    events: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.name}: {self.words}"


#: Slide id → (the last event about it, its record, what was found).
Known = dict[str, tuple[int, SlideRecord, tuple[Contradiction, ...]]]


def contradictions(
    project: Project, *, slide: str | None = None, known: Known | None = None
) -> tuple[Contradiction, ...]:
    """Every contradiction of a slide, or of all, slide by slide.

    A part contradicts its slide when the slide's label excludes it (`labeltree.excluded`), as long as some of
    it still counts. Two people contradict each other as `ledger.conflicts_of` has it.

    known : what was found before, brought forward here: only slides that something was said of since are
        looked at
    """
    known = {} if known is None else known
    names = shown_names(project.slides)
    records = [find_record(project, slide)] if slide else project.slides
    last = project.ledger.last
    found: list[Contradiction] = []
    for record in records:
        state = last.get(record.id, 0), record
        if record.id not in known or known[record.id][:2] != state:
            known[record.id] = (*state, tuple(_of_slide(project, record, names[record.id])))
        found += known[record.id][2]
    return tuple(found)


def _of_slide(project: Project, record: SlideRecord, name: str) -> Iterator[Contradiction]:
    acts = project.ledger.acts(record.id)
    if acts.in_force:
        yield from _of_levels(record, name, acts, project.tree)
        yield from _of_people(record, name, acts)


def _of_levels(record: SlideRecord, name: str, acts: Acts, tree: LabelTree) -> Iterator[Contradiction]:
    whole = [(event, c) for event, c in acts.in_force if isinstance(c.place, WholeSlide)][-1:]
    label, by = (whole[0][1].label, whole[0][1].by or "somebody") if whole else (record.label, "the manifest")
    impossible = {tree.path(node) for node in excluded(tree, tree.node(label))}
    said = [c for _, c in acts.in_force]
    suspect = [n for n, c in enumerate(said) if c.label in impossible and not isinstance(c.place, WholeSlide)]
    count = _counting(said, suspect)
    for n, (event, c) in enumerate(acts.in_force):
        if n in count:
            are = "are" if isinstance(c.place, Cells) and len(c.place.cells) > 1 else "is"
            words = f"{place_words(c.place)} {are} labelled {c.label} by {c.by or 'somebody'}, but the slide"
            events = (event, *(e for e, _ in whole))
            yield Contradiction(record, name, c.place, "levels", f"{words} {label} by {by}", events)


def _of_people(record: SlideRecord, name: str, acts: Acts) -> Iterator[Contradiction]:
    for found in conflicts_of(acts):
        (first, one), (second, other) = found.earlier, found.later
        words = (
            f"{place_words(other.place)}: {other.by or 'somebody'} says {other.label or 'no label'}, "
            f"{one.by or 'somebody'} said {one.label or 'no label'}; neither had seen the other"
        )
        yield Contradiction(record, name, other.place, "people", words, (first, second))


def _counting(said: Sequence[Correction], suspect: Sequence[int]) -> set[int]:
    """Those of the suspect corrections of which some is still called so after what was said later."""
    found = {n for n in suspect if isinstance(said[n].place, Polygon) and _is_left(said[n:])}
    painted = [c.place for c in (said[n] for n in suspect) if isinstance(c.place, Cells)]
    for pitch in {place.pitch_px for place in painted}:
        grid = cells_grid([place for place in painted if place.pitch_px == pitch])
        owner = np.full(len(grid), -1)
        for n, c in enumerate(said):
            owner[tiles_of(c.place, grid)] = n
        found |= set(np.unique(owner).tolist()) & set(suspect)
    return found


def _is_left(said: Sequence[Correction]) -> bool:
    """Whether some of the region of the first statement is left by those after it."""
    import shapely

    first = said[0].place
    if not isinstance(first, Polygon):
        return False
    left, box = region(first), bounds_px(first)
    with np.errstate(all="ignore"):  # the geometry engine sets floating-point flags on its way
        for place in (c.place for c in said[1:]):
            if not isinstance(place, WholeSlide):
                left = shapely.difference(left, shapely.union_all(areas(place, box)))
    return bool(left.area > 0)
