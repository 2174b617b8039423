"""MHIM on the DSMIL encoder: two voices, raw scores, and a predictor that is never asked."""

import numpy as np
import pytest
import torch

from napari_mil import masks, methods
from napari_mil.bag import Bag
from napari_mil.blocks import soft_cross_entropy
from napari_mil.correction import Target
from napari_mil.grid import TileGrid
from napari_mil.labeltree import LabelTree
from napari_mil.mil import total

D = 5
TREE = LabelTree.from_paths(["a", "b", "c"])
V1 = {"version": 1, "random_mask_ratio": 0.3, "low_mask_ratio": 0.2}
BOTH = pytest.mark.parametrize("config", [{}, V1], ids=["version 2", "version 1"])


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def make(**config):
    given = {"encoder": "dsmil", "hidden": 16, "attention_width": 8, "dropout": 0.0, **config}
    return methods.create("mhim", given, in_features=D, tree=TREE)


def features(n, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, D)).astype(np.float32))


def bag(n):
    grid = TileGrid.full((64, n * 64), None, tile_px=64, mpp=None)
    return Bag("s", grid, features(n).numpy(), "e")


def voices(model, x):
    net = model.student
    return net.online_encoder.logits(net.online_encoder(net.embed(x)), net.predictor)


def test_parameters_are_as_many_as_published():
    def count(**config):
        given = {"encoder": "dsmil", "act": "relu", **config}
        model = methods.create("mhim", given, in_features=1024, tree=LabelTree.from_paths(["a", "b"]))
        return sum(p.numel() for p in model.student.parameters())

    assert count(version=1) == count(pure=True) == 873_734
    assert count() == 1_926_406


def test_version_2_answers_with_the_mean_of_the_logits_and_version_1_of_the_probabilities():
    x = features(20)
    for version, of in ((2, lambda v: v), (1, lambda v: torch.softmax(v, -1))):
        model = make(version=version).eval()
        said = torch.softmax(model(x).logits[0], 0)
        mean = of(torch.stack(voices(model, x))).mean(0)
        assert torch.allclose(said, mean if version == 1 else torch.softmax(mean, 0), atol=1e-6)


@pytest.mark.parametrize("pure", [False, True])
def test_version_2_learns_from_the_mean_of_the_logits_and_version_1_from_the_mean_of_the_losses(pure):
    x, example = features(30), [(features(30), None, Target(slide=2))]
    for version in (1, 2):
        model = make(version=version, pure=pure, consistency=0.0, recycle_tokens=0, mask_ratio=0.2).eval()
        step = model.study(x, None, 0.0, generator=torch.Generator().manual_seed(3)).seen
        loss = model.loss(example, 0.0, generator=torch.Generator().manual_seed(3))["slide"]
        of_each = torch.stack([-torch.log_softmax(v, -1)[1] for v in step.voices])
        of_mean = -torch.log_softmax(torch.stack(step.voices).mean(0), -1)[1]
        assert loss.item() == pytest.approx((of_each.mean() if version == 1 else of_mean).item(), abs=1e-6)
        if not pure:
            seen = x[step.part.kept]
            assert all(torch.allclose(*pair) for pair in zip(step.voices, voices(model, seen), strict=True))


def test_an_answer_that_is_sure_of_itself_stays_finite():
    model = make(version=1).eval()
    for part in (model.student.online_encoder.i_classifier[0], model.student.online_encoder.b_classifier.fcc):
        part.bias.data = torch.tensor([500.0, -500.0, 0.0])
    out = model(features(4))
    assert torch.isfinite(out.logits[0]).all()
    assert torch.softmax(out.logits[0], 0)[0] == 1


def test_a_bag_of_one_tile_has_its_own_logits_as_highest():
    model, x = make().eval(), features(1)
    assert torch.equal(voices(model, x)[1], model(x).tile_logits[0])


@BOTH
def test_the_score_is_the_highest_logit_without_a_softmax(config):
    model, x = make(**config), features(40)
    model.teacher.online_encoder.i_classifier[0].bias.data -= 5
    seen = model.look(x)
    c = model.teacher.online_encoder.i_classifier(model.teacher.embed(x))
    assert torch.allclose(seen.score.float(), c.max(1).values, atol=1e-6)
    assert seen.score.max() < 0
    assert torch.allclose(seen.probability.float(), torch.softmax(c, 1), atol=1e-6)
    assert seen.attention.shape == (40,)
    assert seen.embedding.shape == (3, 16)


