"""What two people said of the same place without having seen each other's words."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_mil.correction import Cells, Correction, Place, Polygon, WholeSlide, region
from napari_mil.ledger.replay import Act, Acts

_Said = tuple[int, Correction]


@dataclass(frozen=True, slots=True, eq=False)
class Conflict:
    """Two corrections of one place with different labels; who said the later one did not know the earlier.

    Attributes
    ----------
    earlier, later : number of the event, and what it states; the later one counts
    """

    earlier: _Said
    later: _Said


def conflicts_of(acts: Acts) -> tuple[Conflict, ...]:
    """The conflicts on a slide that nobody has settled, in the order in which they came about.

    One is settled when either side is taken back, or when somebody who knew both has said what the place is.
    What replaces a statement, as a region with a hole does, was said when that was.
    """
    counts, done = {seq for seq, _ in acts.in_force}, _as_changed(acts.done)
    found: list[Conflict] = []
    for n, act in enumerate(done):
        if act.seen >= act.seq - 1:
            continue
        first = bisect_right(done, act.seen, hi=n, key=lambda other: other.seq)
        for other in done[first:n]:  # said before it, and not known where it was said
            if other.by and other.by == act.by:
                continue
            found += [c for c in _between(other, act, counts) if not _settled(c, done[n + 1 :], counts)]
    return tuple(found)


def _as_changed(done: Sequence[Act]) -> Sequence[Act]:
    """Acts whose statements are those that replaced them since."""
    said = {c.id: (seq, c) for act in done for seq, c in act.corrections}
    new = {c.replaces: (seq, c) for seq, c in said.values() if c.replaces in said}
    if not new:
        return done

    def latest(entry: _Said) -> _Said:
        while entry[1].id in new:
            entry = new[entry[1].id]
        return entry

    return [
        replace(act, corrections=[latest(e) for e in act.corrections if e[1].replaces not in said])
        for act in done
    ]


def _between(earlier: Act, later: Act, counts: set[int]) -> Iterator[Conflict]:
    for one in (said for said in earlier.corrections if said[0] in counts):
        for two in (said for said in later.corrections if said[0] in counts):
            if one[1].label != two[1].label and meet(one[1].place, two[1].place):
                yield Conflict(one, two)


def _settled(conflict: Conflict, after: Sequence[Act], counts: set[int]) -> bool:
    seq, later = conflict.later
    return any(
        number in counts and meet(said.place, later.place)
        for act in after
        if act.seen >= seq
        for number, said in act.corrections
    )


def meet(one: Place, other: Place) -> bool:
    """Whether two places share some area; the whole slide meets only itself. Touching edges share none.

    >>> meet(Cells([[0, 0], [0, 1]], (8.0, 8.0)), Cells([[0, 1]], (8.0, 8.0)))
    True
    >>> meet(Cells([[0, 0]], (8.0, 8.0)), Cells([[0, 1]], (4.0, 4.0)))
    True
    >>> meet(Cells([[0, 0]], (8.0, 8.0)), Cells([[0, 2]], (4.0, 4.0)))
    False
    """
    if isinstance(one, WholeSlide) or isinstance(other, WholeSlide):
        return isinstance(one, WholeSlide) and isinstance(other, WholeSlide)
    a, b = bounds_px(one), bounds_px(other)
    if not (np.maximum(a[:2], b[:2]) < np.minimum(a[2:], b[2:])).all():
        return False
    if isinstance(one, Cells) and isinstance(other, Cells) and one.pitch_px == other.pitch_px:
        return bool(np.isin(one.keys, other.keys).any())
    return _areas_meet(areas(one, b), areas(other, a))


def bounds_px(place: Polygon | Cells) -> NDArray[np.float64]:
    """(4,) y0, x0, y1, x1 of a place in level-0 pixels."""
    if isinstance(place, Polygon):
        return np.concatenate([place.rings[0].min(0), place.rings[0].max(0)])
    pitch = np.array(place.pitch_px)
    return np.concatenate([place.cells.min(0) * pitch, (place.cells.max(0) + 1) * pitch])


def areas(place: Polygon | Cells, near: NDArray[np.float64]) -> NDArray[Any]:
    """The shapely areas of a place; of cells those that reach into a box."""
    import shapely

    if isinstance(place, Polygon):
        return np.array([region(place)])
    pitch = np.array(place.pitch_px)
    low = place.cells * pitch
    low = low[((low < near[2:]) & (low + pitch > near[:2])).all(1)]
    boxes: NDArray[Any] = shapely.box(low[:, 0], low[:, 1], low[:, 0] + pitch[0], low[:, 1] + pitch[1])
    return boxes


def _areas_meet(some: NDArray[Any], others: NDArray[Any]) -> bool:
    import shapely

    with np.errstate(all="ignore"):  # the geometry engine sets floating-point flags on its way
        tree = shapely.STRtree(some)
        pairs = tree.query(others, predicate="intersects")
        shared = shapely.intersection(others[pairs[0]], some[pairs[1]])
        return bool((shapely.area(shared) > 0).any())
