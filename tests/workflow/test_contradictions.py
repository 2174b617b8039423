"""A part and its slide, or two people, say what cannot both hold."""

import numpy as np
import pytest
from quickstudy import study

from napari_mil.correction import Cells, Polygon, WholeSlide
from napari_mil.workflow import Project, contradictions, lock, withdraw

SQUARE = Polygon((np.array([[10.0, 10], [10, 200], [200, 200], [200, 10]]),))
TWO = Cells(np.array([[0, 0], [0, 1]]), (256.0, 256.0))
ONE = Cells(np.array([[0, 0]]), (256.0, 256.0))


@pytest.fixture
def project(tmp_path):
    """s0 is Benign/N by the manifest, s1 is Malignant/IC."""
    with study(tmp_path, 2) as made:
        yield made


def test_parts_that_the_slide_excludes_are_named_with_both_sides(project):
    project.correct("s0", TWO, "DCIS")
    project.correct("s1", TWO, "UDH")  # beside a tumour lies everything else
    [found] = contradictions(project)
    assert str(found) == (
        "s0: 2 tiles are labelled Malignant/DCIS by tester, but the slide Benign/N by the manifest"
    )
    assert (found.between, found.place.cells.tolist(), found.events) == ("levels", TWO.cells.tolist(), (3,))
    project.correct("s0", WholeSlide(), "Benign", by="bob")
    [found] = contradictions(project, slide="s0")
    assert found.words.endswith("but the slide Benign by bob")
    assert len(found.events) == 2
    project.correct("s0", WholeSlide(), "Malignant")
    assert contradictions(project) == ()


def test_what_was_painted_over_or_taken_back_contradicts_no_more(project):
    project.correct("s0", TWO, "DCIS")
    project.correct("s0", ONE, "N")
    assert len(contradictions(project)) == 1  # one of the two tiles is left
    project.correct("s0", Cells(np.array([[0, 1]]), (256.0, 256.0)), None)
    assert contradictions(project) == ()
    project.correct("s0", SQUARE, "IC")
    [found] = contradictions(project)
    assert found.words.startswith("region is labelled Malignant/IC")
    project.correct("s0", ONE, "N")  # covers the region whole
    assert contradictions(project) == ()
    lock(project, found.events[0])  # then it counts whatever was said later
    assert len(contradictions(project)) == 1


def test_a_withdrawn_part_contradicts_nothing(project):
    project.correct("s0", SQUARE, "IC")
    [found] = contradictions(project)
    withdraw(project, *found.events)
    assert contradictions(project) == ()


def test_two_people_who_had_not_seen_each_other(project):
    with Project(project.path, by="bob") as other:
        other.ledger.follow = False
        project.correct("s1", WholeSlide(), "ADH")
        other.correct("s1", WholeSlide(), "Malignant/DCIS")
    [found] = contradictions(project)
    assert found.between == "people"
    assert found.words == (
        "whole slide: bob says Malignant/DCIS, tester said Atypical/ADH; neither had seen the other"
    )
    assert len(found.events) == 2


def test_only_slides_of_which_something_was_said_are_looked_at_anew(project):
    ids, known = [r.id for r in project.slides], {}
    project.correct("s0", TWO, "DCIS")
    [first] = contradictions(project, known=known)
    project.correct("s1", TWO, "UDH")
    before = dict(known)
    assert contradictions(project, known=known) == (first,)  # the very same
    assert known[ids[0]] is before[ids[0]]
    assert known[ids[1]] is not before[ids[1]]
    project.add(project.slides[0].path, label="Malignant/IC")
    assert contradictions(project, known=known) == ()


def test_each_stroke_on_its_own_tiles_is_one_contradiction(project):
    for row in range(3):
        project.correct("s0", Cells(np.array([[row, 0]]), (256.0, 256.0)), "DCIS")
    project.correct("s0", Cells(np.array([[9, 9]]), (128.0, 128.0)), "IC")
    project.correct("s0", Cells(np.array([[1, 0]]), (256.0, 256.0)), "N")
    assert [one.events for one in contradictions(project)] == [(3,), (5,), (6,)]
