"""A ledger moves whole, and one that is damaged comes back from its backup with what is sound after it."""

import json
import sqlite3

import pytest
from quickstudy import study

from napari_mil.correction import WholeSlide
from napari_mil.errors import ProjectError
from napari_mil.ledger import Ledger, verify
from napari_mil.workflow import Project, backup, project_info, restore, share, unshare


@pytest.fixture
def folder(tmp_path):
    with study(tmp_path, 2) as project:
        project.correct("s0", WholeSlide(), "IC")
        project.correct("s1", WholeSlide(), "Atypical", note="ünclear “?”")
    return project.path


@pytest.fixture
def address(postgres):
    return postgres.address(postgres.database())


def said(folder):
    with Project(folder) as project:
        return [(c.id, c.label, c.note) for c in project.ledger.corrections()], project.ledger.head


def test_a_ledger_is_shared_whole_and_comes_back_whole(folder, address):
    before, _ = said(folder)
    share(folder, address, by="ann")
    corrections, head = said(folder)
    assert corrections == before
    assert verify(folder / "ledger.sqlite").head == head == verify(address).head
    assert json.loads((folder / "project.json").read_text()) | {"created": 0, "program": 0} == {
        "format": "napari-mil project", "version": 2, "ledger": address, "created": 0, "program": 0,
    }  # fmt: skip
    with Project(folder, by="bob") as project, Ledger(folder / "ledger.sqlite") as old:
        info = project_info(project)
        assert (info["ledger"], info["shared"], info["head"]) == (address, True, head)
        assert info["corrections"] == {"tester": 2}
        assert old.events()[-1].payload == {"project": "study", "to": address}
        with pytest.raises(
            ProjectError, match=r"was moved to postgresql://.*; nothing was written here, open"
        ):
            old.undo("s0")
        assert project.correct("s0", WholeSlide(), "N")
    unshare(folder, by="bob")
    corrections, head = said(folder)
    assert [c[1] for c in corrections] == ["Malignant/IC", "Atypical", "Benign/N"]
    assert head == verify(address).head
    with Project(folder) as project:
        assert not project_info(project)["shared"]
        assert project.undo("s0")
    share(folder, address)  # there and back again: what was said meanwhile goes along
    assert said(folder)[1] == verify(address).head
    assert len(said(folder)[0]) == 2


def test_a_move_that_was_interrupted_is_finished_by_the_same_line(folder, address, monkeypatch):
    import napari_mil.workflow.sharing as room

    with monkeypatch.context() as crash:
        crash.setattr(room, "write_marker", lambda *_a, **_k: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            share(folder, address)
    with Project(folder) as project, pytest.raises(ProjectError, match="was moved to"):
        project.correct("s0", WholeSlide(), "N")  # nobody goes on where the copy would miss it
    share(folder, address)
    with Project(folder) as project:
        project.correct("s0", WholeSlide(), "N")
        assert project.ledger.place == address


def test_a_database_of_another_project_is_refused_and_nothing_is_changed(folder, tmp_path, address):
    with study(tmp_path / "other", 1) as other:
        theirs = other.path
    share(theirs, address)
    there = verify(address).head
    with pytest.raises(ProjectError, match="holds another project's ledger"):
        share(folder, address)
    assert verify(address).head == there
    with Project(folder) as project:
        project.correct("s0", WholeSlide(), "N")


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("postgresql://me:secret@lab/x", "Leave the password out of the address: .*PGPASSWORD"),
        ("postgresql://lab/x?password=secret", "Leave the password out"),
        ("ledger.sqlite", "is no PostgreSQL database; write postgresql://SERVER/DATABASE"),
        ("mysql://lab/x", "is of kind 'mysql'"),
        ("postgresql://lab:port/x", "is no address of a database"),
        ("postgresql://127.0.0.1:1/x", "does not answer"),
    ],
)
def test_what_is_no_address_is_said_and_nothing_is_changed(folder, address, says):
    before = said(folder)
    with pytest.raises(ProjectError, match=says) as refused:
        share(folder, address)
    assert "secret" not in str(refused.value)
    assert said(folder) == before
    with pytest.raises(ProjectError, match="is in its folder already"):
        unshare(folder)


def alter(folder, seq):
    raw = sqlite3.connect(folder / "ledger.sqlite", isolation_level=None)
    raw.execute("DROP TRIGGER events_refuse_update")
    raw.execute("UPDATE events SET payload = replace(payload, 'IC', 'XX') WHERE seq = ?", [seq])
    raw.close()


def test_a_backup_is_one_file_of_its_own_and_restores_a_damaged_ledger(folder, tmp_path):
    file = tmp_path / "backups" / "monday.sqlite"
    row = backup(folder, file)
    assert row == {"backup": str(file), "events": 4, "head": verify(file).head}
    assert [p.name for p in file.parent.iterdir()] == ["monday.sqlite"]
    with pytest.raises(ProjectError, match="exists already; give a name of its own"):
        backup(folder, file)
    with pytest.raises(ProjectError, match=r"is whole \(4 events\), nothing was restored"):
        restore(folder, file)
    with Project(folder, by="tester") as project:
        project.correct("s0", WholeSlide(), "N")
        project.correct("s1", WholeSlide(), "IC")
    before = said(folder)[0]
    alter(folder, 6)
    with pytest.raises(ProjectError, match="is damaged"):
        Project(folder)
    with pytest.raises(ProjectError, match="is damaged: event 6 was altered"):
        backup(folder, tmp_path / "tuesday.sqlite")
    assert not (tmp_path / "tuesday.sqlite").exists()
    row = restore(folder, file)
    assert (row["events"], row["from_backup"], row["was_shared"]) == (5, 4, "")
    assert row["head"] == verify(folder / "ledger.sqlite").head
    assert said(folder)[0] == before[:-1]  # all but the altered one, the one after the backup included
    assert not verify(folder / "ledger.damaged-1.sqlite").ok


def test_a_missing_ledger_comes_back_and_another_projects_backup_does_not(folder, tmp_path):
    before = said(folder)
    mine, theirs = tmp_path / "mine.sqlite", tmp_path / "theirs.sqlite"
    backup(folder, mine)
    with study(tmp_path / "other", 1) as other:
        pass
    backup(other.path, theirs)
    alter(folder, 3)
    with pytest.raises(ProjectError, match="is no backup of this project's ledger"):
        restore(folder, theirs)
    for path in folder.glob("ledger.sqlite*"):
        path.unlink()
    restore(folder, mine)
    assert said(folder) == before
    with pytest.raises(ProjectError, match="There is no backup"):
        restore(folder, tmp_path / "nowhere.sqlite")


def test_a_shared_ledger_is_backed_up_and_restored_into_the_folder(folder, tmp_path, postgres):
    name = postgres.database()
    share(folder, postgres.address(name))
    backup(folder, tmp_path / "b.sqlite")
    with Project(folder, by="bob") as project:
        project.correct("s0", WholeSlide(), "N")
    before = said(folder)
    postgres.execute(name, "DROP TABLE tip CASCADE")
    with pytest.raises(ProjectError, match="is damaged"):
        Project(folder)
    assert restore(folder, tmp_path / "b.sqlite")["was_shared"] == postgres.address(name)
    assert said(folder) == before
    share(folder, postgres.address(postgres.database()))
    assert said(folder)[0] == before[0]
