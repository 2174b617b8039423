"""The ledger: what people said, appended event by event and never changed.

The events form a chain of hashes. The current state is a replay of them, kept in memory and brought forward
by what was appended since, by this program or by another one that has the same project open.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import sqlalchemy as sa

from napari_mil.correction import Correction, to_record
from napari_mil.errors import ProjectError
from napari_mil.ledger.check import Report, check
from napari_mil.ledger.database import EVENTS, TIP, bring_up_to_date, engine_of, place_of, said, transaction
from napari_mil.ledger.events import GENESIS, OWN_KINDS, Draft, Event, SlideRecord, seal, unseal
from napari_mil.ledger.past import Past
from napari_mil.ledger.replay import State

__all__ = ["GENESIS", "Event", "Ledger", "Past", "Report", "SlideRecord", "verify"]


class Ledger:
    """An append-only, hash-chained list of events in an SQLite file, and the state it amounts to.

    May be used from several threads, and by several programs at once. What a method returned is on disk.

    Parameters
    ----------
    address : path of the file (made when missing), or an SQLAlchemy address of an SQLite database
    timeout_s : how long to wait for another program that is writing, before saying so
    """

    def __init__(self, address: str | Path, *, timeout_s: float = 5.0) -> None:
        self._lock = threading.RLock()
        self._closed = False
        self._engine = engine_of(address, timeout_s=timeout_s)
        self._state = State()
        try:
            bring_up_to_date(self._engine)
            self._refresh()
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
        """Let go of the file."""
        with self._lock:
            self._closed = True
            self._engine.dispose()

    @property
    def head(self) -> str:
        """Hash of the last event: it names the state of the whole ledger."""
        return self._refresh().head

    def add_slide(self, slide: SlideRecord, *, by: str = "") -> SlideRecord:
        """Keep what is known about a slide; a record that changed is a new event, an equal one is none."""

        def drafts(state: State) -> list[Draft]:
            known = state.slides.get(slide.id) == slide
            return [] if known else [Draft("slide", slide.id, by, slide.to_record())]

        self._write(drafts)
        return slide

    def slides(self) -> tuple[SlideRecord, ...]:
        """The project's slides, in the order in which they were added."""
        with self._lock:
            return tuple(self._refresh().slides.values())

    def append(self, kind: str, slide_id: str | None, payload: Mapping[str, Any], by: str = "") -> Event:
        """Append an event that changes no label ("adopt", "note", …); `slide_id` None is the project."""
        if kind in OWN_KINDS:
            raise ValueError(f"events of kind {kind!r} are written by the ledger's own verbs only")
        return self._write(lambda _state: [Draft(kind, slide_id or "", by, dict(payload))])[0]

    def correct(self, *corrections: Correction) -> tuple[Event, ...]:
        """State corrections as one act: all of them on disk or none, and one undo takes a slide's part back.

        A correction that is in force already (its id, label and place) is not stated twice, so a doubtful
        write or an import may be repeated; one that changed under the same id is stated under a new one. The
        new act ends what could be redone on its slides.
        """
        act = str(uuid.uuid4())

        def drafts(state: State) -> list[Draft]:
            return [
                Draft("correct", c.slide_id, c.by, {"act": act, "correction": to_record(c)})
                for c in state.unsaid(corrections)
            ]

        return self._write(drafts)

    def undo(self, slide_id: str, by: str = "") -> Event | None:
        """Take the latest act on a slide back; None when there is none."""

        def drafts(state: State) -> list[Draft]:
            done = state.stacks(slide_id).done
            return [Draft("undo", slide_id, by, {"act": done[-1].id})] if done else []

        return next(iter(self._write(drafts)), None)

    def redo(self, slide_id: str, by: str = "") -> Event | None:
        """Put the act that was undone last back in force; None when there is none."""

        def drafts(state: State) -> list[Draft]:
            undone = state.stacks(slide_id).undone
            return [Draft("redo", slide_id, by, {"act": undone[-1].id})] if undone else []

        return next(iter(self._write(drafts)), None)

    def acts(self, slide_id: str) -> tuple[int, int]:
        """How many acts on a slide can be undone, and how many redone."""
        with self._lock:
            stacks = self._refresh().stacks(slide_id)
            return len(stacks.done), len(stacks.undone)

    def corrections(self, slide_id: str | None = None) -> tuple[Correction, ...]:
        """Corrections in force on a slide (or on all), in the order in which they were stated."""
        with self._lock:
            return self._refresh().corrections(slide_id)

    def events(self, *, kind: str | None = None, slide_id: str | None = None) -> tuple[Event, ...]:
        """All events in their order, or those of a kind or of a slide: the history, undone acts included."""
        query = sa.select(EVENTS).order_by(EVENTS.c.seq)
        for column, wanted in ((EVENTS.c.kind, kind), (EVENTS.c.slide_id, slide_id)):
            if wanted is not None:
                query = query.where(column == wanted)
        with self._lock, transaction(self._open(), writes=False) as connection:
            rows = connection.execute(query).mappings().all()
        return tuple(unseal(dict(row), row["seq"], row["previous"]) for row in rows)

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
        """The state, brought forward by what was appended since."""
        with self._lock, transaction(self._open(), writes=False) as connection:
            self._catch_up(connection)
            return self._state

    def _catch_up(self, connection: sa.Connection) -> None:
        state = self._state
        tip = connection.execute(sa.select(TIP.c.seq, TIP.c.hash)).one_or_none()
        if tip is not None and tuple(tip) == (state.seq, state.head):
            return
        query = sa.select(EVENTS).where(EVENTS.c.seq > state.seq).order_by(EVENTS.c.seq)
        problem: Exception | str = ""
        try:
            for row in connection.execute(query).mappings():
                state.apply(unseal(dict(row), state.seq + 1, state.head))
        except (ProjectError, ValueError, KeyError, TypeError) as error:
            problem = error
        if not problem and (tip is None or tuple(tip) != (state.seq, state.head)):
            problem = f"events after {state.seq} are missing"
        if problem:
            raise ProjectError(
                f"{place_of(self._engine)} is damaged: {problem}; the {state.seq} events before can still be "
                "read, verify tells more, or restore it from a backup."
            )

    def _write(self, drafts: Callable[[State], list[Draft]]) -> tuple[Event, ...]:
        """Append what `drafts` makes of the latest state; on return it is on disk."""
        with self._lock:
            with transaction(self._open(), writes=True) as connection:
                self._catch_up(connection)
                rows: list[dict[str, Any]] = []
                seq, head = self._state.seq, self._state.head
                for draft in drafts(self._state):
                    rows.append(seal(draft, seq + 1, head))
                    seq, head = rows[-1]["seq"], rows[-1]["hash"]
                if rows:
                    connection.execute(sa.insert(EVENTS), rows)
                    connection.execute(sa.update(TIP).values(seq=seq, hash=head))
            written = tuple(unseal(row, row["seq"], row["previous"]) for row in rows)
            for event in written:
                self._state.apply(event)
            return written


def verify(address: str | Path) -> Report:
    """Check a ledger that may be too damaged to be opened; nothing is written."""
    engine = engine_of(address, timeout_s=5.0)
    try:
        with said(engine):
            return check(engine)
    finally:
        engine.dispose()
