"""What makes a place of a slide worth a question, with the sentence that says so."""

import dataclasses

import numpy as np
import pytest
import torch
from asked import IC, TREE, UDH, N, answer, grid, seen
from sklearn.linear_model import Ridge
from sklearn.model_selection import LeaveOneOut, cross_val_predict

from napari_mil import methods
from napari_mil.bag import Bag
from napari_mil.errors import BagError, ModelError
from napari_mil.infer import predict, tempered
from napari_mil.prediction import Prediction
from napari_mil.review import Places, Seen, shortlist
from napari_mil.review.measures import entropy, fused, left_out, places_of, squared_distances
from napari_mil.review.places import OWN, WHOLE
from napari_mil.review.signals import DRAWN, HIGHEST, LABELLED, SPREAD


def tile(places, i):
    """The row of a shortlist that is tile i of a grid of ten columns."""
    [row] = np.flatnonzero((places.cells == (i // 10, i % 10)).all(1))
    return row


def whole(places):
    [row] = np.flatnonzero(places.whole)
    return row


def test_entropy_is_one_where_all_classes_are_as_likely_and_nothing_where_there_is_no_choice():
    p = np.array([[0.25] * 4, [1, 0, 0, 0], [0.5, 0.5, 0, 0]])
    np.testing.assert_allclose(entropy(p), [1, 0, 0.5])
    np.testing.assert_array_equal(entropy(np.ones((3, 1))), 0)


def test_wavering_between_groups_counts_more_than_wavering_inside_one():
    p = np.tile([0.97, 0.01, 0.01, 0.01], (40, 1))
    p[3], p[7] = [0.48, 0.02, 0.48, 0.02], [0.02, 0.02, 0.48, 0.48]
    found = shortlist(seen(tiles_p=p), TREE)
    groups, inside, plain = (found.signals["unsure"][tile(found, i)] for i in (3, 7, 0))
    assert groups > inside > plain
    words = "wavers between Benign (50%) and Malignant (50%) here, at 1.0 times the average attention."
    assert found.words[tile(found, 3)]["unsure"] == f"The model {words}"
    assert "Malignant/DCIS (48%) and Malignant/IC (48%)" in found.words[tile(found, 7)]["unsure"]


@pytest.mark.parametrize(("method", "heads", "times"), [("abmil", False, 6.0), ("hmil", True, 1.0)])
def test_a_temperature_parts_no_levels_that_are_one_answer(method, heads, times):
    torch.manual_seed(0)
    bag = Bag("s", grid(40), np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32), "made up")
    model = methods.create(method, in_features=6, tree=TREE)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(times)  # surer answers, which a temperature changes more
    said = predict(model, bag, model_id="m", temperature=3.0)
    coarse, fine = said.probabilities
    assert (np.abs(coarse - TREE.lift(fine, 0)).max() > 1e-3) == heads
    plain = predict(model, bag, model_id="m").probabilities
    earlier = np.asarray(tempered(plain[0], 3.0), np.float32)  # so earlier versions kept every answer
    assert np.abs(earlier - TREE.lift(fine, 0)).max() > 1e-3
    for kept in (said, dataclasses.replace(said, probabilities=(earlier, fine))):
        found = shortlist(Seen(kept, bag, np.zeros(40, np.int32)), TREE)
        assert np.isnan(found.signals["levels"][whole(found)]) == (not heads)


def test_a_tile_that_the_answer_rests_on_is_asked_about_though_the_model_is_sure_of_it():
    attention = np.ones(40)
    attention[11] = 39
    found = shortlist(seen(attention=attention), TREE)
    row = tile(found, 11)
    assert np.nanargmax(found.signals["rests"]) == row
    assert "20.0 times the average attention (place 1 of 40)" in found.words[row]["rests"]
    assert np.isnan(found.signals["rests"][whole(found)])


def test_a_lesion_that_the_slides_label_does_not_name_contradicts_it():
    p = np.tile([0.97, 0.01, 0.01, 0.01], (40, 1))
    p[5], p[6] = [0.1, 0.05, 0.05, 0.8], [0.1, 0.8, 0.05, 0.05]
    found = shortlist(seen(tiles_p=p, given=UDH), TREE)
    assert 1 + found.signals["label"][1:].argmax() == tile(found, 5)
    words = found.words[tile(found, 5)]["label"]
    assert words.startswith("The slide is labelled Benign/UDH, but this tile looks like Malignant/IC (80%)")
    assert np.isnan(shortlist(seen(tiles_p=p), TREE).signals["label"][1:]).all()


def test_a_slides_label_that_the_model_finds_unlikely_is_doubted_until_a_person_confirms_it():
    about = {"fine": (0.05, 0.03, 0.02, 0.9), "given": N}
    found = shortlist(seen(**about), TREE)
    row = whole(found)
    assert found.signals["label"][row] == pytest.approx(0.95)
    assert found.words[row]["label"] == (
        "Nobody has confirmed the label Benign/N, to which the model gives 5%; it says Malignant/IC (90%)."
    )
    assert (found.node[row], found.said[row]) == (IC, 0)
    coarse = shortlist(seen(**about | {"given": TREE.node("Malignant")}), TREE)
    assert coarse.signals["label"][whole(coarse)] == pytest.approx(0.08)
    assert "it says" not in coarse.words[whole(coarse)]["label"]
    confirmed = shortlist(seen(**about, confirmed=True), TREE)
    assert (confirmed.said[whole(confirmed)], confirmed.stands_for[whole(confirmed)]) == (N, 1)


def test_the_tiles_of_a_slide_that_a_person_called_normal_are_known():
    found = shortlist(seen(given=N, confirmed=True), TREE)
    tiles = ~found.whole
    assert (found.said[tiles] == N).all()  # none is asked about, and others are compared with them
    assert found.stands_for[tiles].sum() == pytest.approx(40)
    for about in ({"given": N}, {"given": UDH, "confirmed": True}):
        assert not shortlist(seen(**about), TREE).said[1:].any()


def test_teacher_and_student_differ_by_doublings_of_their_places():
    attention, teacher = np.linspace(2, 1, 40), np.linspace(2, 1, 40).astype(np.float32)
    teacher[[0, 15]], teacher[[20, 39]] = teacher[[15, 0]], teacher[[39, 20]]
    found = shortlist(seen(attention=attention, teacher=teacher), TREE)
    moved = {i: found.signals["teacher"][tile(found, i)] for i in (0, 20)}
    assert moved[0] == pytest.approx(4)  # 1 → 16
    assert moved[20] == pytest.approx(np.log2(40 / 21))
    assert found.words[tile(found, 0)]["teacher"].endswith(
        "of 40 tiles the teacher puts this one in place 16, the student in place 1."
    )
    assert found.signals["teacher"][whole(found)] == pytest.approx(0.1)
    assert "10 top tiles 9 are" in found.words[whole(found)]["teacher"]
    assert np.isnan(shortlist(seen(), TREE).signals["teacher"]).all()


def test_coarse_and_fine_answers_that_contradict_each_other_are_told():
    apart = np.zeros(40, np.float32)
    apart[4] = 0.8
    about = {"coarse": (0.3, 0.7), "fine": (0.8, 0.1, 0.05, 0.05), "apart": apart}
    found = shortlist(seen(**about), TREE)
    assert found.signals["levels"][whole(found)] == pytest.approx(0.6)
    assert found.words[whole(found)]["levels"] == (
        "The coarse answer is Malignant (70%), the fine one adds up to Benign (90%)."
    )
    assert np.nanargmax(found.signals["levels"]) == tile(found, 4)
    assert "0.80 of 1" in found.words[tile(found, 4)]["levels"]
    assert np.isnan(shortlist(seen(), TREE).signals["levels"]).all()  # lifted by construction


def test_a_shortlist_is_short_and_the_same_for_a_seed():
    rng = np.random.default_rng(1)
    n = 5000
    p = rng.dirichlet(np.ones(4), n)
    slide = seen(n=n, tiles_p=p, attention=rng.random(n), given=UDH, teacher=rng.random(n).astype(np.float32))
    one, again, other = (shortlist(slide, TREE, seed=s) for s in (0, 0, 1))
    assert len(one) <= 1 + len(OWN) * HIGHEST + SPREAD + 4 * DRAWN
    np.testing.assert_array_equal(one.cells, again.cells)
    assert one.words == again.words
    assert not np.array_equal(one.cells, other.cells)
    assert {TREE.path(int(node)) for node in one.node[one.drawn & ~one.whole]} == {
        TREE.path(leaf) for leaf in TREE.leaves
    }


def test_labelled_tiles_stand_for_all_of_their_label_and_are_not_asked_about():
    tiles = np.zeros(400, np.int32)
    tiles[:100], tiles[100:103] = IC, N
    found = shortlist(seen(n=400, tiles=tiles), TREE)
    known = found.said > 0
    assert known.sum() == LABELLED + 3
    np.testing.assert_allclose(np.bincount(found.said, found.stands_for)[[N, IC]], [3, 100])
    rows, cols = found.cells[~known & ~found.whole].T
    assert (tiles[rows * 10 + cols] == 0).all()


def test_what_was_set_aside_is_not_asked_about():
    attention = np.ones(40)
    attention[11] = 39
    found = shortlist(seen(attention=attention, aside=frozenset({(1, 1), WHOLE})), TREE)
    assert not found.whole.any()
    assert (1, 1) not in {tuple(c) for c in found.cells.tolist()}


def test_an_answer_that_does_not_fit_or_is_a_risk_is_refused_with_a_sentence():
    said = answer("s", np.ones((40, 4)), np.ones(40))
    bag = Bag("s", grid(40), np.zeros((40, 3), np.float32), "made up")
    with pytest.raises(BagError, match=r"has 40 tiles, but maps or labels of \[7, 40\]; run the model on it"):
        Seen(said, bag, np.zeros(7, np.int32))
    risk = Prediction("s", said.grid_id, "m", "slide", (), said.maps, hazards=np.array([0.1, 0.2]))
    with pytest.raises(ModelError, match="answers with a risk"):
        shortlist(Seen(risk, bag, np.zeros(40, np.int32)), TREE)


def test_places_come_back_from_their_arrays_and_of_several_slides():
    one, two = (shortlist(seen(f"s{i}", given=UDH, seed=i), TREE) for i in range(2))
    back = Places.from_arrays(one.to_arrays())
    assert (back.slides, back.words) == (one.slides, one.words)
    for name, values in one.to_arrays().items():
        np.testing.assert_array_equal(back.to_arrays()[name], values)
    both = Places.join([one, two])
    assert len(both) == len(one) + len(two)
    assert both.take(both.whole).slides == ("s0", "s1")
    assert Places.join([one]).take(np.zeros(len(one), bool)).slides == ()


def test_places_of_a_score_and_their_fusion():
    assert places_of(np.array([0.1, 0.9, 0.9, 0.0])).tolist() == [3, 1, 2, 4]
    signals = np.array([[3, np.nan], [2, 5], [2, 7], [1, 6]], float)
    np.testing.assert_allclose(
        fused(signals, [1, 2], constant=9), [1 / 10, 1 / 11 + 2 / 12, 1 / 11 + 2 / 10, 1 / 13 + 2 / 11]
    )


def test_distances_in_chunks_are_those_of_every_pair():
    rng = np.random.default_rng(0)
    x, to = rng.normal(size=(50, 8)), rng.normal(size=(30, 8))
    every = ((x[:, None] - to[None]) ** 2).sum(-1).min(1)
    np.testing.assert_allclose(squared_distances(x, to, rows=7), every)
    assert np.isposinf(squared_distances(x, to[:0])).all()


@pytest.mark.parametrize("width", [5, 60])
def test_what_is_said_of_a_row_without_it_is_what_ridge_regression_says_fold_by_fold(width):
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 3, 40)
    x = rng.normal(size=(40, width)) + classes[:, None]
    z = (x - x.mean(0)) / x.std(0)
    y = np.eye(3)[classes]
    model = Ridge(alpha=2.0 * x.shape[1], fit_intercept=True)
    mine = left_out(x, classes, 3, ridge=2.0)
    theirs = np.clip(cross_val_predict(model, z, y, cv=LeaveOneOut()), 0, 1)
    np.testing.assert_allclose(mine, theirs, atol=1e-6)
    assert (mine.argmax(1) == classes).mean() > 0.6
