"""Two models compared: never figures of different slides without saying so."""

import dataclasses
import json
import re
import sys

import numpy as np
import pytest
import torch
from quickstudy import QUICK, study

from napari_mil.card import ModelCard
from napari_mil.cli import main
from napari_mil.correction import Cells, WholeSlide
from napari_mil.errors import BagError, ModelError
from napari_mil.evaluate import evaluate
from napari_mil.labeltree import Survival
from napari_mil.methods import official
from napari_mil.steps import drain
from napari_mil.workflow import (
    compare_cards,
    compare_steps,
    evaluate_steps,
    import_model,
    labels_apart,
    not_alike,
    train_model_steps,
)
from napari_mil.workflow.cases import cases_steps
from napari_mil.workflow.comparing import held_out

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A project of 16 cases with three models: seeds 0 and 3 split otherwise, two methods of seed 0 alike."""
    with study(tmp_path_factory.mktemp("compared"), 16) as project:
        for name, method, seed in (("a", "mean", 0), ("b", "abmil", 0), ("c", "mean", 3)):
            drain(train_model_steps(project, method, recipe={**QUICK, "seed": seed}, name=name))
        return project.path


@pytest.fixture
def project(folder):
    from napari_mil.workflow import Project

    with Project(folder) as opened:
        yield opened


def named(project):
    return {card.name: card for card in project.cards}


def test_cards_of_other_slides_say_that_they_do_not_compare(project):
    cards = named(project)
    assert held_out(cards["a"]) == held_out(cards["b"]) != held_out(cards["c"])
    assert not_alike(cards["a"], cards["b"]) == ""
    sentence = not_alike(cards["a"], cards["c"])
    assert "measured on different slides" in sentence
    assert "do not compare; --evaluate" in sentence
    assert not_alike(cards["a"], dataclasses.replace(cards["c"], metrics={})) == ""
    rows = [what for what, *_ in compare_cards(cards["a"], cards["c"])]
    assert rows.index("held-out slides") < rows.index("fine/auc")
    assert "held-out slides" not in [what for what, *_ in compare_cards(cards["a"], cards["b"])]


def test_figures_of_the_validation_part_are_not_taken_for_the_same(project):
    card = named(project)["a"]
    few = [
        dataclasses.replace(card, slides={"train": ("x",), "validation": (v,), "test": ()})
        for v in ("p", "q")
    ]
    assert "(1 and 1, 0 of them the same)" in not_alike(*few)
    assert "held-out slides" in [what for what, *_ in compare_cards(*few)]


def test_labels_that_changed_between_two_trainings_are_told(tmp_path, monkeypatch, capsys):
    with study(tmp_path, 16) as project:

        def trained(name, method="mean"):
            return drain(train_model_steps(project, method, recipe=QUICK, name=name))

        first = trained("first")
        learned = next(r for r in project.slides if r.id in first.slides["train"])
        project.correct(learned.id, WholeSlide(), learned.label)  # said again, nothing else
        second = trained("second", "abmil")
        assert labels_apart(project, first, second) == ""
        project.correct(learned.id, WholeSlide(), "Benign/UDH")
        third = trained("third", "gabmil")
        sentence = labels_apart(project, second, third)
        assert (
            f"the labels of 1 slide on both cards changed: {learned.name}. None of them is held" in sentence
        )
        held = next(r for r in project.slides if r.id in third.slides["test"] and r.id != learned.id)
        place = Cells(np.array([[0, 0]], np.int32), (256.0, 256.0))
        project.correct(held.id, place, "Malignant/IC")
        fourth = trained("fourth", "max")
        assert "1 of them is held out from both, so the figures" in labels_apart(project, third, fourth)
        assert "2 slides" in labels_apart(project, fourth, first)
        foreign = (
            dataclasses.replace(first, ledger_head=None),
            dataclasses.replace(first, ledger_head="f" * 64),
        )
        assert {labels_apart(project, one, fourth) for one in foreign} == {""}
    words = ["napari-mil", "models", "compare", str(tmp_path / "study"), "first", "fourth"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit):
        main()
    assert "2 slides on both cards changed" in capsys.readouterr().err


def test_follow_up_times_that_changed_are_told(tmp_path):
    with study(tmp_path, 4, survival=(3.0, True)) as project:
        record, head = project.slides[0], project.ledger.head
        task = Survival.from_edges([12], intervals=2)
        about = {
            "id": "a",
            "name": "a",
            "method": "mean",
            "config": {},
            "encoder": "builtin",
            "in_features": 8,
        }
        about |= {"tile_px": 256, "mpp": 0.5, "tree": task, "slides": {"test": (record.id,)}}
        one = ModelCard(**about, ledger_head=head)
        project.correct(record.id, WholeSlide(), "Benign/UDH")  # a label says nothing of time
        assert labels_apart(project, one, ModelCard(**about, ledger_head=project.ledger.head)) == ""
        project.add(record.path, case=record.case, survival=(5.0, False))
        other = ModelCard(**about, ledger_head=project.ledger.head)
        assert "1 of them is held out" in labels_apart(project, one, other)
        labels = dataclasses.replace(other, tree=project.tree)
        assert labels_apart(project, one, labels) == ""


def test_both_are_asked_about_the_same_cases_that_neither_has_seen(project):
    cards = named(project)
    found = drain(compare_steps(project, "a", "c"))
    seen = {s for c in (cards["a"], cards["c"]) for p in ("train", "validation") for s in c.slides[p]}
    held = [
        c for c in drain(cases_steps(project, cards["a"].encoder)) if not {b.slide_id for b in c.bags} & seen
    ]
    assert found.cases == len(held) > 0
    expected = evaluate(project.model("c"), held)
    assert found.its["fine/balanced_accuracy"] == expected["fine/balanced_accuracy"]
    for name, (value, low, high) in found.changes.items():
        if np.isfinite(value):
            assert value == pytest.approx(found.its[name][0] - found.mine[name][0], abs=1e-9)
            assert low <= high
    assert f"both on the same {found.cases} case" in found.in_words().splitlines()[0]
    assert found.untold == ()


def test_models_that_leave_no_case_are_refused(project, monkeypatch):
    cards = named(project)
    every = tuple(record.id for record in project.slides)
    other = dataclasses.replace(cards["c"], slides={"train": every})
    monkeypatch.setattr(
        "napari_mil.workflow.comparing.find_card", lambda _, name: other if name == "c" else cards[name]
    )
    with pytest.raises(BagError, match="No labelled case here was held out from both a and c"):
        drain(compare_steps(project, "a", "c"))


def test_a_model_of_other_tiles_is_not_asked(tmp_path):
    with study(tmp_path, 8) as project:
        card = drain(train_model_steps(project, "mean", recipe=QUICK, name="a"))
        file = tmp_path / "theirs.pth"
        torch.save(official.dump(project.model("a")), file)
        about = {"encoder": "builtin", "mpp": card.mpp, "tile_px": card.tile_px}
        import_model(project, file, about, name="theirs")
        import_model(project, file, about | {"tile_px": 2 * card.tile_px}, name="larger")
        found = drain(compare_steps(project, "a", "theirs"))
        assert found.untold == ("theirs",)
        assert found.mine == found.its
        said = found.in_words().splitlines()
        assert "that neither is known to have learned from" in said[0]
        assert said[-1] == "  theirs does not say what it learned from."
        for asked in (compare_steps(project, "a", "larger"), evaluate_steps(project, "larger", split="all")):
            with pytest.raises(ModelError, match="larger was trained on tiles of"):
                drain(asked)


def test_on_the_command_line(folder, monkeypatch, capsys):
    def run(*words):
        monkeypatch.setattr(sys, "argv", ["napari-mil", "models", "compare", str(folder), *words])
        with pytest.raises(SystemExit) as done:
            main()
        assert not done.value.code
        return capsys.readouterr()

    assert "do not compare" in run("a", "c").err
    told = run("a", "b")
    assert "do not compare" not in told.err
    [line] = [line for line in told.out.splitlines() if line.startswith("fine/auc: ")]
    assert re.fullmatch(r"fine/auc: (\d\.\d{3}, 4 cases: too few for an interval( \| )?){2}", line)
    said = run("a", "c", "--evaluate").out
    assert "a | c, both on the same" in said
    assert "fine/auc: " in said
    record = json.loads(run("a", "c", "--evaluate", "--json").out.splitlines()[-1])["result"]
    assert len(record["figures"]) == 2
    assert record["cases"] > 0
