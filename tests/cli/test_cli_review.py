"""review on the command line: next places, answers, second readings, agreement."""

import json
import shutil

import pytest
from quickstudy import QUICK, study

from napari_mil.correction import WholeSlide
from napari_mil.steps import drain
from napari_mil.workflow import Project, analyse_steps, train_model_steps

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def answered(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    with study(folder, 10) as project:
        card = drain(train_model_steps(project, "mean", recipe=QUICK))
        for record in project.slides:
            drain(analyse_steps(project, project.slide(record), model=card.id))
    return folder / "study"


@pytest.fixture
def folder(answered, tmp_path):
    return shutil.copytree(answered, tmp_path / "study")


def rows(out):
    """The records, without those that tell how far it is."""
    return [row for row in map(json.loads, out.splitlines()) if "stage" not in row]


def test_the_next_places_are_printed_with_their_reasons(folder, run):
    status, out, _ = run("review", folder, "-n", 6)
    assert status == 0
    assert len(out.splitlines()) == 6
    assert all("? " in line and line.endswith(".") for line in out.splitlines())
    told = run("review", folder, "-n", 6, "--json")[1]
    assert '"stage": ' in told.splitlines()[0]
    found = rows(told)
    assert [r["key"] for r in found] == [line.split(": ")[0] for line in out.splitlines()]
    assert {r["slide"] for r in rows(run("review", folder, "--slide", "s1", "--json")[1])} == {"s1"}
    status, _, err = run("review", folder, "--criterion", "luck")
    assert (status, "'luck' is no criterion" in err) == (2, True)


def test_places_are_accepted_relabelled_and_skipped(folder, run):
    a, b, c = (r["key"] for r in rows(run("review", folder, "-n", 3, "--json")[1]))
    answers = ("--accept", a, "--relabel", f"{b}=UDH", "--skip", c)
    status, out, _ = run("review", folder, *answers, "--by", "A")
    assert (status, len(out.splitlines())) == (0, 3)
    assert f"{b}: Benign/UDH" in out
    assert f"{c}: skipped" in out
    left = {r["key"] for r in rows(run("review", folder, "-n", 500, "--json", "--by", "A")[1])}
    assert not {a, b, c} & left
    again = {r["key"] for r in rows(run("review", folder, "-n", 500, "--again", "--json", "--by", "A")[1])}
    assert c in again
    log = run("labels", "log", folder)[1]
    assert "skip" in log


def test_answers_are_kept_all_or_none(folder, run):
    before = run("labels", "log", folder)[1]
    for words, said in (
        (("--accept", "s0", "--accept", "nobody"), "is no slide"),
        (("--accept", "s0", "--accept", "s1@x"), "names no place of s1: 'x' is no tile; write SLIDE@ROW,COL"),
        (("--accept", "s0", "--skip", "s1@-1,2"), "names no place of s1"),
        (("--second", "--by", "B", "--relabel", "s1@x=IC"), "names no place of s1"),
        (("--accept", "s0", "--relabel", "s1=Sarkoma"), "'Sarkoma' is no label"),
        (("--accept", "s0", "--relabel", "s1"), "says no label; write PLACE=LABEL"),
        (("--second", "--accept", "s0"), "A second reading is blind"),
        (("--second",), "needs to know who reads"),
    ):
        status, _, err = run("review", folder, *words)
        assert (status, said in err) == (2, True), err
    assert run("labels", "log", folder)[1] == before


def test_a_second_reader_is_compared_with_the_first(folder, run, tmp_path):
    with Project(folder, by="A") as project:
        for n in range(4):
            project.correct(f"s{n}", WholeSlide(), "IC" if n % 2 else "N")
    status, out, _ = run("review", folder, "--second", "--by", "B")
    assert (status, sorted(out.split())) == (0, ["s0", "s1", "s2", "s3"])
    words = [w for key in out.split() for w in ("--relabel", f"{key}=IC")]
    status, out, _ = run("review", folder, "--second", "--by", "B", *words)
    assert (status, len(out.splitlines())) == (0, 4)
    assert "Nothing was labelled by others" in run("review", folder, "--second", "--by", "B")[1]
    status, out, _ = run("review", folder, "--agreement", "-o", tmp_path / "kappa.csv")
    assert status == 0
    assert "s0, whole slide: A says Benign/N, B says Malignant/IC" in out
    assert (tmp_path / "kappa.csv").read_text().startswith("row,of,what,n,agreed")
    found = rows(run("review", folder, "--agreement", "--json")[1])
    assert {r["row"] for r in found} == {"agreement", "disagreement"}


def test_a_model_that_answers_with_a_risk_is_asked_for_no_label(folder, run):
    with Project(folder) as project:
        for record in project.slides:
            project.add(record.path, survival=(3.0 + int(record.name[1:]), True))
        drain(train_model_steps(project, "mean", recipe=QUICK, name="life", survival=True, bins=2))
    assert run("predict", folder, "--model", "life", "--by", "slide")[0] == 0
    for words in ((), ("--accept", "s0"), ("--accept", "s0@0,1"), ("--skip", "s0"), ("--relabel", "s0=IC")):
        status, _, err = run("review", folder, "--model", "life", *words)
        assert (status, err.startswith("napari-mil: This model answers with a risk")) == (2, True), err
