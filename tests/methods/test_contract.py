"""What every method must do. The tests run over the registry: a new file in methods/ is picked up unaided."""

import dataclasses
import json

import numpy as np
import pytest
import safetensors.torch
import torch
from variants import VARIANTS

from napari_mil import methods
from napari_mil.bag import Bag
from napari_mil.blocks import rows
from napari_mil.card import Recipe
from napari_mil.correction import Target
from napari_mil.errors import ModelError
from napari_mil.grid import TileGrid
from napari_mil.labeltree import LabelTree
from napari_mil.mil import MILModel, total
from napari_mil.options import build

D = 6
TILES = 24
FLAT = LabelTree.from_paths(["LUAD", "LUSC", "other"])
TREE = LabelTree.from_paths(["Benign/N", "Benign/UDH", "Malignant/DCIS", "Malignant/IC"], normal=["Benign/N"])
#: properties that a method may say it cannot have
EXCEPTIONS = {"flat tree", "permutation", "evidence", "every parameter learns", "tile labels"}
CASES = [
    pytest.param((name, variant), id="-".join([name, *map(str, variant.values())]))
    for name in methods.names()
    for variant in VARIANTS.get(name, [{}])
]


@pytest.fixture(params=CASES)
def case(request):
    return request.param


@pytest.fixture(autouse=True)
def _one_thread_and_seed():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def make(case, tree=TREE, **more):
    name, variant = case
    known = {f.name for f in dataclasses.fields(methods.get(name).Config)}
    # a short training: MHIM's student starts from stage 1 rather than from nothing
    wanted = {"hidden": 32, "dropout": 0.0, "init_student": "all", "clusters": 8, **more}
    small = {k: v for k, v in wanted.items() if k in known}
    return methods.create(name, {**small, **variant}, in_features=D, tree=tree)


def trees(case):
    return [TREE] if "flat tree" in methods.get(case[0]).exceptions else [TREE, FLAT]


def features(n, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, D)).astype(np.float32))


@pytest.mark.parametrize("n", [1, 2, 7, 3000])
def test_answers_have_the_right_shapes_and_are_finite(case, n):
    for tree in trees(case):
        model = make(case, tree).eval()
        with torch.no_grad():
            out = model(features(n), None)
        assert [tuple(x.shape) for x in out.logits] == [
            (len(tree.nodes_at(level)),) for level in range(tree.levels)
        ]
        assert out.tile_logits.shape == (n, len(tree.leaves))
        assert out.attention.shape in {(n, 1), (n, len(tree.leaves))}
        assert out.embedding.ndim == 1
        assert all(m.shape == (n,) for m in out.maps.values())
        everything = [*out.logits, out.tile_logits, out.attention, out.embedding, *out.maps.values()]
        assert all(torch.isfinite(x).all() for x in everything)
        assert torch.allclose(out.attention.sum(0), torch.ones(out.attention.shape[1]), atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 2, 7, 3000])
@pytest.mark.parametrize("progress", [0.0, 1.0])
def test_losses_are_finite_scalars_for_bags_of_any_size(case, n, progress):
    for tree in trees(case):
        model = make(case, tree, dropout=0.25).train()
        losses = model.loss([(features(n), None, Target(slide=tree.leaves[0]))], progress)
        assert losses
        assert all(v.ndim == 0 and torch.isfinite(v) for v in losses.values())
        total(losses).backward()
        model.after_step(progress)
        assert all(torch.isfinite(p).all() for p in model.parameters())


def test_the_same_input_twice_gives_the_same_answer(case):
    model = make(case, dropout=0.25).eval()
    first, second = model(features(50)), model(features(50))
    assert torch.equal(first.logits[-1], second.logits[-1])
    assert torch.equal(first.tile_logits, second.tile_logits)
    assert torch.equal(first.attention, second.attention)


