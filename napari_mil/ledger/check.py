"""Is a ledger whole, and what can still be read of one that is not?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from napari_mil.errors import ProjectError
from napari_mil.ledger.database import EVENTS, TIP, place_of
from napari_mil.ledger.events import GENESIS, Event, unseal


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
    """Read every event and recompute the chain."""
    problem, count = "", 0
    sound: list[Event] = []
    for row in _rows(engine):
        if isinstance(row, str):
            problem = problem or row
            continue
        count += 1
        if problem:
            continue
        try:
            sound.append(unseal(row, len(sound) + 1, sound[-1].hash if sound else GENESIS))
        except (ProjectError, ValueError, TypeError) as error:
            problem = str(error)
    problem = problem or _frame(engine, sound)
    if problem:
        can = f"events 1 to {len(sound)} are as they were written" if sound else "no event can be trusted"
        problem = f"{place_of(engine)} is damaged: {problem}; {can}, restore it from a backup."
    return Report(problem, count, tuple(sound))


def _rows(engine: sa.Engine) -> Iterator[dict[str, Any] | str]:
    """The rows; where the file cannot be read further, the reason as text ends them."""
    try:
        with engine.connect() as connection:
            for row in connection.execute(sa.select(EVENTS).order_by(EVENTS.c.seq)).mappings():
                yield dict(row)
    except sa.exc.DBAPIError as error:
        yield f"it cannot be read further ({error.orig})"
    except UnicodeDecodeError as error:
        yield f"it cannot be read further ({error.reason})"


def _frame(engine: sa.Engine, sound: list[Event]) -> str:
    """What is wrong around the events, "" when nothing: the chain's tip, the database's own structure."""
    try:
        with engine.connect() as connection:
            tip = connection.execute(sa.select(TIP.c.seq, TIP.c.hash)).one_or_none()
            structure = connection.exec_driver_sql("PRAGMA integrity_check(1)").scalar()
    except sa.exc.DBAPIError as error:
        return f"its structure cannot be read ({error.orig})"
    except UnicodeDecodeError as error:
        return f"its structure cannot be read ({error.reason})"
    if tip is None or tuple(tip) != ((sound[-1].seq, sound[-1].hash) if sound else (0, GENESIS)):
        return f"events after {len(sound)} are missing"
    return "" if structure == "ok" else f"its structure is broken ({structure})"
