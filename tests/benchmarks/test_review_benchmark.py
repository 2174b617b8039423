"""The review benchmark: a scripted reader, two orders, the table between its markers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import review
from sets import noise


@pytest.fixture
def quick(monkeypatch):
    """Small cohorts, short trainings, two rounds."""
    monkeypatch.setattr(review, "RECIPE", {"epochs": 1, "min_epochs": 1})
    for name, study in review.STUDIES.items():
        small = replace(study.noise, train=10, test=10)
        monkeypatch.setitem(review.STUDIES, name, replace(study, noise=small, schedule=(2, 4)))


def test_a_cohort_is_wrong_by_the_share_that_was_asked_for():
    made = noise.draw(noise.Noise(train=40, test=6, wrong=0.25, share=0.1, far=4.0, alike=0.1), 3)
    wrong = [c.case for c in made.train if made.given[c.case] != made.right(c.case)]
    assert len(wrong) == 10
    assert [c.target.slide for c in made.test] == [made.right(c.case) for c in made.test]
    lesions = [int((made.truth[c.case] == noise.TREE.leaves[1]).sum()) for c in made.train]
    assert sorted(set(lesions)) == [0, 6]
    again = noise.draw(noise.Noise(train=40, test=6, wrong=0.25, share=0.1, far=4.0, alike=0.1), 3)
    np.testing.assert_array_equal(made.train[5].bags[0].features, again.train[5].bags[0].features)


def test_labels_are_counted_by_straight_lines_between_rounds():
    assert review.labels_until(0.8, [0, 10, 20], [0.5, 0.7, 0.9]) == pytest.approx(15)
    assert review.labels_until(0.95, [0, 10, 20], [0.5, 0.7, 0.9]) == 20
    assert review.labels_until(0.4, [0, 10], [0.5, 0.5]) == 0


@pytest.mark.parametrize("kind", ["slide", "tile"])
def test_both_orders_ask_for_what_is_open_and_the_reader_says_the_truth(quick, kind):
    study = next(s for s in review.STUDIES.values() if s.kind == kind)
    reader = review.Reader(noise.draw(study.noise, 1))
    model = review.train(reader.cases(), 0)
    for asked in review.ARMS.values():
        places = asked(reader, model, kind, 4, 0)
        assert len(set(places)) == 4
        for name, tile in places:
            assert (tile is None) == (kind == "slide")
            assert name not in reader.slides
            assert tile is None or reader.tiles[name][tile] == 0
            reader.say(name, tile)
    assert reader.answered == 8
    for name, node in reader.slides.items():
        assert node == reader.cohort.right(name)


@pytest.mark.slow
def test_the_command_writes_its_section_and_goes_on_where_it_stopped(quick, tmp_path, capsys):
    docs = tmp_path / "benchmarks.md"
    docs.write_text("# Before\n", encoding="utf-8")
    given = ["--work", str(tmp_path), "--docs", str(docs), "--first", "7", "--seeds", "2"]
    review.main(given)
    page = docs.read_text(encoding="utf-8")
    assert page.startswith("# Before\n")
    assert page.count("<!-- review: begin -->") == 1
    assert page.count("| queue |") == len(review.STUDIES)
    capsys.readouterr()
    review.main(given)
    assert "1/" not in capsys.readouterr().out.split("## The review queue")[0]
