"""What is of a wrong type is refused by one sentence of ours, as what is of a wrong value is."""

import numpy as np
import pytest

import napari_mil
from napari_mil import masks, methods
from napari_mil.bag import Bag
from napari_mil.errors import BagError, LabelError, ModelError, SlideError
from napari_mil.grid import TileGrid
from napari_mil.labeltree import LabelTree
from napari_mil.methods import official

TREE = LabelTree.from_paths(["a", "b"])
GRID = TileGrid.full((4 * 64, 4 * 64), None, tile_px=64, mpp=None)
BAG = Bag("s", GRID, np.zeros((16, 5), np.float32), "e")


@pytest.mark.parametrize(
    ("about", "said"),
    [
        ({"name": ["abmil"]}, r"There is no method \['abmil'\]; there are abmil"),
        ({"name": None}, "There is no method None; there are abmil"),
        ({"in_features": "5"}, "in_features is '5'; it must be a whole number"),
        ({"in_features": 5.5}, "in_features is 5.5; it must be a whole number"),
        ({"in_features": True}, "in_features is True; it must be a whole number"),
        ({"tree": None}, "tree is None; it must be a LabelTree"),
        ({"tree": ["a", "b"]}, "it must be a LabelTree"),
    ],
)
def test_a_method_is_made_of_a_name_a_width_and_a_tree(about, said):
    with pytest.raises(ModelError, match=said):
        methods.create(**({"name": "abmil", "in_features": 5, "tree": TREE} | about))
    assert methods.create("abmil", in_features=np.int64(5), tree=TREE)


@pytest.mark.parametrize("source", [None, 3, [1], b"a.pt"])
def test_a_checkpoint_is_a_path_or_a_state_dict(source):
    with pytest.raises(ModelError, match="it must be a path or a state dict"):
        official.load(source)


@pytest.mark.parametrize(
    ("about", "error", "said"),
    [
        ({"tree": ["a", "b"]}, ModelError, "it must be a LabelTree, or None"),
        ({"tree": TREE, "classes": 3}, LabelError, "classes of the checkpoint is 3; it must be a list"),
        ({"tree": TREE, "classes": "ab"}, LabelError, "it must be a list of the tree's leaves"),
    ],
)
def test_the_classes_of_a_checkpoint_are_a_tree_and_a_list(about, error, said):
    weights = official.dump(methods.create("abmil", in_features=5, tree=TREE))
    with pytest.raises(error, match=said):
        official.load(weights, **about)


@pytest.mark.parametrize(
    ("about", "error", "said"),
    [
        ({"model": None}, ModelError, "The model is None; it must be an mhim model"),
        ({"bag": None}, BagError, "The bag is None; it must be a Bag"),
        ({"bag": BAG.features}, BagError, "it must be a Bag of features"),
        ({"mask_ratio": "x"}, ModelError, "mask_ratio is 'x'; it must be a number"),
        ({"keep_ratio": [1]}, ModelError, "keep_ratio is .*; it must be a number"),
        ({"draws": 1.5}, ModelError, "draws is 1.5; it must be a whole number"),
        ({"seed": None}, ModelError, "seed is None; it must be a whole number"),
        ({"progress": "x"}, ModelError, "progress is 'x'; it must be a number"),
        ({"mode": "oficial"}, ModelError, "mode is 'oficial'; it must be one of 'clean', 'official', None"),
        ({"mode": 3}, ModelError, "mode is 3; it must be one of"),
    ],
)
def test_masks_are_simulated_of_a_model_and_a_bag_by_numbers(about, error, said):
    model = methods.create("mhim", {"hidden": 16}, in_features=5, tree=TREE)
    with pytest.raises(error, match=said):
        masks.simulate(**({"model": model, "bag": BAG} | about))


@pytest.mark.parametrize("path", [None, 3, b"a.tif", ["a.tif"], ""])
def test_a_slide_is_a_path_or_an_address(path):
    with pytest.raises(SlideError, match="a path or an address"):
        napari_mil.open_slide(path)


@pytest.mark.parametrize("mpp", ["x", (1, 2, 3), {}])
def test_a_pixel_size_is_a_number_or_two(tmp_path, mpp):
    with pytest.raises(SlideError, match=r"is no number of µm; give µm per pixel, one number or \(y, x\)"):
        napari_mil.open_slide(tmp_path / "a.tif", mpp=mpp)
