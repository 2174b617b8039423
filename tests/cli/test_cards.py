"""A card as text."""

import dataclasses
import json
from types import SimpleNamespace

from napari_mil.card import ModelCard, Recipe
from napari_mil.cli.cards import card_lines
from napari_mil.labeltree import LabelTree, Survival
from napari_mil.workflow.figures import logrank_words

TREE = LabelTree.from_paths(["Benign/N", "Malignant/IC"], normal=["Benign/N"])
NONE = SimpleNamespace(slides=())  # a project without slides


def test_a_card_tells_its_figures_and_its_reliability():
    card = ModelCard("m", "mhim-1", "mhim", {"mask_ratio": 0.03}, "builtin-1", 4, 256, 0.5, TREE)
    plain = "\n".join(card_lines(NONE, card))
    assert "not calibrated" in plain
    assert "mask_ratio 0.03" in plain
    assert "epochs 20" in plain
    empty = [0] * 8
    table = {
        "edges": [k / 10 for k in range(11)],
        "part": "test",
        "said": {"count": [*empty, 3, 1], "confidence": [*empty, 0.85, 0.9], "right": [*empty, 1, 0]},
    }
    figures = {"fine/auc": [0.9, 0.8, 0.95]}
    told = dataclasses.replace(
        card,
        calibrated=True,
        temperature=1.25,
        metrics=figures,
        reliability=table,
        slides={"train": ("a", "b"), "test": ("c",)},
        made_with={"torch": "2.13"},
    )
    lines = card_lines(NONE, told)
    assert "  calibrated, temperature 1.250" in lines
    assert "  fine/auc: 0.900, 1 case: too few for an interval" in lines
    assert "  slides: 2 train, 1 test" in lines
    assert "  made with: torch 2.13" in lines
    assert "    confidence 0.8 to 0.9: 3 answers, mean 0.850, right 1.000" in lines
    assert "    confidence 0.9 to 1.0: 1 answer, mean 0.900, right 0.000" in lines
    assert ModelCard.from_json(told.to_json()).reliability == table


def test_a_card_names_the_slides_that_were_recorded():
    card = ModelCard("m", "mhim-1", "mhim", {}, "builtin-1", 4, 256, 0.5, TREE)
    plain = next(x for x in card_lines(NONE, card) if "recipe: " in x)
    assert plain.endswith("record nothing, seed 0")
    recorded = dataclasses.replace(card, recipe=Recipe(record=("12dbc6", "P017")))
    study = SimpleNamespace(slides=(SimpleNamespace(id="12dbc6", name="case-17", case="P001"),))
    said = "\n".join(card_lines(study, recorded))
    assert "record case-17 and P017, seed 0" in said


def test_a_card_tells_the_survival_of_the_halves_by_risk():
    task = Survival.from_times([3, 9, 14, 30], [True] * 4, bins=2, unit="months")
    card = ModelCard("m", "life", "abmil", {}, "builtin-1", 4, 256, 0.5, task)
    assert not [line for line in card_lines(NONE, card) if "by risk" in line]
    assert "  intervals of time: 0–11.5 months, after 11.5 months" in card_lines(NONE, card)
    table = {
        "part": "test",
        "logrank_p": 0.0123,
        "lower": {"times": [20.0, 40.0], "survival": [0.5, 0.5], "at_risk": [2, 1], "cases": 2},
        "higher": {"times": [5.0, 11.5], "survival": [0.5, 0.0], "at_risk": [2, 1], "cases": 2},
    }
    told = dataclasses.replace(card, survival=table)
    assert card_lines(NONE, told)[-3:] == [
        "  without the event, halves of the test cases by risk: log-rank p 0.012",
        "    lower risk, 2 cases; share (at risk): 11.5 months 1.00 (2), 30 months 0.50 (1)",
        "    higher risk, 2 cases; share (at risk): 11.5 months 0.00 (1), 30 months 0.00 (0)",
    ]
    assert ModelCard.from_json(told.to_json()).survival == table
    old = json.loads(card.to_json())
    del old["survival"]
    assert ModelCard.from_json(json.dumps(old)).survival == {}


def test_a_log_rank_p_is_never_said_to_be_nothing():
    assert logrank_words({"logrank_p": 1e-9}) == "log-rank p < 0.001"
    assert logrank_words({}) == "no log-rank p, as no event was seen while cases of both were at risk"
