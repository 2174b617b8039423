"""What a person said stays: append-only, chained, undone and redone, through crashes and damage."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from anotheruser import as_one_who_may_not
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from napari_mil import __version__
from napari_mil.correction import Cells, Correction, Polygon, WholeSlide, from_record, to_record
from napari_mil.errors import ProjectError, UnavailableError
from napari_mil.ledger import GENESIS, Ledger, SlideRecord, verify
from napari_mil.ledger.database import EVENTS, TIP, transaction
from napari_mil.ledger.events import Draft, row_hash, seal


def cell(row, label="Benign", slide="s", **more):
    return Correction(slide, Cells([[row, 0]], (8.0, 8.0)), label, by="me", **more)


def rows_of(ledger, slide="s"):
    return [int(c.place.cells[0, 0]) for c in ledger.corrections(slide)]


def counts(ledger, slide="s"):
    acts = ledger.acts(slide)
    return len(acts.done), len(acts.undone)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.sqlite"


@pytest.fixture
def ledger(path):
    with Ledger(path) as made:
        yield made


def test_corrections_are_there_after_a_restart(path):
    said = [
        cell(1),
        Correction("s", WholeSlide(), "Malignant/IC", was="Benign", model_id="m", visible=("attention",)),
        Correction("s", Polygon((np.array([[0, 0], [0, 1 / 3], [5, 5]]),)), None, note="gone"),
        cell(7, slide="t"),
    ]
    with Ledger(path) as ledger:
        for c in said:
            ledger.correct(c)
        head = ledger.head
    with Ledger(path) as ledger:
        assert [to_record(c) for c in ledger.corrections()] == [to_record(c) for c in said]
        assert [c.id for c in ledger.corrections("t")] == [said[3].id]
        assert ledger.head == head != GENESIS
        assert ledger.corrections("nobody") == ()


def test_one_stroke_is_one_event_and_an_import_is_one_act(ledger):
    stroke = Correction("s", Cells(np.indices((9, 9)).reshape(2, -1).T, (8, 8)), "Benign")
    assert len(ledger.correct(stroke)) == 1
    ledger.correct(cell(1), cell(2), cell(3, slide="t"))
    assert counts(ledger, "s") == (2, 0)
    ledger.undo("s")
    assert [c.id for c in ledger.corrections("s")] == [stroke.id]
    assert rows_of(ledger, "t") == [3]
    ledger.redo("s")
    assert len(ledger.corrections("s")) == 3


def test_an_act_on_several_slides_goes_and_comes_back_as_a_whole_where_that_is_asked(ledger):
    ledger.correct(cell(1), cell(2, slide="t"))
    ledger.correct(cell(3, slide="t"))
    event = ledger.undo("s", "me", everywhere=True)
    assert event.payload["slides"] == 2
    assert (rows_of(ledger, "s"), rows_of(ledger, "t")) == ([], [3])  # what came after it stays
    ledger.redo("t", "me", everywhere=True)
    assert (rows_of(ledger, "s"), rows_of(ledger, "t")) == ([1], [2, 3])
    ledger.append("lock", "t", {"events": [2]}, "me")
    with pytest.raises(ProjectError, match="event 2 says is locked"):
        ledger.undo("s", "me", everywhere=True)
    assert rows_of(ledger, "s") == [1]  # all of it or nothing
    assert "slides" not in ledger.undo("s", "me").payload


def test_the_last_event_of_each_slide_is_known(ledger):
    ledger.correct(cell(1), cell(2, slide="t"))
    ledger.undo("t")
    ledger.append("note", "s", {"text": "changes nothing"})
    assert ledger.last == {"s": 1, "t": 3}


def test_undo_and_redo_outlive_a_restart_and_stay_on_their_slide(path):
    with Ledger(path) as ledger:
        for row in range(5):
            ledger.correct(cell(row))
        ledger.correct(cell(99, slide="t"))
        for _ in range(3):
            assert ledger.undo("s", by="me").kind == "undo"
    with Ledger(path) as ledger:
        assert rows_of(ledger) == [0, 1]
        assert rows_of(ledger, "t") == [99]
        assert ledger.redo("s").by == ""
        assert rows_of(ledger) == [0, 1, 2]
        for _ in range(3):
            ledger.undo("s")
        assert ledger.undo("s") is None
        assert counts(ledger, "s") == (0, 5)
        ledger.correct(cell(6))
        assert ledger.redo("s") is None
        assert rows_of(ledger) == [6]
        assert [e.kind for e in ledger.events(slide_id="s")].count("correct") == 6


def test_a_repeated_write_states_nothing_twice(ledger):
    said = cell(1)
    assert len(ledger.correct(said)) == 1
    assert ledger.correct(said) == ()
    ledger.undo("s")
    assert len(ledger.correct(said, said)) == 1  # undone, so it is said anew
    changed = replace(said, label="Malignant")
    assert len(ledger.correct(changed)) == 1
    assert ledger.correct(said, changed) == ()
    first, second = ledger.corrections("s")
    assert (first.label, second.label) == ("Benign", "Malignant")
    assert first.id == said.id != second.id


def test_slides_keep_their_facts_as_events(path):
    first = SlideRecord("s", "/a/s.svs", name="s", label="Benign", mpp=(0.25, 0.25), time=3.5, event=True)
    with Ledger(path) as ledger:
        ledger.add_slide(SlideRecord("t", "/a/t.svs"))
        ledger.add_slide(first)
        head = ledger.head
        ledger.add_slide(first)
        assert ledger.head == head
    moved = SlideRecord("s", "/b/s.svs", name="s", label="Benign", mpp=(0.5, 0.5))
    with Ledger(path) as ledger:
        assert ledger.slides() == (SlideRecord("t", "/a/t.svs", case="t"), first)
        ledger.add_slide(moved)
        assert ledger.slides()[1] == moved
        assert len(ledger.events(kind="slide")) == 3


def test_other_events_are_kept_and_change_no_label(ledger):
    ledger.correct(cell(1))
    event = ledger.append("note", "s", {"text": "ask for a second reading — “soon”"}, "me")
    ledger.append("adopt", None, {"model": "m-1"})
    assert ledger.events(kind="note") == (event,)
    assert ledger.events(kind="note")[0].payload["text"].endswith("“soon”")
    ledger.undo("s")
    assert ledger.corrections() == ()
    with pytest.raises(ValueError, match="own verbs"):
        ledger.append("undo", "s", {})


def test_events_form_a_chain(ledger):
    for row in range(4):
        ledger.correct(cell(row))
    events = ledger.events()
    assert [e.seq for e in events] == [1, 2, 3, 4]
    assert [e.previous for e in events] == [GENESIS, *(e.hash for e in events[:-1])]
    report = ledger.verify()
    assert report.ok
    assert str(report) == f"whole: 4 events, head {ledger.head}"
    assert (report.events, report.sound, report.head) == (4, events, ledger.head)


class Replayed(RuleBasedStateMachine):
    """Two openings of one ledger against the obvious model: acts done and acts undone, per slide."""

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.count = 0
        self.model = {"s": ([], []), "t": ([], [])}
        self.ledgers = [Ledger(self.folder / "l.sqlite") for _ in range(2)]

    @rule(who=st.integers(0, 1), slide=st.sampled_from("st"), how_many=st.integers(1, 3))
    def correct(self, who, slide, how_many):
        rows = list(range(self.count, self.count + how_many))
        self.count += how_many
        self.ledgers[who].correct(*(cell(r, slide=slide) for r in rows))
        self.model[slide][0].append(rows)
        self.model[slide][1].clear()

    @rule(who=st.integers(0, 1), slide=st.sampled_from("st"))
    def undo(self, who, slide):
        done, undone = self.model[slide]
        assert (self.ledgers[who].undo(slide) is None) == (not done)
        if done:
            undone.append(done.pop())

    @rule(who=st.integers(0, 1), slide=st.sampled_from("st"))
    def redo(self, who, slide):
        done, undone = self.model[slide]
        assert (self.ledgers[who].redo(slide) is None) == (not undone)
        if undone:
            done.append(undone.pop())

    @precondition(lambda self: self.count > 3)
    @rule(who=st.integers(0, 1))
    def reopen(self, who):
        self.ledgers[who].close()
        self.ledgers[who] = Ledger(self.folder / "l.sqlite")

    @invariant()
    def both_agree_with_the_model(self):
        for ledger in self.ledgers:
            for slide, (done, undone) in self.model.items():
                assert rows_of(ledger, slide) == [row for act in done for row in act]
                assert counts(ledger, slide) == (len(done), len(undone))

    def teardown(self):
        assert self.ledgers[0].verify().ok
        for ledger in self.ledgers:
            ledger.close()
        shutil.rmtree(self.folder)


Replayed.TestCase.settings = settings(max_examples=12, stateful_step_count=25, deadline=None)
test_replay = Replayed.TestCase


def test_two_programs_on_one_ledger_see_each_other(path):
    with Ledger(path) as mine, Ledger(path) as yours:
        mine.correct(cell(1))
        assert rows_of(yours) == [1]
        yours.undo("s")
        assert rows_of(mine) == []
        assert counts(mine, "s") == (0, 1)
        assert mine.head == yours.head


def test_threads_write_and_read_at_once(ledger):
    failed = []

    def write(slide):
        try:
            for row in range(15):
                ledger.correct(cell(row, slide=slide))
                assert rows_of(ledger, slide) == list(range(row + 1))
                assert len(ledger.corrections()) > row
        except Exception as error:  # noqa: BLE001
            failed.append(error)

    threads = [threading.Thread(target=write, args=(str(i),)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert failed == []
    assert len(ledger.corrections()) == 60
    assert ledger.verify().ok


CHILD = """
import sys
from napari_mil.correction import Cells, Correction
from napari_mil.ledger import Ledger
ledger = Ledger(sys.argv[1])
print("open", flush=True)
for row in range(int(sys.argv[2]), 10**9):
    ledger.correct(Correction("s", Cells([[row, c] for c in range(row % 40 + 1)], (8.0, 8.0)), "Benign"))
    print(row, flush=True)
