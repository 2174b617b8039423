"""Sentences and short texts that sections show."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np

from napari_mil.card import ModelCard
from napari_mil.correction import Cells, Correction, Polygon, WholeSlide
from napari_mil.grid import TileGrid
from napari_mil.labeltree import LabelTree, Survival
from napari_mil.prediction import Prediction, TileMap
from napari_mil.ui.curves import ends_of
from napari_mil.ui.figuretable import figures_of
from napari_mil.ui.sections.instances import ordered_groups
from napari_mil.ui.state import State
from napari_mil.ui.words import (
    amount_words,
    answer_remarks,
    answer_words,
    card_words,
    change,
    history_entry,
    percent,
    read_words,
    risk_words,
    since_words,
)

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


def test_a_card_of_survival_speaks_of_time_and_risk():
    task = Survival.from_times([3, 9, 14, 30], [True] * 4, bins=2, unit="months")
    words = card_words(dataclasses.replace(CARD, tree=task))
    assert "time to the event: 0–11.5 months, after 11.5 months" in words
    assert words.endswith("not calibrated: read the risk as a ranking")
    assert ("evidence", "Evidence for the event") in ordered_groups(("evidence/risk", "evidence/time/0–11.5"))


def tiles(n):
    return Cells(np.arange(2 * n, dtype=np.int32).reshape(n, 2), (512.0, 512.0))


def said(place, label="Malignant/DCIS"):
    return Correction("slide", place, label)


def test_a_card_of_survival_says_why_it_has_no_c_index():
    task = Survival.from_times([3, 9, 14, 30], [True] * 4, bins=2, unit="months")
    held = dataclasses.replace(CARD, tree=task, slides={"test": ("s",)}, metrics={})
    assert "held out: no c-index: of no two held-out cases is it known whose event came first" in card_words(
        held
    )
    assert "c-index" not in card_words(dataclasses.replace(held, slides={}))  # nothing was held out
    told = dataclasses.replace(held, metrics={"survival/c_index": [0.7, 0.6, 0.8]})
    assert "held out: c-index 0.70 [0.60, 0.80]" in card_words(told)


def test_a_card_of_few_cases_shows_no_interval():
    told = dataclasses.replace(
        CARD,
        metrics={"lesion/auc": [1.0, 1.0, 1.0], "fine/auc": [0.9, 0.8, 1.0], "fine/ece": [0.1, 0.0, 0.2]},
    )
    assert "held out: lesion AUC 1.00, class AUC 0.90<br>" in card_words(told, 4)
    assert card_words(told, 4).endswith("calibration error 0.10")
    assert "held out: lesion AUC 1.00 [1.00, 1.00], class AUC 0.90 [0.80, 1.00]<br>" in card_words(told, 5)
    fewer = dataclasses.replace(told, metrics={**told.metrics, "fine/cases": 3})
    assert "held out: lesion AUC 1.00 [1.00, 1.00], class AUC 0.90<br>" in card_words(fewer, 5)


def test_a_card_of_a_deep_tree_shows_its_finest_level():
    deep = LabelTree.from_paths(["Benign/usual/N", "Malignant/invasive/IC"], normal=["Benign/usual/N"])
    told = dataclasses.replace(CARD, tree=deep, metrics={"level3/auc": [0.9, 0.8, 1.0]})
    assert "held out: class AUC 0.90 [0.80, 1.00]" in card_words(told)
    assert "AUC level2" in figures_of(deep).values()
    assert {"level3/auc", "level3/balanced_accuracy"} < set(figures_of(deep))


def test_a_risk_has_its_minus():
    assert answer_words(None, SimpleNamespace(risk=-1.162)) == "risk −1.16"
    assert risk_words(-1.162) == "<b>risk −1.16</b> (higher: the event is expected sooner)"


def test_the_ends_of_intervals_are_told_apart_on_the_axis():
    assert ends_of([0, 7, 11, 13.25]) == [(0, "0"), (7, "7"), (11, "11"), (13.25, "13.2")]
    assert [words for _, words in ends_of([0, 1, 12, 12.5, 60])] == ["0", "12.5", "60"]


def test_a_change_has_its_minus():
    assert change([-0.02, -0.05, 0.01]) == "−0.02 [−0.05, +0.01]"


def test_what_was_read_is_counted_in_tiles(grid):
    read = [
        said(Cells(grid.cells[:3], grid.pitch_px)),
        said(Cells(grid.cells[1:5], grid.pitch_px), "Benign/N"),
    ]
    whole = TileGrid.full((1501, 2011), (0.5, 0.5), tile_px=256, mpp=0.5)
    words = read_words("x.csv", read, whole)
    assert words == "7 tiles read from x.csv, which label 5 tiles; what was known already is not doubled."
    slide = read_words("x.csv", [said(WholeSlide())], whole)
    assert slide == "1 slide read from x.csv; what was known already is not doubled."
    assert read_words("x.csv", [], whole) == "Nothing new was read from x.csv: what it says is known already."


def test_percent_never_claims_certainty():
    assert [percent(p) for p in (1.0, 0.997, 0.994, 0.5, 0.004, 0.0)] == [
        ">99%", ">99%", "99%", "50%", "<1%", "<1%",
    ]  # fmt: skip


def test_the_history_never_claims_certainty_either():
    row = {"at": None, "by": "ann", "tool": "paint", "place": "1 tile", "label": "Malignant/IC", "was": None}
    row |= {"model_said": "Benign/N", "model_confidence": 0.9998, "visible": [], "note": "", "since": []}
    assert "the model had said Benign/N >99%" in history_entry(row | {"kind": "correct", "in_force": True})


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


def test_an_answer_whose_heads_contradict_each_other_says_so():
    apart = TileMap("disagreement", "score", np.zeros(2))
    project = SimpleNamespace(tree=TREE)

    def remarks(coarse, *maps):
        answer = Prediction("s", "g", "m", "slide", (np.array(coarse), np.array([0.4, 0.6])), maps)
        return answer_remarks(State(project=project, answer=answer))

    contradiction = "The model contradicts itself: its coarse head says Benign, its fine answer Malignant."
    assert contradiction in remarks([0.7, 0.3], apart)
    assert len(remarks([0.3, 0.7], apart)) == 1
    assert len(remarks([0.7, 0.3])) == 1  # no head of its own
