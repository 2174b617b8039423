"""The order of the queue: every criterion finds what it is for, and says so."""

import numpy as np
import pytest
from asked import DCIS, IC, TREE, UDH, N, seen

from napari_mil.errors import LabelError
from napari_mil.review import CRITERIA, Places, queue, shortlist, thinned


def listed(*slides):
    return Places.join([shortlist(one, TREE) for one in slides])


def ask(places, n=5, **about):
    return queue(places, TREE, n, **about)


def slides_of(kinds, rng, **about):
    """Slides whose tiles lie where their kind lies, called rightly but for those in `wrong`."""
    wrong = about.pop("wrong", ())
    made = []
    for i, kind in enumerate(kinds):
        features = rng.normal(size=(40, 6)) + (3 if kind == IC else 0)
        given = {IC: N, N: IC}[kind] if i in wrong else kind
        fine = (
            (0.05, 0.0, 0.0, 0.95) if given == IC else (0.95, 0.0, 0.0, 0.05)
        )  # the model has learned the label
        made.append(seen(f"s{i:02d}", features=features, given=given, fine=fine, seed=i, **about))
    return made


def test_slides_and_tiles_come_by_turns_until_there_are_no_more():
    found = ask(listed(seen("a"), seen("b", seed=1)), 6)
    assert [item.cell is None for item in found] == [True, False, True, False, False, False]
    assert len({(i.slide_id, i.cell) for i in found}) == 6
    only = listed(seen("a")).take(np.array([0]))
    assert len(ask(only, 6)) == 1


def test_a_wrong_label_that_the_model_has_learned_is_found_by_the_other_slides():
    rng = np.random.default_rng(0)
    places = listed(*slides_of([IC, N] * 15, rng, wrong={4, 11}))
    first = ask(places.take(places.whole), 2, random_share=0)
    assert {i.slide_id for i in first} == {"s04", "s11"}
    assert first[0].why[0][0] == "alike"
    assert "by the other 29 labelled slides alone, its label" in first[0].reason
    few = places.take(places.whole).take(np.arange(6))
    assert all(name != "alike" for item in ask(few, 6) for name, _ in item.why)


def test_a_tile_unlike_all_of_normal_slides_is_new_and_one_like_theirs_is_not():
    rng = np.random.default_rng(0)
    odd = rng.normal(size=(40, 6))
    odd[::2, 0] += 8  # half of them lie where tiles of no normal slide lie
    normal = [
        seen(f"n{i}", features=rng.normal(size=(40, 6)), given=N, confirmed=True, seed=i) for i in range(3)
    ]
    places = listed(*normal, seen("s", features=odd, given=IC, confirmed=True, seed=9))
    asked = ask(places.take(~places.whole), 8, criteria=["far"])
    rows = {tuple(cell): i for i, cell in enumerate(seen("s", features=odd).bag.grid.cells.tolist())}
    assert {i.slide_id for i in asked} == {"s"}
    assert [rows[i.cell] % 2 for i in asked] == [0] * 8


def test_a_rare_label_is_not_doubted_because_it_is_rare():
    rng = np.random.default_rng(0)
    places = listed(*slides_of([IC] * 12 + [N] * 3, rng))
    asked = ask(places.take(places.whole), 15, criteria=["alike"])
    doubted = {i.slide_id for i in asked if i.why}
    assert doubted == {f"s{i:02d}" for i in range(12)}


def test_a_coarse_label_agrees_with_a_finer_one_of_slides_that_look_alike():
    rng = np.random.default_rng(0)
    slides = slides_of([IC, N] * 15, rng)
    coarse = seen("c", features=rng.normal(size=(40, 6)) + 3, given=TREE.node("Malignant"), seed=9)
    other = seen("d", features=rng.normal(size=(40, 6)) + 3, given=TREE.node("Benign"), seed=9)
    places = listed(*slides, coarse, other)
    first = ask(places.take(places.whole), 1, criteria=["alike"])
    assert first[0].slide_id == "d"


