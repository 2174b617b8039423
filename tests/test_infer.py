from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from planted import FLAT, TREE, bag, cohort

from napari_mil import methods
from napari_mil.bag import Bag
from napari_mil.errors import BagError, DeviceError, ModelError
from napari_mil.infer import answer, call, lesion, predict, said_at, tempered
from napari_mil.labeltree import LabelTree
from napari_mil.methods.hmil import HMIL
from napari_mil.methods.hmil.config import HMILConfig
from napari_mil.mil import total

ON_DSMIL = pytest.param(("mhim", {"encoder": "dsmil"}), id="mhim-dsmil")


@pytest.fixture(
    scope="module", params=[*(pytest.param((name, {}), id=name) for name in methods.names()), ON_DSMIL]
)
def model(request):
    torch.manual_seed(0)
    return methods.create(*request.param, in_features=24, tree=TREE)


@pytest.fixture(scope="module")
def one():
    return bag(TREE.node("IC"), seed=3)[0]


def test_every_method_makes_the_promised_maps(model, one):
    said = predict(model, one, model_id="m")
    names = [m.name for m in said.maps]
    assert len(names) == len(set(names))
    wanted = {"attention", "lesion", "class/coarse", "class/fine"}
    wanted |= {f"class/{level} without the slide's answer" for level in ("coarse", "fine")}
    wanted |= {f"probability/fine/{TREE.names[leaf]}" for leaf in TREE.leaves}
    wanted |= {f"probability/coarse/{TREE.names[node]}" for node in TREE.nodes_at(0)}
    assert wanted <= set(names)
    assert (said.slide_id, said.grid_id, said.scope) == (one.slide_id, one.grid.id, "slide")
    for p in said.probabilities:
        assert p.sum() == pytest.approx(1, abs=1e-5)


def test_maps_agree_with_each_other(model, one):
    said = predict(model, one, model_id="m")
    fine = np.stack([said.map(f"probability/fine/{TREE.names[leaf]}").values for leaf in TREE.leaves], 1)
    coarse = np.stack([said.map(f"probability/coarse/{TREE.names[n]}").values for n in TREE.nodes_at(0)], 1)
    np.testing.assert_allclose(TREE.lift(fine, 0), coarse, atol=1e-6)
    assert said.map("attention").values.sum() == pytest.approx(1, abs=1e-4)
    for level, name in enumerate(("coarse", "fine")):
        careful = said.map(f"class/{name}").values
        bold = said.map(f"class/{name} without the slide's answer").values
        assert set(careful.tolist()) <= {0, *TREE.nodes_at(level)}
        assert ((careful == 0) | (careful == bold)).all()  # the slide's answer can only withdraw a call


def test_only_a_head_of_its_own_contradicts_the_fine_answer(model):
    found = set()
    for seed in range(8):
        said = predict(model, bag(TREE.node("IC"), seed=seed)[0], model_id="m", temperature=3.0)
        own, sums = (int(np.argmax(p)) for p in (said.probabilities[0], TREE.lift(said.probabilities[1], 0)))
        nodes = TREE.nodes_at(0)
        apart = model.name == "hmil" and own != sums
        assert said.heads_apart(TREE) == ((nodes[own], nodes[sums]) if apart else None)
        found.add(apart)
    assert model.name != "hmil" or True in found


def test_a_method_of_two_heads_need_not_tell_where_tiles_contradict_each_other():
    class Plain(HMIL):
        def forward(self, features, cells=None):
            out = super().forward(features, cells)
            return dataclasses.replace(out, maps={})

    torch.manual_seed(0)
    one, _ = bag(TREE.node("IC"), seed=1)
    kept = Plain(HMILConfig(hidden=64), one.width, TREE)
    lifted = methods.create("abmil", {"hidden": 32}, in_features=one.width, tree=TREE)
    for model, heads in ((kept, True), (lifted, False)):
        said = predict(model, one, model_id="m", temperature=2.0)
        assert not any(m.name == "disagreement" for m in said.maps)
        assert said.has_heads == heads


def test_asking_leaves_the_model_as_it_was(model, one):
    model.train()
    before = [p.clone() for p in model.parameters()]
    first = answer(model, one.features)
    second = answer(model, torch.tensor(one.features), torch.tensor(one.grid.cells))
    assert model.training
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    np.testing.assert_allclose(first.tile_probability, second.tile_probability, atol=1e-6)
    model.eval()


def test_a_region_says_so_on_every_map(model, one):
    part = one.crop((0, 0, 512, 2560))
    said = predict(model, part, model_id="m", scope="region")
    assert said.scope == "region"
    assert all("this region only" in m.note for m in said.maps)


