"""HMIL: two levels that agree, its curriculum and its contrast."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_mil import methods
from napari_mil.blocks import rows
from napari_mil.correction import Target
from napari_mil.labeltree import LabelTree
from napari_mil.methods.hmil import HMIL

D = 5
TREE = LabelTree.from_paths(["B/N", "B/UDH", "A/FEA", "M/DCIS", "M/IC"])
DEEP = LabelTree.from_paths(["x/B/N", "x/B/UDH", "y/M/DCIS", "y/M/IC", "y/A/FEA"])


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def make(tree=TREE, **config):
    return methods.create("hmil", {"hidden": 32, **config}, in_features=D, tree=tree)


def features(n, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, D)).astype(np.float32))


def terms(model, slides, progress=0.5, n=12):
    studies = [model.study(features(n + i, i), None, progress) for i in range(len(slides))]
    return model.terms(studies, [Target(slide=s) for s in slides], progress)


def test_attention_rows_and_class_vectors_are_normalised():
    seen = make().look(features(40))
    assert torch.allclose(seen.coarse_attention.sum(0), torch.ones(3), atol=1e-5)
    assert torch.allclose(seen.fine_attention.sum(0), torch.ones(5), atol=1e-5)
    assert torch.allclose(seen.z.norm(dim=1), torch.ones(5), atol=1e-5)
    assert torch.allclose(torch.softmax(seen.fine_scores, 0), seen.fine_attention)


def test_class_vectors_do_not_depend_on_the_order_of_tiles():
    model, order = make(), torch.randperm(40)
    assert torch.allclose(model.look(features(40)).z, model.look(features(40)[order]).z, atol=1e-6)


def test_logits_are_sums_over_the_tiles():
    model = make()
    seen = model.look(features(40))
    fine = (seen.fine_attention * seen.fine_told).sum(0)
    assert torch.allclose(seen.fine_logits, fine + model.fine_classifier.bias, atol=1e-5)
    out = model(features(40))
    for stem, logits, bias in (
        ("evidence/fine/", out.logits[1], model.fine_classifier.bias),
        ("evidence/coarse/", out.logits[0], model.coarse_classifier.bias),
    ):
        parts = torch.stack([v.sum() for k, v in out.maps.items() if k.startswith(stem)])
        assert torch.allclose(parts + bias, logits, atol=1e-5)


def test_of_many_tiles_layers_are_joined_and_say_the_same(monkeypatch):
    monkeypatch.setattr(rows, "CPU_ROWS", 16)
    model, x, head = make(presence_weight=1.0).double(), features(40).double(), HMIL._head
    found = []
    for joined in (len(x) > 32, False):
        with monkeypatch.context() as here:
            here.setattr(HMIL, "_head", lambda self, *, joined, to=joined: head(self, joined=joined and to))
            seen = model.look(x)
            model.zero_grad()
            sum(model.loss([(x, None, Target(slide=TREE.leaves[1]))], 0.5).values()).backward()
        found.append([*(getattr(seen, f) for f in seen.__slots__), *(p.grad for p in model.parameters())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-9)
    h1 = model.feature_extractor(x)
    h2 = model.feature_reducer(h1)
    assert torch.allclose(seen.coarse_attention, torch.softmax(model.coarse_attention(h1), 0))
    assert torch.allclose(seen.fine_scores, model.fine_attention(h2))
    assert torch.allclose(seen.coarse_told, model.coarse_classifier(h1))


def test_a_bag_of_one_tile_answers_alike_for_every_class():
    out = make()(features(1))
    assert torch.allclose(out.logits[1], out.logits[1][0].expand(5), atol=1e-5)
    assert torch.allclose(out.tile_logits, torch.zeros(1, 5), atol=1e-5)


def test_the_class_of_a_tile_is_its_attention_over_uniform():
    out = make()(features(40))
    assert torch.allclose(out.tile_logits, (40 * out.attention).log(), atol=1e-5)


def test_labels_of_tiles_take_no_attention_from_tiles_that_nobody_labelled():
    """Tiles without a label are moved alike, whatever attention they have, so not against each other."""
    model, x = make(), features(12)
    labels = np.zeros(12, np.int32)
    labels[:3] = TREE.node("M/IC")
    scores = []
    model.fine_attention.register_forward_hook(lambda _m, _i, out: (out.retain_grad(), scores.append(out))[1])
    loss = model.loss([(x, None, Target(tiles=labels))], 0.5)["tiles"]
    loss.backward()
    [found] = scores
    assert not torch.allclose(found.grad[:3], found.grad[3:6])
    assert torch.allclose(found.grad[3:], found.grad[3].expand(9, -1))
    assert torch.allclose(found.grad.sum(0), torch.zeros(5), atol=1e-6)  # a shift of all is no answer
    # and it is the loss of t_i: −log softmax at the label, as everywhere
    t = model.eval()(x).tile_logits[:3]
    assert loss.item() == pytest.approx(model.node_nll(t, labels[:3]).mean().item(), rel=1e-5)


def test_the_attention_is_computed_once():
    model, calls = make(), []
    model.fine_attention.register_forward_hook(lambda *_: calls.append(1))
    model(features(9))
    assert len(calls) == 1
    model.loss([(features(9), None, Target(slide=TREE.leaves[0]))], 0.5)
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("compat", "at", "alpha", "tau"),
    [
        ("official", 0, 1.0, 1.0),
        ("official", 50, 0.9375, 0.55),
        ("official", 100, 0.75, 0.1),
        ("official", 199, 0.009975, 0.999778),
        ("clean", 100, 0.75, 0.1),
        ("clean", 0, 1.0, 0.1),
        ("paper", 50, 0.75, 0.1),
        ("paper", 200, 0.0, 0.1),
    ],
)
def test_schedules(compat, at, alpha, tau):
    model = make(compat=compat)
    assert model.alpha(at / 200) == pytest.approx(alpha, abs=1e-6)
    assert model.temperature(at / 200) == pytest.approx(tau, abs=1e-6)


def test_an_option_given_wins_over_the_preset():
    model = make(compat="official", align_form="nll", tau="const")
    assert (model.setting("align_form"), model.temperature(0.0), model.setting("scl_views")) == (
        "nll",
        0.1,
        "all_classes",
    )


def names(progress, **config):
    bags = [(features(9), None, Target(slide=TREE.leaves[0]))]
    return set(make(**config).loss(bags, progress))


def test_the_curriculum_moves_from_coarse_to_contrast():
    always = {"fine", "bag_alignment"}
    assert names(0.0, compat="official") == always | {"coarse"}
    assert names(0.5, compat="official") == always | {"coarse", "contrast"}
    assert names(1.0, compat="official") == always | {"contrast"}
    assert names(0.5, compat="clean") == always | {"coarse", "instance_alignment", "contrast"}
    assert names(0.5, use_instance_alignment="no") == always | {"coarse", "contrast"}
    assert names(1.0, compat="paper") == {"fine", "contrast"}


def test_paper_weights_all_coarse_terms_by_the_schedule():
    model, slides = make(compat="paper"), [TREE.leaves[0], TREE.leaves[3]]
    found = terms(model, slides, 0.25)
    bags = [(features(12 + i, i), None, Target(slide=s)) for i, s in enumerate(slides)]
    losses = model.loss(bags, 0.25)
    for name, weight in (
        ("coarse", 0.75),
        ("bag_alignment", 0.75),
        ("instance_alignment", 0.75),
        ("fine", 1.0),
        ("contrast", 0.25),
    ):
        assert losses[name].item() == pytest.approx(weight * getattr(found, name).item(), abs=1e-6), name


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000))
def test_bag_alignment_has_the_bound_of_its_form(seed):
    logits = torch.randn(4, 5, generator=torch.Generator().manual_seed(seed)) * 20
    slides = [TREE.leaves[i] for i in (0, 2, 3, 4)]
    double, clean = make(align_form="double_softmax"), make(align_form="nll")
    bound = math.log(math.e + 3 - 1) - 1
    assert (double._alignment(logits, slides) >= bound - 1e-5).all()
    assert (clean._alignment(logits, slides) >= -1e-5).all()


def test_bag_alignment_is_zero_only_when_all_mass_lies_under_the_parent():
    model = make()
    under, beside = torch.tensor([[50.0, 50.0, -50, -50, -50]]), torch.zeros(1, 5)
    assert model._alignment(under, [TREE.leaves[0]]).item() == pytest.approx(0, abs=1e-6)
    assert model._alignment(beside, [TREE.leaves[0]]).item() == pytest.approx(-math.log(2 / 5), abs=1e-5)
    official = make(compat="official")
    assert official._alignment(under, [TREE.leaves[0]]).item() == pytest.approx(0.551445, abs=1e-5)


def test_instance_alignment_is_zero_for_parallel_attention():
    model = make()
    seen = model.look(features(30))
    assert torch.all((model._consistency(seen) >= 0) & (model._consistency(seen) <= 1 + 1e-6))
    lifted = seen.fine_attention @ torch.from_numpy(TREE.lift_matrix(0))
    twin = type(seen)(**{f: getattr(seen, f) for f in seen.__slots__} | {"coarse_attention": 3 * lifted})
    assert torch.allclose(model._consistency(twin), torch.ones(30), atol=1e-6)
    assert torch.allclose(model(features(30)).maps["disagreement"], 1 - model._consistency(seen), atol=1e-6)


def test_instance_alignment_holds_for_large_bags():
    model = make()
    x = features(7).repeat(9000, 1)  # attention far below the ε of a cosine
    few, many = model(features(7)).maps["disagreement"], model(x).maps["disagreement"][:7]
    assert torch.allclose(few, many, atol=1e-4)


def test_contrast_of_a_single_bag_is_finite_and_of_strangers_zero():
    assert terms(make(), [TREE.leaves[0]]).contrast.isfinite()
    strangers = terms(make(scl_views="true_class"), [TREE.leaves[0], TREE.leaves[3]])
    assert strangers.contrast.item() == 0
    alike = terms(make(scl_views="true_class"), [TREE.leaves[0]] * 2)
    assert alike.contrast.item() == pytest.approx(0, abs=1e-4)  # each is the other's only candidate


def reference_contrast(vectors, labels, tau):
    """The definition, pair by pair."""
    z = [v for bag in vectors for v in bag]
    y = [label for bag, label in zip(vectors, labels, strict=True) for _ in bag]
    anchors = []
    for a in range(len(z)):
        other = [i for i in range(len(z)) if i != a]
        denominator = sum(math.exp(z[a] @ z[i] / tau) for i in other)
        positive = [i for i in other if y[i] == y[a]]
        logs = [z[a] @ z[i] / tau - math.log(denominator) for i in positive]
        anchors.append(-tau / 0.1 * sum(logs) / max(1, len(logs)))
    return np.mean(anchors)


@pytest.mark.parametrize("tau", [1.0, 0.3])
def test_contrast_as_it_is_defined(tau):
    vectors = torch.nn.functional.normalize(torch.randn(4, 5, 8, dtype=torch.float64), dim=2)
    slides = [TREE.leaves[i] for i in (0, 2, 0, 4)]
    expected = reference_contrast(vectors.numpy(), slides, tau)
    assert make(scl_views="all_classes")._contrast(vectors, slides, tau).item() == pytest.approx(
        expected, abs=1e-4
    )
    official = make(compat="official")._contrast(vectors, slides, tau).item()
    assert official == pytest.approx(expected / 4, abs=1e-4)  # divided by the bags once more


def test_the_order_of_bags_does_not_change_the_losses():
    model = make()
    bags = [(features(9 + i, i), None, Target(slide=TREE.leaves[i])) for i in range(4)]
    one, other = model.loss(bags, 0.5), model.loss(bags[::-1], 0.5)
    assert {k: v.item() for k, v in one.items()} == pytest.approx(
        {k: v.item() for k, v in other.items()}, abs=1e-5
    )


def test_a_coarse_label_gives_no_fine_term():
    found = terms(make(), [TREE.node("A"), TREE.node("M")])
    assert found.fine is None
    assert found.contrast is None
    assert found.coarse > 0
    mixed = terms(make(), [TREE.node("A"), TREE.leaves[0]])
    assert mixed.fine is not None


def test_presence_is_the_cross_entropy_of_mean_exponentials_of_the_attention_scores():
    model, x = make(presence_weight=2.0), features(12)
    h1 = model.feature_extractor(x)
    coarse, fine = model.coarse_attention(h1), model.fine_attention(model.feature_reducer(h1))
    p_coarse = coarse.exp().mean(0) / coarse.exp().mean(0).sum()
    p_fine = fine.exp().mean(0) / fine.exp().mean(0).sum()
    found = model.loss([(x, None, Target(slide=TREE.leaves[3]))], 0.5)["presence"]
    assert found.item() == pytest.approx(-2 * (p_coarse[2].log() + p_fine[3].log()).item(), abs=1e-5)
    inner = model.loss([(x, None, Target(slide=TREE.node("M")))], 0.5)["presence"]
    assert inner.item() == pytest.approx(-2 * p_coarse[2].log().item(), abs=1e-5)


def test_presence_speaks_of_labelled_bags_only_where_it_is_asked_for():
    labelled, not_labelled = (features(9), None, Target(slide=TREE.leaves[0])), (features(9), None, Target())
    assert "presence" not in make().loss([labelled], 0.5)
    for preset in methods.get("hmil").presets.values():
        assert "presence" not in make(**preset.config).loss([labelled], 0.5)
    assert "presence" not in make(presence_weight=1.0).loss([not_labelled], 0.5)


def test_presence_does_not_ask_the_head():
    model, bag = make(presence_weight=1.0), [(features(12), None, Target(slide=TREE.leaves[3]))]
    before = model.loss(bag, 0.5)
    with torch.no_grad():
        model.fine_classifier.weight.neg_()
    after = model.loss(bag, 0.5)
    assert after["fine"].item() != pytest.approx(before["fine"].item(), abs=1e-3)
    assert after["presence"].item() == before["presence"].item()


def test_without_labels_only_the_alignment_of_tiles_is_left():
    found = terms(make(), [0, 0])
    assert (found.coarse, found.fine, found.bag_alignment, found.contrast) == (None,) * 4
    assert found.instance_alignment >= 0


def test_a_deeper_tree_uses_its_two_finest_levels():
    model = make(DEEP).eval()
    out = model(features(20))
    assert [len(x) for x in out.logits] == [2, 3, 5]
    p = torch.softmax(out.logits[1], 0)
    assert torch.allclose(torch.softmax(out.logits[0], 0), torch.stack([p[0], p[1] + p[2]]), atol=1e-6)
    found = terms(model, [DEEP.node("y")])
    expected = -torch.log(torch.softmax(model(features(12)).logits[1], 0)[1:].sum())
    assert found.coarse.item() == pytest.approx(expected.item(), abs=1e-5)
    assert {k for k in out.maps if k.startswith("attention/")} == {f"attention/level2/{c}" for c in "BMA"}


def test_parameters_are_as_many_as_published():
    bracs = LabelTree.from_paths(["B/N", "B/PB", "B/UDH", "A/FEA", "A/ADH", "M/DCIS", "M/IC"])
    model = methods.create("hmil", in_features=1024, tree=bracs)
    count = {k: sum(p.numel() for p in m.parameters()) for k, m in model.named_children()}
    assert count == {
        "feature_extractor": 262_400 + 263_168,
        "feature_reducer": 262_400,
        "coarse_attention": 525_571,
        "fine_attention": 33_351,
        "coarse_classifier": 1_025,
        "fine_classifier": 257,
    }
    assert not any(p.any() for k, p in model.named_parameters() if k.endswith("bias"))
