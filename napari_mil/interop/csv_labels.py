"""Labels as CSV tables, for spreadsheets and scripts.

Three tables: *corrections* (`write`, `read`), one row per correction of any number of slides, exact; *tiles*
(`write_tiles`, `read_tiles`), one row per tile with its label and its maps; and *slide labels*, `slide_id,
label`, which `read` takes as well. Texts that a spreadsheet would take for a formula are written with an
apostrophe before them, and read without it.
"""

from __future__ import annotations

import csv
import io
import json
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from napari_mil.correction import Cells, Correction, from_record, to_record
from napari_mil.errors import BagError, LabelError, reason
from napari_mil.grid import TileGrid
from napari_mil.interop.cells import quoted, unquoted
from napari_mil.interop.files import AT_ONCE, meant, parsed, text_of, text_to
from napari_mil.labeltree import LabelTree
from napari_mil.prediction import Prediction
from napari_mil.steps import Progress, Steps, drain

#: Columns of the table of corrections; `place` and `visible` hold JSON, an empty field means None. `slide` is
#: what people call it.
COLUMNS = (
    "slide_id", "slide", "id", "place_kind", "label", "was", "by", "at", "tool", "note",
    "model_id", "model_said", "model_confidence", "replaces", "visible", "place",
)  # fmt: skip
_AS_JSON = ("visible", "place", "model_confidence")
_TEXT = ("by", "tool", "note")  # never None
_TILE_COLUMNS = ("slide_id", "row", "col", "y0_px", "x0_px", "pitch_y_px", "pitch_x_px", "label")
_TILE_NEEDS = ("row", "col", "pitch_y_px", "pitch_x_px", "label")
_NAMESPACE = uuid.UUID("5b8a7a52-6f0c-5b1c-8a4a-0d3c7c1f5e77")


def write(
    path: str | Path,
    corrections: Iterable[Correction],
    tree: LabelTree,
    *,
    names: Mapping[str, str] | None = None,
) -> None:
    """Write corrections, of one slide or of many, one row each; the file is written whole or not at all.

    `names` says what the slides are called, by their ids.

    LabelError when one states a label that `tree` lacks; ProjectError when the file cannot be written.
    """
    rows = []
    for c in corrections:
        tree.node(c.label)
        record = to_record(c)
        record["place_kind"], record["slide"] = record["place"]["kind"], (names or {}).get(c.slide_id)
        record |= {k: json.dumps(record[k], separators=(",", ":")) for k in _AS_JSON if record[k] is not None}
        rows.append([_quoted(record.get(k), k) for k in COLUMNS])
    with text_to(Path(path)) as text:
        table = csv.writer(text)
        table.writerow(COLUMNS)
        table.writerows(rows)


def read(
    path: str | Path,
    tree: LabelTree,
    *,
    slide_id: str | None = None,
    ids: Mapping[str, str] | None = None,
    mapping: Mapping[str, str | None] | None = None,
    by: str = "",
    remark: Callable[[str], None] | None = None,
) -> tuple[Correction, ...]:
    """The corrections of a table; nothing is written anywhere.

    A table with a column `label` and no column `place` holds labels of tiles where it says their `row` and
    `col` (see `read_tiles`), else of slides.

    Parameters
    ----------
    slide_id : only rows of this slide; None: of every slide
    ids : what slides are called -> their ids; for rows that name their slide in a column `slide` and do not
        give its `slide_id`. Rows of other slides are left aside
    mapping : label text of the file -> label text of the tree, or None: leave such rows aside
    by : who, where the table does not say
    remark : told what was left aside

    Raises
    ------
    LabelError : no such file, no such table, a label that the tree lacks, two labels of one slide, or a row
        that is no correction (its number is said)
    """
    path = Path(path)
    rows = _meant_rows(path, slide_id, ids, mapping, remark)
    if rows and {"row", "col"} <= rows[0][1].keys() and "place" not in rows[0][1]:
        return _of_tiles(path, rows, tree, by)
    found: list[Correction] = []
    called: dict[str, tuple[int, str]] = {}
    for number, row in rows:
        if "place" not in row and row["label"] is None:
            continue  # a slide without a label
        try:
            correction = _correction(row, by)
            node = meant(tree, correction.label) if correction.label else 0
        except ValueError as error:
            raise LabelError(f"{path.name}, row {number}: {reason(error)}.") from error
        if "place" in row:
            found.append(correction)
            continue
        before, other = called.setdefault(correction.slide_id, (number, tree.path(node)))
        if other != tree.path(node):
            raise LabelError(
                f"{path.name}, row {number} calls a slide {tree.path(node)} that row {before} calls {other}; "
                "leave one of them out."
            )
        found.append(replace(correction, label=tree.path(node)))
    return tuple(found)


