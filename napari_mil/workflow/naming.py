"""What slides are called where several have the same name, and places on them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from napari_mil.correction import Cells, Place
from napari_mil.errors import LabelError, printable
from napari_mil.ledger import SlideRecord
from napari_mil.slides.address import SlidePath, slide_path


def told_apart(paths: Sequence[SlidePath], names: Sequence[str]) -> list[str]:
    """The names, made printable; where some are equal, as many folders before them as tell them apart.

    >>> from pathlib import Path
    >>> told_apart([Path("/x/a/1.svs"), Path("/x/b/1.svs"), Path("/x/b/2.svs")], ["1", "1", "2"])
    ['a/1', 'b/1', '2']
    """
    shown = list(map(printable, names))
    for depth in range(1, max((len(path.parts) for path in paths), default=0)):
        counts = Counter(shown)
        if len(counts) == len(shown):
            break
        again = [counts[text] > 1 for text in shown]
        for i, path in enumerate(paths):
            if again[i]:
                shown[i] = printable("/".join((*path.parent.parts[-depth:], names[i])).replace("//", "/"))
    return shown


def shown_names(records: Sequence[SlideRecord]) -> dict[str, str]:
    """{slide id: what the slide is called}; no two are called the same, unless they have the same path."""
    names = told_apart([slide_path(r.path) for r in records], [r.name for r in records])
    return {record.id: name for record, name in zip(records, names, strict=True)}


def called(records: Sequence[SlideRecord], which: str) -> list[SlideRecord]:
    """The records that an id, a path, a name as shown, a name or a file's name may mean: the first of these
    ways that means any.
    """
    if found := [r for r in records if which == r.id]:
        return found
    full, shown = str(slide_path(which).absolute()), shown_names(records)
    ways = (
        [r for r in records if full == r.path],
        [r for r in records if which == shown[r.id]],
        [r for r in records if which in (r.name, slide_path(r.path).name)],
    )
    return next((found for found in ways if found), [])


def ids_by_name(records: Sequence[SlideRecord]) -> dict[str, str]:
    """{id, name as shown, or name that one slide alone has: id}."""
    names = [(name, r.id) for r in records for name in {r.name, slide_path(r.path).name}]
    counts = Counter(name for name, _ in names)
    shown = {name: slide for slide, name in shown_names(records).items()}
    alone = {name: slide for name, slide in names if counts[name] == 1}
    return alone | shown | {r.id: r.id for r in records}


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """A place that a person is asked about.

    Attributes
    ----------
    record, name : its slide, and what that is called
    place : a tile as painted cells, or the whole slide
    """

    record: SlideRecord
    name: str
    place: Place

    @property
    def key(self) -> str:
        """How a command line names it: SLIDE for the whole slide, SLIDE@ROW,COL for a tile."""
        at = "@{},{}".format(*self.place.cells[0]) if isinstance(self.place, Cells) else ""
        return self.name + at


def place_of(records: Sequence[SlideRecord], key: str) -> tuple[str, tuple[int, int] | None]:
    """`split_key` of what somebody typed: LabelError where it names a slide and a place that is none."""
    name, _, at = key.rpartition("@")
    if name and split_key(key)[1] is None and not called(records, key) and called(records, name):
        raise LabelError(
            f"{key!r} names no place of {name}: {at!r} is no tile; write SLIDE@ROW,COL, such as "
            f"{name}@12,40, or {name} for the whole slide."
        )
    return split_key(key)


def split_key(key: str) -> tuple[str, tuple[int, int] | None]:
    """The slide's name and the tile that a place is named by; None: the whole slide.

    >>> split_key("case-17@12,40"), split_key("me@home"), split_key("a@b@1,2")
    (('case-17', (12, 40)), ('me@home', None), ('a@b', (1, 2)))
    """
    name, _, at = key.rpartition("@")
    parts = at.split(",")
    if not name or len(parts) != 2 or not all(p.isdecimal() for p in parts):
        return key, None
    return name, (int(parts[0]), int(parts[1]))
