"""Two people who did not see each other's words: what they said differently of one place is found."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_mil.correction import Cells, Correction, Polygon, WholeSlide
from napari_mil.ledger import Ledger, conflicts_of
from napari_mil.ledger.conflicts import meet

RING = Polygon(
    (np.array([[0.0, 0], [0, 40], [40, 40], [40, 0]]), np.array([[8.0, 8], [8, 32], [32, 32], [32, 8]]))
)


def cells(*which, pitch=8.0):
    return Cells(list(which), (pitch, pitch))


@pytest.mark.parametrize(
    ("one", "other", "meets"),
    [
        (WholeSlide(), WholeSlide(), True),
        (WholeSlide(), cells([0, 0]), False),
        (cells([0, 0], [1, 1]), cells([0, 1], [1, 1]), True),
        (cells([0, 0], [1, 1]), cells([0, 1], [1, 0]), False),
        (cells([0, 0]), cells([1, 1], pitch=4.0), True),
        (cells([0, 0]), cells([2, 0], pitch=4.0), False),
        (RING, cells([0, 0]), True),
        (RING, cells([2, 2]), False),  # in the hole
        (RING, cells([5, 0]), False),  # beside it, sharing an edge
        (RING, RING, True),
    ],
)
def test_places_meet_where_they_share_area(one, other, meets):
    assert meet(one, other) is meets
    assert meet(other, one) is meets


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=6),
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=6),
)
def test_cells_of_two_lattices_meet_as_their_pixels_do(one, other):
    def pixels(which, pitch):
        return {(r * pitch + i, c * pitch + j) for r, c in which for i in range(pitch) for j in range(pitch)}

    met = meet(Cells(one, (5.0, 5.0)), Cells(other, (3.0, 3.0)))
    assert met == bool(pixels(one, 5) & pixels(other, 3))


@pytest.fixture
def pair(tmp_path):
    """Two programs on one ledger; each knows what it saw when it looked last."""
    place = tmp_path / "ledger.sqlite"
    with Ledger(place, follow=False) as ann, Ledger(place, follow=False) as bob:
        yield ann, bob


def said(ledger, who, place, label):
    return ledger.correct(Correction("s", place, label, by=who))[0]


def found(ledger):
    _ = ledger.head
    return [(c.earlier[1].label, c.later[1].label) for c in conflicts_of(ledger.acts("s"))]


def test_who_saw_the_other_does_not_contradict_unknowingly(pair):
    ann, bob = pair
    said(ann, "ann", WholeSlide(), "Benign")
    _ = bob.head  # sees it
    said(bob, "bob", WholeSlide(), "Malignant")
    assert found(ann) == found(bob) == []


def test_one_person_does_not_contradict_themselves(pair):
    ann, _ = pair
    said(ann, "ann", WholeSlide(), "Benign")
    late = Correction("s", WholeSlide(), "Malignant", by="ann")
    ann.correct(late, seen=0)  # was said before the first was kept
    assert found(ann) == []


def test_what_was_said_unseen_is_a_conflict_until_somebody_who_knows_both_settles_it(pair):
    ann, bob = pair
    said(ann, "ann", cells([0, 0], [0, 1]), "Benign")
    said(bob, "bob", cells([0, 1], [0, 2]), "Malignant")
    assert found(ann) == found(bob) == [("Benign", "Malignant")]
    said(ann, "ann", cells([5, 5]), "Benign")  # elsewhere
    assert found(bob) == [("Benign", "Malignant")]
    said(ann, "ann", cells([0, 1]), "Malignant")
    assert found(bob) == []


def test_taking_either_side_back_settles_it_too_and_redo_opens_it_again(pair):
    ann, bob = pair
    said(ann, "ann", WholeSlide(), "Benign")
    event = said(bob, "bob", WholeSlide(), "Malignant")
    ann.undo("s", "ann")
    assert found(bob) == []
    ann.redo("s", "ann")
    assert found(bob) == [("Benign", "Malignant")]
    bob.append("withdraw", "s", {"events": [event.seq]}, "bob")
    assert found(ann) == []


def test_agreement_other_places_and_other_slides_are_no_conflict(pair):
    ann, bob = pair
    said(ann, "ann", WholeSlide(), "Benign")
    ann.correct(Correction("t", WholeSlide(), "Benign", by="ann"))
    said(ann, "ann", cells([0, 0]), "Benign")
    said(bob, "bob", WholeSlide(), "Benign")
    _ = ann.head
    said(ann, "ann", cells([3, 3]), "Benign")
    said(bob, "bob", cells([4, 4]), "Malignant")
    assert found(ann) == found(bob) == []


def test_the_other_side_is_never_undone_unseen(pair):
    ann, bob = pair
    said(ann, "ann", cells([0, 0]), "Benign")
    said(bob, "bob", cells([0, 0]), "Malignant")
    ann.undo("s", "ann")
    assert [c.by for c in bob.corrections("s")] == ["ann", "bob"]  # as of when bob wrote
    _ = bob.head
    assert [c.by for c in bob.corrections("s")] == ["bob"]


def test_a_hole_elsewhere_settles_nothing_and_a_hole_there_does(pair):
    ann, bob = pair
    outer = RING.rings[0]
    first = Correction("s", Polygon((outer,)), "Benign", by="ann")
    ann.correct(first)
    said(bob, "bob", cells([0, 0]), "Malignant")
    assert found(ann) == [("Benign", "Malignant")]
    elsewhere = Correction("s", Polygon((outer, outer / 4 + 20)), "Benign", by="ann", replaces=first.id)
    ann.correct(elsewhere)
    assert found(ann) == found(bob) == [("Benign", "Malignant")]
    there = Correction("s", Polygon((outer, outer / 4)), "Benign", by="ann", replaces=elsewhere.id)
    ann.correct(there)
    assert found(bob) == []
    ann.undo("s", "ann")
    assert found(ann) == [("Benign", "Malignant")]
