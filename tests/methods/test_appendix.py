"""Golden values of the official modules (CPU, fp32, no dropout), from closed-form weights."""

import pytest
import torch
from closed_form import bag, fill, hmil_shapes, mhim_shapes, micromil_shapes

from napari_mil import methods
from napari_mil.correction import Target
from napari_mil.labeltree import LabelTree

BRACS = LabelTree.from_paths(["B/N", "B/PB", "B/UDH", "A/FEA", "A/ADH", "M/DCIS", "M/IC"], normal=["B/N"])
near = pytest.approx


def close(values, expected):
    assert values.tolist() == pytest.approx(expected, abs=2e-6)


def test_closed_form_tensors_are_as_published():
    x = bag(50, 1024, 0)
    close(x[0, :3], [0.279456, 0.673283, 0.681188])
    close(x[49, -1:], [0.79607])
    weights = fill(mhim_shapes())
    assert len(weights) == 13
    close(weights["feature.0.bias"][:3], [0.024008, 0.006440, -0.004525])
    close(weights["feature.0.weight"][0, :3], [-0.046126, -0.014697, -0.017840])
    close(weights["predictor.weight"][0, :2], [0.023872, 0.069693])


def filled(compat, shapes, **config):
    given = {"compat": compat, "dropout": 0.0, "mask_ratio": 0.05, "keep_ratio": 0.8, **config}
    model = methods.create("mhim", given, in_features=1024, tree=LabelTree.from_paths(["a", "b"]))
    model.student.load_state_dict(fill(shapes))
    model.teacher.load_state_dict(fill(shapes, 1))
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


@pytest.fixture(params=["official", "clean"])
def mhim(request):
    return filled(request.param, mhim_shapes())


@pytest.fixture(params=["official", "clean"])
def on_dsmil(request):
    return filled(request.param, mhim_shapes(dsmil=True), encoder="dsmil")


GRN_NOISE = torch.tensor([(0.6180339887498949 * (i + 1)) % 1 for i in range(47)], dtype=torch.float64)


def test_mhim_answers(mhim):
    out = mhim.eval()(bag(50, 1024, 0))
    close(out.logits[0], [0.119098, 0.065276])
    close(out.attention[:3, 0], [0.022254, 0.015698, 0.015396])


def test_mhim_teacher_scores(mhim):
    seen = mhim.look(bag(50, 1024, 0))
    close(seen.embedding[:3], [0.212895, 0.023808, 0.116114])
    close(seen.score[:3], [0.503358, 0.502578, 0.501058])


def test_mhim_hides_and_recycles(mhim):
    seen = mhim.look(bag(50, 1024, 0))
    part = mhim.hide(seen.score, noise={"grn": GRN_NOISE})
    assert part.hidden.tolist() == [12, 16, 4]
    assert (len(part.kept), len(part.recycled), part.tokens) == (37, 10, 5)
    assert torch.argsort(GRN_NOISE)[:5].tolist() == [33, 12, 46, 25, 4]
    left = [i for i in range(50) if i not in (12, 16, 4)]
    first = [left[i] for i in (33, 12, 46, 25, 4)]
    if mhim.config.compat == "official":
        assert part.kept[:5].tolist() == first
    else:  # the student sees them in the order of the bag
        assert set(first) < set(part.kept.tolist())
        assert part.kept.tolist() == sorted(part.kept.tolist())


def test_mhim_training_step(mhim):
    study = mhim.study(bag(50, 1024, 0), None, 0.0, noise={"grn": GRN_NOISE})
    close(study.logits[0], [-0.018879, 0.092344])
    assert 2 * study.extra["consistency"].item() == near(6.242519, abs=2e-6)
    close(mhim.student.merge.global_q_mm[0, 0, :2], [-0.39230028, 0.40420955])


def test_mhim_total_loss(mhim):
    losses = mhim.loss([(bag(50, 1024, 0), None, Target(slide=2))], 0.0, noise={"grn": GRN_NOISE})
    assert sum(v.item() for v in losses.values()) == near(3.760341, abs=2e-6)


def test_mhim_on_dsmil_answers(on_dsmil):
    weights = fill(mhim_shapes(dsmil=True))
    assert len(weights) == 21
    close(weights["predictor.weight"][0, :2], [0.044777, 0.043063])
    x = bag(50, 1024, 0)
    out = on_dsmil.eval()(x)
    pooler = on_dsmil.student.online_encoder
    voices = pooler.logits(pooler(on_dsmil.student.embed(x)), on_dsmil.student.predictor)
    close(voices[0], [0.240780, 0.110777])
    close(voices[1], [1.062034, 0.796060])
    close(out.logits[0], [(0.240780 + 1.062034) / 2, (0.110777 + 0.796060) / 2])
    close(out.tile_logits[:3].amax(1), [0.494130, 1.062034, 0.323522])


def test_mhim_on_dsmil_hides(on_dsmil):
    seen = on_dsmil.look(bag(50, 1024, 0))
    close(seen.embedding.flatten()[:3], [0.031697, 0.140368, 0.123262])
    close(seen.score[:3], [0.559380, -0.029094, 0.474046])
    part = on_dsmil.hide(seen.score, noise={"grn": GRN_NOISE})
    assert part.hidden.tolist() == [26, 42, 25]


def test_mhim_on_dsmil_training_step(on_dsmil):
    x, noise = bag(50, 1024, 0), {"grn": GRN_NOISE}
    study = on_dsmil.study(x, None, 0.0, noise=noise)
    close(study.logits[0], [0.631803, 0.394698])
    assert 2 * study.extra["consistency"].item() == near(6.239615, abs=2e-6)
    close(on_dsmil.student.merge.global_q_mm[0, 0, :2], [-0.39224395, 0.40420604])