"""


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "edits", [pytest.param(500, marks=pytest.mark.slow), pytest.param(10_000, marks=pytest.mark.soak)]
)
def test_kill_9_loses_nothing_acknowledged(path, edits):
    draw = np.random.default_rng(5)
    start = 0
    while start < edits:
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(path), str(start)], stdout=subprocess.PIPE, text=True
        )
        with child:
            assert child.stdout.readline() == "open\n"
            for _ in range(draw.integers(1, 400)):
                acknowledged = int(child.stdout.readline())
            time.sleep(draw.uniform(0, 0.02))  # anywhere within an edit
            child.send_signal(signal.SIGKILL)
            rest = [line for line in child.stdout.read().split("\n") if line][:-1]
        acknowledged = max([acknowledged, *map(int, rest)])
        with Ledger(path) as ledger:
            rows = rows_of(ledger)
            assert rows == list(range(len(rows)))
            assert len(rows) > acknowledged
            assert ledger.verify().ok
            start = len(rows)


def test_events_cannot_be_changed_or_deleted(path, ledger):
    ledger.correct(cell(1))
    with sqlite3.connect(path) as raw:
        for act in ("UPDATE events SET by = 'you'", "DELETE FROM events"):
            with pytest.raises(sqlite3.IntegrityError, match="insert-only"):
                raw.execute(act)
    raw.close()


def doctored(path, *acts):
    """Change a ledger behind its back, as somebody with a database tool could."""
    raw = sqlite3.connect(path, isolation_level=None)
    for act in ("DROP TRIGGER events_refuse_update", "DROP TRIGGER events_refuse_delete", *acts):
        raw.execute(act)
    raw.close()


@pytest.fixture
def ten(path):
    with Ledger(path) as ledger:
        for row in range(10):
            ledger.correct(cell(row))
    return path


@pytest.mark.parametrize(
    ("act", "sound", "says"),
    [
        ("UPDATE events SET payload = replace(payload, 'Ben', 'X') WHERE seq = 4", 3, "event 4 was altered"),
        ("UPDATE events SET at = '2020-01-01T00:00:00+00:00' WHERE seq = 1", 0, "no event can be trusted"),
        ("UPDATE events SET by = x'ff00' WHERE seq = 6", 5, "damaged"),
        ("DELETE FROM events WHERE seq = 7", 6, "event 7 is missing"),
        ("DELETE FROM events WHERE seq > 8", 8, "events after 8 are missing"),
        ("DELETE FROM tip", 10, "events after 10 are missing"),
    ],
)  # fmt: skip
def test_every_alteration_is_found_and_what_is_sound_is_said(ten, act, sound, says):
    doctored(ten, act)
    report = verify(ten)
    assert not report.ok
    assert says in report.problem == str(report)
    assert [e.seq for e in report.sound] == list(range(1, sound + 1))
    with pytest.raises(ProjectError, match="is damaged"):
        Ledger(ten)


def test_a_recomputed_event_still_breaks_the_chain(ten):
    from napari_mil.ledger.events import row_hash

    raw = sqlite3.connect(ten)
    raw.row_factory = sqlite3.Row
    row = dict(raw.execute("SELECT * FROM events WHERE seq = 5").fetchone()) | {"by": "somebody else"}
    raw.close()
    doctored(ten, f"UPDATE events SET by = 'somebody else', hash = '{row_hash(row)}' WHERE seq = 5")  # noqa: S608
    report = verify(ten)
    assert len(report.sound) == 5
    assert "event 6 does not follow event 5" in report.problem


def test_flipped_bytes_never_pass_for_what_was_said(ten):
    whole = ten.read_bytes()
    true = [e.hash for e in verify(ten).sound]
    draw = np.random.default_rng(3)
    written = np.flatnonzero(np.frombuffer(whole, np.uint8))
    noticed = 0
    for _ in range(60):
        at = int(draw.choice(written))
        ten.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        report = verify(ten)
        noticed += not report.ok
        assert [e.hash for e in report.sound] == true[: len(report.sound)]
        assert not report.ok or len(report.sound) == 10
    assert noticed > 20


def test_what_is_no_database_is_said(path):
    path.write_bytes(b"this is no database, whatever its name says" * 99)
    with pytest.raises(ProjectError, match="is damaged: it is no SQLite database"):
        Ledger(path)
    assert "is damaged: it cannot be read further" in verify(path).problem


def test_a_missing_folder_is_said(tmp_path):
    with pytest.raises(ProjectError, match="cannot be opened; check that its folder exists"):
        Ledger(tmp_path / "nowhere" / "ledger.sqlite")


def test_another_kind_of_database_is_refused():
    with pytest.raises(
        ProjectError, match=r"of kind 'mysql'.* keeps ledgers in SQLite files and in PostgreSQL"
    ):
        Ledger("mysql://somewhere/project")


def test_a_newer_ledger_is_refused_with_both_versions(path, ledger):
    with ledger._engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '7'"))
    with pytest.raises(
        ProjectError, match=f"schema version 7, napari-mil {__version__} knows versions up to 2"
    ):
        Ledger(path)


def test_a_locked_ledger_is_said_and_loses_nothing(path, ledger):
    ledger.correct(cell(1))
    with Ledger(path, timeout_s=0.05) as impatient:
        raw = sqlite3.connect(path, isolation_level=None)
        raw.execute("BEGIN IMMEDIATE")
        with pytest.raises(UnavailableError, match="locked by another program; nothing was written"):
            impatient.correct(cell(2))
        assert rows_of(impatient) == [1]
        raw.execute("ROLLBACK")
        raw.close()
        impatient.correct(cell(2))
        assert rows_of(ledger) == [1, 2]


def test_damage_is_no_refusal_for_now(path, ledger):
    ledger.correct(cell(1))
    with sqlite3.connect(path) as raw:
        raw.execute("DROP TABLE tip")
    raw.close()
    with pytest.raises(ProjectError, match="is damaged: tables are missing") as refused:
        ledger.correct(cell(2))
    assert not isinstance(refused.value, UnavailableError)


def test_a_full_disk_is_said_and_loses_nothing(ledger):
    ledger.correct(cell(1))

    @sa.event.listens_for(ledger._engine, "begin")
    def shrink(connection):
        connection.connection.execute("PRAGMA max_page_count = 1")

    large = [
        Correction("s", Cells([[row, 2 * c] for c in range(500)], (8, 8)), "Benign") for row in range(99)
    ]
    with pytest.raises(UnavailableError, match="the disk is full; nothing was lost"):
        ledger.correct(*large)
    assert rows_of(ledger) == [1]
    sa.event.remove(ledger._engine, "begin", shrink)
    with ledger._engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 1000000")
    ledger.correct(*large)
    assert len(ledger.corrections("s")) == 100
    assert ledger.verify().ok


def test_a_read_only_ledger_can_be_read_but_not_written(ten):
    with Ledger(f"sqlite:///file:{ten}?mode=ro&uri=true") as ledger:
        assert len(ledger.corrections()) == 10
        with pytest.raises(ProjectError, match="is read-only; nothing was written"):
            ledger.correct(cell(11))


@pytest.mark.skipif(os.name == "nt", reason="permissions of another kind")
def test_a_ledger_where_nothing_can_be_written_can_be_read(ten):
    """A project on a share or a disc that is read-only: SQLite wants to put files beside it."""
    with as_one_who_may_not(ten.parent):
        before = ten.parent.stat().st_mode & 0o7777
        assert not ten.with_name(f"{ten.name}-wal").exists()
        if os.geteuid() == ten.stat().st_uid:
            ten.parent.chmod(0o555)
        try:
            with Ledger(ten) as ledger:
                assert len(ledger.corrections()) == 10
                assert ledger.verify().ok
                with pytest.raises(ProjectError, match="is read-only; nothing was written"):
                    ledger.correct(cell(11))
        finally:
            if os.geteuid() == ten.stat().st_uid:
                ten.parent.chmod(before)
    with Ledger(ten) as ledger:
        ledger.correct(cell(11))
        assert len(ledger.corrections()) == 11


def test_a_closed_ledger_says_so(path):
    ledger = Ledger(path)
    ledger.close()
    with pytest.raises(ProjectError, match="is closed"):
        ledger.correct(cell(1))


def test_undo_reads_no_old_events(ledger):
    for row in range(30):
        ledger.correct(cell(row))
    unsealed = []

    @sa.event.listens_for(ledger._engine, "before_cursor_execute")
    def listen(connection, cursor, text, parameters, context, many):
        unsealed.extend([parameters] if "LEFT OUTER JOIN events" in text else [])

    ledger.undo("s")
    ledger.corrections("s")
    assert unsealed == [(30,), (31,)]  # what comes after the last one that is known


def test_a_ledger_of_the_first_version_is_brought_up_to_date(path, ledger):
    ledger.correct(cell(1))
    with ledger._engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE tip DROP COLUMN moved_to"))
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '1'"))
    ledger.close()
    assert verify(path).ok  # also before
    with Ledger(path) as again:
        assert rows_of(again) == [1]
        again.correct(cell(2))
        assert again.moved_to == ""


def test_each_person_takes_back_what_they_said(ledger):
    mine, yours = cell(1), replace(cell(2), by="you")
    ledger.correct(mine)
    ledger.correct(yours)
    ledger.undo("s", "me")
    assert rows_of(ledger) == [2]
    assert ledger.undo("s", "me") is None
    ledger.correct(replace(cell(3), by="you"))  # ends what you could redo, not what I could
    ledger.redo("s", "me")
    assert rows_of(ledger) == [1, 2, 3]  # back in its place: what you said after it counts more
    assert ledger.redo("s", "you") is None


def test_who_acts_may_be_another_one_than_who_said_it(ledger):
    [event] = ledger.correct(replace(cell(1), by="an author elsewhere"), by="me")
    assert event.by == "me"
    assert ledger.corrections()[0].by == "an author elsewhere"
    assert ledger.undo("s", "me")


def test_a_correction_of_any_time_is_withdrawn_and_that_is_undone(ledger):
    for row in range(4):
        ledger.correct(cell(row))
    event = ledger.append("withdraw", "s", {"events": [2]}, "me")
    assert (event.kind, event.payload["events"]) == ("withdraw", [2])
    assert rows_of(ledger) == [0, 2, 3]
    with pytest.raises(ProjectError, match="Event 2 is no label in force"):
        ledger.append("withdraw", "s", {"events": [2]}, "me")
    ledger.undo("s", "me")
    assert rows_of(ledger) == [0, 1, 2, 3]
    ledger.redo("s", "me")
    assert rows_of(ledger) == [0, 2, 3]
    said = ledger.events()[1]
    ledger.correct(from_record(said.payload["correction"]))  # withdrawn, so it may be said anew
    assert rows_of(ledger) == [0, 2, 3, 1]


def test_what_is_locked_counts_last_and_is_not_taken_back(path, ledger):
    ledger.correct(cell(1))
    ledger.append("lock", "s", {"events": [1]}, "me")
    ledger.correct(cell(1, "Malignant"))
    assert [c.label for c in ledger.corrections("s")] == ["Malignant", "Benign"]
    assert [c.label for c in ledger.corrections()] == ["Malignant", "Benign"]
    ledger.undo("s", "me")
    for act in (lambda: ledger.undo("s", "me"), lambda: ledger.append("withdraw", "s", {"events": [1]})):
        with pytest.raises(ProjectError, match="What event 1 says is locked, nothing was changed"):
            act()
    ledger.append("unlock", "s", {"events": [1]}, "you")
    assert ledger.undo("s", "me")
    with Ledger(path) as again:
        assert again.corrections() == ()


def test_answers_that_do_not_follow_are_as_of_the_last_look(path):
    with Ledger(path, follow=False) as mine, Ledger(path) as yours:
        yours.correct(cell(1))
        assert rows_of(mine) == []
        seen = mine.seq
        assert mine.head == yours.head
        assert (seen, mine.seq) == (0, 1)
        assert rows_of(mine) == [1]
        yours.correct(cell(2))
        [said] = mine.correct(cell(3))
        assert said.payload["seen"] == 1
        assert rows_of(mine) == [1, 2, 3]


def square(low, high, label="Malignant", **more):
    ring = np.array([[low, low], [low, high], [high, high], [high, low]], float)
    return Correction("s", Polygon((ring,)), label, by="me", **more)


def test_what_replaces_another_counts_in_its_turn_and_goes_in_one_step(path, ledger):
    first, over = square(0, 80), square(20, 40, "Benign")
    ledger.correct(first)
    ledger.correct(over)
    changed = square(0, 60, replaces=first.id)
    ledger.correct(changed)
    again = square(0, 50, replaces=changed.id)
    ledger.correct(again)
    ledger.correct(again)  # a doubtful write may be repeated
    assert len(ledger.events()) == 4
    for known in (ledger, Ledger(path)):
        with known if known is not ledger else nullcontext(ledger):
            assert [c.id for c in known.corrections("s")] == [again.id, over.id]
            assert [c.id for c in known.corrections()] == [again.id, over.id]
            assert known.corrections()[0].replaces == changed.id
    orders = []
    for act in (ledger.undo, ledger.undo, ledger.redo, ledger.redo):
        act("s", "me")
        orders.append([c.id for c in ledger.corrections("s")])
    assert orders == [[changed.id, over.id], [first.id, over.id], [changed.id, over.id], [again.id, over.id]]
    ledger.append(
        "withdraw", "s", {"events": [4]}, "me"
    )  # it goes altogether: what it replaced stays replaced
    assert [c.id for c in ledger.corrections("s")] == [over.id]


def test_what_is_gone_or_locked_cannot_be_replaced(ledger):
    first = square(0, 80)
    ledger.correct(first)
    ledger.append("lock", "s", {"events": [1]}, "me")
    with pytest.raises(ProjectError, match="What event 1 says is locked"):
        ledger.correct(square(0, 60, replaces=first.id))
    ledger.append("unlock", "s", {"events": [1]}, "me")
    changed = square(0, 60, replaces=first.id)
    ledger.correct(changed)
    with pytest.raises(ProjectError, match="What event 1 says was taken back or changed meanwhile"):
        ledger.correct(square(0, 50, replaces=first.id))
    ledger.correct(square(100, 150, replaces="of another ledger"))  # an import
    assert len(ledger.corrections("s")) == 2
    ledger.append("lock", "s", {"events": [4]}, "me")
    assert ledger.corrections("s")[-1].id == changed.id


def test_opening_a_long_ledger_never_holds_all_its_text(path, ledger):
    """A ledger of 120 MB took 300 MB of memory to open."""
    size, rows, head = 10_000, [], GENESIS
    for seq in range(1, 3_001):
        rows.append(seal(Draft("note", "s", "me", {"text": "x" * size}), seq, head))
        head = rows[-1]["hash"]
    with transaction(ledger._engine, "write") as connection:
        connection.execute(sa.insert(EVENTS), rows)
        connection.execute(sa.update(TIP).values(seq=len(rows), hash=head))
    del rows
    tracemalloc.start()
    with Ledger(path) as again:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert again.head == head
    assert peak < 20_000_000


@given(st.integers(1), st.lists(st.text(), min_size=7, max_size=7))
def test_the_hash_of_a_row_is_that_of_the_list_of_its_columns(seq, words):
    columns = ("id", "at", "by", "kind", "slide_id", "payload", "previous")
    row = {"seq": seq, **dict(zip(columns, words, strict=True))}
    assert row_hash(row) == hashlib.sha256(json.dumps([seq, *words]).encode()).hexdigest()


def test_the_garbage_collector_goes_on_whatever_a_ledger_holds(path, ledger):
    ledger.correct(cell(1))
    with transaction(ledger._engine, "write") as connection:
        connection.execute(sa.update(TIP).values(seq=7))
    with pytest.raises(ProjectError, match="damaged"):
        Ledger(path)
    assert gc.isenabled()
