"""Sentences and short texts that sections show."""

from __future__ import annotations

import dataclasses

import numpy as np

from napari_mil.card import ModelCard
from napari_mil.correction import Cells, Correction, Polygon, WholeSlide
from napari_mil.labeltree import LabelTree
from napari_mil.ui.words import amount_words, card_words, percent, since_words

TREE = LabelTree.from_paths(["Benign/N", "Malignant/IC"], normal=["Benign/N"])
CARD = ModelCard("m", "mhim-1", "mhim", {}, "builtin-1", 4, 256, 0.5, TREE)
SQUARE = np.array([[0.0, 0.0], [0.0, 9.0], [9.0, 9.0]])


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


def tiles(n):
    return Cells(np.arange(2 * n, dtype=np.int32).reshape(n, 2), (512.0, 512.0))


def said(place, label="Malignant/DCIS"):
    return Correction("slide", place, label)


def test_percent_never_claims_certainty():
    assert [percent(p) for p in (1.0, 0.997, 0.994, 0.5, 0.004, 0.0)] == [
        ">99%", ">99%", "99%", "50%", "<1%", "<1%",
    ]  # fmt: skip


def test_a_stroke_of_tiles_is_counted_in_tiles_and_a_slide_as_a_slide():
    five = [said(tiles(4)), said(tiles(1)), said(WholeSlide())]
    assert amount_words(five) == "5 tiles, 1 slide"
    assert amount_words([*five, said(WholeSlide())]) == "5 tiles, 1 slide"
    assert amount_words([said(Polygon((SQUARE,))), said(tiles(1))]) == "1 tile, 1 region"
    words = since_words("mhim-1", [*five, said(tiles(2), None)])
    assert words == (
        "Said since mhim-1 was trained:<br>Malignant/DCIS: 5 tiles, 1 slide<br>label taken away: 2 tiles"
    )
    assert since_words("mhim-1", ()) == "Nothing was corrected since mhim-1 was trained."
