"""Bag, prediction, card, options, steps."""

import dataclasses
import json
import re

import numpy as np
import pytest

from napari_mil.bag import Bag
from napari_mil.card import ModelCard, Recipe
from napari_mil.errors import BagError, LabelError, ModelError
from napari_mil.grid import TileGrid
from napari_mil.labeltree import LabelTree
from napari_mil.options import build
from napari_mil.prediction import Prediction, TileMap
from napari_mil.steps import Progress, drain

TREE = LabelTree.from_paths(["Benign/N", "Malignant/IC"], normal=["Benign/N"])
GRID = TileGrid.full((1024, 1024), (0.5, 0.5), tile_px=256, mpp=0.5)


def a_card(**changes):
    card = ModelCard("m", "mhim-1", "mhim", {"mask_ratio": 0.03}, "builtin-1", 4, 256, 0.5, TREE)
    return dataclasses.replace(card, **changes)


def a_bag(width=4, encoder="builtin-1", grid=GRID):
    return Bag("s", grid, np.zeros((len(grid), width), np.float16), encoder)


def test_a_bag_has_one_vector_per_tile():
    with pytest.raises(ValueError, match="features has shape"):
        Bag("s", GRID, np.zeros((3, 4), np.float32), "builtin-1")
    with pytest.raises(BagError, match="float64"):
        Bag("s", GRID, np.zeros((len(GRID), 4)), "builtin-1")
    assert a_bag().crop((0, 0, 10, 300)).grid.cells.tolist() == [[0, 0], [0, 1]]


@pytest.mark.parametrize(
    ("bag", "said"),
    [
        (a_bag(encoder="uni"), "embed the slide again"),
        (a_bag(width=5), "5"),
        (a_bag(grid=TileGrid.full((1024, 1024), (0.5, 0.5), tile_px=256, mpp=1.0)), "tile the slide again"),
        (a_bag(grid=GRID.with_cells(np.empty((0, 2)))), "no tissue"),
    ],
)
def test_a_card_says_why_a_model_may_not_run(bag, said):
    assert said in a_card().why_not(bag)
    with pytest.raises(ModelError, match=said):
        a_card().check(bag)


def test_models_of_slides_and_of_photographs_are_told_apart():
    photographs = a_bag(encoder="builtin-1+photograph")
    assert "was trained on slides, and these are photographs" in a_card().why_not(photographs)
    card = a_card(encoder="builtin-1+photograph")
    assert card.why_not(photographs) is None
    assert "was trained on photographs, and this is a slide" in card.why_not(a_bag())
    assert "embed the slide again" in card.why_not(a_bag(encoder="builtin-2"))


def test_a_card_that_fits_says_nothing():
    assert a_card().why_not(a_bag()) is None


def test_card_round_trip():
    card = a_card(slides={"train": ("a", "b")}, metrics={"auc": [0.9, 0.8, 0.95]}, recipe=Recipe(seed=3))
    again = ModelCard.from_json(card.to_json())
    assert again.to_json() == card.to_json()
    assert again.tree == TREE
    with pytest.raises(ModelError, match="no model card"):
        ModelCard.from_json("{}")


def test_an_unknown_option_names_the_known_ones():
    with pytest.raises(ModelError, match=r"no option 'lrr' \(perhaps 'lr' is meant\); .*epochs.*\.$"):
        build(Recipe, {"lrr": 1}, "recipe")
    with pytest.raises(ModelError, match=r"epochs is 0; it must lie in \[1, 1000\]"):
        build(Recipe, {"epochs": 0}, "recipe")
    assert build(Recipe, {"epochs": 3}, "recipe").epochs == 3


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ({"epochs": 1.5}, "epochs is 1.5; it must be a whole number"),
        ({"epochs": True}, "epochs is True; it must be a whole number"),
        ({"lr": "fast"}, "lr is 'fast'; it must be a number"),
        ({"lr": float("nan")}, "lr is nan; it must lie in"),
        ({"class_weights": [1]}, "class_weights is [1]; it must be true or false"),
    ],
)
def test_an_option_of_a_wrong_type_is_refused(option, says):
    with pytest.raises(ModelError, match=re.escape(says)):
        build(Recipe, option, "recipe")
    assert build(Recipe, {"lr": 1, "epochs": np.int64(3)}, "recipe").epochs == 3


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", 7), ("tile_px", "\0"), ("in_features", 0), ("mpp", float("nan")), ("temperature", {}),
        ("parent", []), ("slides", {"train": [None]}), ("calibrated", "yes"), ("assumed", [1]),
        ("config", []),
    ],
)  # fmt: skip
def test_a_card_with_a_field_of_a_wrong_kind_is_none(field, value):
    card = json.loads(a_card().to_json()) | {field: value}
    with pytest.raises(ModelError, match=f"no model card: its {field} is"):
        ModelCard.from_json(json.dumps(card))


@pytest.mark.parametrize("text", ["[" * 100_000, '{"tree": []}', "7"])
def test_what_is_no_card_or_tree_at_all_is_one_sentence(text):
    with pytest.raises(ModelError, match="no model card"):
        ModelCard.from_json(text)
    with pytest.raises(LabelError, match="no label tree"):
        LabelTree.from_json(text)


def test_a_prediction_keeps_its_maps_in_step():
    one, two = TileMap("attention", "score", np.ones(3)), TileMap("hidden", "mask", np.ones(2))
    with pytest.raises(BagError, match="different lengths"):
        Prediction("s", "g", "m", "slide", (), (one, two))
    said = Prediction("s", "g", "m", "slide", (np.array([0.2, 0.8]),) * 2, (one,))
    assert said.best(TREE) == ((2, pytest.approx(0.8)), (4, pytest.approx(0.8)))
    with pytest.raises(KeyError, match="attention"):
        said.map("clusters")


def test_drain_returns_the_result_and_closes_when_the_caller_fails():
    closed = []

    def steps():
        try:
            yield Progress("a", 1, 2)
            yield Progress("a", 2, 2)
        finally:
            closed.append(True)
        return 5

    seen = []
    assert drain(steps(), seen.append) == 5
    assert [p.done for p in seen] == [1, 2]

    def fail(_):
        raise LabelError("stop")

    with pytest.raises(LabelError):
        drain(steps(), fail)
    assert len(closed) == 2
