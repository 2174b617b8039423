"""Long verbs: drained, told in other words, closed."""

from dataclasses import replace

import pytest

from napari_mil.steps import ASIDE, Progress, drain, part_of, told_as


def count(closed):
    try:
        for i in range(3):
            yield Progress("counting", i, 3)
    finally:
        closed.append(True)
    return "three"


def test_draining_returns_the_result_and_shows_every_progress():
    closed, seen = [], []
    assert drain(count(closed), seen.append) == "three"
    assert [p.done for p in seen] == [0, 1, 2]
    assert closed == [True]


def test_a_callback_that_fails_closes_the_work():
    closed = []
    with pytest.raises(ZeroDivisionError):
        drain(count(closed), lambda _: 1 / 0)
    assert closed == [True]


def test_told_in_other_words_with_the_same_result():
    closed, seen = [], []
    steps = told_as(count(closed), lambda p: replace(p, note=f"no. {p.done}"))
    assert drain(steps, seen.append) == "three"
    assert [p.note for p in seen] == ["no. 0", "no. 1", "no. 2"]


def test_one_of_many_is_told_as_a_part_and_what_is_set_aside_as_such():
    tell = part_of("runs", 1, 3, "seed 0")
    assert tell(Progress("training", 2, 9)) == Progress("runs", 1, 3, "seed 0: training 2 of 9")
    assert tell(Progress(ASIDE, 1, 1, "s1 is gone.")) == Progress(ASIDE, 1, 1, "seed 0: s1 is gone.")


def test_closing_what_is_told_closes_what_it_tells_of():
    closed = []
    steps = told_as(count(closed), lambda p: p)
    next(steps)
    steps.close()
    assert closed == [True]
