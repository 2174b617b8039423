"""A ledger in PostgreSQL: one chain whoever appends, and a sentence for whatever a server may say."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from postgresserver import GUARDED

from napari_mil.correction import Cells, Correction, WholeSlide, to_record
from napari_mil.errors import ProjectError, UnavailableError
from napari_mil.ledger import GENESIS, Ledger, SlideRecord, verify


def cell(row, label="Benign", slide="s", **more):
    return Correction(slide, Cells([[row, 0]], (8.0, 8.0)), label, by="me", **more)


def rows_of(ledger, slide="s"):
    return [int(c.place.cells[0, 0]) for c in ledger.corrections(slide)]


@pytest.fixture
def database(postgres):
    return postgres.database()


@pytest.fixture
def address(postgres, database):
    return postgres.address(database)


def test_it_says_and_takes_back_what_a_file_does(tmp_path, address):
    said = [
        cell(1),
        Correction("s", WholeSlide(), "Malignant/IC", was="Benign", visible=("attention",), by="é"),
    ]
    heads = []
    for place in (tmp_path / "ledger.sqlite", address):
        with Ledger(place) as ledger:
            assert ledger.head == GENESIS
            ledger.add_slide(SlideRecord("s", "/a/s.svs", mpp=(0.25, 0.25)))
            for c in said:
                ledger.correct(c)
            ledger.correct(cell(3), cell(4))
            ledger.undo("s")
            ledger.redo("s")
            ledger.undo("s")
            ledger.append("note", "s", {"text": "“soon”"}, "me")
        with Ledger(place) as ledger:
            assert [to_record(c) for c in ledger.corrections()] == [to_record(c) for c in said]
            assert len(ledger.acts("s").undone) == 1
            assert ledger.slides()[0].mpp == (0.25, 0.25)
            assert ledger.verify().ok
            heads.append(len(ledger.events()))
    assert heads == [9, 9]


WRITER = """
import sys
from napari_mil.correction import Cells, Correction
from napari_mil.ledger import Ledger
ledger = Ledger(sys.argv[1], timeout_s=60)
print("open", flush=True)
sys.stdin.readline()
for row in range(int(sys.argv[3])):
    ledger.correct(Correction(sys.argv[2], Cells([[row, 0]], (8.0, 8.0)), "Benign", by=sys.argv[2]))
    if row % 5 == 4:
        ledger.undo(sys.argv[2], sys.argv[2])
