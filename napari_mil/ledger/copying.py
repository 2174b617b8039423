"""A ledger whole into another database: to share it, to bring it back, to back it up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sqlalchemy as sa

from napari_mil.errors import ProjectError
from napari_mil.ledger.check import Report, check
from napari_mil.ledger.database import EVENTS, TIP, bring_up_to_date, engine_of, place_of, transaction
from napari_mil.ledger.events import Event, to_row

#: Rows that are written in one go.
_ROWS = 500


def copy(source: str | Path, target: str | Path, *, moved_to: str = "") -> Report:
    """Bring the ledger at `target` (made when missing) to where the one at `source` is, event by event with
    their hashes; nobody appends to the source meanwhile.

    moved_to : the address that the source is closed with: from then on it can only be read

    Raises
    ------
    ProjectError : the source is damaged, or the target holds something else
    """
    ends = engine_of(source), engine_of(target)
    try:
        bring_up_to_date(ends[1])
        with transaction(ends[0], "write") as connection:
            report = check(ends[0])
            if not report.ok:
                raise ProjectError(report.problem)
            put(report.sound, ends[1])
            if moved_to:
                connection.execute(sa.update(TIP).values(moved_to=moved_to))
        return report
    finally:
        for engine in ends:
            engine.dispose()


def put(events: tuple[Event, ...], target: sa.Engine) -> None:
    """Append to a ledger what it lacks of a chain; it lives there from now on. A ledger that is ahead of the
    chain stays as it is; ProjectError when it says something else.
    """
    with transaction(target, "write") as connection:
        tip = connection.execute(sa.select(TIP.c.seq, TIP.c.hash)).one()
        shared = min(tip.seq, len(events))
        if shared and _hash(connection, shared) != events[shared - 1].hash:
            raise ProjectError(
                f"{place_of(target)} holds another project's ledger, or this one went on elsewhere; nothing "
                "was written, give an empty database."
            )
        for start in range(shared, len(events), _ROWS):
            rows: list[dict[str, Any]] = [to_row(e) for e in events[start : start + _ROWS]]
            connection.execute(sa.insert(EVENTS), rows)
        last = (events[-1].seq, events[-1].hash) if len(events) > tip.seq else tuple(tip)
        connection.execute(sa.update(TIP).values(seq=last[0], hash=last[1], moved_to=""))
    report = check(target)
    if not report.ok:
        raise ProjectError(report.problem)


def _hash(connection: sa.Connection, seq: int) -> str | None:
    return connection.execute(sa.select(EVENTS.c.hash).where(EVENTS.c.seq == seq)).scalar()
