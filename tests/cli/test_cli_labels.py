"""labels, export and import of labels on the command line."""

import json

import pytest
from quickstudy import study

from napari_mil.correction import WholeSlide


def damage(path):
    """Alter what the second event says, as a text editor or a failing disk would."""
    data, said = path.read_bytes(), b'"label":"Malignant/IC"'
    assert data.count(said) == 1
    path.write_bytes(data.replace(said, said.replace(b"IC", b"XX")))


@pytest.mark.parametrize("as_json", [False, True])
def test_a_damaged_ledger_is_verified_though_it_cannot_be_opened(tmp_path, run, as_json):
    with study(tmp_path, 1, label="Benign/N") as project:
        folder, ledger = project.path, project.path / "ledger.sqlite"
        project.correct("s0", WholeSlide(), "IC")
        project.correct("s0", WholeSlide(), "Benign")
    words = ("labels", folder, "--verify", *(["--json"] if as_json else []))
    status, out, _ = run(*words)
    assert status == 0
    assert json.loads(out)["ok"] if as_json else out.startswith("whole: 3 events, head ")
    damage(ledger)
    status, out, err = run(*words)
    assert (status, err) == (1, "")
    said = json.loads(out)["ledger"] if as_json else out
    assert "is damaged: event 2 was altered" in said
    assert "events 1 to 1 are as they were written" in said
    assert run("labels", folder)[0] == 2


def test_verify_without_a_ledger_makes_none(tmp_path, run):
    status, _, err = run("labels", tmp_path, "--verify")
    assert status == 2
    assert "There is no ledger" in err
    assert not list(tmp_path.iterdir())


def test_labels_of_others_are_mapped(tmp_path, run):
    with study(tmp_path, 1) as project:
        folder = project.path
    table = tmp_path / "theirs.csv"
    table.write_text("slide,label\ns0,Tumor\n")
    status, out, _ = run("import", folder, table)
    assert status == 1
    assert "--map Tumor=LABEL" in out
    status, out, _ = run("import", folder, table, "--map", "Tumor=Malignant", "--map", "Normal=")
    assert (status, out) == (0, "theirs.csv: labels 1\n")
    status, _, err = run("import", folder, table, "--map", "Tumor")
    assert status == 2
    assert "'Tumor' maps no label; write THEIRS=OURS" in err
    status, out, _ = run("labels", folder, "--slide", "s0", "--undo")
    assert "whole slide → Malignant" in out
