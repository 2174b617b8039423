"""Figures on screen: rounded, with the cases they stand on, and no interval where there are too few."""

import re

import pytest
from quickstudy import QUICK, study

from napari_mil.steps import drain
from napari_mil.workflow import retrain_here_steps, train_model_steps
from napari_mil.workflow.figures import figure_lines, figure_words, held_out_lines


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
    metrics |= {"survival/logrank_p": (0.04, 0.04, 0.04)}
    assert figure_lines(metrics, cases=6, validation=2) == [
        "  fine/auc: 0.500 [0.100, 0.900], 6 cases",
        "  validation/loss: 0.250, 2 cases",
        "  obeyed: 1.000",
        "  survival/logrank_p: 0.040, 6 cases",
    ]


def test_a_small_study_shows_no_interval_and_says_why(tmp_path):
    with study(tmp_path, 6) as project:
        card = drain(train_model_steps(project, "mean", recipe=QUICK, name="m"))
        child = drain(retrain_here_steps(project, "m", recipe={"epochs": 1, "min_epochs": 1}))
        assert child.held == len(card.slides["test"])
        words = [*held_out_lines(project, card), *child.in_words().splitlines()[1:]]
    held = [line for line in words if re.search(r"(auc|accuracy|macro_f1|hierarchy):", line)]
    assert held
    assert not [line for line in held if "[" in line or "case" not in line]
