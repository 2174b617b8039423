"""Figures on screen: rounded, with the cases they stand on, and no interval where there are too few."""

import dataclasses
import re

import pytest
from quickstudy import QUICK, study

from napari_mil.card import ModelCard
from napari_mil.labeltree import LabelTree
from napari_mil.steps import drain
from napari_mil.workflow import Retrained, compare_cards, retrain_here_steps, train_model_steps
from napari_mil.workflow.comparing import Compared
from napari_mil.workflow.figures import figure_lines, figure_words, held_out_lines
from napari_mil.workflow.retrain import worse_words

TREE = LabelTree.from_paths(["a", "b"])


@pytest.mark.parametrize(
    ("value", "cases", "said"),
    [
        ((0.91234, 0.85, 0.961), 12, "0.912 [0.850, 0.961], 12 cases"),
        ([1.0, 1.0, 1.0], 5, "1.000 [1.000, 1.000], 5 cases"),
        ((0.91234, 0.85, 0.961), 4, "0.912, 4 cases: too few for an interval"),
        ((0.5, 0.1, 0.9), None, "0.500 [0.100, 0.900]"),
        (0.123456789, None, "0.123"),
        (0.123456789, 1, "0.123, 1 case"),
        (3, None, "3"),
    ],
)
def test_words(value, cases, said):
    assert figure_words(value, cases) == said


def test_each_part_has_its_own_number_of_cases():
    metrics = {"fine/auc": (0.5, 0.1, 0.9), "validation/loss": 0.25, "obeyed": 1.0}
    metrics |= {"survival/logrank_p": (0.04, 0.04, 0.04), "validation/fine/auc": float("nan")}
    assert figure_lines(metrics, cases=6, validation=2) == [
        "  fine/auc: 0.500 [0.100, 0.900], 6 cases",
        "  validation/loss: 0.250, 2 cases",
        "  obeyed: 1.000",
        "  survival/logrank_p: 0.040, 6 cases",
    ]


def test_a_figure_of_few_cases_says_so_and_shows_no_interval():
    """Tiles are labelled on few of the cases held out, so that their figures stand on these alone."""
    metrics = {"fine/auc": (0.5, 0.1, 0.9), "tile/auc": (0.9, 0.9, 0.9), "froc": (0.7, 0.6, 0.8)}
    metrics |= {"froc/0.25": (0.4, 0.3, 0.5), "tile/cases": 1, "froc/cases": 5}
    one_case = "0.900, 1 case: too few for an interval"
    assert figure_lines(metrics, cases=12) == [
        "  fine/auc: 0.500 [0.100, 0.900], 12 cases",
        f"  tile/auc: {one_case}",
        "  froc: 0.700 [0.600, 0.800], 5 cases",
        "  froc/0.25: 0.400 [0.300, 0.500], 5 cases",
    ]
    assert figure_lines(metrics, cases=12, called={"tile/auc": "AUC"}) == [f"  AUC: {one_case}"]
    card = ModelCard("m", "m+1", "mean", {}, "e", 4, 256, 0.5, TREE, metrics=metrics)
    rows = {what: its for what, _, its in compare_cards(card, card)}
    assert rows["tile/auc"] == one_case
    assert rows["fine/auc"] == "0.500 [0.100, 0.900]"
    assert "tile/cases" not in rows
    by = {"tile/auc": (0.1, 0.05, 0.2)}
    done = Retrained(card, metrics, metrics, by, (), (0, 0), 0, 12).in_words().splitlines()
    assert done[-1] == f"  tile/auc: 0.900 -> {one_case}, change +0.100"
    told = Compared(card, card, metrics, metrics, by, 12).in_words().splitlines()
    assert told[2] == "  tile/auc: 0.900 | 0.900, difference +0.100, on 1 of the cases"
    assert len(told) == 5


