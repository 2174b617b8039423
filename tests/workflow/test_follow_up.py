"""The story of a study with follow-up times: import, train, answer, evaluate, retrain."""

import csv

import pytest

from napari_mil.errors import LabelError
from napari_mil.labeltree import Survival
from napari_mil.steps import drain
from napari_mil.workflow import (
    Project,
    answer_columns,
    answer_numbers,
    evaluate_steps,
    import_paths_steps,
    retrain_here_steps,
    train_model_steps,
)
from napari_mil.workflow.cases import cases_steps, count_cases, known_cases

pytestmark = pytest.mark.slow
SHORT = {"epochs": 3, "stage1_epochs": 1, "min_epochs": 1}


@pytest.fixture
def followed(study_folder, cohort, tmp_path):
    """The study with follow-up times, given by a second manifest."""
    rows = list(csv.DictReader((cohort / "manifest.csv").read_text().splitlines()))
    manifest = tmp_path / "followed.csv"
    lines = ["slide,case,label,time,event,split"]
    cases = sorted({row["case"] for row in rows})
    for row in rows:
        i = cases.index(row["case"])
        part = "test" if i < 2 else "validation" if i < 4 else "train"
        lines.append(f"{row['slide']},{row['case']},{row['label']},{3 + 2 * i},{int(i != 7)},{part}")
    manifest.write_text("\n".join(lines))
    assert all(
        r["ok"] for r in drain(import_paths_steps(study_folder, [cohort / "slides"], manifest=manifest))
    )
    with Project(study_folder, by="tester") as project:
        yield project


def test_a_manifest_gives_times_and_splits(followed):
    cases = sorted({r.case for r in followed.slides})
    record = next(r for r in followed.slides if r.case == cases[7])
    assert (record.time, record.event, record.split) == (17.0, False, "train")
    assert next(r for r in followed.slides if r.case == cases[0]).split == "test"


def test_a_model_of_survival_from_training_to_retraining(followed):
    card = drain(train_model_steps(followed, "abmil", recipe=SHORT, survival=True, bins=2))
    assert isinstance(card.tree, Survival)
    assert len(card.tree.edges) == 3
    split = {r.id: r.split for r in followed.slides}
    assert all(split[slide] == part for part, slides in card.slides.items() for slide in slides)
    assert "survival/c_index" in card.metrics
    assert not card.calibrated
    assert card.survival["part"] == "test"
    assert [card.survival[half]["cases"] for half in ("lower", "higher")] == [1, 1]
    said = followed.analyse(followed.slides[0].name, model=card.name)
    kept = followed.store.load_prediction(said.slide_id, said.grid_id, card.id)
    assert kept.hazards.tolist() == said.hazards.tolist()
    row = answer_numbers(kept, card)
    assert row["risk"] == pytest.approx(-sum(v for k, v in row.items() if k.startswith("S ")), abs=1e-5)
    assert set(row) < set(answer_columns(card))
    found = drain(evaluate_steps(followed, card.name, split="all"))
    assert found.pop("cases") == len({r.case for r in followed.slides})
    assert set(found) <= {"survival/c_index", "survival/logrank_p"}
    done = drain(retrain_here_steps(followed, card.name, recipe={"epochs": 2, "min_epochs": 1}))
    assert done.card.tree == card.tree
    assert done.flipped == ()
    assert "survival/c_index" in done.after


def test_times_are_needed(study):
    with pytest.raises(LabelError, match="0 cases with a follow-up time are too few"):
        drain(train_model_steps(study, "abmil", survival=True))


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("x.tif,soon,1,train", "says time 'soon' and event '1'"),
        ("x.tif,3,perhaps,train", "event 'perhaps'"),
        ("x.tif,3,1,exam", "the split 'exam'"),
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused(row, said, tmp_path, cohort):
    manifest = tmp_path / "m.csv"
    name = min((cohort / "slides").iterdir())
    manifest.write_text("slide,time,event,split\n" + row.replace("x.tif", name.name))
    steps = import_paths_steps(tmp_path / "p", [name], manifest=manifest)
    if "exam" in row:  # what concerns every file is checked first
        with pytest.raises(LabelError, match=said):
            drain(steps)
    else:
        [result] = drain(steps)
        assert not result["ok"]
        assert said in result["error"]


def test_slides_of_one_case_agree_on_its_time(followed):
    first, second = followed.slides[:2]
    followed.add(second.path, case=first.case, survival=(99.0, True))
    with pytest.raises(LabelError, match="tell different follow-up times"):
        drain(train_model_steps(followed, "abmil", survival=True))
    labelled, cases = count_cases(followed)
    assert count_cases(followed, survival=True) == (cases, cases)
    assert len(known_cases(followed)) == labelled  # labels do not need it


def test_what_learns_labels_reads_no_time(followed):
    for record, time in zip(followed.slides[:2], (1.0, 99.0), strict=True):
        followed.add(record.path, case="one", survival=(time, True))
    cases = drain(cases_steps(followed, "builtin"))
    assert {case.target.time for case in cases} == {None}
