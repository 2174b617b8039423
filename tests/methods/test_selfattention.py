"""Self-attention: MHIM's pooler on it, and the stand-alone TransMIL."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from closed_form import mhim_shapes, transmil_shapes
from naive_attention import attention, encode

from napari_mil import masks, methods
from napari_mil.bag import Bag
from napari_mil.blocks.selfattention import shares
from napari_mil.correction import Target
from napari_mil.grid import TileGrid
from napari_mil.infer import predict
from napari_mil.labeltree import LabelTree
from napari_mil.mil import total

D = 6
FLAT = LabelTree.from_paths(["a", "b"])
TREE = LabelTree.from_paths(["Benign/N", "Benign/UDH", "Malignant/DCIS", "Malignant/IC"], normal=["Benign/N"])


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def make(name="mhim", **config):
    base = {"hidden": 32, "dropout": 0.0, **({"encoder": "selfattn"} if name == "mhim" else {})}
    return methods.create(name, {**base, **config}, in_features=D, tree=TREE)


def features(n, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, D)).astype(np.float32))


def bag(n):
    return Bag("s", TileGrid.full((64, n * 64), None, tile_px=64, mpp=None), features(n).numpy(), "e")


def count(net):
    return sum(p.numel() for p in net.parameters())


def test_keys_and_counts_are_those_of_the_published_networks():
    pure = methods.create("mhim", {"encoder": "selfattn", "pure": True}, in_features=1024, tree=FLAT).student
    assert {k: tuple(v.shape) for k, v in pure.state_dict().items()} == mhim_shapes(k=0, selfattn=True)
    assert count(pure) == 2_672_146
    config = {"encoder": "selfattn", "recycle_tokens": 5, "teacher": False}
    assert count(methods.create("mhim", config, in_features=1024, tree=FLAT)) == 3_724_818
    alone = methods.create("transmil", in_features=1024, tree=FLAT)
    assert {k: tuple(v.shape) for k, v in alone.state_dict().items()} == transmil_shapes()
    assert count(alone) == 2_672_146


def test_first_weights():
    net = make("transmil", hidden=64)
    for part in net.modules():
        if isinstance(part, torch.nn.Conv2d):
            spread = (2 / (part.weight[0].numel() + part.weight[:, 0].numel())) ** 0.5
            assert part.weight.std().item() == pytest.approx(spread, rel=0.25)
            assert part.bias is None or not part.bias.any()
    assert 0 < net.cls_token.abs().max() < 1e-4
    encoder = make(hidden=64).student.online_encoder
    assert encoder.cls_token.std().item() == pytest.approx(1, abs=0.3)
    assert encoder.pos_embedding.proj.bias.any()
    assert not encoder.layer1.attn.to_out[0].bias.any()


@pytest.mark.parametrize("n", [1, 2, 7, 30, 100])
@pytest.mark.parametrize("gradients", [True, False])
def test_mhim_answers_as_written_down(n, gradients):
    model = make().eval().double()
    net, x = model.student, features(n).double()
    pooler, h = net.online_encoder, net.feature(x)
    tokens, rows = encode(pooler.cls_token[0], h, (pooler.layer1, pooler.layer2), pooler.pos_embedding)
    final = pooler.norm(tokens)
    with torch.set_grad_enabled(gradients):
        out = model(x)
    assert torch.allclose(out.logits[-1], net.predictor(final[0]), atol=1e-8)
    assert torch.allclose(out.tile_logits, net.predictor(final[1:]), atol=1e-8)
    for layer, row in enumerate(rows, 1):
        assert torch.allclose(out.maps[f"attention/layer{layer}"], row.mean(0), atol=1e-8)
        for head in range(8):
            assert torch.allclose(out.columns[f"attention/layer{layer}/head{head + 1}"], row[head], atol=1e-8)
    seen = rows[0].clamp(min=0).mean(0)
    expected = seen / seen.sum() if seen.any() else torch.full_like(seen, 1 / n)
    assert torch.allclose(out.attention[:, 0], expected, atol=1e-8)


@pytest.mark.parametrize("n", [1, 2, 5, 30])
@pytest.mark.parametrize("gradients", [True, False])
def test_transmil_answers_as_written_down(n, gradients):
    model, x = make("transmil").eval().double(), features(n).double()
    h = model.feature(x)
    side = int(np.ceil(np.sqrt(n)))
    filled = torch.cat([h, h[: side**2 - n]])
    layers = (model.layer1, model.layer2)
    tokens, rows = encode(model.cls_token[0], filled, layers, model.pos_layer, least=1)
    final = model.norm(tokens)
    with torch.set_grad_enabled(gradients):
        out = model(x)
    assert torch.allclose(out.logits[-1], model.classifier(final[0]), atol=1e-8)
    assert torch.allclose(out.tile_logits, model.classifier(final[1 : 1 + n]), atol=1e-8)
    assert torch.allclose(out.maps["attention/layer2"], rows[1][:, :n].mean(0), atol=1e-8)
    assert out.attention.shape == (n, 1)


@pytest.mark.parametrize("name", ["mhim", "transmil"])
def test_the_order_of_tiles_matters(name):
    model, order = make(name).eval(), torch.randperm(40)
    assert "permutation" in model.exceptions
    assert not torch.allclose(model(features(40)).logits[-1], model(features(40)[order]).logits[-1])
    assert "permutation" not in make(encoder="attn").exceptions if name == "mhim" else True


def test_attention_sums_to_one_whatever_the_rows_are():
    rows = torch.tensor([[0.5, -0.2, 0.1], [0.1, -0.4, 0.1]])
    assert shares(rows)[:, 0].tolist() == pytest.approx([0.75, 0, 0.25])
    assert shares(-rows.abs())[:, 0].tolist() == pytest.approx([1 / 3] * 3)


@pytest.mark.parametrize("mode", ["clean", "official"])
def test_the_score_is_the_confidence_of_what_the_first_layer_took(mode):
    model = make(compat=mode).eval()
    net, x = model.teacher, features(40)
    pooler, h = net.online_encoder, net.feature(x)
    _, row, values = attention(pooler.layer1, torch.cat([pooler.cls_token[0], h]))
    taken = pooler.layer1.attn.to_out((row[..., None] * values).transpose(0, 1).flatten(1))
    seen = model.look(x)
    expected = torch.softmax(taken @ net.predictor.weight.T, 1)
    assert torch.allclose(seen.probability.float(), expected, atol=1e-6)
    assert torch.equal(seen.score, seen.probability.amax(1))
    for dropout in pooler.layer1.attn.to_out, pooler.layer2.attn.to_out:
        dropout[1].p = 0.0
    net.train()  # the same on the way that keeps the dropout
    assert torch.allclose(model.look(x).probability.float(), expected, atol=1e-6)


def test_attention_as_score_speaks_with_every_head():
    model = make(score="attention", mask_ratio=0.1)
    x = features(50)
    score = model.salience(x)
    assert score.shape == (8, 50)
    assert make().salience(x).shape == (50,)
    assert model.look(x).attention.shape == (50,)
    part = model.hide(score)
    votes = torch.zeros(50)
    for row in score:
        votes[row.topk(5).indices] += 1
    assert votes[part.hidden].min() >= votes[part.kept].max()
    assert make(version=1).salience(x).shape == (8, 50)


def test_counts_of_the_camelyon_settings_with_heads():
    preset = methods.get("mhim").presets["v1-c16-selfattn"]
    model = make(**{**preset.config, "hidden": 32})
    score = torch.from_numpy(np.random.default_rng(0).random((8, 9000)))
    part = model.hide(score, generator=torch.Generator().manual_seed(0))
    assert (len(part.low), len(part.candidates), len(part.hidden)) == (7200, 540, 270)
    assert len(part.kept) >= 1530
    assert set(part.kept.tolist()) == set(range(9000)) - set(part.low.tolist()) - set(part.hidden.tolist())


def test_presets_are_those_of_the_first_version():
    presets = methods.get("mhim").presets
    config, recipe = presets["v1-c16-selfattn"].config, presets["v1-c16-selfattn"].recipe
    assert (config["consistency"], config["mask_ratio"], config["low_mask_ratio"]) == (0.1, 0.03, 0.8)
    assert (config["hidden_ratio_random"], config["ema_schedule"], config["ema"]) == (0.5, "cosine", 0.9999)
    assert (recipe["patience"], recipe["min_epochs"]) == (30, 130)
    config, recipe = presets["v1-tcga-selfattn"].config, presets["v1-tcga-selfattn"].recipe
    assert (config["consistency"], config["mask_ratio"], config["low_mask_ratio"]) == (0.5, 0.02, 0.2)
    assert config["random_mask_ratio"] == 0.6
    assert "ema_schedule" not in config
    assert (recipe["patience"], recipe["min_epochs"]) == (20, 70)


@pytest.mark.parametrize(("compat", "ordered"), [("clean", True), ("official", False)])
def test_the_student_sees_tiles_in_order_except_as_published(compat, ordered):
    model, x = make(compat=compat, keep_ratio=0.8), features(60)
    study = model.study(x, None, 0.0, generator=torch.Generator().manual_seed(0))
    kept = study.seen.part.kept
    assert torch.equal(kept, kept.sort().values) is ordered
    assert len(study.seen.part.recycled) > 0


def test_the_teacher_is_random_as_published_even_without_dropout_of_features():
    model = make(compat="official")
    assert model.is_random()
    first, second = (model.salience(features(40), seed=s) for s in (1, 2))
    assert not torch.equal(first, second)
    assert torch.equal(first, model.salience(features(40), seed=1))
    assert not make().is_random()
    assert not make(compat="official", encoder="attn").is_random()


def test_pure_mode_answers_alike_and_recycling_does_not_matter():
    model, x = make().eval(), features(30)
    pure = make(pure=True).eval()
    pure.student.load_state_dict(
        {k: v for k, v in model.student.state_dict().items() if not k.startswith("merge.")}
    )
    assert torch.equal(pure(x).logits[-1], model(x).logits[-1])
    before = model(x).logits[-1]
    for p in model.student.merge.parameters():
        p.data.normal_()
    assert torch.equal(before, model(x).logits[-1])


def test_consistency_reaches_all_but_the_predictor_and_the_pseudo_inverse_is_differentiated():
    model = make().train()
    model.study(features(40), None, 0.0).extra["consistency"].backward()
    net = model.student
    assert net.feature[0].weight.grad.abs().sum() > 0
    assert net.online_encoder.layer1.attn.to_qkv.weight.grad.abs().sum() > 0
    assert net.online_encoder.cls_token.grad.abs().sum() > 0
    assert net.merge.attn.to_out[0].weight.grad.abs().sum() > 0
    assert net.predictor.weight.grad is None


def test_tile_labels_train_on_the_whole_bag():
    model = make().eval()
    tiles = np.zeros(50, np.int32)
    tiles[7] = TREE.leaves[2]
    loss = model.loss([(features(50), None, Target(tiles=tiles))], 0.0)["tiles"]
    expected = -torch.log_softmax(model(features(50)).tile_logits[7], -1)[2]
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)


def test_learning_does_not_look_at_the_attention():
    pooler = make().student.online_encoder.eval()
    h = torch.randn(20, 32)
    assert torch.equal(pooler.learn(h).vector, pooler(h).vector)
    assert pooler.learn(h).attention.shape == (0, 1)
    assert pooler.learn(h).seen.rows[0].shape == (8, 0)


@pytest.mark.parametrize("name", ["mhim", "transmil"])
def test_the_screen_is_told_what_is_approximate(name):
    model, tiles = make(name), bag(30)
    made = predict(model, tiles, model_id="m")
    notes = {m.name: m.note for m in made.maps}
    for shown in ("probability/fine/DCIS", "class/fine", "class/coarse without the slide's answer", "lesion"):
        assert "approximate: a tile's class after it has seen the whole bag" in notes[shown]
    for shown in ("attention", "attention/layer1", "attention/layer2"):
        assert "approximate: how the token that answers looked" in notes[shown]
    plain = predict(make(encoder="attn"), tiles, model_id="m")
    assert not any("approximate" in m.note for m in plain.maps)
    assert not any("head" in m.name for m in made.maps)
    table = model.explain(tiles)
    assert table["attention/layer1/head3"].shape == (30,)
    assert table["attention/layer2"].shape == (30,)


def test_a_viewer_is_told_what_would_be_hidden():
    model, tiles = make(version=1, mask_ratio=0.1, low_mask_ratio=0.3), bag(60)
    found, table = masks.simulate(model, tiles), model.explain(tiles)
    assert np.array_equal(found.role, table["role"])
    assert found.score == pytest.approx(table["teacher_score"])


@pytest.mark.parametrize("name", ["mhim", "transmil"])
def test_training_in_half_precision(name):
    model = make(name).train()
    with torch.autocast("cpu", torch.bfloat16):
        losses = model.loss([(features(80), None, Target(slide=TREE.leaves[0]))], 0.0)
        total(losses).backward()
        with torch.no_grad():
            out = model.eval()(features(80))
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    assert out.attention.sum().item() == pytest.approx(1, abs=0.01)


@pytest.mark.soak
@pytest.mark.parametrize("name", ["mhim", "transmil"])
def test_two_hundred_thousand_tiles_are_answered_in_bounded_memory(name):
    """At the published width: 0.8 GB of features, and not the 3.3 GB of every map of tiles and landmarks."""
    code = f"""
        import resource
        import numpy as np
        from napari_mil import methods
        from napari_mil.infer import answer
        from napari_mil.labeltree import LabelTree
        config = {{"encoder": "selfattn", "pure": True}} if "{name}" == "mhim" else {{}}
        model = methods.create("{name}", config, in_features=1024, tree=LabelTree.from_paths(["a", "b"]))
        bag = np.zeros((200_000, 1024), np.float32)
        bag[:] = np.random.default_rng(0).normal(size=1024)
        bag[::7] += 1
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        said = answer(model, bag)
        assert abs(said.attention.sum() - 1) < 1e-3
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e6)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 4.0
