"""Ledgers in an SQLite file: the default, for one machine."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any

import sqlalchemy as sa

_LOCKED = "is locked by another program; nothing was written, close the other program or try again"
#: Part of SQLite's own message -> what a person needs to know and do: where the same may work in a moment,
PASSING = {
    "locked": _LOCKED,
    "busy": _LOCKED,
    "full": "cannot be written because the disk is full; nothing was lost, free some space and try again",
}
#: and where it will not.
SENTENCES = {
    "readonly": "is read-only; nothing was written, get write permission or copy the project elsewhere",
    "not a database": "is damaged: it is no SQLite database; restore it from a backup",
    "malformed": "is damaged; verify tells what can still be read, or restore it from a backup",
    "could not decode": "is damaged; verify tells what can still be read, or restore it from a backup",
    "unable to open": "cannot be opened; check that its folder exists and that you may write there",
    "disk i/o error": "cannot be read or written: the disk is full or fails; free some space or check it",
    "no such table": "is damaged: tables are missing; restore it from a backup",
}


def engine(url: sa.URL, timeout_s: float) -> sa.Engine:
    """WAL, and every commit on disk before it returns. Where nothing can be written, it can still be read."""
    file = Path(url.database or "")
    pool: dict[str, Any] = {"poolclass": sa.NullPool} if _only_read(file) else {}  # each look looks anew
    made = sa.create_engine(url, connect_args={"timeout": timeout_s}, **pool)

    @sa.event.listens_for(made, "do_connect")
    def connect(_dialect: Any, _record: Any, _words: Any, about: dict[str, Any]) -> Any:
        address = f"{file.absolute().as_uri()}?immutable=1"
        return sqlite3.connect(address, uri=True, **about) if _only_read(file) else None

    @sa.event.listens_for(made, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # transactions begin where we say so, and hold schema changes too
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}").fetchall()

    @sa.event.listens_for(made, "begin")
    def begin(connection: sa.Connection) -> None:
        writes = connection.get_execution_options().get("mode") == "write"
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return made


def _only_read(file: Path) -> bool:
    """Whether a ledger lies where nothing can be written, and is whole: SQLite then has to be told to do
    without the files that it puts beside it.
    """
    beside = file.with_name(f"{file.name}-wal")
    unwritten = beside.exists() and beside.stat().st_size > 0
    writable = os.access(file.parent, os.W_OK, effective_ids=os.access in os.supports_effective_ids)
    return file.exists() and not writable and not unwritten


def options(mode: str) -> dict[str, Any]:
    """Options of a connection: the transaction's own BEGIN asks for its mode."""
    return {"mode": mode}


def lock(connection: sa.Connection) -> None:
    """BEGIN IMMEDIATE has locked the file already."""


def place(url: sa.URL) -> str:
    """Where the ledger is, in words."""
    return str(url.database)


def sentence(error: BaseException) -> str | None:
    """What a person needs to know of an error, or None where only its own words tell."""
    words = str(error).lower()
    return next((said for part, said in (PASSING | SENTENCES).items() if part in words), None)


def passes(error: BaseException) -> bool:
    """Whether the same may work in a moment: another program holds the lock, or the disk is full."""
    return sentence(error) in PASSING.values()


def structure(connection: sa.Connection) -> str:
    """What is broken in the file's own structure, "" when nothing."""
    found = str(connection.exec_driver_sql("PRAGMA integrity_check(1)").scalar())
    return "" if found == "ok" else found
