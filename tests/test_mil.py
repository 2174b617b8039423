"""The contract's shared parts: labels at any node, lifted answers, names of maps."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_mil import methods
from napari_mil.correction import Target
from napari_mil.labeltree import LabelTree, class_names, level_names
from napari_mil.mil import answering, total

TREE = LabelTree.from_paths(["x/B/N", "x/B/UDH", "y/M/DCIS", "y/M/IC", "y/A/FEA"])
MODEL = methods.create("mean", {"hidden": 8}, in_features=3, tree=TREE)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, len(TREE) - 1), st.integers(0, 2))
def test_the_loss_of_a_label_is_the_probability_under_its_node(seed, node, level):
    logits = torch.randn(1, len(TREE.nodes_at(level)), generator=torch.Generator().manual_seed(seed)) * 5
    p = torch.softmax(logits[0], 0).double()
    own = TREE.level_of(node)
    if own >= level:
        expected = p[TREE.class_index(node, level)]
    else:
        under = [k for k, top in enumerate(TREE.nodes_at(level)) if node in TREE.ancestors(top)]
        expected = p[under].sum()
    assert MODEL.node_nll(logits, [node], level=level).item() == pytest.approx(
        -expected.log().item(), abs=1e-4
    )


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_lifted_answers_are_the_sums_of_the_leaves(seed):
    logits = torch.randn(5, generator=torch.Generator().manual_seed(seed)) * 30
    levels = MODEL.lifted(logits)
    fine = torch.softmax(logits, 0).numpy()
    assert [len(x) for x in levels] == [2, 3, 5]
    for level, found in enumerate(levels):
        assert torch.softmax(found, 0).numpy() == pytest.approx(TREE.lift(fine, level), abs=1e-5)


def test_extreme_logits_keep_finite_losses_and_gradients():
    logits = torch.tensor([[200.0, -200.0, -200.0, -200.0, -200.0]], requires_grad=True)
    loss = MODEL.node_nll(logits, [TREE.node("y")])
    assert loss.item() == pytest.approx(400 - np.log(3), abs=1e-3)
    loss.sum().backward()
    assert torch.isfinite(logits.grad).all()


def test_names_of_maps():
    assert level_names(TREE) == ("level1", "level2", "level3")
    assert level_names(LabelTree.from_paths(["a", "b"])) == ("fine",)
    twice = LabelTree.from_paths(["lung/other", "colon/other", "colon/adenoma"])
    assert class_names(twice, 1) == ("lung/other", "colon/other", "adenoma")
    assert level_names(twice) == ("coarse", "fine")
    assert set(MODEL.named("evidence", torch.zeros(4, 5))) == {
        f"evidence/level3/{c}" for c in ("N", "UDH", "DCIS", "IC", "FEA")
    }


def test_nothing_to_learn_from_has_no_total():
    x = torch.zeros(4, 3)
    assert MODEL.loss([(x, None, Target())], 0.0) == {}
    assert total({}) is None
    losses = MODEL.loss([(x, None, Target(slide=TREE.leaves[0]))], 0.0)
    assert total(losses).item() == pytest.approx(losses["slide"].item())


def test_tile_labels_of_several_bags_are_pooled_by_node():
    model = methods.create("mean", {"hidden": 8, "dropout": 0.0}, in_features=3, tree=TREE)
    bags = [torch.randn(4, 3), torch.randn(3, 3), torch.randn(5, 3)]
    N, UDH = TREE.leaves[:2]
    labels = [np.array([N, N, 0, 0]), np.array([0, N, UDH]), None]
    examples = [
        (x, None, Target(tiles=None if y is None else y.astype(np.int32)))
        for x, y in zip(bags, labels, strict=True)
    ]
    logp = [torch.log_softmax(model(x).tile_logits, 1) for x in bags]
    of_n = torch.stack([logp[0][0, 0], logp[0][1, 0], logp[1][1, 0]])
    expected = -(of_n.mean() + logp[1][2, 1]) / 2
    assert model.loss(examples, 0.0)["tiles"].item() == pytest.approx(expected.item(), abs=1e-5)


def test_answering_restores_the_mode():
    for was in (True, False):
        MODEL.train(was)
        with answering(MODEL) as model:
            assert not model.training
        assert MODEL.training is was


def test_the_model_s_state_holds_nothing_of_the_tree():
    assert set(MODEL.state_dict()) == {"head.0.weight", "head.0.bias", "head.3.weight", "head.3.bias"}