def _meant_rows(
    path: Path,
    slide_id: str | None,
    ids: Mapping[str, str] | None,
    mapping: Mapping[str, str | None] | None,
    remark: Callable[[str], None] | None,
) -> list[tuple[int, dict[str, str | None]]]:
    """The rows that `read` is asked for, with the slide's id and the label as they are called here."""
    found, aside = [], Counter[str]()
    wanted = {slide_id} if slide_id is not None else None if ids is None else set(ids.values())
    for number, row in _rows(path, needs=(("slide_id", "slide") if ids else "slide_id", "label")):
        row["slide_id"] = row.get("slide_id") or (ids or {}).get(row.get("slide") or "")
        if wanted is not None and row["slide_id"] not in wanted:
            aside["of other slides"] += 1
            continue
        if mapping and (theirs := row["label"] or "") in mapping:
            row["label"] = mapping[theirs]
            if row["label"] is None:
                aside["whose label is to be"] += 1
                continue
        found.append((number, row))
    others = aside["of other slides"]
    if others and not found:
        whose = f"slide {slide_id}" if slide_id else "a slide that is here"
        raise LabelError(f"{path.name} holds no row of {whose} ({others} of others); choose their slide.")
    if aside and remark is not None:
        words = ", ".join(f"{n} row{'' if n == 1 else 's'} {what}" for what, n in aside.items())
        remark(f"{path.name}: {words} left aside.")
    return found


def _correction(row: Mapping[str, str | None], by: str) -> Correction:
    record: dict[str, Any] = dict.fromkeys(COLUMNS) | dict.fromkeys(_TEXT, "")
    if "place" not in row:
        record |= {"place": '{"kind": "slide"}', "visible": "[]", "tool": "import", "by": by}
        record |= {"at": datetime.now(UTC).isoformat()}
        record |= {"id": str(uuid.uuid5(_NAMESPACE, json.dumps([row["slide_id"], row["label"]])))}
    record |= {key: text for key, text in row.items() if text is not None}
    if not (record["id"] and record["place"]):
        raise LabelError("a correction needs an id and a place.")
    record |= {key: parsed(record[key]) for key in _AS_JSON if record[key] is not None}
    return from_record(record)


def write_tiles(
    path: str | Path,
    slide_id: str,
    grid: TileGrid,
    nodes: Any,
    tree: LabelTree,
    *,
    prediction: Prediction | None = None,
) -> None:
    """Write one row per tile, as `write_tiles_steps` does."""
    drain(write_tiles_steps(path, slide_id, grid, nodes, tree, prediction=prediction))


def write_tiles_steps(
    path: str | Path,
    slide_id: str,
    grid: TileGrid,
    nodes: Any,
    tree: LabelTree,
    *,
    prediction: Prediction | None = None,
) -> Steps[None]:
    """Write one row per tile: where it lies (level-0 pixels), its label, and the maps of an answer.

    nodes : (N,) node per tile as `correction.tile_nodes` gives it; 0 = no label

    Yields Progress of the stage "writing", which counts tiles; the file is written whole or not at all.

    BagError when nodes or prediction do not fit the grid; ProjectError when the file cannot be written.
    """
    nodes = np.asarray(nodes)
    if nodes.shape != (len(grid),):
        raise BagError(f"{nodes.shape} labels do not fit a grid of {len(grid)} tiles.")
    if prediction is not None and prediction.grid_id != grid.id:
        raise BagError(
            f"The answer belongs to grid {prediction.grid_id}, not to {grid.id}; analyse the slide again."
        )
    maps = prediction.maps if prediction else ()
    paths = [_quoted(tree.path(n) or None, "label") for n in range(len(tree))]
    corners, pitch = grid.boxes_px, [repr(p) for p in grid.pitch_px]
    with text_to(Path(path)) as text:
        table = csv.writer(text)
        table.writerow([*_TILE_COLUMNS, *(_quoted(m.name, "name") for m in maps)])
        for i in range(len(grid)):
            if i % AT_ONCE == 0:
                yield Progress("writing", i, len(grid))
            row, col = grid.cells[i].tolist()
            values = (f"{m.values[i]:.9g}" if m.kind == "score" else int(m.values[i]) for m in maps)
            y0, x0 = corners[i, :2].tolist()
            table.writerow(
                [_quoted(slide_id, "slide_id"), row, col, y0, x0, *pitch, paths[nodes[i]], *values]
            )


