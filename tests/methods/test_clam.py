"""CLAM: one branch or one per class, and the loss of the tiles that attention puts first and last."""

import math

import numpy as np
import pytest
import torch
from closed_form import bag, clam_shapes, fill
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_mil import methods
from napari_mil.correction import Target
from napari_mil.labeltree import LabelTree
from napari_mil.methods.clam import SmoothTop1SVM

D = 5
TREE = LabelTree.from_paths(["x/a", "x/b", "y/c"])
BOTH = pytest.mark.parametrize("name", ["clam_sb", "clam_mb"])


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def make(name, **config):
    given = {"hidden": 16, "attention_width": 8, "dropout": 0.0, **config}
    return methods.create(name, given, in_features=D, tree=TREE)


def features(n, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, D)).astype(np.float32))


def published(name, **config):
    model = methods.create(name, config, in_features=1024, tree=LabelTree.from_paths(["a", "b", "c"]))
    at = 2 if config.get("dropout") == 0 else 3
    weights = fill(clam_shapes(c=3, branches=name == "clam_mb", at=at))
    model.load_state_dict({**weights, "instance_loss_fn.labels": torch.arange(2)})
    return model.eval(), weights


@BOTH
@pytest.mark.parametrize("dropout", [0.25, 0.0])
def test_the_keys_are_the_published_ones_and_the_answer_that_of_the_formulas(name, dropout):
    model, weights = published(name, dropout=dropout)
    w = {k.replace("net.2.", "net.3."): v.double() for k, v in weights.items()}
    x = bag(50, 1024, 0)

    def layer(key, h):
        return h @ w[f"{key}.weight"].T + w[f"{key}.bias"]

    h = torch.nn.functional.gelu(layer("attention_net.0", x.double()))
    a = torch.tanh(layer("attention_net.3.attention_a.0", h))
    b = torch.sigmoid(layer("attention_net.3.attention_b.0", h))
    a = torch.softmax(layer("attention_net.3.attention_c", a * b), 0)
    if name == "clam_sb":
        logits, tiles = layer("classifiers", a.T @ h)[0], layer("classifiers", h)
    else:
        logits = torch.cat([layer(f"classifiers.{k}", a[:, k] @ h) for k in range(3)])
        tiles = torch.cat([layer(f"classifiers.{k}", h) for k in range(3)], 1)
    out = model(x)
    assert torch.allclose(out.logits[0].double(), logits, atol=1e-5)
    assert torch.allclose(out.tile_logits.double(), tiles, atol=1e-5)
    assert torch.allclose(out.attention.double(), a, atol=1e-6)
    assert out.attention.shape == (50, 1 if name == "clam_sb" else 3)


def test_parameters_are_as_many_as_published():
    model = methods.create("clam_mb", in_features=1024, tree=LabelTree.from_paths(["a", "b"]))
    answering = [p.numel() for n, p in model.named_parameters() if "instance" not in n]
    assert sum(answering) == 788_996  # "789K"


@BOTH
def test_the_answer_for_one_tile_is_its_class(name):
    out = make(name).eval()(features(1))
    assert torch.allclose(out.logits[-1], out.tile_logits[0], atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-20, 20), st.floats(-20, 20), st.integers(0, 1)), min_size=1, max_size=16)
)
def test_the_svm_is_its_formula(rows):
    u, target = torch.tensor([r[:2] for r in rows], dtype=torch.float64), torch.tensor([r[2] for r in rows])
    each = []
    for (first, second), t in zip(u.tolist(), target.tolist(), strict=True):
        d = [(first, second)[j] + (j != t) - (first, second)[t] for j in (0, 1)]
        smooth = math.log(sum(map(math.exp, d)))
        each.append(max(d) if abs(first - second) >= math.log(1000) else smooth)
    assert SmoothTop1SVM(2)(u, target).item() == pytest.approx(np.mean(each), abs=1e-9)


