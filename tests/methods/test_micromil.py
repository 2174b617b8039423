"""MicroMIL: clusters, representatives, edges, draws, and what it says of each image."""

import numpy as np
import pytest
import torch
from closed_form import micromil_shapes
from hypothesis import given, settings
from hypothesis import strategies as st
from test_contract import fit

from napari_mil import methods
from napari_mil.bag import Bag
from napari_mil.correction import Target
from napari_mil.errors import ModelError
from napari_mil.grid import TileGrid
from napari_mil.infer import predict
from napari_mil.labeltree import LabelTree
from napari_mil.train.recipes import config_for, recipe_for

D = 5
TREE = LabelTree.from_paths(["B/N", "B/UDH", "M/IC"], normal=["B/N"])
few = settings(max_examples=25, deadline=None)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def make(**config):
    small = {"hidden": 16, "clusters": 6, "dropout": 0.0, **config}
    return methods.create("micromil", small, in_features=D, tree=TREE).eval()


def features(n, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, D)).astype(np.float32))


def spread_out(model):
    """Centres and scores that tell the images apart, so that clusters have representatives of their own."""
    torch.nn.init.normal_(model.dec.cluster_centers, std=2.0)
    torch.nn.init.normal_(model.attn.weight, std=3.0)
    return model


def test_keys_are_those_of_published_checkpoints():
    model = methods.create(
        "micromil", {"clusters": 4}, in_features=512, tree=LabelTree.from_paths(["a", "b"])
    )
    assert {k: tuple(v.shape) for k, v in model.state_dict().items()} == micromil_shapes()


@few
@given(st.integers(1, 40), st.integers(1, 9), st.floats(-20, 20))
def test_shares_sum_to_one_and_only_distances_count(n, k, shift):
    model, f = make(clusters=k), features(n)
    z = model.dec(f)
    assert torch.allclose(z.sum(1), torch.ones(n), atol=1e-5)
    distance = torch.cdist(f, model.dec.cluster_centers).square()
    expected = 1 / (1 + distance)
    assert torch.allclose(z, expected / expected.sum(1, keepdim=True), atol=1e-5)
    model.dec.cluster_centers.data += shift
    assert torch.allclose(model.dec(f + shift), z, atol=1e-4)


def test_the_score_is_the_attention_layer_on_weighted_features():
    model, x = make(), features(7)
    seen = model.assign(x)
    for c in range(6):
        expected = model.attn(seen.z[:, c : c + 1] * seen.features)[:, 0]
        assert torch.allclose(seen.score[:, c], expected, atol=1e-6)


@few
@given(
    st.sampled_from(["clean", "official", "paper"]), st.integers(1, 30), st.integers(1, 9), st.integers(0, 99)
)
def test_representatives_and_edges(compat, n, k, seed):
    model, x = make(compat=compat, clusters=k), features(n)
    for mode in ("argmax", "stochastic"):
        seen = model.graph(x, mode=mode, seed=seed)
        f = seen.assignment.features
        _, q = model._represent(seen.assignment, model.draw(n, torch.Generator().manual_seed(seed)))
        assert all((f == row).all(1).any() for row in q)  # exactly one of the images
        assert torch.allclose(seen.similarity.diagonal(), torch.ones(k), atol=1e-5)
        loops = seen.edges.diagonal()
        assert (loops >= 1).all()  # so every node has an edge that comes in
        chosen = seen.edges - torch.eye(k)
        assert ((chosen == 0) | (chosen == 1)).all()
        leaving = chosen.sum(1)
        if compat == "official":
            assert seen.edges.sum() == 2 * k
        elif compat == "clean":  # a neighbour is another node
            assert (loops == 1).all()
            assert seen.edges.sum() == (2 * k if k > 1 else 1)
        else:  # among those that come later; the last has none
            assert seen.edges.sum() == 2 * k - 1
            assert leaving.tolist() == [1.0] * (k - 1) + [0.0]
            assert torch.equal(chosen, chosen.triu(1))
        for weights in seen.attention:
            assert torch.allclose(weights.sum(0), torch.ones(k), atol=1e-6)


def test_contributions_of_the_nodes_add_up():
    for compat in ("clean", "official"):
        model = make(compat=compat)
        seen = model.graph(features(20), mode="argmax")
        logits = seen.contributions.sum(0) + model.classify.bias
        if compat == "official":
            logits = torch.nn.functional.leaky_relu(logits, 0.01)
        assert torch.allclose(logits, seen.logits, atol=1e-6)


@pytest.mark.parametrize("compat", ["clean", "official", "paper"])
@pytest.mark.parametrize("n", [1, 2, 9, 60])
def test_argmax_depends_neither_on_order_nor_on_copies(compat, n):
    model, x = spread_out(make(compat=compat, select="argmax")), features(n)
    plain = model(x)
    assert len(set(model.graph(x).selected.tolist())) > 1 or n < 60
    order = torch.randperm(n)
    assert torch.allclose(model(x[order]).logits[-1], plain.logits[-1], atol=1e-6)
    for i in range(min(n, 12)):
        twice = torch.cat([x, x[i : i + 1]])
        assert torch.allclose(model(twice).logits[-1], plain.logits[-1], atol=1e-6)
        assert torch.allclose(model(torch.cat([x[i : i + 1], x])).logits[-1], plain.logits[-1], atol=1e-6)


