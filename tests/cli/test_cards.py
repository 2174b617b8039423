"""A card as text."""

import dataclasses
from types import SimpleNamespace

from napari_mil.card import ModelCard
from napari_mil.cli.cards import card_lines
from napari_mil.labeltree import LabelTree

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
        "said": {"count": [*empty, 3, 0], "confidence": [*empty, 0.85, 0], "right": [*empty, 1, 0]},
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
    assert ModelCard.from_json(told.to_json()).reliability == table
