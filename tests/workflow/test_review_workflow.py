"""The queue of a project: from stored answers, kept, answered, skipped; second readings and how far they
agree.
"""

import csv
import json
import shutil

import numpy as np
import pytest
from quickstudy import LABELS, QUICK, study
from sklearn.metrics import cohen_kappa_score

from napari_mil.correction import Cells, WholeSlide
from napari_mil.errors import LabelError, ModelError
from napari_mil.evaluate.agreement import agreement, kappa
from napari_mil.steps import ASIDE, drain
from napari_mil.store import shortlists
from napari_mil.workflow import (
    Project,
    agreement_report,
    analyse_steps,
    answer_question,
    labelled_place,
    place_key,
    question_at,
    read_again,
    readings,
    report_lines,
    report_rows,
    review_steps,
    second_places,
    skip_question,
    slide_label,
    train_model_steps,
    write_report,
)
from napari_mil.workflow import review as room

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def answered(tmp_path_factory):
    """Twelve slides, two of them labelled wrongly, with answers of an AB-MIL; and a model with a teacher."""
    folder = tmp_path_factory.mktemp("answered")
    with study(folder, 12) as project:
        for n in (3, 8):
            record = project.slides[n]
            project.add(record.path, label=LABELS[(n + 1) % 2])
        for method in ("abmil", "mhim"):
            card = drain(train_model_steps(project, method, recipe={**QUICK, "epochs": 6}))
            for record in project.slides[:11]:
                drain(analyse_steps(project, project.slide(record), model=card.id))
    return folder / "study"


@pytest.fixture
def project(answered, tmp_path):
    with Project(shutil.copytree(answered, tmp_path / "study"), by="A") as opened:
        yield opened


def ask(project, **about):
    said = []
    about = {"model": "abmil-1", "n": 200} | about
    found = drain(review_steps(project, **about), said.append)
    return found, said


def test_wrong_labels_come_first_and_every_place_has_its_reason(project):
    found, said = ask(project)
    slides = [q for q in found if q.item.cell is None]
    assert {q.name for q in slides[:2]} == {"s3", "s8"}
    assert all(q.item.reason.endswith(".") for q in found)
    assert slides[0].key == slides[0].name
    tile = next(q for q in found if q.item.cell is not None)
    assert tile.key == "{}@{},{}".format(tile.name, *tile.item.cell)
    assert json.loads(json.dumps(tile.to_record()))["why"] == dict(tile.item.why)
    [aside] = [now.note for now in said if now.stage == ASIDE]
    assert aside == "s11 has no answer of abmil-1 yet; `napari-mil predict` gives it."
    assert found[0].item == ask(project)[0][0].item


def test_tiles_of_slides_that_were_held_out_are_not_asked_about(project):
    card = next(c for c in project.cards if c.name == "abmil-1")
    held = {*card.slides["validation"], *card.slides["test"]}
    assert held
    found, _ = ask(project)
    assert {q.record.id for q in found if q.item.cell is None} >= held - {project.slides[11].id}
    assert not held & {q.record.id for q in found if q.item.cell is not None}


def test_shortlists_are_kept_until_the_answer_or_the_labels_change(project, monkeypatch):
    made = []
    real = room.shortlist
    monkeypatch.setattr(room, "shortlist", lambda *a, **k: made.append(1) or real(*a, **k))
    first, _ = ask(project)
    assert len(made) == 11
    again, _ = ask(project)
    assert (len(made), [q.item for q in again]) == (11, [q.item for q in first])
    project.correct(first[0].record.id, WholeSlide(), "IC")
    ask(project)
    assert len(made) == 12
    [file] = (project.path / "review" / first[0].record.id).glob("abmil*.npz")
    file.write_bytes(file.read_bytes()[:-50])
    ask(project)
    assert len(made) == 13
    assert shortlists.load_shortlist(project.path, first[0].record.id, "abmil", "x") is None


def test_the_teacher_speaks_where_there_is_one(project):
    found, _ = ask(project, model="mhim-1", criteria=["teacher"])
    assert all(name == "teacher" for q in found for name, _ in q.item.why)
    assert any("the teacher puts this one in place" in q.item.reason for q in found)


