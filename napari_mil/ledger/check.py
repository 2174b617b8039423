"""Is a ledger whole, and what can still be read of one that is not?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from napari_mil.errors import ProjectError
from napari_mil.ledger.database import EVENTS, TIP, kind_of, place_of
from napari_mil.ledger.events import GENESIS, Event, unseal
from napari_mil.ledger.rows import collector_paused, named


@dataclass(frozen=True, slots=True)
class Report:
    """What checking a ledger found.

    Attributes
    ----------
    problem : one sentence, "" when the ledger is whole
    events : number of events the file holds, as far as it can be read
    sound : the events from the first on whose chain is unbroken: these are what people said
    """

    problem: str
    events: int
    sound: tuple[Event, ...]

    @property
    def ok(self) -> bool:
        """Whether the ledger is whole."""
        return not self.problem

    def __str__(self) -> str:
        return self.problem or f"whole: {self.events} events, head {self.head}"

    @property
    def head(self) -> str:
        """Hash of the last sound event."""
        return self.sound[-1].hash if self.sound else GENESIS


def check(engine: sa.Engine) -> Report:
    """Read every event and recompute the chain; ProjectError when the database cannot be reached."""
    problem, count = "", 0
    sound: list[Event] = []
    try:
        with _snapshot(engine) as connection, collector_paused():
            for row in named(connection.execute(sa.select(EVENTS).order_by(EVENTS.c.seq))):
                count += 1
                problem = problem or _take(row, sound)
            problem = problem or _frame(connection, sound)
    except sa.exc.DBAPIError as error:
        words = kind_of(engine).sentence(error.orig or error)
        if not count and words and "damaged" not in words:
            raise ProjectError(f"{place_of(engine)} {words}.") from error
        problem = problem or f"it cannot be read further ({error.orig})"
    except UnicodeDecodeError as error:
        problem = problem or f"it cannot be read further ({error.reason})"
    if problem:
        can = f"events 1 to {len(sound)} are as they were written" if sound else "no event can be trusted"
        problem = f"{place_of(engine)} is damaged: {problem}; {can}, restore it from a backup."
    return Report(problem, count, tuple(sound))


@contextmanager
def _snapshot(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A connection whose statements see the same, and whose errors are told as they are."""
    options = kind_of(engine).options("snapshot")
    with engine.connect().execution_options(**options) as connection, connection.begin():
        yield connection


def _take(row: dict[str, Any], sound: list[Event]) -> str:
    """Put a row behind the sound ones, or say what is wrong with it."""
    try:
        sound.append(unseal(row, len(sound) + 1, sound[-1].hash if sound else GENESIS))
    except (ProjectError, ValueError, TypeError) as error:
        return str(error)
    return ""


def _frame(connection: sa.Connection, sound: list[Event]) -> str:
    """What is wrong around the events, "" when nothing: the chain's tip, the database's own structure."""
    tip = connection.execute(sa.select(TIP.c.seq, TIP.c.hash)).one_or_none()
    structure = kind_of(connection.engine).structure(connection)
    if tip is None or tuple(tip) != ((sound[-1].seq, sound[-1].hash) if sound else (0, GENESIS)):
        return f"events after {len(sound)} are missing"
    return f"its structure is broken ({structure})" if structure else ""