def test_the_svm_is_hard_from_a_gap_of_ln_1000():
    svm, wide = SmoothTop1SVM(2), math.log(1000)
    hard, soft = (torch.tensor([[gap, 0.0]], dtype=torch.float64) for gap in (wide + 1e-9, wide - 1e-9))
    assert svm(hard, torch.tensor([0])).item() == 0
    assert svm(hard, torch.tensor([1])).item() == pytest.approx(wide + 1)
    assert svm(soft, torch.tensor([0])).item() == pytest.approx(math.log1p(math.e / 1000), abs=1e-6)
    assert svm(soft, torch.tensor([1])).item() > wide + 1


def test_the_gradient_of_the_svm_is_that_of_its_formula():
    u = torch.tensor([[0.3, -0.2], [4.0, -9.0], [2.0, 2.0], [-8.0, 1.0]], dtype=torch.float64)
    target = torch.tensor([0, 1, 1, 1])
    assert torch.autograd.gradcheck(lambda x: SmoothTop1SVM(2)(x, target), u.requires_grad_())


def direct(model, x, label):
    """The instance loss of one bag, in words of the paper."""
    h = model.attention_net[:-1](x)
    scores = model.attention_net[-1](h)
    n, losses = min(model.config.instance_tiles, len(x)), []
    for k in range(3):
        order = scores[:, k if model.name == "clam_mb" else 0].argsort().tolist()
        logits = model.instance_classifiers[k](h)
        if k == label:
            at, target = [*order[-n:], *order[:n]], [1] * n + [0] * n
        elif model.config.subtyping:
            at, target = order[-n:], [0] * n
        else:
            continue
        losses.append(model.instance_loss_fn(logits[at], torch.tensor(target)).item())
    return np.mean(losses)


@BOTH
@pytest.mark.parametrize("subtyping", [False, True])
@pytest.mark.parametrize("n", [1, 2, 7, 15, 40])
def test_the_instance_loss_tells_the_first_from_the_last(name, subtyping, n):
    model, x = make(name, subtyping=subtyping), features(n)
    for label, leaf in enumerate(TREE.leaves):
        losses = model.loss([(x, None, Target(slide=leaf))], 0.0)
        assert losses["instance"].item() == pytest.approx(0.3 * direct(model, x, label), abs=1e-5)
        said = torch.log_softmax(model(x).logits[-1], 0)[label]
        assert losses["slide"].item() == pytest.approx(-0.7 * said.item(), abs=1e-5)


@BOTH
def test_only_the_classifier_of_the_slide_s_class_learns_without_subtyping(name):
    for subtyping in (False, True):
        model = make(name, subtyping=subtyping)
        sum(model.loss([(features(20), None, Target(slide=TREE.leaves[1]))], 0.0).values()).backward()
        learned = [c.weight.grad is not None for c in model.instance_classifiers]
        assert learned == [subtyping, True, subtyping]


@BOTH
def test_a_slide_labelled_at_an_inner_node_gives_no_instance_loss(name):
    model, x = make(name), features(20)
    assert set(model.loss([(x, None, Target(slide=TREE.node("x")))], 0.0)) == {"slide"}
    assert model.loss([(x, None, Target())], 0.0) == {}
    leaf = (x, None, Target(slide=TREE.leaves[0]))
    alone = model.loss([leaf], 0.0)["instance"].item()
    both = model.loss([(features(9, 1), None, Target(slide=TREE.node("x"))), leaf], 0.0)
    assert both["instance"].item() == pytest.approx(alone / 2, abs=1e-6)  # a mean over the labelled bags


@BOTH
def test_the_instance_loss_can_be_off_and_weighed(name):
    example = [(features(20), None, Target(slide=TREE.leaves[0]))]
    assert set(make(name, instance_weight=0.0).loss(example, 0.0)) == {"slide"}
    model = make(name)
    once, thrice = (model.loss(example, 0.0, weights=[w])["instance"].item() for w in (1.0, 3.0))
    assert thrice == pytest.approx(3 * once, rel=1e-5)


@BOTH
@pytest.mark.parametrize("n", [1, 2, 7])
def test_small_bags_are_learned_from(name, n):
    model = make(name, dropout=0.25, subtyping=True).train()
    sum(model.loss([(features(n), None, Target(slide=TREE.leaves[0]))], 0.0).values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