def test_mhim_on_dsmil_total_loss(on_dsmil):
    losses = on_dsmil.loss([(bag(50, 1024, 0), None, Target(slide=2))], 0.0, noise={"grn": GRN_NOISE})
    assert sum(v.item() for v in losses.values()) == near(3.938518, abs=2e-6)


def about(values, expected):
    """The pseudo-inverse costs a digit."""
    assert values.tolist() == near(expected, abs=1e-5)


@pytest.fixture(params=["official", "clean"])
def attentive(request):
    return filled(request.param, mhim_shapes(selfattn=True), encoder="selfattn")


def test_mhim_on_self_attention_answers(attentive):
    weights = fill(mhim_shapes(selfattn=True))
    assert len(weights) == 32
    close(weights["predictor.weight"][0, :2], [0.037619, -0.045202])
    attentive.eval()
    with torch.no_grad():
        out = attentive(bag(50, 1024, 0))
    about(out.logits[0], [0.388470, 0.964258])
    about(out.columns["attention/layer1/head1"][:3], [0.007498, 0.005638, 0.004617])
    kept = attentive(bag(50, 1024, 0))  # where gradients are kept, it is computed in another way
    about(kept.logits[0], [0.388470, 0.964258])
    about(kept.columns["attention/layer1/head1"][:3], [0.007498, 0.005638, 0.004617])


def test_mhim_on_self_attention_hides_and_learns(attentive):
    x = bag(50, 1024, 0)
    seen = attentive.look(x)
    about(seen.embedding[:3], [-0.987281, 2.867360, -0.217329])
    about(seen.score[:3], [0.500361, 0.507861, 0.502789])
    assert attentive.hide(seen.score, noise={"grn": GRN_NOISE}).hidden.tolist() == [1, 18, 13]
    study = attentive.study(x, None, 0.0, noise={"grn": GRN_NOISE})
    about(attentive.student.merge.global_q_mm[0, 0, :2], [-0.39230001, 0.40422043])
    if attentive.config.compat == "official":  # the order of the kept tiles is as drawn
        about(study.logits[0], [0.625496, 0.936950])
        assert 2 * study.extra["consistency"].item() == near(6.319708, abs=1e-5)


def test_mhim_on_self_attention_total_loss():
    model = filled("official", mhim_shapes(selfattn=True), encoder="selfattn")
    target = Target(slide=2)
    losses = model.loss([(bag(50, 1024, 0), None, target)], 0.0, noise={"grn": GRN_NOISE})
    assert sum(v.item() for v in losses.values()) == near(3.709351, abs=1e-5)


@pytest.fixture(scope="module")
def hmil():
    model = methods.create("hmil", {"compat": "official"}, in_features=1024, tree=BRACS)
    model.load_state_dict(fill(hmil_shapes()))
    return model


BAGS = [bag(20, 1024, 0), bag(30, 1024, 1), bag(25, 1024, 2)]
TARGETS = [Target(slide=BRACS.leaves[k]) for k in (0, 3, 0)]


def test_hmil_answers(hmil):
    out = hmil(BAGS[0])
    close(out.logits[0], [0.194378, 0.158490, 0.203208])
    close(out.logits[1], [-0.115494, -0.131138, -0.112165, -0.114439, -0.107725, -0.111571, -0.111709])
    close(out.maps["attention/coarse/B"][:3], [0.045940, 0.053902, 0.042650])
    close(out.attention[:3, 0], [0.044203, 0.057473, 0.054280])
    close(out.embedding[:3], [-0.030710, -0.043230, -0.056584])


@pytest.mark.parametrize(
    ("epoch", "tau", "contrast", "total"),
    [(0, 1.0, 9.898806, 4.091699), (50, 0.55, 5.407359, 4.361200), (100, 0.1, 0.936765, 4.052054)],
)
def test_hmil_losses(hmil, epoch, tau, contrast, total):
    progress = epoch / 200
    assert hmil.temperature(progress) == near(tau)
    terms = hmil.terms([hmil.study(x, None, progress) for x in BAGS], TARGETS, progress)
    assert terms.coarse.item() == near(1.095344, abs=2e-6)
    assert terms.fine.item() == near(1.942189, abs=2e-6)
    assert terms.bag_alignment.item() == near(1.054167, abs=2e-6)
    assert terms.instance_alignment.item() == near(0.03128091, abs=2e-6)
    assert terms.contrast.item() == near(contrast, abs=2e-6)
    losses = hmil.loss([(x, None, t) for x, t in zip(BAGS, TARGETS, strict=True)], progress)
    assert sum(v.item() for v in losses.values()) == near(total, abs=2e-6)


def test_micromil():
    two = LabelTree.from_paths(["a", "b"])
    model = methods.create(
        "micromil", {"compat": "official", "clusters": 4}, in_features=512, tree=two
    ).eval()
    weights = fill(micromil_shapes())
    assert len(weights) == 15
    model.load_state_dict(weights)
    k, s = torch.arange(4.0)[:, None], torch.arange(9.0)
    noise = {"select": torch.sin(1.3 * s + 2.1 * k), "edge": torch.sin(0.9 * k + 1.7 * torch.arange(4.0))}
    study = model.study(bag(9, 512, 0), None, 0.0, noise=noise)
    seen = study.seen
    close(seen.assignment.features[0, :3], [-0.004017, 0.666468, 0.184453])
    close(seen.assignment.z[0], [0.251623, 0.251721, 0.247737, 0.248918])
    assert seen.selected.tolist() == [6, 4, 8, 6]
    assert (seen.edges - torch.eye(4)).argmax(1).tolist() == [1, 1, 0, 3]
    close(seen.nodes[0, :3], [0.04886378, 0.00510224, 0.48571947])
    close(study.logits[0], [0.07308422, 0.13602526])
