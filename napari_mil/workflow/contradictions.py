"""Places of which two things were said that cannot both hold: a region and its slide, or two people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from napari_mil.correction import Cells, Correction, Place, WholeSlide, region, tile_nodes
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


def contradictions(project: Project, *, slide: str | None = None) -> tuple[Contradiction, ...]:
    """Every contradiction of a slide, or of all, slide by slide.

    A part contradicts its slide when the slide's label excludes it (`labeltree.excluded`), as long as some of
    it still counts. Two people contradict each other as `ledger.conflicts_of` has it.
    """
    names = shown_names(project.slides)
    records = [find_record(project, slide)] if slide else project.slides
    found: list[Contradiction] = []
    for record in records:
        acts = project.ledger.acts(record.id)
        if acts.in_force:
            found += _of_levels(record, names[record.id], acts, project.tree)
            found += _of_people(record, names[record.id], acts)
    return tuple(found)


def _of_levels(record: SlideRecord, name: str, acts: Acts, tree: LabelTree) -> Iterator[Contradiction]:
    whole = [(event, c) for event, c in acts.in_force if isinstance(c.place, WholeSlide)][-1:]
    label, by = (whole[0][1].label, whole[0][1].by or "somebody") if whole else (record.label, "the manifest")
    impossible = excluded(tree, tree.node(label))
    if not impossible:
        return
    said = [c for _, c in acts.in_force]
    for n, (event, c) in enumerate(acts.in_force):
        if tree.node(c.label) in impossible and not isinstance(c.place, WholeSlide):
            if not _counts(c, said[n + 1 :], tree):
                continue
            are = "is" if not isinstance(c.place, Cells) or len(c.place.cells) == 1 else "are"
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


def _counts(said: Correction, after: Sequence[Correction], tree: LabelTree) -> bool:
    """Whether some of a place is still called so after what was said later."""
    if isinstance(said.place, WholeSlide):
        return False
    if isinstance(said.place, Cells):
        nodes = tile_nodes([said, *after], cells_grid([said.place]), tree)
        return bool((nodes == tree.node(said.label)).any())
    import shapely

    left, box = region(said.place), bounds_px(said.place)
    with np.errstate(all="ignore"):  # the geometry engine sets floating-point flags on its way
        for c in after:
            if not isinstance(c.place, WholeSlide):
                left = shapely.difference(left, shapely.union_all(areas(c.place, box)))
    return bool(left.area > 0)