@pytest.mark.parametrize("compat", ["clean", "official"])
def test_one_image_answers_as_two_copies_of_it(compat):
    model, x = make(compat=compat, select="stochastic"), features(1)
    one, two = model(x), model(x.expand(2, -1))
    assert torch.allclose(one.logits[-1], two.logits[-1], atol=1e-6)  # the draws are the same, too
    assert torch.allclose(one.tile_logits, two.tile_logits[:1], atol=1e-6)
    assert one.attention.tolist() == [[1.0]]
    assert one.maps["representative"].tolist() == [True]


def test_the_constant_of_the_attention_layer_does_not_matter():
    model, x = make(select="stochastic"), features(20)
    before = model(x)
    model.attn.bias.data += 7.5
    after = model(x)
    assert torch.allclose(before.logits[-1], after.logits[-1], atol=1e-6)
    assert torch.allclose(before.attention, after.attention, atol=1e-6)


def test_gradients_reach_everything_and_the_constant_gets_none():
    model = make(dropout=0.5, compat="official").train()
    model.loss([(features(40), None, Target(slide=TREE.leaves[0]))], 0.0)["slide"].backward()
    for name, parameter in model.named_parameters():
        size = parameter.grad.abs().max()
        assert size < 1e-6 if name == "attn.bias" else size > 1e-8, name


def test_draws_are_made_in_the_published_order():
    model = make()
    noise = model.draw(9, torch.Generator().manual_seed(5))
    generator = torch.Generator().manual_seed(5)
    for c in range(6):
        expected = -torch.empty(9).exponential_(generator=generator).log()
        assert torch.equal(noise["select"][c], expected)
    flat = [-torch.empty(6).exponential_(generator=generator).log() for _ in range(6)]
    assert torch.equal(noise["edge"], torch.stack(flat))


def test_a_draw_can_be_replayed():
    model, x = spread_out(make(compat="official")), features(25)
    noise = model.draw(25, torch.Generator().manual_seed(3))
    drawn = model.study(x, None, 0.0, generator=torch.Generator().manual_seed(3))
    replayed = model.study(x, None, 0.0, noise=noise)
    assert torch.equal(drawn.logits[0], replayed.logits[0])
    assert torch.equal(drawn.seen.selected, replayed.seen.selected)
    assert torch.equal(model.graph(x, mode="stochastic", seed=3).logits, drawn.logits[0])
    with pytest.raises(ModelError, match=r"'select' has shape \(6, 24\); \(6, 25\) is expected"):
        model.study(x, None, 0.0, noise=model.draw(24))


def test_official_answers_vary_with_the_seed_and_only_with_it():
    first, again, other = (spread_out(make(compat="official", seed=s)) for s in (0, 0, 1))
    again.load_state_dict(first.state_dict())
    other.load_state_dict(first.state_dict())
    x = features(50)
    before = torch.get_rng_state()
    assert torch.equal(first(x).logits[-1], again(x).logits[-1])
    assert not torch.equal(first(x).logits[-1], other(x).logits[-1])
    assert torch.equal(before, torch.get_rng_state())


def test_many_draws_are_averaged():
    model, x = spread_out(make(select="mc", draws=7, seed=4)), features(30)
    each = model.vary(x, draws=7, seed=4)
    assert each.shape == (7, 3)
    assert each.std(0).max() > 0
    assert torch.allclose(torch.softmax(model(x).logits[-1], 0), each.mean(0), atol=1e-6)
    assert not [m for m in model(x).maps if m.startswith("evidence")]  # a mean of probabilities is no sum


def test_every_image_of_a_cluster_answers_as_the_cluster():
    model, x = spread_out(make()), features(60)
    out, seen = model(x), model.graph(x)
    said = model.classify(seen.nodes)
    assert torch.equal(out.maps["cluster"], seen.assignment.z.argmax(1).int())
    assert torch.allclose(out.tile_logits, said[out.maps["cluster"].long()])
    assert out.maps["representative"].nonzero()[:, 0].tolist() == seen.selected.unique().tolist()
    expected = torch.softmax(seen.assignment.score, 0).mean(1)
    assert torch.allclose(out.attention[:, 0], expected)


def test_tile_labels_that_agree_with_the_clusters_are_followed():
    """Two heaps of images, three clusters each, every cluster nearest to an image of its own."""
    heaps = torch.eye(D)[[0] * 12 + [1] * 12] * 6
    x = heaps + features(24).abs()
    tiles = np.repeat(np.array(TREE.leaves[1:], np.int32), 12)
    model = make()
    model.image_feature.load_state_dict({"weight": torch.eye(D), "bias": torch.zeros(D)})
    model.dec.cluster_centers.data = x[[0, 1, 2, 12, 13, 14]].clone()
    model.attn.load_state_dict({"weight": torch.ones(1, D), "bias": torch.zeros(1)})
    fit(model, [(x, None, Target(tiles=tiles))], 150)
    assert model(x).tile_logits.argmax(1).tolist() == [1] * 12 + [2] * 12


