"""The ledger: what people said, appended event by event and never changed.

The events form a chain of hashes. The current state is a replay of them, kept in memory and brought forward
by what was appended since, by this program or by another one that has the same project open.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import sqlalchemy as sa

from napari_mil.correction import Correction, to_record
from napari_mil.errors import ProjectError
from napari_mil.ledger.check import Report, check
from napari_mil.ledger.conflicts import Conflict, conflicts_of
from napari_mil.ledger.copying import copy
from napari_mil.ledger.database import EVENTS, TIP, bring_up_to_date, engine_of, place_of, said, transaction
from napari_mil.ledger.events import GENESIS, NAMING_KINDS, OWN_KINDS, Draft, Event, SlideRecord, seal, unseal
from napari_mil.ledger.past import Past
from napari_mil.ledger.replay import Act, Acts, State
from napari_mil.ledger.rows import collector_paused, fetched, named

__all__ = [
    "GENESIS",
    "Act",
    "Acts",
    "Conflict",
    "Event",
    "Ledger",
    "Past",
    "Report",
    "SlideRecord",
    "conflicts_of",
    "copy",
    "verify",
]

#: A tip and the rows after an event, as they come.
_Newer = tuple[tuple[int, str] | None, Iterable[dict[str, Any]]]


class Ledger:
    """An append-only, hash-chained list of events in a database, and the state it amounts to.

    May be used from several threads, and by several programs at once. What a method returned is on disk.

    Parameters
    ----------
    address : path of an SQLite file (made when missing), or postgresql://SERVER/DATABASE
    timeout_s : how long to wait for another program that is writing, or for a server, before saying so
    follow : whether every answer looks first what was appended meanwhile; else it is as of the last writing
        or the last `head`, and reading never waits for a disk or a network

    Attributes
    ----------
    moved_to : address that the ledger was moved to, "" = it lives here; a moved one can only be read
    """

    def __init__(self, address: str | Path, *, timeout_s: float = 5.0, follow: bool = True) -> None:
        self._lock = threading.RLock()
        self._closed = False
        self._engine = engine_of(address, timeout_s=timeout_s)
        self._state = State()
        self.follow = follow
        self.moved_to = ""
        try:
            bring_up_to_date(self._engine)
            with transaction(self._engine, "look") as connection:  # nobody else is here yet
                self._bring_forward(0, *self._newer(connection, 0))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the database."""
        with self._lock:
            self._closed = True
            self._engine.dispose()

    @property
    def place(self) -> str:
        """Where the ledger is: a path, or an address without a password."""
        return place_of(self._engine).removeprefix("The ledger ")

    @property
    def head(self) -> str:
        """Hash of the last event, asked anew: it names the state of the ledger, which follows."""
        return self._look().head

    @property
    def seq(self) -> int:
        """Number of the last event that answers speak of."""
        return self._state.seq

    @property
    def last(self) -> dict[str, int]:
        """Slide id → number of the last event that changed what answers say of it."""
        with self._lock:
            return dict(self._state.last)

    @property
    def of_project(self) -> dict[str, Event]:
        """Kind → the last event of it about the project as a whole that answers speak of."""
        with self._lock:
            return dict(self._state.of_project)

    def add_slide(self, slide: SlideRecord, *, by: str = "") -> SlideRecord:
        """Keep what is known about a slide; a record that changed is a new event, an equal one is none."""

        def drafts(state: State) -> list[Draft]:
            known = state.slides.get(slide.id) == slide
            return [] if known else [Draft("slide", slide.id, by, slide.to_record())]

        self._write(drafts)
        return slide

    def slides(self) -> tuple[SlideRecord, ...]:
        """The project's slides, in the order in which they were added."""
        state = self._refresh()
        with self._lock:
            return tuple(state.slides.values())

    def append(self, kind: str, slide_id: str | None, payload: Mapping[str, Any], by: str = "") -> Event:
        """Append an event that states no label; `slide_id` None is the project.

        kind : "adopt", "note", …; or what names earlier corrections in its payload's `events`, by the numbers
            of their events: "withdraw" (an act: undo brings them back), "lock" (they count whatever is said
            later) and "unlock"
        """
        if kind in OWN_KINDS:
            raise ValueError(f"events of kind {kind!r} are written by the ledger's own verbs only")

        def drafts(state: State) -> list[Draft]:
            said = dict(payload)
            if kind in NAMING_KINDS:
                state.check(kind, slide_id or "", said["events"])
            if kind == "withdraw":
                said |= {"act": str(uuid.uuid4()), "seen": seen}
            return [Draft(kind, slide_id or "", by, said)]

        seen = self._state.seq
        return self._write(drafts)[0]

    def correct(
        self, *corrections: Correction, by: str | None = None, seen: int | None = None
    ) -> tuple[Event, ...]:
        """State corrections as one act: all of them on disk or none, and one undo takes a slide's part back.

        A correction that is in force already (its id, label and place) is not stated twice, so a doubtful
        write or an import may be repeated; one that changed under the same id is stated under a new one. The
        new act ends what its author could redo on its slides.

        by : who acts, where that is another one than who said it, as in an import
        seen : number of the last event that was known where it was said; None: the last that answers speak of
        """
        act, seen = str(uuid.uuid4()), self._state.seq if seen is None else seen

        def drafts(state: State) -> list[Draft]:
            return [
                Draft(
                    "correct",
                    c.slide_id,
                    c.by if by is None else by,
                    {"act": act, "seen": seen, "correction": to_record(c)},
                )
                for c in state.unsaid(corrections)
            ]

        return self._write(drafts)

    def undo(self, slide_id: str, by: str = "", *, everywhere: bool = False) -> Event | None:
        """Take back the latest act of a person on a slide (of anybody for ""); None when there is none.

        everywhere : also its parts on other slides: an event for each, all of them or none, whose payload
            says on how many `slides`; the first is returned
        """

        def drafts(state: State) -> list[Draft]:
            act = state.to_undo(slide_id, by)
            return (
                []
                if act is None
                else _of_act("undo", act, state.to_undo_too(act) if everywhere else [slide_id], by)
            )

        return next(iter(self._write(drafts)), None)

    def redo(self, slide_id: str, by: str = "", *, everywhere: bool = False) -> Event | None:
        """Put the act of a person (of anybody for "") that was undone last back to its place; None when there
        is none. `everywhere` as for `undo`.
        """

        def drafts(state: State) -> list[Draft]:
            act = state.to_redo(slide_id, by)
            return (
                []
                if act is None
                else _of_act("redo", act, state.to_redo_too(act) if everywhere else [slide_id], by)
            )

        return next(iter(self._write(drafts)), None)

    def acts(self, slide_id: str) -> Acts:
        """The acts on a slide: what can be undone and redone, and what counts."""
        state = self._refresh()
        with self._lock:
            return state.acts(slide_id)

    def corrections(self, slide_id: str | None = None) -> tuple[Correction, ...]:
        """Corrections in force on a slide (or on all), in the order in which they count: as they were stated,
        those that are locked last.
        """
        state = self._refresh()
        with self._lock:
            return state.corrections(slide_id)

    def events(
        self, *, kind: str | None = None, slide_id: str | None = None, after: int = 0
    ) -> tuple[Event, ...]:
        """All events in their order, or those of a kind, of a slide or after a number: the history, undone
        acts included.
        """
        query = sa.select(EVENTS).where(EVENTS.c.seq > after).order_by(EVENTS.c.seq)
        for column, wanted in ((EVENTS.c.kind, kind), (EVENTS.c.slide_id, slide_id)):
            if wanted is not None:
                query = query.where(column == wanted)
        with transaction(self._open(), "look") as connection, collector_paused():
            rows = named(fetched(connection.execute(query)))
            return tuple(unseal(row, row["seq"], row["previous"]) for row in rows)

    def at(self, head: str) -> Past:
        """The ledger as it stood at the event with this number or hash (or the first characters of it)."""
        return Past(self.events(), head)

    def verify(self) -> Report:
        """Recompute the whole chain from the file; the report says what is wrong and what can be read."""
        return check(self._open())

    def _open(self) -> sa.Engine:
        if self._closed:
            raise ProjectError(f"{place_of(self._engine)} is closed; open the project again.")
        return self._engine

    def _refresh(self) -> State:
        """The state, brought forward by what was appended since where answers follow."""
        return self._look() if self.follow else self._state

    def _look(self) -> State:
        """The state, brought forward; nobody waits for a lock while the database is asked."""
        with transaction(self._open(), "look") as connection:
            after = self._state.seq
            tip, rows = self._newer(connection, after)
            found = list(rows)
        self._bring_forward(after, tip, found)
        return self._state

    def _newer(self, connection: sa.Connection, after: int) -> _Newer:
        """The tip and the events after a number: one statement, so that both are of one moment."""
        tip = (TIP.c.seq.label("tip_seq"), TIP.c.hash.label("tip_hash"), TIP.c.moved_to)
        query = sa.select(*tip, EVENTS).select_from(TIP.outerjoin(EVENTS, EVENTS.c.seq > after))
        found = fetched(connection.execute(query.order_by(EVENTS.c.seq)))
        first = next(found, None)
        if first is None:
            return None, []
        self.moved_to = str(first[2])
        rows = (row[3:] for row in chain([first], found))
        return (first[0], first[1]), named(row for row in rows if row[0] is not None)

    def _bring_forward(self, after: int, tip: tuple[int, str] | None, rows: Iterable[dict[str, Any]]) -> None:
        """Replay rows that come after event `after`; another thread may have done so already."""
        state = self._state
        with self._lock:
            with collector_paused():
                problem = next(filter(None, map(self._replay, rows)), "")
            here = state.seq, state.head
            if not problem and (tip is None or tip[0] < after or (tip[0] >= here[0] and tip != here)):
                problem = f"events after {state.seq} are missing"
        if problem:
            raise ProjectError(
                f"{place_of(self._engine)} is damaged: {problem}; the {here[0]} events before can still be "
                "read, verify tells more, or restore it from a backup."
            )

    def _replay(self, row: dict[str, Any]) -> str:
        """Replay a row unless it was already, or say what is wrong with it."""
        state = self._state
        try:
            if row["seq"] > state.seq:
                state.apply(unseal(row, state.seq + 1, state.head))
        except (ProjectError, ValueError, KeyError, TypeError) as error:
            return str(error) or type(error).__name__
        return ""

    def _write(self, drafts: Callable[[State], list[Draft]]) -> tuple[Event, ...]:
        """Append what `drafts` makes of the latest state; on return it is on disk."""
        with transaction(self._open(), "write") as connection:
            after = self._state.seq
            tip, newer = self._newer(connection, after)
            self._bring_forward(after, tip, list(newer))
            if self.moved_to:
                raise ProjectError(
                    f"{place_of(self._engine)} was moved to {self.moved_to}; nothing was written here, open "
                    "the project again."
                )
            with self._lock:
                state = self._state
                seq, head, rows = state.seq, state.head, list[dict[str, Any]]()
                for draft in drafts(state):
                    rows.append(seal(draft, seq + 1, head))
                    seq, head = rows[-1]["seq"], rows[-1]["hash"]
            if rows:
                connection.execute(sa.insert(EVENTS), rows)
                connection.execute(sa.update(TIP).values(seq=seq, hash=head))
        if rows:
            self._bring_forward(rows[0]["seq"] - 1, (seq, head), rows)
        return tuple(unseal(row, row["seq"], row["previous"]) for row in rows)


def _of_act(kind: str, act: Act, slides: list[str], by: str) -> list[Draft]:
    """An event for each slide on which an act goes or comes back."""
    payload = {"act": act.id} if len(slides) == 1 else {"act": act.id, "slides": len(slides)}
    return [Draft(kind, slide, by, payload) for slide in slides]


def verify(address: str | Path) -> Report:
    """Check a ledger that may be too damaged to be opened; nothing is written."""
    engine = engine_of(address, timeout_s=5.0)
    try:
        with said(engine):
            return check(engine)
    finally:
        engine.dispose()