def test_temperature_softens_the_slide_and_keeps_the_order(model, one):
    sharp, soft = (predict(model, one, model_id="m", temperature=t) for t in (1.0, 4.0))
    assert soft.probabilities[-1].max() <= sharp.probabilities[-1].max()
    assert soft.best(TREE)[-1][0] == sharp.best(TREE)[-1][0]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_at_any_temperature_a_group_has_what_its_leaves_have_together(model, one, temperature):
    plain = answer(model, one.features).probabilities
    coarse, fine = answer(model, one.features, temperature=temperature).probabilities
    np.testing.assert_allclose(fine, tempered(plain[-1], temperature), atol=1e-6)
    expected = TREE.lift(fine, 0)
    if model.name == "hmil":  # it has a head for the groups
        expected = tempered(plain[0], temperature)
        assert np.abs(coarse - TREE.lift(fine, 0)).max() > 1e-3
    np.testing.assert_allclose(coarse, expected, atol=1e-6)


def test_a_level_above_a_head_of_its_own_is_the_sum_of_that_head():
    tree = LabelTree.from_paths(["A/a/1", "A/a/2", "A/b/3", "B/c/4"])
    fine, middle = np.array([0.4, 0.3, 0.2, 0.1]), np.array([0.5, 0.1, 0.4])
    top, groups, leaves = said_at([np.array([0.6, 0.4]), middle, fine], tree, 2.0)
    np.testing.assert_allclose(leaves, np.sqrt(fine) / np.sqrt(fine).sum())
    np.testing.assert_allclose(groups, np.sqrt(middle) / np.sqrt(middle).sum())
    np.testing.assert_allclose(top, [groups[0] + groups[1], groups[2]])


def test_rows_of_an_answer_keep_their_lift(model, one):
    said = answer(model, one.features)
    keep = np.arange(len(one)) % 3 == 0
    np.testing.assert_allclose(said.rows(keep).lift, said.lift[keep], rtol=1e-5)
    np.testing.assert_array_equal(call(said.rows(keep), TREE), call(said, TREE)[keep])


def test_lesion_follows_the_definition(model, one):
    said = answer(model, one.features)
    normal = TREE.normal_classes()
    expected = said.lift[:, 0] * (1 - said.tile_probability[:, normal].sum(1))
    if said.attention.shape[1] > 1:
        expected = said.lift[:, ~normal].max(1)
    np.testing.assert_allclose(lesion(said, TREE), expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "config"),
    [("dsmil", {}), ("clam_sb", {}), ("clam_mb", {}), ("mhim", {"encoder": "dsmil", "pure": True})],
)
def test_calls_of_a_trained_model_are_right_where_there_are_any(name, config):
    torch.manual_seed(1)
    small = {"hidden": 32, "attention_width": 16}
    model = methods.create(name, {**small, **config}, in_features=24, tree=FLAT).train()
    kind = {"tree": FLAT, "n": 24, "share": 0.25, "signal": 5.0}
    bags = [
        (torch.tensor(case.bags[0].features).float(), None, case.target) for case in cohort(16, **kind)[0]
    ]
    optimiser = torch.optim.Adam(model.parameters(), 5e-3)
    for step in range(80):
        optimiser.zero_grad()
        total(model.loss(bags, step / 80)).backward()
        optimiser.step()
    none, tumour = FLAT.leaves
    tests = [bag(node, seed=100 + i, **kind) for i in range(10) for node in FLAT.leaves]
    called = np.concatenate([call(answer(model, one.features), FLAT) for one, _ in tests])
    truth = np.concatenate([truth for _, truth in tests])
    assert (called[truth == tumour] == tumour).mean() > 0.8
    assert (called[truth == none] == tumour).mean() < 0.02


def test_a_flat_tree_has_fine_maps_only():
    model = methods.create("abmil", in_features=24, tree=FLAT)
    said = predict(model, bag(FLAT.node("lesion"), seed=0, tree=FLAT)[0], model_id="m")
    assert not [m.name for m in said.maps if "coarse" in m.name]
    assert len(said.probabilities) == 1


def test_an_empty_bag_and_damaged_weights_are_refused(one):
    model = methods.create("abmil", in_features=24, tree=TREE)
    empty = Bag(one.slide_id, one.grid.with_cells(np.empty((0, 2))), np.empty((0, 24), np.float32), "planted")
    with pytest.raises(BagError, match="bag is empty"):
        predict(model, empty, model_id="m")
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    with pytest.raises(ModelError, match="not finite"):
        predict(model, one, model_id="m")


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_features_of_any_precision_are_answered(dtype):
    model = methods.create("abmil", in_features=24, tree=FLAT)
    x = bag(FLAT.node("lesion"), seed=0, tree=FLAT)[0].features
    said = answer(model, x.astype(dtype))
    np.testing.assert_allclose(said.attention, answer(model, x.astype(np.float32)).attention, rtol=1e-5)
    np.testing.assert_array_equal(answer(model, torch.from_numpy(x.astype(dtype))).attention, said.attention)


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("x"), MemoryError(), RuntimeError("not enough memory")]
)
def test_what_does_not_fit_in_memory_is_said_in_a_sentence(one, monkeypatch, error):
    def full(*_given, **_more):
        raise error

    asked = methods.create("abmil", in_features=24, tree=TREE)
    monkeypatch.setattr(asked, "forward", full)
    with pytest.raises(DeviceError, match="Not enough memory for the answer for 40 tiles"):
        answer(asked, one.features)
    error = RuntimeError("something else")
    with pytest.raises(RuntimeError, match="something else"):
        answer(asked, one.features)
