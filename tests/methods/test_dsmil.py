"""DSMIL stand-alone: the bag answers, the highest tiles are trained beside it."""

import numpy as np
import pytest
import torch
from closed_form import bag, dsmil_shapes, fill

from napari_mil import methods
from napari_mil.correction import Target
from napari_mil.errors import ModelError
from napari_mil.labeltree import LabelTree

D = 5
TREE = LabelTree.from_paths(["x/a", "x/b", "y/c"])


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def make(**config):
    given = {"hidden": 16, "attention_width": 8, "dropout": 0.0, **config}
    return methods.create("dsmil", given, in_features=D, tree=TREE)


def features(n, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, D)).astype(np.float32))


def published():
    model = methods.create("dsmil", in_features=1024, tree=LabelTree.from_paths(["a", "b"]))
    model.load_state_dict(fill(dsmil_shapes()))
    return model.eval()


def test_the_keys_are_the_published_ones_and_the_answer_that_of_the_formulas():
    w = {k: v.double() for k, v in fill(dsmil_shapes()).items()}
    x = bag(50, 1024, 0)

    def layer(key, h):
        return h @ w[f"{key}.weight"].T + w[f"{key}.bias"]

    h = torch.nn.functional.gelu(layer("feature.0", x.double()))
    c, v = layer("i_classifier", h), torch.relu(layer("b_classifier.v.1", h))
    q = torch.tanh(layer("b_classifier.q.2", torch.relu(layer("b_classifier.q.0", h))))
    a = torch.softmax(q @ q[c.argmax(0)].T / 128**0.5, 0)
    logits = torch.einsum("jkd,ik,id->j", w["b_classifier.fcc.weight"], a, v) + w["b_classifier.fcc.bias"]
    out = published()(x)
    assert torch.allclose(out.logits[0].double(), logits, atol=1e-5)
    assert torch.allclose(out.tile_logits.double(), c, atol=1e-5)
    assert torch.allclose(out.attention.double(), a, atol=1e-6)
    assert torch.allclose(out.embedding.double(), (a.T @ v).flatten(), atol=1e-5)


def test_parameters_are_those_of_the_encoder_without_a_predictor():
    assert sum(p.numel() for p in published().parameters()) == 873_734 - 1026


def test_the_loss_is_shared_between_bag_and_highest_tiles():
    model, x = make(bag_weight=2.0, instance_weight=0.25), features(20)
    losses = model.loss([(x, None, Target(slide=TREE.node("b")))], 0.0)
    out = model(x)
    bag_loss = -torch.log_softmax(out.logits[-1], 0)[1]
    highest = -torch.log_softmax(out.tile_logits.max(0).values, 0)[1]
    assert losses["slide"].item() == pytest.approx(2 * bag_loss.item(), abs=1e-5)
    assert losses["highest_tile"].item() == pytest.approx(0.25 * highest.item(), abs=1e-5)


def test_both_halves_weigh_the_same_unless_asked():
    config = methods.get("dsmil").Config()
    assert (config.bag_weight, config.instance_weight) == (0.5, 0.5)


def test_inner_labels_reach_both_halves():
    losses = make().loss([(features(20), None, Target(slide=TREE.node("x")))], 0.0)
    assert set(losses) == {"slide", "highest_tile"}
    assert make().loss([(features(20), None, Target())], 0.0) == {}


def test_without_its_half_the_classifier_of_tiles_learns_nothing():
    model = make(instance_weight=0.0)
    losses = model.loss([(features(20), None, Target(slide=TREE.leaves[0]))], 0.0)
    assert set(losses) == {"slide"}
    losses["slide"].backward()
    assert model.i_classifier.weight.grad is None
    with pytest.raises(ModelError, match="bag_weight is 0"):
        make(bag_weight=0.0)


@pytest.mark.parametrize("n", [1, 2, 7])
def test_small_bags_are_learned_from(n):
    model = make(dropout=0.25).train()
    sum(model.loss([(features(n), None, Target(slide=TREE.leaves[0]))], 0.0).values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