def test_answers_are_corrections_and_are_not_asked_again(project):
    found, _ = ask(project)
    slide = next(q for q in found if q.item.cell is None)
    tile = next(q for q in found if q.item.cell is not None)
    said = answer_question(project, slide)
    assert (said.label, said.tool, said.by) == (slide.label, "review", "A")
    assert slide_label(project, slide.record) == slide.label
    assert (said.model_said, said.model_confidence) == (slide.label, pytest.approx(slide.sure))
    said = answer_question(project, tile, "UDH")
    assert (said.label, said.place.cells.tolist()) == ("Benign/UDH", [list(tile.item.cell)])
    after = {q.key for q in ask(project)[0]}
    assert not {slide.key, tile.key} & after


def test_a_skip_is_an_event_of_one_person(project):
    [first, *_], _ = ask(project)
    before = len(project.ledger.corrections())
    skip_question(project, first)
    assert len(project.ledger.corrections()) == before
    assert first.key not in {q.key for q in ask(project)[0]}
    assert first.key in {q.key for q in ask(project, again=True)[0]}
    [event] = project.ledger.events(kind="skip")
    assert (event.by, event.slide_id) == ("A", first.record.id)
    with Project(project.path, by="B") as other:
        assert first.key in {q.key for q in ask(other)[0]}
    with Project(project.path, by="A") as later:
        assert first.key not in {q.key for q in ask(later)[0]}


def test_a_key_names_a_place_and_what_the_model_says_there(project):
    for asked in ask(project)[0][:6]:
        again = question_at(project, asked.key, model="abmil-1")
        assert (again.label, again.sure) == (asked.label, pytest.approx(asked.sure))
        assert again.item.cell == asked.item.cell
    with pytest.raises(LabelError, match="'s0@77,77' names no tile of s0"):
        question_at(project, "s0@77,77", model="abmil-1")
    with pytest.raises(ModelError, match="s11 has no answer of abmil-1"):
        question_at(project, "s11", model="abmil-1")


def test_without_a_model_or_an_answer_it_is_said_what_to_do(tmp_path):
    with study(tmp_path, 3) as project:
        with pytest.raises(ModelError, match="has no model that could be asked; train or import"):
            drain(review_steps(project))
        drain(train_model_steps(project, "mean", recipe=QUICK))
        with pytest.raises(ModelError, match=r"run it first with `napari-mil predict .*study --model mean"):
            drain(review_steps(project))


def test_kappa_is_scikit_learns_with_weights_too():
    rng = np.random.default_rng(0)
    one = rng.integers(0, 4, 60)
    other = np.where(rng.random(60) < 0.6, one, rng.integers(0, 4, 60))
    weights = np.stack([np.ones(60), rng.integers(0, 3, 60).astype(float)])
    theirs = [cohen_kappa_score(one, other, sample_weight=w) for w in weights]
    np.testing.assert_allclose(kappa(one, other, weights), theirs)
    assert np.isnan(kappa(np.ones(5), np.ones(5))).all()


def test_agreement_is_told_per_level_and_per_node(project):
    tree = project.tree
    ic, dcis, n, malignant = (tree.node(t) for t in ("IC", "DCIS", "N", "Malignant"))
    one = [ic, ic, dcis, n, n, malignant]
    other = [ic, dcis, dcis, n, ic, ic]
    found = {a.what: a for a in agreement(list("abcdef"), one, other, tree)}
    coarse = found["all labels (coarse)"]
    assert (coarse.n, coarse.agreed) == (6, pytest.approx(5 / 6))
    assert coarse.kappa[0] == pytest.approx(
        cohen_kappa_score(["M", "M", "M", "B", "B", "M"], ["M", "M", "M", "B", "M", "M"])
    )
    assert found["all labels (fine)"].n == 5  # Malignant alone says nothing there
    assert found["Malignant/IC"].kappa[0] == pytest.approx(
        cohen_kappa_score([1, 1, 0, 0, 0], [1, 0, 0, 0, 1])
    )
    assert (found["Malignant/IC"].first, found["Malignant/IC"].second) == (0.4, 0.4)
    assert coarse.kappa[1] <= coarse.kappa[0] <= coarse.kappa[2]
    assert agreement([], [], [], tree) == []


