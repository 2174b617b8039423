"""MHIM version 2: masking, recycling, teacher, stage 1, and what a viewer is told."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_mil import methods
from napari_mil.bag import Bag
from napari_mil.blocks import HidesTiles, ceil_count, floor_count, soft_cross_entropy
from napari_mil.correction import Target
from napari_mil.errors import ModelError
from napari_mil.grid import TileGrid
from napari_mil.labeltree import LabelTree
from napari_mil.mil import total

D = 5
FLAT = LabelTree.from_paths(["a", "b"])


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def make(**config):
    return methods.create("mhim", {"hidden": 16, "dropout": 0.0, **config}, in_features=D, tree=FLAT)


def features(n, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, D)).astype(np.float32))


def scores(n, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).permutation(n) / n)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("compat", ["clean", "official"])
@pytest.mark.parametrize(
    ("n", "ratio", "rho", "keep", "tokens", "candidates", "hidden", "kept", "recycled", "seen"),
    [
        (1000, 0.03, 1, 0.9, 5, 30, 30, 873, 97, 878),
        (1000, 0.03, 1, 0.8, 10, 30, 30, 776, 194, 786),
        (1000, 0.03, 1, 0.1, 1, 30, 30, 97, 873, 98),
        (1000, 0.03, 0.5, 0.9, 5, 60, 30, 873, 97, 878),
        (300, 0.03, 1, 0.9, 5, 9, 9, 261, 30, 266),
        (9000, 0.01, 1, 0.9, 5, 90, 90, 8019, 891, 8024),
        (10, 0.03, 1, 0.9, 5, 1, 1, 8, 1, 13),
        (2, 0.1, 1, 0.8, 1, 1, 1, 0, 1, 1),
        (1, 0.5, 1, 0.8, 5, 0, 0, 1, 0, 1),
    ],
)
def test_counts(compat, n, ratio, rho, keep, tokens, candidates, hidden, kept, recycled, seen):
    model = make(
        compat=compat, mask_ratio=ratio, hidden_ratio_random=rho, keep_ratio=keep, recycle_tokens=tokens
    )
    part = model.hide(scores(n), generator=generator())
    found = [len(x) for x in (part.candidates, part.hidden, part.kept, part.recycled)]
    assert [*found, len(part.kept) + part.tokens] == [candidates, hidden, kept, recycled, seen]


def test_counts_follow_the_floating_product_only_as_published():
    assert (ceil_count(100, 0.07, exact=True), ceil_count(100, 0.07, exact=False)) == (8, 7)
    assert (floor_count(10, 0.3, exact=True), floor_count(1000, 0.873, exact=False)) == (3, 873)
    for ratio in (0.01, 0.03, 0.05, 0.8, 0.9):
        for n in range(1, 20001, 7):
            hundredths = round(100 * ratio)
            assert ceil_count(n, ratio, exact=False) == -(-n * hundredths // 100)
            assert ceil_count(n, ratio, exact=True) == -(-n * hundredths // 100)


@pytest.mark.parametrize("encoder", ["attn", "gated", "dsmil", "selfattn"])
def test_as_published_nothing_but_what_is_seen_need_be_projected(encoder):
    """The published order, all tiles projected and then hidden, gives the same gradients."""
    torch.manual_seed(0)
    model = make(compat="official", encoder=encoder, dropout=0.0, heads=2).double().train()
    net, x = model.student, features(700).double()
    for drop in net.modules():
        if isinstance(drop, torch.nn.Dropout):
            drop.p = 0.0
    part = model.hide(model.look(x).score, generator=generator(1))

    def gradients(vector):
        net.zero_grad()
        vector.square().sum().backward()
        return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}

    queries = net.merge.global_q_mm.data.clone()
    found = gradients(model._student(x, part).vector)
    net.merge.global_q_mm.data.copy_(queries)
    h = net.embed(x)
    tokens = net.merge(h[part.recycled], follow=True)
    expected = gradients(net.online_encoder.learn(h[part.kept], tokens).vector)
    assert found.keys() == expected.keys()
    for name, grad in found.items():
        assert torch.allclose(
            grad, expected[name], atol=1e-9 * max(1.0, expected[name].abs().max().item())
        ), name


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 400),
    ratio=st.floats(0, 1),
    rho=st.floats(0.05, 1),
    keep=st.floats(0, 1),
    tokens=st.integers(0, 3),
    official=st.booleans(),
    seed=st.integers(0, 9),
)
def test_hidden_kept_and_recycled_part_the_tiles(n, ratio, rho, keep, tokens, official, seed):
    model = make(compat="official" if official else "clean", hidden_ratio_random=rho, recycle_tokens=tokens)
    score = scores(n, seed)
    part = model.hide(score, mask_ratio=ratio, keep_ratio=keep, generator=generator(seed))
    together = torch.cat([part.hidden, part.kept, part.recycled])
    assert together.sort().values.tolist() == list(range(n))
    assert set(part.hidden.tolist()) <= set(part.candidates.tolist())
    assert len(part.kept) + part.tokens > 0
    assert part.tokens == (tokens if len(part.recycled) else 0)
    if len(part.hidden) == len(part.candidates) > 0:
        assert score[part.hidden].min() >= torch.cat([score[part.kept], score[part.recycled]]).max()
    again = model.hide(score, mask_ratio=ratio, keep_ratio=keep, generator=generator(seed))
    assert torch.equal(again.recycled, part.recycled)
    assert torch.equal(again.hidden, part.hidden)


def test_equal_scores_hide_the_first_tiles():
    assert make(mask_ratio=0.3).hide(torch.ones(10)).hidden.tolist() == [0, 1, 2]


def test_noise_replaces_the_draws():
    model = make(mask_ratio=0.2, hidden_ratio_random=0.5, keep_ratio=0.5)
    score = torch.arange(10.0)
    noise = {"high": torch.tensor([0.4, 0.1, 0.3, 0.2]), "grn": torch.arange(8.0).flip(0)}
    part = model.hide(score, noise=noise)
    assert part.candidates.tolist() == [9, 8, 7, 6]
    assert part.hidden.tolist() == [8, 6]
    assert part.kept.tolist() == [4, 5, 7, 9]
    assert part.recycled.tolist() == [3, 2, 1, 0]


def test_a_ratio_above_its_random_share_makes_every_tile_a_candidate():
    part = make().hide(scores(100), mask_ratio=0.5, generator=generator())
    assert len(part.hidden) == 50
    part = make(hidden_ratio_random=0.2).hide(scores(100), mask_ratio=0.5, generator=generator())
    assert (len(part.candidates), len(part.hidden)) == (100, 50)


def test_no_mask_ratio_means_no_hiding_except_as_published():
    part = make(mask_ratio=0.0).hide(scores(50), generator=generator())
    assert (len(part.hidden), len(part.kept)) == (0, 40)
    with pytest.raises(ModelError, match="mask_ratio is 0"):
        make(mask_ratio=0.0, compat="official")


def test_the_hidden_share_may_decay():
    model = make(mask_ratio=0.5, mask_schedule="cosine")
    hidden = [len(model.hide(scores(1000), progress=p).hidden) for p in (0.0, 0.5, 0.999, 1.0)]
    assert hidden == [500, 250, 1, 0]
    steady = make(mask_ratio=0.5)
    assert len(steady.hide(scores(1000), progress=0.9).hidden) == 500


@pytest.mark.parametrize("encoder", ["attn", "gated"])
@pytest.mark.parametrize("compat", ["clean", "official"])
def test_the_score_is_the_confidence_of_the_weighted_tile(encoder, compat):
    model = make(encoder=encoder, compat=compat)
    x = features(40)
    seen = model.look(x)
    h = model.teacher.feature(x)
    u = (seen.attention[:, None] * h) @ model.teacher.predictor.weight.T
    assert torch.allclose(seen.probability.float(), torch.softmax(u, 1), atol=1e-6)
    assert torch.equal(seen.score, seen.probability.amax(1))
    assert ((seen.score >= 0.5) & (seen.score <= 1)).all()
    assert seen.attention.sum().item() == pytest.approx(1, abs=1e-5)


def test_the_score_does_not_know_the_bias_unless_asked():
    for asked in (False, True):
        model = make(score_bias=asked)
        before = model.look(features(30)).score
        model.teacher.predictor.bias.data += torch.tensor([1.0, -2.0])
        assert torch.equal(before, model.look(features(30)).score) == (not asked)


def test_attention_can_be_the_score():
    seen = make(score="attention").look(features(30))
    assert torch.equal(seen.score, seen.attention)


def test_scores_follow_the_tiles():
    model, order = make(), torch.randperm(30)
    assert torch.allclose(
        model.look(features(30)).score[order], model.look(features(30)[order]).score, atol=1e-6
    )


def test_the_teacher_learns_nothing_by_gradient():
    model = make().train()
    total(model.loss([(features(40), None, Target(slide=1))], 0.0)).backward()
    assert all(not p.requires_grad and p.grad is None for p in model.teacher.parameters())
    assert model.student.merge.global_q_mm.grad is None
    seen = model.look(features(10))
    assert not any(t.requires_grad for t in (seen.score, seen.attention, seen.probability, seen.embedding))


@pytest.mark.parametrize("compat", ["clean", "official"])
def test_recycling_queries_follow_in_training_alone(compat):
    model = make(compat=compat, query_momentum=0.9)
    merge, x = model.student.merge, torch.rand(7, 16)
    for module in merge.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    before = merge.global_q_mm.clone()
    tokens = merge(x, follow=False)
    assert torch.equal(before, merge.global_q_mm)
    merge(x, follow=True)
    assert torch.allclose(merge.global_q_mm, 0.9 * before + 0.1 * tokens, atol=1e-6)
    now = merge.global_q_mm.clone()
    model.eval()
    model(features(30))
    model.loss([(features(30), None, Target(slide=1))], 0.0)
    assert torch.equal(now, merge.global_q_mm)
    model.train()
    model.loss([(features(30), None, Target(slide=1))], 0.0)
    assert not torch.equal(now, merge.global_q_mm)


def test_the_gradient_is_taken_at_the_queries_that_were_used():
    grads = {}
    for compat in ("clean", "official"):
        for momentum in (1.0, 0.5):
            torch.manual_seed(0)
            model = make(compat=compat, query_momentum=momentum).eval()
            model.student.merge(torch.rand(7, 16), follow=True).pow(2).sum().backward()
            grads[compat, momentum] = model.student.merge.norm.weight.grad
    assert torch.equal(grads["clean", 1.0], grads["clean", 0.5])
    assert torch.equal(grads["clean", 1.0], grads["official", 1.0])
    assert not torch.allclose(grads["official", 0.5], grads["official", 1.0])


def test_recycling_weights_do_not_touch_the_answer():
    model = make().eval()
    before = model(features(20)).logits[0]
    for p in model.student.merge.parameters():
        p.data.normal_()
    assert torch.equal(before, model(features(20)).logits[0])


@pytest.mark.parametrize("momentum", [0.0, 0.3, 1.0])
def test_the_teacher_follows_by_its_momentum(momentum):
    model = make(ema=momentum)
    for p in model.student.parameters():
        p.data += torch.randn_like(p)
    teacher = [p.clone() for p in model.teacher.parameters()]
    model.after_step(0.5)
    for old, new, student in zip(
        teacher, model.teacher.parameters(), model.student.parameters(), strict=True
    ):
        assert torch.allclose(new, momentum * old + (1 - momentum) * student, atol=1e-6)
        low, high = torch.minimum(old, student), torch.maximum(old, student)
        assert ((new >= low - 1e-6) & (new <= high + 1e-6)).all()
        if momentum in (0.0, 1.0):
            assert torch.equal(new, old if momentum else student)


def test_identical_networks_stay_as_they_are():
    model = make(ema=0.7)
    before = [p.clone() for p in model.teacher.parameters()]
    model.after_step(0.0)
    assert all(torch.equal(a, b) for a, b in zip(before, model.teacher.parameters(), strict=True))


def test_the_momentum_may_rise_to_one():
    model = make(ema=0.5, ema_schedule="cosine")
    for p in model.student.parameters():
        p.data += 1
    before = model.teacher.predictor.bias.clone()
    model.after_step(1.0)
    assert torch.equal(before, model.teacher.predictor.bias)
    model.after_step(0.0)
    assert torch.allclose(model.teacher.predictor.bias, before + 0.5)


def test_the_teacher_takes_part_in_dropout_only_as_published():
    for compat, dropping in (("clean", False), ("official", True)):
        model = make(compat=compat, dropout=0.5)
        assert model.teacher.training is dropping
        assert model.train().teacher.training is dropping
        assert torch.equal(model.look(features(30)).score, model.look(features(30)).score) is not dropping
        assert model.eval().teacher.training is False
        assert model.is_random() is dropping
        model.train()
        first, second = (model.salience(features(30), seed=s) for s in (1, 2))
        assert torch.equal(first, second) is not dropping
        assert torch.equal(first, model.salience(features(30), seed=1))
        assert model.teacher.training is dropping


def test_drawing_for_a_viewer_leaves_the_global_draws_alone():
    model = make(compat="official", dropout=0.5)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    model.salience(features(30), seed=1)
    assert torch.equal(torch.rand(3), expected)


def test_pure_mode_is_the_same_encoder_alone():
    model = make()
    pure = model.stage1()
    assert pure.config.pure
    assert not pure.has_teacher()
    assert pure.stage1() is None
    assert not any("merge" in key for key in pure.state_dict())
    pure.student.load_state_dict(
        {k: v for k, v in model.student.state_dict().items() if not k.startswith("merge.")}
    )
    assert torch.equal(pure.eval()(features(9)).logits[0], model.eval()(features(9)).logits[0])
    losses = pure.loss([(features(9), None, Target(slide=2))], 0.0)
    assert set(losses) == {"slide"}
    pure.after_step(0.5)  # nobody follows


@pytest.mark.parametrize(
    ("start", "projection", "rest"), [("none", 0, 0), ("projection", 1, 0), ("all", 1, 1)]
)
def test_stage_1_starts_the_teacher_and_the_student_as_asked(start, projection, rest):
    model = make(init_student=start)
    pure = model.stage1()
    merge = model.student.merge.norm.weight.clone()
    model.start_from(pure)
    trained = pure.student.state_dict()
    assert all(torch.equal(model.teacher.state_dict()[k], v) for k, v in trained.items())
    student = model.student.state_dict()
    assert torch.equal(student["feature.0.weight"], trained["feature.0.weight"]) == projection
    assert torch.equal(student["predictor.weight"], trained["predictor.weight"]) == rest
    assert torch.equal(merge, model.student.merge.norm.weight)


def test_another_method_is_no_stage_1():
    other = methods.create("abmil", {"hidden": 16}, in_features=D, tree=FLAT)
    with pytest.raises(ModelError, match="starts from its own stage 1, not from abmil"):
        make().start_from(other)
    with pytest.raises(ModelError, match="starts from its own stage 1"):
        make().start_from(make(encoder="gated").stage1())


def test_consistency_is_the_cross_entropy_with_the_sharpened_teacher():
    teacher = torch.randn(12)
    target = torch.softmax(teacher / 0.1, 0)
    entropy = -(target * (target + 1e-30).log()).sum()
    assert soft_cross_entropy(teacher / 0.1, teacher, 0.1).item() == pytest.approx(entropy.item(), abs=1e-5)
    for seed in range(20):
        student = torch.randn(12, generator=generator(seed))
        assert soft_cross_entropy(student, teacher, 0.1) >= max(0, entropy.item() - 1e-5)
    rows = torch.randn(3, 12)
    each = [soft_cross_entropy(r, teacher, 0.1).item() for r in rows]
    assert soft_cross_entropy(rows, teacher.expand(3, 12), 0.1).item() == pytest.approx(
        np.mean(each), abs=1e-5
    )


def test_consistency_reaches_all_but_the_predictor():
    model = make().train()
    model.study(features(40), None, 0.0).extra["consistency"].backward()
    net = model.student
    assert net.feature[0].weight.grad.abs().sum() > 0
    assert net.online_encoder.attention.attention[0].weight.grad.abs().sum() > 0
    assert net.merge.attn.to_out[0].weight.grad.abs().sum() > 0
    assert net.predictor.weight.grad is None


def test_consistency_can_be_off():
    losses = make(consistency=0.0).loss([(features(40), None, Target(slide=1))], 0.0)
    assert set(losses) == {"slide"}


def test_the_loss_of_a_bag_of_one_tile_uses_that_tile():
    model = make().eval()
    study = model.study(features(1), None, 0.0)
    assert torch.allclose(study.logits[0], model(features(1)).logits[0])


def test_a_student_without_its_teacher_answers_but_cannot_train():
    model = make(teacher=False)
    assert isinstance(model, HidesTiles)
    assert not model.has_teacher()
    model(features(3))
    model.after_step(0.0)
    for act in (
        lambda: model.loss([(features(3), None, Target(slide=1))], 0.0),
        lambda: model.look(features(3)),
    ):
        with pytest.raises(ModelError, match="this model has no teacher"):
            act()


def test_explain_tells_what_training_would_hide():
    model = make(mask_ratio=0.1)
    grid = TileGrid.full((5 * 64, 8 * 64), None, tile_px=64, mpp=None)
    bag = Bag("s", grid, features(40).numpy(), "e")
    table = model.explain(bag, seed=4)
    score = model.salience(features(40))
    assert table["teacher_score"] == pytest.approx(score.numpy())
    assert sorted(table["score_rank"]) == list(range(40))
    assert table["score_rank"][table["teacher_score"].argmax()] == 0
    assert np.bincount(table["role"], minlength=3).tolist() == [28, 4, 8]
    assert (table["role"] == 1).tolist() == (table["score_rank"] < 4).tolist()
    assert table["flags"].tolist() == [3 if r == 1 else 0 for r in table["role"]]
    assert table["p"].shape == (40, 2)
    assert table["student_attention"].sum() == pytest.approx(1, abs=1e-5)
    other = model.explain(bag, seed=5)
    assert (other["role"] == 1).tolist() == (table["role"] == 1).tolist()
    assert (other["role"] == 2).tolist() != (table["role"] == 2).tolist()


def test_explain_tells_what_feeds_the_recycled_tokens():
    model = make(mask_ratio=0.1, recycle_tokens=3, heads=4)
    grid = TileGrid.full((5 * 64, 8 * 64), None, tile_px=64, mpp=None)
    table = model.explain(Bag("s", grid, features(40).numpy(), "e"), seed=4)
    recycled, fed = table["role"] == 2, table["token_attention"]
    assert fed.shape == (40, 3)
    assert fed.sum(0) == pytest.approx(np.ones(3), abs=1e-5)
    assert (fed[~recycled] == 0).all()
    assert (fed[recycled] > 0).all()
    assert table["recycle_attention"] == pytest.approx(fed.sum(1))
    merge, at = model.eval().student.merge, torch.from_numpy(np.flatnonzero(recycled))
    with torch.no_grad():
        h = merge.norm(model.student.embed(features(40)[at]))
        q, k = merge.attn.to_q(merge.norm(merge.global_q_mm[0])), merge.attn.to_kv(h).chunk(2, 1)[0]
        q, k = (x.view(len(x), 4, -1).transpose(0, 1) for x in (q, k))
        plain = torch.softmax(q @ k.mT / q.shape[-1] ** 0.5, -1).mean(0)
    assert fed[recycled] == pytest.approx(plain.T.numpy(), abs=1e-6)
    alone = model.explain(
        Bag("s", TileGrid.full((64, 64), None, tile_px=64, mpp=None), features(1).numpy(), "e")
    )
    assert alone["recycle_attention"].tolist() == [0.0]
    assert "recycle_attention" not in make(recycle_tokens=0).explain(
        Bag("s", grid, features(40).numpy(), "e")
    )


def test_explain_can_show_the_published_teacher():
    model = make(dropout=0.5, mask_ratio=0.2)
    grid = TileGrid.full((5 * 64, 8 * 64), None, tile_px=64, mpp=None)
    bag = Bag("s", grid, features(40).numpy(), "e")
    clean, one, two = (
        model.explain(bag, mode=mode, seed=seed)["teacher_score"]
        for mode, seed in (("clean", 1), ("official", 1), ("official", 2))
    )
    assert not np.array_equal(clean, one)
    assert not np.array_equal(one, two)
    assert np.array_equal(clean, model.explain(bag, mode="clean", seed=2)["teacher_score"])


def test_explain_without_a_teacher_speaks_of_the_student():
    grid = TileGrid.full((64, 3 * 64), None, tile_px=64, mpp=None)
    table = make(pure=True).explain(Bag("s", grid, features(3).numpy(), "e"))
    assert "student_attention" in table
    assert "role" not in table


def test_parameters_are_as_many_as_published():
    def count(**config):
        model = methods.create("mhim", {"act": "relu", **config}, in_features=1024, tree=FLAT)
        return sum(p.numel() for p in model.student.parameters())

    assert count(pure=True) == 591_490
    assert count(pure=True, encoder="gated") == 657_026
    assert count() == 1_644_162


def test_queries_start_within_their_bounds():
    queries = methods.create("mhim", in_features=8, tree=FLAT).student.merge.global_q_mm
    bound = math.sqrt(6 / (3 * 16 * 16 + 512))
    assert bound == pytest.approx(0.06847, abs=1e-5)
    assert queries.abs().max() <= bound
    assert queries.abs().max() > 0.9 * bound


@pytest.mark.parametrize("score", ["class", "attention"])
@pytest.mark.parametrize("encoder", ["attn", "gated", "dsmil", "selfattn"])
def test_in_bfloat16_the_teacher_still_tells_tiles_apart(encoder, score):
    model, x = make(encoder=encoder, score=score, hidden=64), features(500)
    whole = model.look(x).score
    with torch.autocast("cpu", torch.bfloat16):
        half = model.look(x).score
    assert half.dtype == whole.dtype
    for some, same in zip(torch.atleast_2d(half), torch.atleast_2d(whole), strict=True):
        assert len(some.unique()) > 0.98 * len(same.unique())
        order, rank = some.argsort().argsort().double(), same.argsort().argsort().double()
        assert torch.corrcoef(torch.stack([order, rank]))[0, 1] > 0.98