def test_the_clustering_loss_sharpens():
    model, x = make(dec_weight=0.5, clusters=3), features(40)
    unlabelled = [(x, None, Target())]
    z = model.assign(x).z
    sharp = z**2 / z.sum(0)
    p = sharp / sharp.sum(1, keepdim=True)
    expected = 0.5 * (p * (p / z).log()).sum(1).mean().item()
    assert model.loss(unlabelled, 0.0)["clustering"].item() == pytest.approx(expected, abs=1e-6)
    fit(model, unlabelled, 200)
    assert model.assign(x).z.amax(1).mean() > z.amax(1).mean() + 0.05
    assert make().loss(unlabelled, 0.0) == {}
    alone = make(dec_weight=0.5).loss([(features(1), None, Target())], 0.0)["clustering"]
    assert alone.item() == pytest.approx(0, abs=1e-6)


def a_bag(n=12):
    return Bag("s", TileGrid.full((3 * 64, 4 * 64), None, tile_px=64, mpp=None), features(n).numpy(), "e")


@pytest.mark.parametrize("mode", ["clean", "argmax", "official", "stochastic", "mc"])
def test_explain_tells_who_stands_for_whom(mode):
    model, bag = spread_out(make(draws=5)), a_bag()
    table = model.explain(bag, seed=2, mode=mode)
    again = model.explain(bag, seed=2, mode=mode)
    assert all(np.array_equal(table[k], again[k]) for k in table)
    assert table["z"].shape == table["score"].shape == (12, 6)
    assert table["cluster"].tolist() == table["z"].argmax(1).tolist()
    assert table["selected"].sum() == pytest.approx(6)
    assert table["selection_probability"].sum() == pytest.approx(1, abs=1e-6)
    if mode == "mc":
        assert set(np.unique(table["selected"] * 5 % 1).round(4)) <= {0.0, 1.0}
        each = model.vary(features(12), draws=5, seed=2).numpy()
        assert each.std(0).min() > 0
        for name, expected in (("p_mean", each.mean(0)), ("p_sd", each.std(0))):
            assert table[name] == pytest.approx(np.tile(expected, (12, 1)), abs=1e-6)
    else:
        assert "p_sd" not in table
        assert (table["representative"] == (table["selected"] > 0)).all()
    names = {"clean": "argmax", "official": "stochastic"}
    if mode in names:
        same = model.explain(bag, seed=2, mode=names[mode])
        assert all(np.array_equal(table[k], same[k]) for k in table)


@pytest.mark.parametrize(("compat", "drops"), [("official", False), ("clean", True), ("paper", True)])
def test_as_published_node_states_are_dropped_in_the_first_epoch_alone(compat, drops):
    model = make(compat=compat, dropout=0.5).train()
    example = [(features(9), None, Target(slide=TREE.leaves[0]))]
    noise = model.draw(9, torch.Generator().manual_seed(1))

    def differ(progress):
        told = {model.loss(example, progress, noise=noise)["slide"].item() for _ in range(8)}
        return len(told) > 1

    assert differ(0.0)
    assert differ(0.5) == drops
    assert differ(0.0)  # a training that begins anew
    assert model.whole_epochs == (compat == "official")  # so that progress is 0 throughout the first epoch


def test_presets_are_those_of_code_and_print():
    asked = {
        name: (config_for("micromil", preset=name), recipe_for("micromil", preset=name))
        for name in methods.presets("micromil")
    }
    assert {n: (c["compat"], c["clusters"], c["width"]) for n, (c, _) in asked.items()} == {
        "official": ("official", 36, 0),
        "BreakHis": ("paper", 16, 128),
        "Seegene": ("paper", 36, 128),
    }
    assert {n: r.lr for n, (_, r) in asked.items()} == {"official": 1e-4, "BreakHis": 1e-3, "Seegene": 1e-3}
    for config, recipe in asked.values():
        assert (config["layers"], config["hidden"], config["dropout"], config["tau"]) == (2, 128, 0.5, 1.0)
        assert (recipe.epochs, recipe.patience, recipe.min_epochs) == (50, 5, 0)
        assert (recipe.weight_decay, recipe.schedule, recipe.batch_bags) == (1e-6, "constant", 1)


def test_other_ways_to_choose_are_refused():
    with pytest.raises(ModelError, match="argmax, stochastic, mc, not by 'best'"):
        make().explain(a_bag(), mode="best")


def test_maps_of_clusters_and_representatives_reach_the_window():
    said = predict(spread_out(make()), a_bag(), model_id="m")
    assert said.map("cluster").kind == "groups"
    groups = set(said.map("cluster").values.tolist())
    assert said.map("cluster").legend == {c: f"cluster {c}" for c in groups}
    assert said.map("representative").kind == "mask"
    assert said.map("evidence/fine/IC").kind == "score"
    assert "approximate" in said.map("class/fine").note
    assert "approximate" in said.map("probability/coarse/M").note
    assert not said.map("attention").note
