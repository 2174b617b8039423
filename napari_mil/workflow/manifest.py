"""A manifest says what is known of slides; each row finds its slide by path, by name or by stem, never by a
guess.
"""

from __future__ import annotations

import csv
import io
import math
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from napari_mil.errors import LabelError, reason
from napari_mil.slides.address import Address, SlidePath, slide_path

PARTS = ("train", "validation", "test")
COLUMNS = ("slide", "case", "label", "time", "event", "split")
_EVENT = {"1": True, "0": False, "true": True, "false": False, "yes": True, "no": False}


@dataclass(frozen=True, slots=True)
class Row:
    """What a manifest says of one slide.

    Attributes
    ----------
    number : line of the file, the header being the first
    slide : the slide as it is written there: path, file name, stem, or an address
    facts : the other columns that are not empty
    """

    number: int
    slide: str
    facts: Mapping[str, str]

    def get(self, column: str) -> str | None:
        """What stands in a column, or None."""
        return self.facts.get(column)

    @property
    def parts(self) -> tuple[str, ...]:
        """The path as written, in parts."""
        return (
            PurePosixPath(self.slide.replace("\\", "/")).parts if self.address is None else self.address.parts
        )

    @property
    def address(self) -> Address | None:
        """The address of a slide on a server, or None."""
        there = slide_path(self.slide)
        return there if isinstance(there, Address) else None

    @property
    def follow_up(self) -> tuple[float, bool] | None:
        """Time and event, or None; LabelError when they make no sense."""
        time, event = self.get("time"), (self.get("event") or "").lower()
        if not time and not event:
            return None
        try:
            return follow_up((float(time or ""), _EVENT[event]))
        except (ValueError, KeyError):
            raise LabelError(
                f"The manifest says time {time!r} and event {event!r} of {self.slide}; "
                "a number from 0 on and 1 (observed) or 0 (censored) are expected."
            ) from None


@dataclass(slots=True)
class Matched:
    """Which row speaks of which file.

    Attributes
    ----------
    rows : the row of each file that has one
    by_name : files whose row names another folder or another suffix
    refused : the sentence that says why a file's row cannot be told
    unused : rows that serve no file, and the row that speaks of their file more exactly, or None
    """

    rows: dict[SlidePath, Row] = field(default_factory=dict)
    by_name: set[SlidePath] = field(default_factory=set)
    refused: dict[SlidePath, str] = field(default_factory=dict)
    unused: list[tuple[Row, Row | None]] = field(default_factory=list)


def follow_up(said: Any) -> tuple[float, bool]:
    """A follow-up time and whether the event was observed; LabelError when they cannot be."""
    try:
        time, event = said
        if event in (0, 1) and math.isfinite(time) and time >= 0:
            return float(time), bool(event)
    except (TypeError, ValueError):
        pass
    raise LabelError(f"{said!r} is no follow-up; give a time from 0 on, and whether the event was observed.")


def part_of_split(name: str) -> str:
    """The name of a part of a split, "" = not fixed; LabelError when there is no such part."""
    if name not in ("", *PARTS):
        raise LabelError(f"{name!r} is no part of a split; choose one of {', '.join(PARTS)}.")
    return name