CELLS = Cells(np.array([[0, 0], [0, 1], [1, 2]]), (256.0, 256.0))


@pytest.fixture
def two(project):
    """A has labelled four slides and painted three tiles; B is to read them again."""
    for n, label in enumerate(["IC", "IC", "N", "UDH"]):
        project.correct(project.slides[n].id, WholeSlide(), label)
    project.correct(project.slides[0].id, CELLS, "IC")
    with Project(project.path, by="B") as second:
        yield project, second


def test_a_second_reading_is_asked_blind_and_changes_no_label(two):
    first, second = two
    places = second_places(second)
    assert len(places) == 7
    assert not second_places(first)
    before, labels = second.ledger.corrections(), [slide_label(second, r) for r in second.slides]
    for record, place in places:
        read_again(second, record.id, place, "IC")
    assert second.ledger.corrections() == before
    assert [slide_label(second, r) for r in second.slides] == labels
    assert len(readings(second)) == 7
    assert not second_places(second)
    with pytest.raises(LabelError, match="'Sarkoma' is no label"):
        read_again(second, second.slides[0].id, WholeSlide(), "Sarkoma")


def test_the_report_tells_kappa_and_every_disagreement(two, tmp_path):
    _, second = two
    with pytest.raises(LabelError, match="No place was labelled by two people yet"):
        agreement_report(second)
    for n, label in enumerate(["IC", "DCIS", "N", "Benign"]):
        read_again(second, second.slides[n].id, WholeSlide(), label)
    for cell, label in zip(CELLS.cells, ["IC", "IC", "N"], strict=True):
        record, place = labelled_place(second, "s0@{},{}".format(*cell))
        assert place_key(second, record, place) == "s0@{},{}".format(*cell)
        read_again(second, record.id, place, label)
    report = agreement_report(second)
    assert (report.first, report.second) == ("A", "B")
    told = [(d.slide, d.cell, d.first, d.second) for d in report.disagreements]
    assert sorted(told, key=str) == [
        ("s0", (1, 2), "Malignant/IC", "Benign/N"),
        ("s1", None, "Malignant/IC", "Malignant/DCIS"),
    ]  # UDH and Benign do not contradict each other
    lines = "\n".join(report_lines(report))
    assert "all labels (coarse): agreed on 100% of 4 slides, κ 1.00" in lines
    assert "s1, whole slide: A says Malignant/IC, B says Malignant/DCIS" in lines
    assert "Malignant/IC: agreed on 67% of 3 tiles" in lines
    rows = report_rows(report)
    for name in ("kappa.csv", "kappa.json"):
        path = write_report(report, tmp_path / name)
        with path.open(newline="") as stream:
            kept = json.load(stream) if name.endswith("json") else list(csv.DictReader(stream))
        assert len(kept) == len(rows)
        assert [r["row"] for r in kept].count("disagreement") == 2
    with pytest.raises(LabelError, match="'C' has labelled nothing here; who has: A, B"):
        agreement_report(second, "C")
    assert agreement_report(second, "B").first == "B"


def test_two_people_who_correct_the_same_slide_can_be_compared_without_a_second_reading(two):
    first, second = two
    second.correct(second.slides[0].id, WholeSlide(), "N")
    report = agreement_report(first)
    [apart] = report.disagreements
    assert (apart.first, apart.second) == ("Malignant/IC", "Benign/N")


def test_a_place_that_nobody_labelled_cannot_be_read_again(two):
    with pytest.raises(LabelError, match="'s0@5,5' is no tile that somebody has labelled"):
        labelled_place(two[1], "s0@5,5")
    record, place = labelled_place(two[1], "s2")
    assert (record.name, place) == ("s2", WholeSlide())