def test_what_is_unlike_all_labels_comes_first_and_then_what_is_unlike_that():
    features = np.zeros((40, 6), np.float32)
    features[:, 0] = np.linspace(0, 1, 40)
    features[20], features[30] = 9, -5
    tiles = np.zeros(40, np.int32)
    tiles[0] = N
    places = listed(seen(features=features, tiles=tiles))
    found = ask(places.take(~places.whole), 3, criteria=["far"])
    assert [i.cell for i in found[:2]] == [(2, 0), (3, 0)]
    assert "times the median distance to the nearest label" in found[0].reason
    nothing = listed(seen(features=features))
    assert "Nothing was labelled yet" in ask(nothing.take(~nothing.whole), 1, criteria=["far"])[0].reason


def test_a_share_is_drawn_of_the_class_with_the_fewest_labels_so_that_none_starves():
    p = np.tile([0.97, 0.01, 0.01, 0.01], (40, 1))
    p[:2], p[2:4] = [0.1, 0.1, 0.7, 0.1], [0.1, 0.7, 0.1, 0.1]
    tiles = np.zeros(40, np.int32)
    tiles[10:14], tiles[20] = N, UDH
    places = listed(seen(tiles_p=p, tiles=tiles))
    places = places.take(~places.whole)
    found = ask(places, 3, criteria=["random"])
    assert [i.node for i in found] == [DCIS, DCIS, UDH] or [i.node for i in found] == [DCIS, UDH, DCIS]
    assert found[0].reason == (
        "Drawn at random among the tiles that look like Malignant/DCIS to the model; 0 are labelled so yet."
    )
    mixed = ask(places, 10, random_share=0.3)
    assert sum(i.why[0][0] == "random" for i in mixed) == 3
    assert not any(i.why[0][0] == "random" for i in ask(places, 10, random_share=0))


def test_two_criteria_that_agree_outweigh_one():
    p = np.tile([0.97, 0.01, 0.01, 0.01], (40, 1))
    p[8] = p[9] = [0.4, 0.1, 0.1, 0.4]
    attention = np.ones(40)
    attention[9] = 3
    found = ask(listed(seen(tiles_p=p, attention=attention)), 2, criteria=["unsure", "rests"])
    item = next(i for i in found if i.cell is not None)
    assert item.cell == (0, 9)
    assert [name for name, _ in item.why] == ["rests", "unsure"]
    assert item.reason == " ".join(words for _, words in item.why)


def test_the_order_is_the_same_for_a_seed_and_every_item_has_a_reason():
    rng = np.random.default_rng(3)
    places = listed(*slides_of([IC, N, N] * 4, rng, teacher=rng.random(40).astype(np.float32)))
    one, again = ask(places, 30, seed=1), ask(places, 30, seed=1)
    assert one == again
    assert ask(places, 30, seed=2) != one
    assert all(item.reason.endswith(".") and item.node in TREE.leaves for item in one)
    assert {name for item in one for name, _ in item.why} <= set(CRITERIA)


def test_labelled_places_are_never_asked_about():
    tiles = np.full(40, IC, np.int32)
    tiles[3] = 0
    found = ask(listed(seen(tiles=tiles, given=IC, confirmed=True)), 10)
    assert [item.cell for item in found] == [(0, 3)]


def test_a_criterion_that_there_is_not_is_refused():
    with pytest.raises(LabelError, match=r"'luck' is no criterion of the queue; there are label, alike"):
        ask(listed(seen()), criteria=["luck"])
    with pytest.raises(LabelError, match="No criterion is given"):
        ask(listed(seen()), criteria=[])


def test_shortlists_of_thousands_of_slides_are_thinned_to_the_best_and_stand_for_the_rest():
    rng = np.random.default_rng(0)
    tiles = np.zeros(2000, np.int32)
    tiles[:40], tiles[40:43] = IC, UDH
    attention = rng.random(2000)
    attention[1500] = 50
    places = shortlist(
        seen(n=2000, tiles=tiles, attention=attention, tiles_p=rng.dirichlet([1] * 4, 2000)), TREE
    )
    few = thinned(places, 8)
    assert few.whole.sum() == 1
    assert ((few.said == 0) & ~few.whole).sum() == 8
    assert (150, 0) in {tuple(cell) for cell in few.cells.tolist()}
    assert few.drawn[~few.whole].sum() == 2
    known = few.said > 0
    assert sorted(few.said[known].tolist()) == [UDH, IC]
    np.testing.assert_allclose(few.stands_for[known], np.where(few.said[known] == IC, 40, 3))
    assert len(thinned(places, 10_000)) == len(places)
