"""The database under a ledger: connections, schema versions, and its errors as sentences."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext, MigrationStep
from alembic.script import ScriptDirectory

from napari_mil import __version__
from napari_mil.errors import ProjectError, reason

META = sa.MetaData()
EVENTS = sa.Table(
    "events",
    META,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=False),
    *(
        sa.Column(word, sa.Text, nullable=False)
        for word in ("id", "at", "by", "kind", "slide_id", "payload", "previous", "hash")
    ),
)
TIP = sa.Table(
    "tip",
    META,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("seq", sa.Integer, nullable=False),
    sa.Column("hash", sa.Text, nullable=False),
)

#: Part of a database's own message -> what a person needs to know and do.
SENTENCES = {
    "locked": "is locked by another program; nothing was written, close the other program or try again",
    "busy": "is locked by another program; nothing was written, close the other program or try again",
    "readonly": "is read-only; nothing was written, get write permission or copy the project elsewhere",
    "full": "cannot be written because the disk is full; nothing was lost, free some space and try again",
    "not a database": "is damaged: it is no SQLite database; restore it from a backup",
    "malformed": "is damaged; verify tells what can still be read, or restore it from a backup",
    "could not decode": "is damaged; verify tells what can still be read, or restore it from a backup",
    "unable to open": "cannot be opened; check that its folder exists and that you may write there",
    "disk i/o error": "cannot be read or written because the disk fails; check the disk and try again",
    "no such table": "is damaged: tables are missing; restore it from a backup",
}


def engine_of(address: str | Path, *, timeout_s: float) -> sa.Engine:
    """An engine for a ledger file or a database address."""
    text = str(address)
    url = sa.make_url(text) if "://" in text else sa.URL.create("sqlite", database=text)
    if url.get_backend_name() != "sqlite":
        raise ProjectError(
            f"The ledger address {url.render_as_string()!r} is of kind {url.get_backend_name()!r}; "
            f"napari-mil {__version__} keeps ledgers in SQLite files, give a file path."
        )
    engine = sa.create_engine(url, connect_args={"timeout": timeout_s})

    @sa.event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # transactions begin where we say so, and hold schema changes too
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}").fetchall()

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        writes = connection.get_execution_options().get("writes")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def place_of(engine: sa.Engine) -> str:
    """Where the ledger is, for messages."""
    return f"The ledger {engine.url.database}"


@contextmanager
def said(engine: sa.Engine) -> Iterator[None]:
    """Turn the errors of the database into one sentence each."""
    try:
        yield
    except sa.exc.DBAPIError as error:
        words = str(error.orig).lower()
        for part, sentence in SENTENCES.items():
            if part in words:
                raise ProjectError(f"{place_of(engine)} {sentence}.") from error
        raise ProjectError(f"{place_of(engine)} cannot be used: {reason(error.orig or error)}.") from error
    except UnicodeDecodeError as error:  # the driver meets broken text in the file's own structure
        raise ProjectError(f"{place_of(engine)} {SENTENCES['malformed']}.") from error


@contextmanager
def transaction(engine: sa.Engine, *, writes: bool) -> Iterator[sa.Connection]:
    """A connection inside a transaction; a writing one holds the write lock from its start."""
    with (
        said(engine),
        engine.connect().execution_options(writes=writes) as connection,
        connection.begin(),
    ):
        yield connection


def bring_up_to_date(engine: sa.Engine) -> None:
    """Create or upgrade the schema; ProjectError when it is newer than this program knows."""
    scripts = ScriptDirectory(str(Path(__file__).parent))
    newest = str(scripts.get_current_head())
    known = {script.revision for script in scripts.walk_revisions()}
    with transaction(engine, writes=False) as connection:
        version = MigrationContext.configure(connection).get_current_revision()
    if version == newest:
        return
    if version is not None and version not in known:
        raise ProjectError(
            f"{place_of(engine)} has schema version {version}, napari-mil {__version__} knows versions up to "
            f"{newest}; it was written by a newer napari-mil, update the program."
        )
    with transaction(engine, writes=True) as connection:

        def steps(current: Any, _context: MigrationContext) -> list[MigrationStep]:
            lower = current[0] if current else "base"  # another program may have upgraded meanwhile
            missing = reversed(list(scripts.iterate_revisions("head", lower)))
            return [MigrationStep.upgrade_from_script(scripts.revision_map, script) for script in missing]

        context = MigrationContext.configure(connection, opts={"fn": steps})
        with Operations.context(context):
            context.run_migrations()
