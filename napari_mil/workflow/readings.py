"""Second readings: what another person says of a place without seeing what was said, and how far both agree.

A second reading never takes the place of the first: it is an event of the kind `reading`, which changes no
label. Where the two disagree, people decide, and state the label that shall hold.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_mil.correction import (
    Cells,
    Correction,
    Place,
    WholeSlide,
    from_record,
    slide_node,
    tile_nodes,
    to_record,
)
from napari_mil.errors import LabelError
from napari_mil.grid import TileGrid
from napari_mil.interop.cells import cells, row_of_cells
from napari_mil.interop.files import text_to
from napari_mil.labeltree import agree
from napari_mil.ledger import SlideRecord
from napari_mil.workflow.naming import Asked, place_of, shown_names
from napari_mil.workflow.project import Project, find_record

if TYPE_CHECKING:
    from napari_mil.evaluate.agreement import Agreement

READING = "reading"
#: tiles of one label of one slide that are asked for a second time
AGAIN = 4


@dataclass(frozen=True, slots=True, eq=False)
class Disagreement:
    """A place that two readers call differently; `cell` None: the whole slide."""

    record: SlideRecord
    slide: str
    place: Place
    cell: tuple[int, int] | None
    first: str
    second: str


@dataclass(frozen=True, slots=True, eq=False)
class Report:
    """How far two people agree on what both have labelled.

    Attributes
    ----------
    first, second : who
    slides, tiles : per level and node, of whole slides and of single tiles
    disagreements : the places that they call differently
    """

    first: str
    second: str
    slides: tuple[Agreement, ...]
    tiles: tuple[Agreement, ...]
    disagreements: tuple[Disagreement, ...]


def read_again(project: Project, slide: str, place: Place, label: str, *, note: str = "") -> Correction:
    """Keep a second reading of a place; the label in force stays. LabelError for an unknown label."""
    record = find_record(project, slide)
    text = project.tree.path(project.tree.node(label))
    if not text:
        raise LabelError("A second reading states a label; leave the place out where you cannot tell.")
    said = Correction(record.id, place, text, by=project.by, tool="second reading", note=note)
    project.ledger.append(READING, record.id, {"correction": to_record(said)}, project.by)
    return said


def readings(project: Project, slide_id: str | None = None) -> tuple[Correction, ...]:
    """Every second reading in the order in which they were given, of a slide or of all."""
    events = project.ledger.events(kind=READING, slide_id=slide_id)
    return tuple(from_record(e.payload["correction"]) for e in events)


def second_places(project: Project, *, n: int = 20, seed: int = 0) -> list[tuple[SlideRecord, Place]]:
    """Places that others have labelled and this person has not: n of them in random order, slides and at most
    AGAIN tiles of each label of each slide. What was said of them is not told.
    """
    rng, found = np.random.default_rng([seed, 7]), list[tuple[SlideRecord, Place]]()
    for record in project.slides:
        said = project.ledger.corrections(record.id)
        others = [c for c in said if c.by != project.by]
        mine = [c for c in (*said, *readings(project, record.id)) if c.by == project.by]
        seen = [c.place for c in mine]
        if slide_node(others, project.tree) and not any(isinstance(p, WholeSlide) for p in seen):
            found.append((record, WholeSlide()))
        found += [(record, place) for place in _cells_again(project, others, seen, rng)]
    return [found[i] for i in rng.permutation(len(found))[:n]]


def second_questions(project: Project, *, n: int = 20, seed: int | None = None) -> list[Asked]:
    """The places of `second_places`, in another order whenever more was read, unless a seed is given."""
    mine = sum(c.by == project.by for c in readings(project))
    names = shown_names(project.slides)
    places = second_places(project, n=n, seed=mine if seed is None else seed)
    return [Asked(record, names[record.id], place) for record, place in places]


def place_key(project: Project, record: SlideRecord, place: Place) -> str:
    """How a command line names a place: SLIDE for the whole slide, SLIDE@ROW,COL for one tile."""
    return Asked(record, shown_names(project.slides)[record.id], place).key


def labelled_place(project: Project, key: str) -> tuple[SlideRecord, Place]:
    """The place that a key of `place_key` names: a slide, or a tile that somebody painted. LabelError when
    nobody did.
    """
    name, cell = place_of(project.slides, key)
    record = find_record(project, name)
    if cell is None:
        return record, WholeSlide()
    for c in project.ledger.corrections(record.id):
        if isinstance(c.place, Cells) and (c.place.cells == cell).all(1).any():
            return record, Cells(np.array([cell], np.int32), c.place.pitch_px)
    raise LabelError(f"{key!r} is no tile that somebody has labelled; `review --second` lists such tiles.")


def _cells_again(
    project: Project, others: Sequence[Correction], seen: Sequence[Place], rng: np.random.Generator
) -> list[Place]:
    """A few single cells of each label that others painted, less those that were seen."""
    nodes: dict[tuple[tuple[float, float], int, int], int] = {}
    for c in others:
        if isinstance(c.place, Cells):
            node = project.tree.node(c.label)
            nodes.update({(c.place.pitch_px, int(r), int(k)): node for r, k in c.place.cells})
    for p in seen:
        for r, k in p.cells if isinstance(p, Cells) else ():
            nodes.pop((p.pitch_px, int(r), int(k)), None)  # type: ignore[union-attr]
    picked: list[Place] = []
    for node in sorted(set(nodes.values()) - {0}):
        every = [key for key, value in nodes.items() if value == node]
        for i in rng.permutation(len(every))[:AGAIN]:
            pitch, row, col = every[i]
            picked.append(Cells(np.array([[row, col]], np.int32), pitch))
    return picked


def agreement_report(project: Project, first: str | None = None, second: str | None = None) -> Report:
    """How far two people agree, on all that both have said: corrections in force and second readings.

    Who is not named is the person who shares most places with the other. LabelError when no place was
    labelled by both.
    """
    from napari_mil.evaluate.agreement import agreement

    told = _by_person(project)
    a, b, places = _pair(told, first, second)
    by_id, names = {r.id: r for r in project.slides}, shown_names(project.slides)
    parts = []
    for whole in (True, False):
        mine = [p for p in places if (p[1] is None) == whole]
        one, other = ([told[who][p] for p in mine] for who in (a, b))
        parts.append(tuple(agreement([by_id[p[0]].case for p in mine], one, other, project.tree)))
    path = project.tree.path
    apart = tuple(
        Disagreement(by_id[p[0]], names[p[0]], _place(project, *p), p[1], path(told[a][p]), path(told[b][p]))
        for p in places
        if not agree(project.tree, (told[a][p], told[b][p]))
    )
    return Report(a, b, parts[0], parts[1], apart)


def readers(project: Project) -> list[str]:
    """Who has labelled anything in a project, as corrections in force or second readings, by name."""
    return sorted({c.by for c in (*project.ledger.corrections(), *readings(project)) if c.by})


def _place(project: Project, slide_id: str, cell: tuple[int, int] | None) -> Place:
    """The place that two people called differently, as it was painted."""
    if cell is None:
        return WholeSlide()
    said = [*project.ledger.corrections(slide_id), *readings(project, slide_id)]
    painted = [c.place for c in said if isinstance(c.place, Cells)]
    return Cells(np.array([cell], np.int32), painted[-1].pitch_px)


Where = tuple[str, tuple[int, int] | None]
Told = dict[Where, int]


def _pair(told: dict[str, Told], first: str | None, second: str | None) -> tuple[str, str, list[Where]]:
    """The two people that are compared, and the places that both have labelled, in order."""
    for who in (first, second):
        if who is not None and who not in told:
            known = ", ".join(told) or "nobody"
            raise LabelError(f"{who!r} has labelled nothing here; who has: {known}.")
    pairs = [
        (a, b, sorted(told[a].keys() & told[b].keys(), key=lambda p: (p[0], p[1] or (-1, -1))))
        for a in ([first] if first else told)
        for b in ([second] if second else told)
        if a != b
    ]
    best = max(pairs, key=lambda pair: len(pair[2]), default=None)
    if best is None or not best[2]:
        raise LabelError(
            "No place was labelled by two people yet: let another person tick Second reading, or run "
            "`napari-mil review --second --by NAME`."
        )
    return best


def _by_person(project: Project) -> dict[str, Told]:
    """Person → (slide, cell or None) → the node that this person gave it last."""
    told: dict[str, Told] = {}
    for record in project.slides:
        said = [*project.ledger.corrections(record.id), *readings(project, record.id)]
        painted = [c.place for c in said if isinstance(c.place, Cells)]
        grid = cells_grid(painted) if painted else None
        for who in sorted({c.by for c in said if c.by}):
            mine = [c for c in said if c.by == who]
            known = told.setdefault(who, {})
            if node := slide_node(mine, project.tree):
                known[record.id, None] = node
            if grid is not None:
                nodes = tile_nodes(mine, grid, project.tree)
                for i in np.flatnonzero(nodes):
                    row, col = grid.cells[i]
                    known[record.id, (int(row), int(col))] = int(nodes[i])
    return {who: known for who, known in told.items() if known}


def cells_grid(painted: Sequence[Cells]) -> TileGrid:
    """The cells that were painted with the latest pitch, as a grid, on which regions are compared too."""
    pitch = painted[-1].pitch_px
    cells = np.unique(np.concatenate([p.cells for p in painted if p.pitch_px == pitch]), axis=0)
    cells = cells[(cells >= 0).all(1)]
    side = (int(np.ceil(pitch[0])), int(np.ceil(pitch[1])))
    reach = cells.max(0, initial=0) + 1
    mpp = (1.0 / pitch[0], 1.0 / pitch[1])
    return TileGrid((int(reach[0]) * side[0], int(reach[1]) * side[1]), mpp, 1, 1.0, cells)


def report_rows(report: Report) -> list[dict[str, Any]]:
    """The report as rows, agreements first, then disagreements; JSON-ready."""
    rows: list[dict[str, Any]] = []
    for places, found in (("slides", report.slides), ("tiles", report.tiles)):
        for one in found:
            value, low, high = one.kappa
            about = {"row": "agreement", "of": places, "what": one.what, "n": one.n}
            about |= {
                "agreed": _number(one.agreed),
                "first": _number(one.first),
                "second": _number(one.second),
            }
            rows.append(about | {"kappa": _number(value), "low": _number(low), "high": _number(high)})
    for apart in report.disagreements:
        cell = None if apart.cell is None else list(apart.cell)
        about = {"row": "disagreement", "of": "slides" if cell is None else "tiles", "slide": apart.slide}
        rows.append(about | {"cell": cell, report.first: apart.first, report.second: apart.second})
    return rows


def _number(value: float) -> float | None:
    return round(value, 4) if np.isfinite(value) else None


def report_lines(report: Report) -> list[str]:
    """The report in sentences."""
    lines = [f"{report.first} and {report.second}:"]
    for places, found in (("slides", report.slides), ("tiles", report.tiles)):
        for one in found:
            value, low, high = one.kappa
            how = (
                f"κ {value:.2f}" if np.isfinite(value) else "κ is not defined, both gave one label throughout"
            )
            if np.isfinite(low) and np.isfinite(value):
                how += f" [{low:.2f}, {high:.2f}]"
            n = places[:-1] if one.n == 1 else places
            lines.append(f"  {one.what}: agreed on {one.agreed:.0%} of {one.n} {n}, {how}")
    for apart in report.disagreements:
        where = "whole slide" if apart.cell is None else "tile {}, {}".format(*apart.cell)
        both = f"{report.first} says {apart.first}, {report.second} says {apart.second}"
        lines.append(f"  {apart.slide}, {where}: {both}")
    return lines


def write_report(report: Report, path: Path) -> Path:
    """The rows of a report as CSV, or as JSON where the name ends so; whole or not at all."""
    import csv

    rows = report_rows(report)
    with text_to(path) as stream:
        if path.suffix.lower() == ".json":
            json.dump(rows, stream, indent=1)
        else:
            table = csv.DictWriter(stream, cells(dict.fromkeys(k for row in rows for k in row)))
            table.writeheader()
            table.writerows(map(row_of_cells, rows))
    return path