"""


@pytest.mark.parametrize("edits", [25, pytest.param(1000, marks=pytest.mark.soak)])
@pytest.mark.timeout(1800)
def test_programs_that_append_at_once_keep_one_chain(address, edits):
    children = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, address, who, str(edits)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for who in ("ann", "bob", "eve")
    ]  # fmt: skip
    for child in children:
        assert child.stdout.readline() == "open\n"
    for child in children:
        child.stdin.write("\n")
        child.stdin.flush()
    for child in children:
        child.communicate(timeout=1500)
        assert child.returncode == 0
    with Ledger(address) as ledger:
        assert ledger.verify().ok
        assert [e.seq for e in ledger.events()] == list(range(1, 3 * (edits + edits // 5) + 1))
        for who in ("ann", "bob", "eve"):
            assert rows_of(ledger, who) == [row for row in range(edits) if row % 5 != 4]


def test_events_cannot_be_changed_or_deleted(postgres, database, address):
    import psycopg

    with Ledger(address) as ledger:
        ledger.correct(cell(1))
    for act in ("UPDATE events SET by = 'you'", "DELETE FROM events", "TRUNCATE events"):
        with pytest.raises(psycopg.errors.RaiseException, match="insert-only"):
            postgres.execute(database, act)


@pytest.mark.parametrize(
    ("act", "sound", "says"),
    [
        ("UPDATE events SET payload = replace(payload, 'Ben', 'X') WHERE seq = 4", 3, "event 4 was altered"),
        ("UPDATE events SET at = '2020-01-01T00:00:00+00:00' WHERE seq = 1", 0, "no event can be trusted"),
        ("DELETE FROM events WHERE seq = 7", 6, "event 7 is missing"),
        ("DELETE FROM events WHERE seq > 8", 8, "events after 8 are missing"),
        ("DELETE FROM tip", 10, "events after 10 are missing"),
    ],
)  # fmt: skip
def test_every_alteration_is_found_and_what_is_sound_is_said(postgres, database, address, act, sound, says):
    with Ledger(address) as ledger:
        for row in range(10):
            ledger.correct(cell(row))
    postgres.execute(database, "ALTER TABLE events DISABLE TRIGGER events_refuse", act)
    report = verify(address)
    assert says in report.problem
    assert [e.seq for e in report.sound] == list(range(1, sound + 1))
    with pytest.raises(ProjectError, match="is damaged"):
        Ledger(address)


@pytest.mark.parametrize("column", ["id", "at", "by", "kind", "slide_id", "payload", "previous", "hash"])
def test_a_character_changed_in_any_column_is_found(postgres, database, address, column):
    with Ledger(address) as ledger:
        for row in range(3):
            ledger.correct(cell(row))
    change = f"UPDATE events SET {column} = {column} || ' ' WHERE seq = 2"  # noqa: S608
    postgres.execute(database, "ALTER TABLE events DISABLE TRIGGER events_refuse", change)
    report = verify(address)
    assert "event 2" in report.problem
    assert len(report.sound) == 1


def test_a_full_disk_and_a_busy_server_are_said(postgres, database, address):
    from psycopg import errors

    from napari_mil.ledger.postgres import passes, sentence

    assert "server's disk is full; nothing was lost" in sentence(errors.DiskFull("could not extend file"))
    assert "has no room for you now (out of memory)" in sentence(errors.OutOfMemory("out of memory"))
    assert "is damaged (invalid page)" in sentence(errors.DataCorrupted("invalid page"))
    assert sentence(ValueError("anything else")) is None
    assert all(map(passes, (errors.DiskFull(), errors.OutOfMemory(), errors.LockNotAvailable())))
    lasting = (errors.DataCorrupted(), errors.UndefinedTable(), errors.ReadOnlySqlTransaction(), ValueError())
    assert not any(map(passes, lasting))
    Ledger(address).close()
    postgres.execute(database, "DROP ROLE IF EXISTS many", "CREATE ROLE many LOGIN CONNECTION LIMIT 0")
    with pytest.raises(
        ProjectError, match=r"has no room for you now \(.*too many connections.*\); nothing was"
    ):
        Ledger(postgres.address(database, "many"))


def test_a_full_disk_while_writing_leaves_the_chain_as_it_was(postgres, database, address):
    """The server refuses the row as it would on a full disk, in the middle of a transaction."""
    with Ledger(address) as ledger:
        ledger.correct(cell(1))
        postgres.execute(
            database,
            "CREATE FUNCTION refuse_full() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            "RAISE EXCEPTION 'could not extend file' USING ERRCODE = 'disk_full'; END $$",
            "CREATE TRIGGER refuse_full BEFORE UPDATE ON tip EXECUTE FUNCTION refuse_full()",
        )
        with pytest.raises(ProjectError, match="disk is full; nothing was lost, free space and try again"):
            ledger.correct(cell(2), cell(3))
        assert rows_of(ledger) == [1]
        postgres.execute(database, "DROP TRIGGER refuse_full ON tip")
        ledger.correct(cell(2), cell(3))
        assert rows_of(ledger) == [1, 2, 3]
        assert ledger.verify().ok


def test_a_newer_ledger_is_refused_with_both_versions(postgres, database, address):
    Ledger(address).close()
    postgres.execute(database, "UPDATE alembic_version SET version_num = '7'")
    with pytest.raises(ProjectError, match=r"schema version 7, napari-mil .* knows versions up to 2"):
        Ledger(address)


def test_a_locked_ledger_is_said_and_loses_nothing(postgres, database, address):
    import psycopg

    from napari_mil.ledger.postgres import LOCK

    with Ledger(address, timeout_s=0.3) as ledger, psycopg.connect(postgres.dsn(database)) as other:
        ledger.correct(cell(1))
        other.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK])
        with pytest.raises(ProjectError, match="locked by another program; nothing was written, try again"):
            ledger.correct(cell(2))
        assert rows_of(ledger) == [1]
        other.rollback()
        ledger.correct(cell(2))
        assert rows_of(ledger) == [1, 2]


def test_who_may_only_read_is_told_so(postgres, database, address):
    Ledger(address).close()
    postgres.execute(
        database,
        "DROP ROLE IF EXISTS reader",
        "CREATE ROLE reader LOGIN",
        "GRANT SELECT ON events, tip, alembic_version TO reader",
    )
    with Ledger(postgres.address(database, "reader")) as ledger:
        assert ledger.corrections() == ()
        with pytest.raises(ProjectError, match=r"may not be written by you .*; nothing was written"):
            ledger.correct(cell(1))
    postgres.execute(database, "DROP OWNED BY reader", "DROP ROLE reader")


def test_an_address_without_a_database_or_a_server_or_a_password_is_said(
    postgres, database, tmp_path, monkeypatch
):
    with pytest.raises(ProjectError, match=r"does not exist .*; make the database with createdb"):
        Ledger(postgres.address("nowhere"))
    with pytest.raises(ProjectError, match=r"does not answer \(.*\); what was acknowledged is kept"):
        Ledger(f"postgresql://tester@/x?host={tmp_path}")
    postgres.execute(
        database, f"DROP ROLE IF EXISTS {GUARDED}", f"CREATE ROLE {GUARDED} LOGIN PASSWORD 'right'"
    )
    guarded = postgres.address(database, GUARDED)
    with pytest.raises(ProjectError, match=r"does not let you in .*PGPASSWORD or ~/.pgpass"):
        Ledger(guarded)
    monkeypatch.setenv("PGPASSWORD", "wrong")
    with pytest.raises(ProjectError, match="does not let you in"):
        Ledger(guarded)
    monkeypatch.setenv("PGPASSWORD", "right")
    with pytest.raises(ProjectError, match="permission denied"):  # it is in, and may not make tables
        Ledger(guarded)


def test_a_password_is_never_shown():
    with pytest.raises(ProjectError) as refused:
        Ledger("postgresql://me:secret@127.0.0.1:1/x", timeout_s=0.5)
    assert "secret" not in str(refused.value)
    assert "postgresql://me@127.0.0.1:1/x" in str(refused.value)


def test_without_the_driver_the_line_that_installs_it_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(
        ProjectError, match=r"needs psycopg; install it with: pip install 'napari-mil\[postgres\]'"
    ):
        Ledger("postgresql://somewhere/project")


def test_a_server_that_went_away_loses_nothing_and_the_same_ledger_goes_on(postgres, address):
    with Ledger(address) as ledger:
        ledger.correct(cell(1))
        postgres.kill()
        try:
            with pytest.raises(UnavailableError, match=r"does not answer \(.*\).* try again"):
                ledger.correct(cell(2))
            with pytest.raises(ProjectError, match="does not answer"):
                _ = ledger.head
        finally:
            postgres.start()
        ledger.correct(cell(2))
        assert rows_of(ledger) == [1, 2]
        assert ledger.verify().ok


@pytest.mark.parametrize(
    "edits", [pytest.param(300, marks=pytest.mark.slow), pytest.param(10_000, marks=pytest.mark.soak)]
)
@pytest.mark.timeout(3600)
def test_kill_9_of_program_or_server_loses_nothing_acknowledged(postgres, address, edits):
    from test_ledger import CHILD

    draw, start, server_too = np.random.default_rng(6), 0, 0
    while start < edits:
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, address, str(start)], stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        with child:
            assert child.stdout.readline() == "open\n"
            acknowledged = start - 1
            for _ in range(draw.integers(1, 200)):
                acknowledged = int(child.stdout.readline())
            if draw.random() < 0.4:
                server_too += 1
                postgres.kill()
                postgres.start()
            child.kill()
            rest = [line for line in child.stdout.read().split("\n") if line.strip().isdigit()][:-1]
        acknowledged = max([acknowledged, *map(int, rest)])
        with Ledger(address) as ledger:
            rows = rows_of(ledger)
            assert rows == list(range(len(rows)))
            assert len(rows) > acknowledged
            assert ledger.verify().ok
            start = len(rows)
    assert server_too