def read_tiles(path: str | Path, tree: LabelTree, *, by: str = "") -> tuple[Correction, ...]:
    """The labelled tiles of a table as painted cells, one correction per slide, pitch and label.

    Only `slide_id, row, col, pitch_y_px, pitch_x_px, label` are needed. LabelError when they are missing,
    when the tree lacks a label, when a number is none, or when two rows call a tile differently.
    """
    path = Path(path)
    return _of_tiles(path, _rows(path, needs=("slide_id", *_TILE_NEEDS)), tree, by)


def _of_tiles(
    path: Path, rows: Iterable[tuple[int, dict[str, str | None]]], tree: LabelTree, by: str
) -> tuple[Correction, ...]:
    cells: dict[tuple[str, float, float, str], list[tuple[int, int]]] = {}
    called: dict[tuple[Any, ...], tuple[int, str]] = {}
    for number, row in rows:
        if missing := [name for name in _TILE_NEEDS if name not in row]:
            raise LabelError(
                f"{path.name} holds labels of tiles, but has no column {', '.join(missing)}; expected a "
                f"table with slide_id, {', '.join(_TILE_NEEDS)}."
            )
        if not row["label"]:
            continue
        try:
            label = tree.path(meant(tree, row["label"]))
            where = int(row["row"] or ""), int(row["col"] or "")
            key = (
                row["slide_id"] or "",
                float(row["pitch_y_px"] or ""),
                float(row["pitch_x_px"] or ""),
                label,
            )
        except ValueError as error:
            raise LabelError(f"{path.name}, row {number}: {reason(error)}.") from error
        before, other = called.setdefault((*key[:3], where), (number, label))
        if other != label:
            raise LabelError(
                f"{path.name}, row {number} calls the tile in row {where[0]}, column {where[1]} {label}, and "
                f"row {before} calls it {other}; leave one of them out."
            )
        if before == number:  # said twice is said once
            cells.setdefault(key, []).append(where)
    return tuple(
        Correction(
            slide, Cells(np.array(sorted(where)), (pitch_y, pitch_x)), label, by=by, tool="import",
            id=str(uuid.uuid5(_NAMESPACE, json.dumps([slide, pitch_y, pitch_x, label, sorted(where)]))),
        )
        for (slide, pitch_y, pitch_x, label), where in cells.items()
    )  # fmt: skip


def _rows(
    path: Path, *, needs: Sequence[str | tuple[str, ...]]
) -> Iterator[tuple[int, dict[str, str | None]]]:
    """(row number, fields) of a table, an empty field as None; LabelError when a column is missing, or all
    of several that will do.
    """
    wanted = [(name,) if isinstance(name, str) else name for name in needs]
    words = ", ".join(" or ".join(names) for names in wanted)
    csv.field_size_limit(2**31 - 1)
    lines = csv.reader(io.StringIO(text_of(path), newline=""))
    try:
        header = [_unquoted(name) or "" for name in next(lines, [])]
        twice = [name for name, n in Counter(header).items() if n > 1]
        missing = [" or ".join(names) for names in wanted if not set(names) & set(header)]
        if missing or twice:
            what = f"has no column {', '.join(missing)}" if missing else f"has the column {twice[0]} twice"
            raise LabelError(f"{path.name} {what}; expected a table with {words}.")
        for number, fields in enumerate(lines, 2):
            if fields:
                values = (_unquoted(field) for field in fields)
                yield number, dict.fromkeys(header) | dict(zip(header, values, strict=False))
    except csv.Error as error:
        raise LabelError(
            f"{path.name} is no CSV table ({reason(error)}); expected columns {words}."
        ) from error


def _quoted(value: Any, column: str) -> str:
    """A field: None is empty; a text that is empty or would be taken for a formula gets an apostrophe."""
    if value is None or (value == "" and column in _TEXT):
        return ""
    text = str(value)
    return "'" if not text else text if column == "model_confidence" else quoted(text)


def _unquoted(field: str) -> str | None:
    """The inverse of `_quoted`, but for texts that are never None."""
    if not field:
        return None
    return unquoted(field)