def read_manifest(path: Path) -> tuple[Row, ...]:
    """The rows of a CSV `slide[, case, label, time, event, split]`, with commas, semicolons or tabs between.

    Spaces around a value, and capitals in the names of columns, do not count. LabelError when it cannot be
    read, the column `slide` is missing, a column is there twice, a row has more values than there are
    columns, a split is none, or a case stands in two splits.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            text = stream.read()
        reader = csv.DictReader(
            io.StringIO(text, newline=""), delimiter=_delimiter(text), skipinitialspace=True, strict=True
        )
        names = [name.strip().lower() for name in reader.fieldnames or ()]
        reader.fieldnames = names
        read = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise LabelError(
            f"The manifest {path} cannot be read ({reason(error)}); expected a CSV file in UTF-8."
        ) from error
    _check_columns(path, names, read)
    rows = tuple(
        Row(number, row.pop("slide"), {k: v for k, v in row.items() if v})
        for number, row in ((number, _stripped(row)) for number, row in read)
        if row["slide"]
    )
    _check_splits(path, rows)
    return rows


def unused_columns(rows: Iterable[Row]) -> list[str]:
    """Columns with something in them that nobody reads."""
    return sorted({column for row in rows for column in row.facts} - set(COLUMNS))


def _delimiter(text: str) -> str:
    """What stands between the columns: that with which one of them is `slide`."""
    head = text.partition("\n")[0].lower()
    return next((mark for mark in ",;\t" if "slide" in (n.strip(' "\r') for n in head.split(mark))), ",")


def _stripped(row: Mapping[str | None, str | None]) -> dict[str, str]:
    """The values of a row by its columns, without the spaces around them."""
    return {name: (value or "").strip() for name, value in row.items() if name}


def _check_columns(
    path: Path, names: Sequence[str], read: Iterable[tuple[int, Mapping[str | None, Any]]]
) -> None:
    twice = next((name for name in names if name and names.count(name) > 1), None)
    if "slide" not in names or twice:
        there = f"the columns {', '.join(names)}" if any(names) else "no columns"
        what = f"has the column {twice} twice" if twice else f"has {there}"
        raise LabelError(
            f"The manifest {path.name} {what}; it needs `slide`, and may have `case`, `label`, `time`, "
            "`event` and `split`."
        )
    for number, row in read:
        if any(value.strip() for value in row.get(None, ())):
            raise LabelError(
                f"Row {number} of the manifest {path.name} has more values than there are columns "
                f"({', '.join(names)}); put a value that holds what stands between them into quotes."
            )


def _check_splits(path: Path, rows: Sequence[Row]) -> None:
    by_case: dict[str, tuple[str, Row]] = {}
    for row in rows:
        split, case = row.get("split"), row.get("case")
        if split and split not in PARTS:
            raise LabelError(
                f"The manifest {path.name} gives {row.slide} the split {split!r}; "
                f"expected one of {', '.join(PARTS)}."
            )
        if not split or not case:
            continue
        earlier, other = by_case.setdefault(case, (split, row))
        if earlier != split:
            raise LabelError(
                f"The manifest {path.name} puts case {case!r} into two splits: {other.slide} into {earlier}, "
                f"{row.slide} into {split}; a case belongs to exactly one."
            )


def match(
    rows: Sequence[Row], files: Iterable[SlidePath], *, folders: Iterable[Path] = (), suffixes: Sequence[str]
) -> Matched:
    """Find each row's file: by its path under one of `folders`, by the end of its path, by its name, by its
    stem.

    What one way of looking finds is out of the next. Where a row may mean several files, or several rows
    that differ one file, these files are refused.

    suffixes : endings, in lower case, that are no part of a stem
    """
    ways: tuple[Callable[[Row, SlidePath], bool], ...] = (
        lambda row, file: file in (row.address, *(_absolute(f.joinpath(*row.parts)) for f in roots)),
        lambda row, file: len(row.parts) > 1 and file.parts[-len(row.parts) :] == row.parts,
        lambda row, file: row.parts[-1] == file.name,
        lambda _row, _file: True,
    )
    roots = [folder.absolute() for folder in folders]
    found, left = Matched(), list(rows)
    waiting = {_absolute(file): file for file in files}
    for way, fits in enumerate(ways):
        by_key: dict[str, list[SlidePath]] = defaultdict(list)
        key = (lambda name: stem(name, suffixes)) if way == len(ways) - 1 else str
        for file in waiting:
            by_key[key(file.name)].append(file)
        pairs = {row.number: [f for f in by_key[key(row.parts[-1])] if fits(row, f)] for row in left}
        _settle(found, left, pairs, waiting)
        for file in waiting.values() if way > 1 else ():
            parts = found.rows[file].parts if file in found.rows else ("",)
            if len(parts) > 1 or parts[-1] not in ("", file.name, stem(file.name, suffixes)):
                found.by_name.add(file)
        left = [row for row in left if not pairs[row.number]]
        waiting = {f: as_given for f, as_given in waiting.items() if not _known(found, as_given)}
    served = {stem(file.name, suffixes): row for file, row in found.rows.items()}
    found.unused = [(row, served.get(stem(row.parts[-1], suffixes))) for row in left]
    return found


def _settle(
    found: Matched,
    rows: Sequence[Row],
    pairs: Mapping[int, Sequence[SlidePath]],
    as_given: Mapping[SlidePath, SlidePath],
) -> None:
    """Take what is plain among rows and the files they may mean; refuse what is not."""
    claims: dict[SlidePath, list[Row]] = defaultdict(list)
    for row in rows:
        for file in pairs[row.number]:
            claims[file].append(row)
    for file, rivals in claims.items():
        first, given = rivals[0], as_given[file]
        rows_said = " and ".join(str(row.number) for row in rivals)
        meant = next((pairs[row.number] for row in rivals if len(pairs[row.number]) > 1), None)
        if meant is not None:
            others = " or ".join(str(as_given[f]) for f in meant)
            found.refused[given] = (
                f"The manifest's {first.slide!r} (row {rows_said}) may mean {others}; "
                "write the folder before the name."
            )
        elif any(row.facts != first.facts for row in rivals):
            found.refused[given] = (
                f"The manifest's rows {rows_said} say different things of {given}; write the path of each "
                "slide, or leave one row."
            )
        else:
            found.rows[given] = first


def _known(found: Matched, file: SlidePath) -> bool:
    return file in found.rows or file in found.refused


def _absolute(path: SlidePath) -> SlidePath:
    if isinstance(path, Address):
        return path
    return Path(os.path.abspath(path))  # noqa: PTH100 - ".." goes, links stay as they are written


def stem(name: str, suffixes: Sequence[str]) -> str:
    """A file's name without its suffix, a double one such as .ome.tif as one; other dots belong to it.

    >>> stem("case.2.ome.tif", (".tif",)), stem("case.2", (".tif",))
    ('case.2', 'case.2')
    """
    low = name.lower()
    last = next((s for s in sorted(suffixes, key=len, reverse=True) if low.endswith(s)), "")
    bare = name[: len(name) - len(last)]
    return bare[:-4] if last and bare.lower().endswith(".ome") else bare