def test_the_order_of_tiles_does_not_matter(case):
    model = make(case).eval()
    order = torch.randperm(40)
    plain, mixed = model(features(40)), model(features(40)[order])
    if "permutation" in model.exceptions:
        assert not torch.allclose(plain.logits[-1], mixed.logits[-1], atol=1e-4)
        pytest.skip(model.exceptions["permutation"])
    for a, b in zip(plain.logits, mixed.logits, strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    assert torch.allclose(plain.tile_logits[order], mixed.tile_logits, atol=1e-5)
    assert torch.allclose(plain.attention[order], mixed.attention, atol=1e-6)
    for name, values in plain.maps.items():
        assert torch.allclose(values[order], mixed.maps[name], atol=1e-5), name


def test_a_method_with_one_head_lifts_its_answer_up_the_tree(case):
    out = make(case).eval()(features(30))
    fine = torch.softmax(out.logits[-1], 0).detach().numpy()
    coarse = torch.softmax(out.logits[0], 0).detach().numpy()
    assert coarse.sum() == pytest.approx(1, abs=1e-5)
    if case[0] != "hmil":
        assert coarse == pytest.approx(TREE.lift(fine, 0), abs=1e-6)


def test_evidence_of_the_tiles_adds_up_to_the_logits(case):
    model = make(case).eval()
    rest = []
    for seed in (1, 2):
        out = model(features(30, seed))
        parts = [v.sum() for k, v in out.maps.items() if k.startswith("evidence/fine/")]
        assert bool(parts) == ("evidence" not in model.exceptions)
        if not parts:
            return
        rest.append(out.logits[-1] - torch.stack(parts))
    assert torch.allclose(*rest, atol=1e-5)  # what is left is the bias, the same for every bag


def test_every_trainable_parameter_gets_a_gradient(case):
    model = make(case).train()
    bags = [(features(40, i), None, Target(slide=TREE.leaves[i])) for i in range(4)]
    total(model.loss(bags, 0.5)).backward()
    idle = {n: p for n, p in model.named_parameters() if p.requires_grad and p.grad is None}
    assert bool(idle) == ("every parameter learns" in model.exceptions), idle.keys()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == (parameter.requires_grad and name not in idle), name
        if parameter.grad is not None and parameter.ndim > 1:
            assert parameter.grad.abs().max() > 0, name
    before = model.eval()(features(40))
    for parameter in idle.values():  # what never learns has no say
        parameter.data.normal_()
    after = model(features(40))
    assert torch.equal(before.logits[-1], after.logits[-1])
    assert torch.equal(before.tile_logits, after.tile_logits)


def test_features_of_half_precision_are_widened_a_few_at_a_time(case, monkeypatch):
    model, x = make(case).eval(), features(40).half()
    with torch.no_grad():
        whole = model(x.float())
        monkeypatch.setattr(rows, "CPU_ROWS", 7)
        parts = model(x)
    for one, other in zip(whole.logits, parts.logits, strict=True):
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(whole.tile_logits, parts.tile_logits)
    assert parts.tile_logits.dtype == torch.float32


def eight_bags():
    """Bags of 24 tiles; a third of the tiles of a bag point along its class."""
    rng = np.random.default_rng(0)
    bags = []
    for i in range(8):
        x = rng.normal(0, 0.3, (TILES, D)).astype(np.float32)
        x[: TILES // 3, i % 4] += 3
        bags.append((torch.from_numpy(x), None, Target(slide=TREE.leaves[i % 4])))
    return bags


def fit(model, bags, steps, lr=5e-3, **options):
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr)
    for step in range(steps):
        model.train()
        optimiser.zero_grad()
        total(model.loss(bags, step / steps, **options)).backward()
        optimiser.step()
        model.after_step(step / steps)
    return model.eval()


def learn(model, bags, steps):
    """The whole procedure: the stage that starts a teacher, where there is one, then the method itself."""
    first = model.stage1()
    if first is not None:
        model.start_from(fit(first, bags, steps))
    return fit(model, bags, steps)


@pytest.mark.slow
def test_overfits_eight_bags(case):
    bags, model = eight_bags(), make(case)
    for _ in range(15):  # most need one round
        learn(model, bags, 16)
        said = [int(model(x).logits[-1].argmax()) for x, _, _ in bags]
        if said == [i % 4 for i in range(8)]:
            return
    pytest.fail(f"after 240 steps the answers are {said}")


def test_a_bag_without_labels_gives_no_supervised_loss(case):
    model = make(case).eval()  # nothing random

    def losses(target):
        return model.loss([(features(20), None, target)], 0.5, generator=torch.Generator().manual_seed(1))

    one, other, unknown = (losses(Target(slide=s)) for s in (TREE.leaves[0], TREE.leaves[3], 0))
    supervised = {k for k in one if not torch.equal(one[k], other[k])}
    assert supervised
    assert not supervised & set(unknown)
    assert "tiles" not in unknown
    for k, v in unknown.items():
        assert torch.equal(v, one[k])


@pytest.mark.slow
def test_tile_labels_are_learned_and_slide_labels_are_left_alone(case):
    tiles = np.zeros(TILES, np.int32)
    tiles[[0, 1]], tiles[[8, 9]] = TREE.leaves[3], TREE.leaves[1]
    x = eight_bags()[0][0]
    model = make(case)
    before = model.loss([(x, None, Target(tiles=tiles))], 0.5)["tiles"]
    assert "slide" not in model.loss([(x, None, Target(tiles=tiles))], 0.5)
    if "tile labels" in model.exceptions:
        pytest.skip(model.exceptions["tile labels"])
    for _ in range(6):
        fit(model, [(x, None, Target(tiles=tiles))], 20)
        after = model.loss([(x, None, Target(tiles=tiles))], 0.5)["tiles"]
        said = model(x).tile_logits[[0, 1, 8, 9]].argmax(1).tolist()
        if after < 0.5 * before and said == [3, 3, 1, 1]:
            return
    pytest.fail(f"after 120 steps the loss is {after} of {before}, the answers are {said}")


def test_tile_labels_at_inner_nodes_mean_any_of_their_leaves(case):
    tiles = np.zeros(TILES, np.int32)
    tiles[3:6] = TREE.node("Malignant")
    x = eight_bags()[0][0]
    model = make(case).eval()
    loss = model.loss([(x, None, Target(tiles=tiles))], 0.5)["tiles"]
    p = torch.softmax(model(x).tile_logits[3:6], -1)[:, 2:].sum(1)
    assert loss.item() == pytest.approx(-p.log().mean().item(), abs=1e-5)


def test_the_tile_term_weighs_nodes_equally_and_scales(case):
    tiles = np.zeros(TILES, np.int32)
    tiles[:3], tiles[3] = TREE.leaves[0], TREE.leaves[2]
    x = eight_bags()[0][0]
    model = make(case).eval()
    logp = torch.log_softmax(model(x).tile_logits, -1)
    expected = -(logp[:3, 0].mean() + logp[3, 2]) / 2
    target = Target(tiles=tiles)
    assert model.loss([(x, None, target)], 0.5)["tiles"].item() == pytest.approx(expected.item(), abs=1e-5)
    twice = model.loss([(x, None, target)], 0.5, tile_weight=2.0)["tiles"].item()
    assert twice == pytest.approx(2 * expected.item(), abs=1e-5)
    assert "tiles" not in model.loss([(x, None, target)], 0.5, tile_weight=0.0)


@pytest.mark.slow
def test_a_slide_label_at_an_inner_node_raises_its_probability(case):
    x = eight_bags()[0][0]
    target = Target(slide=TREE.node("Malignant"))
    model = make(case)
    before = torch.softmax(model.eval()(x).logits[0], 0)[1].item()
    learn(model, [(x, None, target)], 30)
    out = model(x)
    assert torch.softmax(out.logits[0], 0)[1].item() > max(before, 0.8)
    assert torch.softmax(out.logits[-1], 0)[2:].sum().item() > 0.5


def test_round_trip_through_disk(case, tmp_path):
    model = make(case).eval()
    safetensors.torch.save_file(model.state_dict(), tmp_path / "weights.safetensors")
    config = json.loads(json.dumps(dataclasses.asdict(model.config)))
    again = methods.create(case[0], config, in_features=D, tree=LabelTree.from_json(TREE.to_json()))
    again.load_state_dict(safetensors.torch.load_file(tmp_path / "weights.safetensors"))
    x = features(20)
    assert torch.equal(model(x).logits[-1], again.eval()(x).logits[-1])
    assert torch.equal(model(x).tile_logits, again(x).tile_logits)


@pytest.mark.gpu
def test_cpu_and_gpu_agree(case):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA GPU here")
    model, x = make(case).eval(), features(500)
    here = model(x)
    there = model.to("cuda")(x.cuda())
    for a, b in zip(here.logits, there.logits, strict=True):
        assert torch.allclose(a, b.cpu(), atol=1e-4)
    assert torch.allclose(here.tile_logits, there.tile_logits.cpu(), atol=1e-3)
    target = Target(slide=TREE.leaves[0], tiles=np.full(500, TREE.leaves[1], np.int32))
    fit(model, [(x.cuda(), None, target)], 2)


def test_half_precision_features_are_read(case):
    out = make(case).eval()(features(9).half())
    assert out.logits[-1].dtype == torch.float32


def test_bags_that_do_not_fit_are_refused(case):
    model = make(case)
    with pytest.raises(ModelError, match=r"reads bags of shape \(tiles, 6\), not \(3, 5\)"):
        model(torch.zeros(3, 5))
    with pytest.raises(ModelError, match="the bag is empty"):
        model(torch.zeros(0, D))
    with pytest.raises(ModelError, match="2 tile labels for 3 tiles"):
        model.loss([(features(3), None, Target(tiles=np.ones(2, np.int32)))], 0.0)
    two = [(features(3), None, Target(slide=3))] * 2
    with pytest.raises(ModelError, match="Noise replaces the draws of one bag"):
        model.loss(two, 0.0, noise={})
    with pytest.raises(ModelError, match="at least one is needed"):
        methods.create(case[0], in_features=0, tree=TREE)


def test_explain_gives_columns_over_the_tiles(case):
    model = make(case)
    grid = TileGrid.full((5 * 64, 6 * 64), None, tile_px=64, mpp=None)
    bag = Bag("s", grid, features(30).numpy(), "e")
    assert model.training
    first, second = model.explain(bag, seed=3), model.explain(bag, seed=3)
    assert model.training
    assert {"index", "row", "col", "attention", "lift", "tile_probability"} <= set(first)
    for name, values in first.items():
        assert len(values) == 30, name
        assert np.array_equal(values, second[name]), name
    assert np.array_equal(np.stack([first["row"], first["col"]], 1), grid.cells)
    assert first["lift"] == pytest.approx(30 * first["attention"])


def test_per_bag_weights_scale_what_slide_labels_say(case):
    model = make(case).eval()
    bags = [(features(20), None, Target(slide=TREE.leaves[1]))]
    draw = {"generator": torch.Generator().manual_seed(1)}
    one = model.loss(bags, 0.0, weights=[1.0], **draw)
    draw["generator"].manual_seed(1)
    three = model.loss(bags, 0.0, weights=[3.0], **draw)
    scaled = [k for k in one if three[k].item() == pytest.approx(3 * one[k].item(), rel=1e-4)]
    assert scaled
    rest = set(one) - set(scaled)
    assert all(three[k].item() == pytest.approx(one[k].item(), rel=1e-4) for k in rest)


def test_declared_exceptions_are_known_and_true(case):
    declared = make(case).exceptions
    assert set(methods.get(case[0]).exceptions) <= set(declared) <= EXCEPTIONS
    assert all(len(reason) > 20 for reason in declared.values())
    if "flat tree" in declared:
        with pytest.raises(ModelError, match="this label tree has one"):
            make(case, FLAT)
    if "tile labels" in declared:
        answers = torch.unique(make(case).eval()(features(200)).tile_logits, dim=0)
        assert len(answers) <= 8  # clusters


def test_classes_say_who_they_are(case):
    kind = methods.get(case[0])
    assert issubclass(kind, MILModel)
    assert kind.name == case[0]
    assert len(kind.paper) > 20
    assert all(f.metadata["help"] for f in dataclasses.fields(kind.Config))


def test_presets_name_options_that_there_are():
    for name in methods.names():
        for label, preset in methods.get(name).presets.items():
            build(methods.get(name).Config, preset.config, f"{name} {label}")
            build(Recipe, preset.recipe, f"{name} {label}")


def test_a_batch_is_the_mean_of_its_bags(case):
    if case[0] == "hmil":
        pytest.skip("HMIL contrasts the bags of a batch with each other; test_hmil.py has its terms")
    model = make(case).eval()
    bags = [(features(20, i), None, Target(slide=TREE.leaves[i])) for i in range(3)]

    def slide(some):
        return model.loss(some, 0.5, generator=torch.Generator().manual_seed(0))["slide"].item()

    draws = {"mhim": not case[1].get("pure"), "micromil": True}  # anew for every bag
    if not draws.get(case[0]):
        assert slide(bags) == pytest.approx(np.mean([slide([b]) for b in bags]), abs=1e-5)
    assert slide([*bags[:1], (features(5), None, Target())]) == pytest.approx(slide(bags[:1]), abs=1e-5)


def mixed_bags():
    """Bags that say something of the slide, of tiles, of both, of nothing."""
    tiles = np.zeros(20, np.int32)
    tiles[:3], tiles[5] = TREE.leaves[0], TREE.leaves[2]
    other = np.zeros(20, np.int32)
    other[:4] = TREE.leaves[2]
    known = [
        Target(slide=TREE.leaves[1]),
        Target(slide=TREE.leaves[2], tiles=tiles),
        Target(tiles=other),
        Target(slide=TREE.node("Malignant")),
        Target(),
    ]
    return [(features(20, i), None, target) for i, target in enumerate(known)]


def gradients(model, calls):
    """Gradients of the sum of the losses of several calls, and the losses by name."""
    model.zero_grad(set_to_none=True)
    sums = {}
    for losses in calls:
        if losses:
            total(losses).backward()
        for name, value in losses.items():
            sums[name] = sums.get(name, 0.0) + value.item()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}, sums


