"""Ledgers in a PostgreSQL database, which a team shares by its address."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from napari_mil.errors import ProjectError, reason

#: Names the lock of those who append, in one database.
LOCK = 0x6D696C  # "mil"
#: After so long without an answer of the network a connection is given up.
SILENCE_S = 10

PASSWORD = "the password comes from PGPASSWORD or ~/.pgpass, it is never kept in the project"  # noqa: S105
_LOCKED = "is locked by another program; nothing was written, try again"
_FULL = "cannot be written as the server's disk is full; nothing was lost, free space and try again"
_CROWDED = "has no room for you now ({}); nothing was written, try again"
_GONE = "does not answer ({}); what was acknowledged is kept, check the server and the network and try again"
#: The same may work in a moment.
PASSING = (_LOCKED, _FULL, _CROWDED, _GONE)

#: SQLSTATE, or its class of two characters -> what a person needs to know and do.
_STATES = {
    "55P03": _LOCKED,
    "57014": _LOCKED,
    "40P01": _LOCKED,
    "53100": _FULL,
    "53": _CROWDED,
    "25006": "is read-only; nothing was written, ask for the server that takes changes",
    "42501": "may not be written by you ({}); nothing was written, ask its owner for the right to",
    "42P01": "is damaged: tables are missing; restore it from a backup",
    "28": f"does not let you in ({{}}); {PASSWORD}",
    "3D": "does not exist ({}); make the database with createdb, or check the address",
    "08": _GONE,
    "57P": _GONE,
    "XX": "is damaged ({}); verify tells what can still be read, or restore it from a backup",
}
#: Part of the message of a connection that failed, for which there is no SQLSTATE.
_CONNECTING = {
    "too many": _CROWDED,
    "sorry": _CROWDED,
    "password": _STATES["28"],
    "no pg_hba.conf": _STATES["28"],
    "role": _STATES["28"],
    "does not exist": _STATES["3D"],
}


def engine(url: sa.URL, timeout_s: float) -> sa.Engine:
    """An acknowledged commit is on the server's disk, whatever its own settings; nothing waits for ever."""
    try:
        made = sa.create_engine(
            url.set(drivername="postgresql+psycopg"),
            pool_pre_ping=True,
            connect_args={
                "connect_timeout": max(2, round(timeout_s)),
                "tcp_user_timeout": SILENCE_S * 1000,
                "application_name": "napari-mil",
                "client_encoding": "utf8",
            },
        )
    except ModuleNotFoundError as error:
        raise ProjectError(
            f"A ledger in PostgreSQL needs {error.name}; install it with: pip install 'napari-mil[postgres]'."
        ) from error

    @sa.event.listens_for(made, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        waits = round(timeout_s * 1000)
        connection.autocommit = True
        connection.execute(f"SET synchronous_commit = on; SET lock_timeout = {waits}")
        connection.autocommit = False

    return made


def options(mode: str) -> dict[str, Any]:
    """Options of a connection: what one statement reads needs no transaction, several need one picture."""
    levels = {"look": "AUTOCOMMIT", "snapshot": "REPEATABLE READ", "write": "READ COMMITTED"}
    return {"isolation_level": levels[mode]}


def lock(connection: sa.Connection) -> None:
    """Be the only one who appends, until the transaction ends; what was committed before is seen after."""
    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(LOCK)))


def place(url: sa.URL) -> str:
    """The address, without a password."""
    parts = (url.username, None, url.host, url.port, url.database)
    shown = sa.URL.create("postgresql", *parts, url.difference_update_query(["password"]).query)
    return shown.render_as_string()


def sentence(error: BaseException) -> str | None:
    """What a person needs to know of an error, or None where only its own words tell."""
    found = _words(error)
    return None if found is None else found.format(reason(error))


def passes(error: BaseException) -> bool:
    """Whether the same may work in a moment: the lock is held, the server full, busy or gone."""
    return _words(error) in PASSING


def _words(error: BaseException) -> str | None:
    """The sentence for an error, in which its own words are still to be put."""
    state = getattr(error, "sqlstate", None)
    if state is not None:
        return next((_STATES[part] for part in (state, state[:3], state[:2]) if part in _STATES), None)
    if not any(kind.__name__ == "OperationalError" for kind in type(error).__mro__):
        return None
    return next((words for part, words in _CONNECTING.items() if part in str(error)), _GONE)


def structure(_connection: sa.Connection) -> str:
    """The server looks after its own structure; what is broken shows when it is read."""
    return ""
