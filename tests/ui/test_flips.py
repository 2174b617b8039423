"""Cases that a retraining answers differently, beside what is known of them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from napari_mil.correction import WholeSlide
from napari_mil.ui.flips import ROWS, Flip, flip_table, flip_words, flips


@pytest.mark.parametrize(
    ("label", "before", "after", "verdict"),
    [
        ("Benign/PB", "Benign/N", "Benign/PB", "right"),
        ("Benign/PB", "Benign/PB", "Benign/N", "wrong"),
        ("Benign/PB", "Benign/N", "Atypical/ADH", "still"),
        ("Malignant", "Benign/N", "Malignant/IC", "right"),
        ("Malignant", "Malignant/IC", "Malignant/DCIS", "right"),
        (None, "Benign/N", "Benign/PB", ""),
    ],
)
def test_a_flip_is_right_or_wrong_by_the_label(label, before, after, verdict):
    assert Flip("c", label, before, after, held_out=True).verdict == verdict


def test_the_label_is_what_was_said_last_and_held_out_cases_come_first(study):
    records = study.slides
    study.correct(records[0].id, WholeSlide(), "Malignant/IC")
    card = SimpleNamespace(slides={"train": (records[0].id,), "test": (records[1].id,)})
    flipped = tuple((r.case, "Benign/N", "Malignant/IC") for r in records[:2])
    found = flips(study, SimpleNamespace(card=card, flipped=flipped))
    assert [flip.case for flip in found] == [records[1].case, records[0].case]
    assert [flip.held_out for flip in found] == [True, False]
    assert [flip.label for flip in found] == [records[1].label, "Malignant/IC"]
    # validation cases chose the epoch: they are held out only where nothing else is
    card.slides = {"train": (), "validation": (records[0].id,), "test": (records[1].id,)}
    found = flips(study, SimpleNamespace(card=card, flipped=flipped))
    assert [flip.held_out for flip in found] == [True, False]
    del card.slides["test"]
    [first, _] = flips(study, SimpleNamespace(card=card, flipped=flipped))
    assert first.case == records[0].case
    assert first.held_out


def test_words_count_what_became_right_and_wrong():
    found = [Flip(f"case{i}", "Benign/PB", "Benign/N", "Benign/PB", held_out=i == 0) for i in range(14)]
    found[3] = Flip("case3", "Benign/PB", "Benign/PB", "Benign/N", held_out=False)
    found[4] = Flip("case4", None, "Benign/PB", "Benign/N", held_out=False)
    words, table = flip_words(found), flip_table(found)
    assert "14 cases are answered differently</b>: 12 right now, 1 wrong now, 1 without a label." in words
    assert "held out" in words
    assert "<b>case0</b>" in table
    assert table.count("<tr>") == ROWS + 1
    assert table.endswith("and 2 more")
    assert (flip_words([]), flip_table([])) == ("No case is answered differently.", "")