def test_attention_can_be_the_score_of_version_2_alone():
    for version in (1, 2):
        model, x = make(score="attention", version=version), features(40)
        a = model.teacher.online_encoder(model.teacher.embed(x)).attention
        assert torch.allclose(model.look(x).score.float(), a.max(1).values, atol=1e-6) == (version == 2)


@BOTH
@pytest.mark.parametrize("compat", ["clean", "official"])
def test_the_predictor_has_no_say(config, compat):
    model, x = make(compat=compat, score_bias=True, **config).eval(), features(30)

    def everything():
        losses = model.loss([(x, None, Target(slide=1))], 0.0, generator=torch.Generator().manual_seed(0))
        return [model.look(x).score, model(x).logits[0], model(x).tile_logits, *losses.values()]

    before = everything()
    for net in (model.student, model.teacher):
        for p in net.predictor.parameters():
            p.data.normal_()
    assert all(torch.equal(a, b) for a, b in zip(before, everything(), strict=True))


def test_scores_follow_the_tiles():
    model, order, x = make(), torch.randperm(30), features(30)
    assert torch.allclose(model.look(x).score[order], model.look(x[order]).score, atol=1e-6)


def test_pure_mode_is_the_same_encoder_alone():
    model = make()
    pure = model.stage1()
    weights = {k: v for k, v in model.student.state_dict().items() if not k.startswith("merge.")}
    pure.student.load_state_dict(weights)
    assert torch.equal(pure.eval()(features(9)).logits[0], model.eval()(features(9)).logits[0])
    model.start_from(pure)


def test_consistency_is_between_the_vectors_of_the_classes():
    model, x = make(recycle_tokens=0, mask_ratio=0.2), features(40)
    study = model.study(x, None, 0.0, generator=torch.Generator().manual_seed(0))
    net, kept = model.student, study.seen.part.kept
    mine = net.online_encoder(net.embed(x[kept])).vector
    teacher = model.look(x).embedding
    each = [soft_cross_entropy(m, t, 0.1) for m, t in zip(mine, teacher, strict=True)]
    assert study.extra["consistency"].item() == pytest.approx(0.5 * torch.stack(each).mean().item(), abs=1e-5)


def test_consistency_reaches_all_but_the_classifiers():
    model = make().train()
    model.study(features(40), None, 0.0).extra["consistency"].backward()
    net, critical = model.student, model.student.online_encoder.b_classifier
    for part in (net.feature[0], critical.q[0], critical.v[1], net.merge.attn.to_out[0]):
        assert part.weight.grad.abs().sum() > 0
    for part in (net.predictor, critical.fcc, net.online_encoder.i_classifier[0]):
        assert part.weight.grad is None


@BOTH
def test_consistency_can_be_off(config):
    losses = make(consistency=0.0, **config).loss([(features(40), None, Target(slide=1))], 0.0)
    assert set(losses) == {"slide"}


@BOTH
@pytest.mark.parametrize("n", [1, 2, 7])
def test_small_bags_are_learned_from(config, n):
    model = make(**config).train()
    tiles = np.full(n, 3, np.int32)
    total(model.loss([(features(n), None, Target(slide=1, tiles=tiles))], 0.0)).backward()
    assert torch.isfinite(model.student.feature[0].weight.grad).all()
    model.after_step(0.0)


def test_evidence_is_the_bag_voice_s():
    model, x = make().eval(), features(30)
    out = model(x)
    names = [f"evidence/bag voice/fine/{c}" for c in "abc"]
    assert list(out.maps) == names
    bias = model.student.online_encoder.b_classifier.fcc.bias
    parts = torch.stack([out.maps[n].sum() for n in names])
    assert torch.allclose(parts + bias, voices(model, x)[0], atol=1e-5)


@BOTH
def test_a_viewer_is_told_what_is_hidden(config):
    model, tiles = make(mask_ratio=0.1, **config), bag(40)
    table, found = model.explain(tiles, seed=3), masks.simulate(model, tiles, seed=3)
    assert np.array_equal(found.role, table["role"])
    assert table["student_attention"].shape == (40, 3)
    assert table["teacher_attention"].shape == table["teacher_score"].shape == (40,)
    assert table["teacher_attention"].sum() == pytest.approx(1, abs=1e-5)
    assert (table["score_rank"][table["role"] == 1] < 4).all()
