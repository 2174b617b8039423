"""The database under a ledger: connections, schema versions, and its errors as sentences."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol

import sqlalchemy as sa
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext, MigrationStep
from alembic.script import ScriptDirectory

from napari_mil import __version__
from napari_mil.errors import ProjectError, UnavailableError, reason
from napari_mil.ledger import postgres, sqlite

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
#: The last event; and where the ledger was moved to, "" = it lives here.
TIP = sa.Table(
    "tip",
    META,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("seq", sa.Integer, nullable=False),
    sa.Column("hash", sa.Text, nullable=False),
    sa.Column("moved_to", sa.Text, nullable=False),
)
#: look: one statement that reads; snapshot: several that see the same; write: nobody else appends meanwhile
Mode = Literal["look", "snapshot", "write"]


class Kind(Protocol):
    """What differs between databases: one module for each."""

    def engine(self, url: sa.URL, timeout_s: float) -> sa.Engine:
        """Connections whose acknowledged commits are on disk, and which wait no longer than `timeout_s`."""

    def options(self, mode: str) -> dict[str, Any]:
        """Options of a connection for a mode."""

    def lock(self, connection: sa.Connection) -> None:
        """Be the only one who appends, until the transaction ends."""

    def place(self, url: sa.URL) -> str:
        """Where the ledger is, in words, without a password."""

    def sentence(self, error: BaseException) -> str | None:
        """What a person needs to know of an error, or None where only its own words tell."""

    def passes(self, error: BaseException) -> bool:
        """Whether the same may work in a moment: the lock is held, the disk full, the server gone."""

    def structure(self, connection: sa.Connection) -> str:
        """What is broken in the database's own structure, "" when nothing."""


KINDS: dict[str, Kind] = {"sqlite": sqlite, "postgresql": postgres}


def engine_of(address: str | Path, *, timeout_s: float = 5.0) -> sa.Engine:
    """An engine for a ledger file or a database address."""
    url = url_of(address)
    return KINDS[url.get_backend_name()].engine(url, timeout_s)


def url_of(address: str | Path) -> sa.URL:
    """The address of a ledger file or a database; ProjectError where no ledger can be."""
    text = str(address)
    if "://" not in text:
        return sa.URL.create("sqlite", database=text)
    try:
        url = sa.make_url(text.replace("postgres://", "postgresql://", 1))
    except (sa.exc.ArgumentError, ValueError) as error:
        raise ProjectError(
            f"{text!r} is no address of a database ({reason(error)}); write postgresql://SERVER/DATABASE."
        ) from error
    if url.get_backend_name() not in KINDS:
        raise ProjectError(
            f"The ledger address {url.render_as_string()!r} is of kind {url.get_backend_name()!r}; "
            f"napari-mil {__version__} keeps ledgers in SQLite files and in PostgreSQL: give a file path or "
            "postgresql://SERVER/DATABASE."
        )
    return url


def kind_of(engine: sa.Engine) -> Kind:
    """What is special about an engine's database."""
    return KINDS[engine.dialect.name]


def place_of(engine: sa.Engine) -> str:
    """Where the ledger is, for messages."""
    return f"The ledger {kind_of(engine).place(engine.url)}"


@contextmanager
def said(engine: sa.Engine) -> Iterator[None]:
    """Turn the errors of the database into one sentence each."""
    try:
        yield
    except sa.exc.DBAPIError as error:
        cause = error.orig or error
        kind = kind_of(engine)
        words = kind.sentence(cause) or f"cannot be used: {reason(cause)}"
        refusal = UnavailableError if kind.passes(cause) else ProjectError
        raise refusal(f"{place_of(engine)} {words}.") from error
    except UnicodeDecodeError as error:  # the driver meets broken text in the file's own structure
        raise ProjectError(f"{place_of(engine)} {sqlite.SENTENCES['malformed']}.") from error


@contextmanager
def transaction(engine: sa.Engine, mode: Mode) -> Iterator[sa.Connection]:
    """A connection inside a transaction; a writing one holds the ledger's lock from its start."""
    kind = kind_of(engine)
    with (
        said(engine),
        engine.connect().execution_options(**kind.options(mode)) as connection,
        connection.begin(),
    ):
        if mode == "write":
            kind.lock(connection)
        yield connection


def bring_up_to_date(engine: sa.Engine) -> None:
    """Create or upgrade the schema; ProjectError when it is newer than this program knows."""
    scripts = ScriptDirectory(str(Path(__file__).parent))
    newest = str(scripts.get_current_head())
    known = {script.revision for script in scripts.walk_revisions()}
    version = schema_version(engine)
    if version == newest:
        return
    if version is not None and version not in known:
        raise ProjectError(
            f"{place_of(engine)} has schema version {version}, napari-mil {__version__} knows versions up to "
            f"{newest}; it was written by a newer napari-mil, update the program."
        )
    with transaction(engine, "write") as connection:

        def steps(current: Any, _context: MigrationContext) -> list[MigrationStep]:
            lower = current[0] if current else "base"  # another program may have upgraded meanwhile
            missing = reversed(list(scripts.iterate_revisions("head", lower)))
            return [MigrationStep.upgrade_from_script(scripts.revision_map, script) for script in missing]

        context = MigrationContext.configure(connection, opts={"fn": steps})
        with Operations.context(context):
            context.run_migrations()


def schema_version(engine: sa.Engine) -> str | None:
    """Version of a ledger's schema, None where there is no ledger yet."""
    with transaction(engine, "snapshot") as connection:
        return MigrationContext.configure(connection).get_current_revision()
