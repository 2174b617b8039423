"""Sentences that sections show."""

import dataclasses

from napari_mil.card import ModelCard
from napari_mil.labeltree import LabelTree
from napari_mil.ui.words import card_words

TREE = LabelTree.from_paths(["Benign/N", "Malignant/IC"], normal=["Benign/N"])
CARD = ModelCard("m", "mhim-1", "mhim", {}, "builtin-1", 4, 256, 0.5, TREE)


def test_a_card_says_whether_percentages_were_calibrated():
    assert card_words(CARD).endswith("not calibrated: read percentages as a ranking")
    metrics = {"fine/ece": [0.05, 0.02, 0.09], "fine/ece_before": [0.2, 0.1, 0.3]}
    told = dataclasses.replace(CARD, calibrated=True, temperature=1.5, metrics=metrics)
    words = card_words(told)
    assert "not calibrated" not in words
    assert "calibrated, temperature 1.50, calibration error 0.20 [0.10, 0.30] → 0.05 [0.02, 0.09]" in words
    unsure = dataclasses.replace(CARD, metrics={"fine/ece": [0.05, 0.02, 0.09]})
    assert "not calibrated" in card_words(unsure)
    assert "calibration error 0.05 [0.02, 0.09]" in card_words(unsure)