def test_bags_learned_from_one_by_one_give_the_gradients_of_the_whole_step(case):
    bags, model = mixed_bags(), make(case).eval()  # no dropout, whose order differs
    if model.contrasts_bags:
        pytest.skip("the bags of a step are contrasted; the engine gives them all at once")
    options = {"tile_weight": 0.7, "weights": [1.0, 2.0, 3.0, 1.5, 0.5]}
    whole, parts = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    targets = [t for _, _, t in bags]
    expected, losses = gradients(model, [model.loss(bags, 0.5, generator=whole, **options)])
    weights = options.pop("weights")
    one_by_one = (
        model.loss([bag], 0.5, generator=parts, batch=targets, weights=[w], **options)
        for bag, w in zip(bags, weights, strict=True)
    )
    found, sums = gradients(model, one_by_one)
    assert sums == pytest.approx(losses, abs=1e-5)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        assert torch.allclose(gradient, expected[name], atol=1e-5), name


def test_what_a_step_saw_can_be_watched(case):
    seen = {}
    bags = mixed_bags()[:2]
    make(case).loss(bags, 0.5, watch=seen.__setitem__)
    assert sorted(seen) == [0, 1]
    assert all(s.logits[-1].shape == (len(TREE.leaves),) for s in seen.values())


def test_bf16_is_near_where_a_method_says_so(case):
    model = make(case).eval()
    if not model.bf16:
        pytest.skip("the method does not say that it keeps its figures in bfloat16")
    bags = [(features(400), None, Target(slide=TREE.leaves[1]))]
    draw = torch.Generator().manual_seed(3)
    expected, _ = gradients(model, [model.loss(bags, 0.5, generator=draw)])
    with torch.autocast("cpu", torch.bfloat16):
        losses = model.loss(bags, 0.5, generator=draw.manual_seed(3))
    found, _ = gradients(model, [losses])
    assert all(v.dtype == torch.float32 for v in losses.values())
    near = torch.cosine_similarity(
        *(torch.cat([g.flatten() for g in all_.values()]) for all_ in (found, expected)), 0
    )
    assert near > 0.99


def test_grids_name_options_that_there_are():
    for name in methods.names():
        kind = methods.get(name)
        options = {f.name for f in dataclasses.fields(kind.Config)}
        for key, values in kind.grid.items():
            for value in values:
                build(*((kind.Config, {key: value}) if key in options else (Recipe, {key: value})), name)
