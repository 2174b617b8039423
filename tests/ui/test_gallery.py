"""The tiles that a map speaks of most."""

from __future__ import annotations

import numpy as np

from napari_mil.prediction import TileMap
from napari_mil.ui.gallery import MOST, title, top_tiles


def score(values, name="attention"):
    return TileMap(name, "score", np.array(values))


def test_of_a_score_the_highest_come_first_and_nothing_unknown():
    assert top_tiles(score([0.1, np.nan, 0.9, 0.5])).tolist() == [2, 3, 0]
    assert len(top_tiles(score(np.arange(50.0)))) == MOST
    assert title(score([1.0]), 1) == "Highest of <b>Attention</b>"


def test_of_a_class_map_called_tiles_come_in_the_order_of_attention():
    called = TileMap("class/fine", "nodes", np.array([0, 3, 5, 5]))
    assert top_tiles(called, score([0.9, 0.1, 0.2, 0.3])).tolist() == [3, 2, 1]
    assert top_tiles(called).tolist() == [1, 2, 3]
    nothing = TileMap("class/fine", "nodes", np.zeros(4))
    assert top_tiles(nothing).tolist() == []
    assert "no tiles" in title(nothing, 0)


def test_of_roles_the_hidden_ones_are_shown():
    roles = TileMap("hidden tiles (MHIM)", "groups", np.array([0, 1, 2, 1]), legend={1: "hidden"})
    assert top_tiles(roles, score([0.9, 0.1, 0.2, 0.3])).tolist() == [3, 1]
    assert "those hidden" in title(roles, 2)