def test_two_cards_side_by_side_are_rounded_and_say_what_only_one_has():
    figures = {"survival/logrank_p": (0.04, 0.04, 0.04), "validation/loss": 1.1586273340415514}
    one = ModelCard("m-1", "one", "mhim", {"mask_ratio": 0.03}, "e", 4, 256, 0.5, TREE, metrics=figures)
    other = dataclasses.replace(one, id="m-2", method="abmil", config={"act": "relu"}, parent="m-1")
    rows = {what: (mine, its) for what, mine, its in compare_cards(one, other)}
    assert rows == {
        "method": ("mhim", "abmil"),
        "parent": ("none", "m-1"),
        "mask_ratio": ("0.03", "no such option"),
        "act": ("no such option", "relu"),
        "survival/logrank_p": ("0.040", "0.040"),
        "validation/loss": ("1.159", "1.159"),
    }


def test_a_p_value_is_nowhere_said_to_be_nothing():
    p = {"survival/logrank_p": (1e-9, 1e-9, 1e-9)}
    assert figure_lines(p, cases=6) == ["  survival/logrank_p: < 0.001, 6 cases"]
    card = ModelCard("m", "m+1", "mean", {}, "e", 4, 256, 0.5, TREE, metrics=p)
    assert compare_cards(card, card)[-1][1:] == ("< 0.001", "< 0.001")
    done = Retrained(card, p, p, {}, (), (0, 0), 0, 7)
    assert done.in_words().splitlines()[1:] == ["  survival/logrank_p: < 0.001 -> < 0.001, 7 cases"]
    for cases in (3, 7):
        told = Compared(card, card, p, p, {}, cases).in_words().splitlines()
        assert told[1:] == ["  survival/logrank_p: < 0.001 | < 0.001"]


def test_a_retraining_without_corrected_tiles_does_not_count_them():
    card = ModelCard("m", "m+1", "mean", {}, "e", 4, 256, 0.5, TREE)
    p = {"survival/logrank_p": (0.04, 0.04, 0.04)}
    done = Retrained(card, p, p, {}, (), (0, 0), 0, 7)
    assert done.in_words().splitlines()[1:] == ["  survival/logrank_p: 0.040 -> 0.040, 7 cases"]
    auc, by = {"fine/auc": (0.5, 0.4, 0.6)}, {"fine/auc": (0.1, 0.05, 0.2)}
    changed = dataclasses.replace(done, before=auc, after=auc, changes=by)
    assert changed.in_words().splitlines()[1].endswith("change +0.100 (95 % +0.050 to +0.200)")
    assert dataclasses.replace(changed, held=4).in_words().splitlines()[1].endswith("change +0.100")
    told = dataclasses.replace(done, obeyed=(1, 2)).in_words()
    assert "corrected tiles that the new model follows: 1 of 2" in told


@pytest.mark.parametrize(
    ("held", "said"),
    [
        (1, "though on 1 case alone, too few for an interval"),
        (5, "which is beyond noise (95 % interval of the change -1.000 to -1.000)"),
    ],
)
def test_a_fall_on_few_cases_is_not_called_beyond_noise(held, said):
    before, after = {"fine/balanced_accuracy": (1.0, 1.0, 1.0)}, {"fine/balanced_accuracy": (0.0, 0.0, 0.0)}
    words = worse_words(before, after, {"fine/balanced_accuracy": (-1.0, -1.0, -1.0)}, held)
    fell = "fine/balanced_accuracy on held-out cases fell from 1.000 to 0.000"
    assert words == f"{fell}, {said}; better keep the parent."


def test_a_small_study_shows_no_interval_and_says_why(tmp_path):
    with study(tmp_path, 6) as project:
        card = drain(train_model_steps(project, "mean", recipe=QUICK, name="m"))
        child = drain(retrain_here_steps(project, "m", recipe={"epochs": 1, "min_epochs": 1}))
        assert child.held == len(card.slides["test"])
        words = [*held_out_lines(project, card), *child.in_words().splitlines()[1:]]
    held = [line for line in words if re.search(r"(auc|accuracy|macro_f1|hierarchy):", line)]
    assert held
    assert not [line for line in held if "[" in line or "case" not in line]
