"""Events: what is written once and never changed, each carrying the hash of the one before."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from napari_mil.errors import ProjectError

#: What the first event names as the one before it.
GENESIS = "0" * 64

#: Kinds that only the ledger's own verbs write, since their payload is replayed.
OWN_KINDS = ("slide", "correct", "undo", "redo")
#: Kinds that name earlier corrections by the numbers of their events.
NAMING_KINDS = ("withdraw", "lock", "unlock")


_COLUMNS = ("seq", "id", "at", "by", "kind", "slide_id", "payload", "previous")
#: As `json.dumps` writes it; a text alone is written far quicker than a list that holds it.
_json = json.JSONEncoder().encode


@dataclass(frozen=True, slots=True)
class SlideRecord:
    """What the project knows about a slide besides its pixels.

    Attributes
    ----------
    id : fingerprint of the slide; it stays when the file moves
    path : where the file was last seen
    name : what a person calls it
    case : patient or specimen; empty = the slide is its own case
    label : label text of the manifest, or None; a slide label in the ledger wins over it
    mpp : (y, x) µm per level-0 pixel: what a person gave, else what the file says; None where nobody knows
    split : "train", "validation", "test" or "" = not fixed
    time, event : survival time and whether it was observed, or None
    """

    id: str
    path: str
    name: str = ""
    case: str = ""
    label: str | None = None
    mpp: tuple[float, float] | None = None
    split: str = ""
    time: float | None = None
    event: bool | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", str(self.path))
        object.__setattr__(self, "case", self.case or self.id)
        if self.mpp is not None:
            object.__setattr__(self, "mpp", (float(self.mpp[0]), float(self.mpp[1])))

    def to_record(self) -> dict[str, Any]:
        """The record as a JSON-ready mapping."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Event:
    """One thing a person said or did.

    Attributes
    ----------
    seq : 1, 2, 3 … without a gap
    id : unique
    at : when it was written, UTC, ISO 8601
    by : who
    kind : correct, undo, redo, withdraw, lock, unlock, slide, adopt, note, share, …
    slide_id : fingerprint of the slide it is about, "" = the project
    payload : what was said; JSON-ready
    previous : hash of the event before
    hash : SHA-256 over all of the above
    """

    seq: int
    id: str
    at: str
    by: str
    kind: str
    slide_id: str
    payload: Mapping[str, Any]
    previous: str
    hash: str


@dataclass(frozen=True, slots=True)
class Draft:
    """An event before it has its place in the chain."""

    kind: str
    slide_id: str
    by: str
    payload: Mapping[str, Any]
    id: str = field(default_factory=lambda: str(uuid.uuid4()))


def to_row(event: Event) -> dict[str, Any]:
    """The row of an event, as it was sealed; ProjectError when it cannot be told again."""
    row = {name: getattr(event, name) for name in _COLUMNS} | {"payload": _text(event.payload)}
    if row_hash(row) != event.hash:
        raise ProjectError(
            f"event {event.seq} cannot be written as it was: its content does not give its hash"
        )
    return row | {"hash": event.hash}


def _text(payload: Mapping[str, Any]) -> str:
    return json.dumps(payload, separators=(",", ":"), sort_keys=True)


def seal(draft: Draft, seq: int, previous: str) -> dict[str, Any]:
    """The row of a draft that becomes event `seq` after the event whose hash is `previous`."""
    row: dict[str, Any] = {
        "seq": seq,
        "id": draft.id,
        "at": datetime.now(UTC).isoformat(),
        "by": draft.by,
        "kind": draft.kind,
        "slide_id": draft.slide_id,
        "payload": _text(draft.payload),
        "previous": previous,
    }
    return row | {"hash": row_hash(row)}


def row_hash(row: Mapping[str, Any]) -> str:
    """SHA-256 over every column of a row but the hash itself, written as one JSON list."""
    seq, *words = [row[column] for column in _COLUMNS]
    number = str(seq) if type(seq) is int else _json(seq)
    return hashlib.sha256(f"[{number}, {', '.join(map(_json, words))}]".encode()).hexdigest()


def unseal(row: Mapping[str, Any], seq: int, previous: str) -> Event:
    """The event of a row that has to be number `seq` after hash `previous`; ProjectError when altered."""
    if row["seq"] != seq:
        raise ProjectError(f"event {seq} is missing, the next one is {row['seq']}")
    if row["hash"] != row_hash(row):
        raise ProjectError(f"event {seq} was altered: its content does not give its hash")
    if row["previous"] != previous:
        raise ProjectError(f"event {seq} does not follow event {seq - 1}: an event between them was altered")
    return Event(**{**row, "payload": json.loads(row["payload"])})
