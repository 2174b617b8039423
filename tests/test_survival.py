"""Survival: intervals of time, likelihood, figures, and every single-level method on a planted hazard."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lifelines import KaplanMeierFitter
from lifelines.statistics import logrank_test
from lifelines.utils import concordance_index
from variants import VARIANTS

from napari_mil import methods
from napari_mil.bag import Bag
from napari_mil.card import Recipe
from napari_mil.correction import Target
from napari_mil.errors import LabelError, ModelError
from napari_mil.evaluate import (
    Split,
    TrainingCase,
    c_index,
    halves_by_risk,
    kaplan_meier,
    split_by_case,
    stratum,
    survival_metrics,
    survival_selection,
    survival_table,
)
from napari_mil.grid import TileGrid
from napari_mil.infer import answer, predict
from napari_mil.labeltree import LabelTree, Survival, risk, survival_curve
from napari_mil.mil import mean_answer, survival_nll, total
from napari_mil.steps import drain
from napari_mil.train import train_steps
from napari_mil.train.cohort import Cohort, prepare

TASK = Survival.from_times([3, 9, 14, 30, 40], [True, True, True, True, False], unit="months")
SINGLE = [n for n in methods.names() if "flat tree" not in methods.get(n).exceptions]
#: many draws depend on the order of the images, so that the contract cannot hold them to it
MORE = {"micromil": [{"select": "mc", "draws": 5}]}
CASES = [
    pytest.param((name, variant), id="-".join([name, *map(str, variant.values())]))
    for name in SINGLE
    for variant in [*VARIANTS.get(name, [{}]), *MORE.get(name, [])]
]


def cohort(n, seed=0, censored=0.4, steep=1.0):
    """Times (n,), events (n,) and risks (n,): exponential times with a hazard that grows with the risk."""
    draw = np.random.default_rng(seed)
    z = draw.normal(size=n)
    happens = draw.exponential(20 * np.exp(-steep * z))
    leaves = draw.exponential(20 / censored * (1 - censored), size=n)
    return np.minimum(happens, leaves), happens <= leaves, z


def test_intervals_hold_equally_many_observed_events():
    times, events, _ = cohort(400)
    task = Survival.from_times(times, events)
    counts = np.bincount([task.bin_of(t) for t in times[events]], minlength=4)
    assert counts.min() >= counts.max() - 2
    assert task.edges[0] == pytest.approx(times.min() - 1e-6)
    assert task.edges[-1] == pytest.approx(times.max() + 1e-6)
    assert all(task.edges[task.bin_of(t)] <= t < task.edges[task.bin_of(t) + 1] for t in times)
    assert (task.bin_of(-1.0), task.bin_of(1e9)) == (0, 3)


def test_intervals_travel_as_text():
    again = LabelTree.from_json(TASK.to_json())
    assert isinstance(again, Survival)
    assert again == TASK
    plain = LabelTree.from_json(LabelTree.from_paths(["a", "b"]).to_json())
    assert not isinstance(plain, Survival)


def test_close_edges_keep_names_apart():
    task = Survival.from_times(np.linspace(1000.0, 1000.9, 40), [True] * 40)
    assert len(set(task.names)) == 5


@pytest.mark.parametrize(("times", "events"), [([1, 2], [False, False]), ([5, 5, 5], [True] * 3), ([], [])])
def test_too_few_events_are_said(times, events):
    with pytest.raises(LabelError, match="do not give 4 intervals of time"):
        Survival.from_times(times, events)


def test_one_event_is_not_many():
    with pytest.raises(LabelError, match=r"^1 observed event among 2 cases does not give 4 intervals"):
        Survival.from_times([1, 2], [False, True])
    with pytest.raises(LabelError, match=r"^0 observed events among 1 case do not give 2 intervals"):
        Survival.from_times([1], [False], bins=2)


def test_a_time_needs_an_event():
    with pytest.raises(LabelError, match="whether the event was observed"):
        Target(time=3.0)
    assert Target(time=3.0, event=False).says(TASK)
    assert not Target(slide=1).says(TASK)


@pytest.mark.parametrize(
    ("time", "event", "expected"), [(3, True, 0.6931), (3, False, 0.6931), (9, True, 1.3863)]
)
def test_likelihood_of_even_hazards(time, event, expected):
    loss = survival_nll(torch.zeros(1, 4), [Target(time=time, event=event)], TASK)
    assert loss.item() == pytest.approx(expected, abs=1e-4)


def test_likelihood_is_that_of_the_published_code():
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    targets = [Target(time=t, event=e) for t in (3, 9, 35) for e in (True, False)]
    h = torch.sigmoid(logits)
    s = torch.cat([torch.ones(6, 1), torch.cumprod(1 - h, 1)], 1)
    y = torch.tensor([TASK.bin_of(t.time) for t in targets])
    c = torch.tensor([0.0 if t.event else 1.0 for t in targets])
    at = torch.arange(6)
    seen = -(1 - c) * (torch.log(s[at, y].clamp(min=1e-7)) + torch.log(h[at, y].clamp(min=1e-7)))
    censored = -c * torch.log(s[at, y + 1].clamp(min=1e-7))
    assert torch.allclose(survival_nll(logits, targets, TASK), seen + censored, atol=1e-6)
    extreme = torch.full((1, 4), 80.0, requires_grad=True)
    survival_nll(extreme, [Target(time=35, event=False)], TASK).backward()
    assert torch.isfinite(extreme.grad).all()


def test_risk_rises_as_survival_falls():
    h = np.array([[0.1, 0.1, 0.1, 0.1], [0.5, 0.1, 0.1, 0.1]])
    assert survival_curve(h)[0] == pytest.approx([0.9, 0.81, 0.729, 0.6561])
    assert risk(h)[1] > risk(h)[0]


@settings(max_examples=40, deadline=None)
@given(n=st.integers(5, 60), seed=st.integers(0, 999), ties=st.booleans())
def test_the_c_index_is_that_of_lifelines(n, seed, ties):
    times, events, z = cohort(n, seed)
    if ties:
        times, z = np.ceil(times / 10), np.round(z)
    if not events.any() or np.isnan(c_index(times, events, z)[0]):
        return
    assert c_index(times, events, z)[0] == pytest.approx(concordance_index(times, -z, events))


def test_weights_of_the_c_index_repeat_cases():
    times, events, z = cohort(30)
    weights = np.random.default_rng(1).integers(0, 3, (1, 30)).astype(float)
    again = np.repeat(np.arange(30), weights[0].astype(int))
    # pairs of a case with itself compare nothing, so repeated cases differ only by ties of equal times
    assert c_index(times, events, z, weights)[0] == pytest.approx(
        c_index(times[again], events[again], z[again])[0], abs=0.02
    )


def test_curves_are_those_of_lifelines():
    times, events, z = cohort(80)
    mine, reference = kaplan_meier(times, events), KaplanMeierFitter().fit(times, events)
    at = reference.survival_function_at_times(mine.times).to_numpy()
    assert mine.survival == pytest.approx(at, abs=1e-9)
    assert mine.cases == 80
    assert ((mine.low <= mine.survival + 1e-9) & (mine.survival <= mine.high + 1e-9)).all()
    alive = reference.event_table["at_risk"].reindex(mine.times)
    assert mine.at_risk.tolist() == alive.tolist()
    low, high, p = halves_by_risk(times, events, z)
    upper = z > np.median(z)
    theirs = logrank_test(times[~upper], times[upper], events[~upper], events[upper]).p_value
    assert p == pytest.approx(theirs, rel=1e-6)
    assert low.survival[-1] > high.survival[-1]


@pytest.mark.parametrize("spared", [0, 1])
def test_a_half_without_an_event_is_told_apart_from_the_other(spared):
    """What a good risk does in a small study: all events fall into one half."""
    upper = np.arange(12) >= 6
    events = upper == (spared == 0)
    times = np.where(events, 1.0, 10.0) + np.arange(12) % 6
    theirs = logrank_test(times[~upper], times[upper], events[~upper], events[upper]).p_value
    assert halves_by_risk(times, events, upper.astype(float))[2] == pytest.approx(theirs, rel=1e-6)


def test_figures_of_risks():
    times, events, z = cohort(100)
    hazards = [np.full(4, 1 / (1 + np.exp(-v))) for v in z]
    targets = [Target(time=t, event=bool(e)) for t, e in zip(times, events, strict=True)]
    found = survival_metrics([str(i) for i in range(100)], targets, hazards, resamples=100)
    value, low, high = found["survival/c_index"]
    assert value == pytest.approx(concordance_index(times, -z, events))
    assert low < value < high
    assert found["survival/logrank_p"][0] < 0.01
    assert survival_metrics(["a"], [Target()], [np.ones(4)]) == {}
    chosen = survival_selection(targets, hazards, Survival.from_times(times, events))
    assert chosen["score"] == pytest.approx(chosen["c_index"] - 0.05 * chosen["loss"])


def test_the_halves_by_risk_are_kept_as_curves():
    times, events, z = cohort(60)
    hazards = [np.full(4, 1 / (1 + np.exp(-v))) for v in z]
    targets = [Target(time=t, event=bool(e)) for t, e in zip(times, events, strict=True)]
    told = survival_table([*targets, Target()], [*hazards, hazards[0]], TASK)
    lower, higher, p = halves_by_risk(times, events, z)
    assert told["logrank_p"] == pytest.approx(p)
    for name, curve in (("lower", lower), ("higher", higher)):
        assert told[name]["cases"] == 30
        assert told[name]["times"] == curve.times.tolist()
        assert told[name]["survival"] == pytest.approx(curve.survival, abs=1e-6)
        assert told[name]["at_risk"] == curve.at_risk.tolist()
    assert survival_table(targets, hazards, LabelTree.from_paths(["a", "b"])) == {}
    assert survival_table([Target()], hazards[:1], TASK) == {}
    assert survival_table(targets[:3], hazards[:1] * 3, TASK) == {}  # all of one risk: no halves
    none = survival_table([Target(time=t, event=False) for t in times], hazards, TASK)
    assert "logrank_p" not in none
    assert none["higher"]["survival"] == [1.0] * 30


def bag(z, seed, n=30, d=6):
    """A bag whose first feature shifts with the risk, in half of the tiles."""
    x = np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)
    x[: n // 2, 0] += 4 * z
    return Bag(f"s{seed}", TileGrid.full((64, n * 64), None, tile_px=64, mpp=None), x, "planted")


def planted(n=100, seed=0):
    times, events, z = cohort(n, seed, steep=2.0)
    return [
        TrainingCase(f"c{i}", (bag(z[i], 1000 * seed + i),), Target(time=times[i], event=bool(events[i])))
        for i in range(n)
    ]


def small(name, **more):
    known = methods.get(name).Config.__dataclass_fields__
    return {k: v for k, v in {"hidden": 16, "dropout": 0.0, **more}.items() if k in known}


def make(name, **variant):
    torch.manual_seed(0)
    return methods.create(name, small(name, **variant), in_features=6, tree=TASK)


@pytest.fixture(params=CASES)
def model(request):
    name, variant = request.param
    return make(name, **variant)


def test_methods_answer_with_hazards(model):
    with torch.no_grad():
        out = model.eval()(torch.randn(9, 6))
    assert [x.shape for x in out.logits] == [(4,)]
    assert out.tile_logits.shape == (9, 4)
    assert ("evidence/risk" in out.maps) == any(m.startswith("evidence/time/") for m in out.maps)


@pytest.mark.parametrize(("encoder", "name"), [("attn", "evidence"), ("dsmil", "evidence/bag voice")])
def test_the_evidence_of_mhim_adds_up_to_the_hazard_logits_and_tiles_have_hazards(encoder, name):
    config = {"encoder": encoder, "hidden": 16, "attention_width": 8}
    torch.manual_seed(0)
    model, x = methods.create("mhim", config, in_features=6, tree=TASK).eval(), torch.randn(9, 6)
    net = model.student
    with torch.no_grad():
        out = model(x)
        pooled = net.online_encoder.survey(net.rows(x), net.predictor)
        logits = net.online_encoder.logits(pooled, net.predictor)[0]
    bias = net.predictor.bias if encoder == "attn" else net.online_encoder.b_classifier.fcc.bias
    torch.testing.assert_close(out.maps[f"{name}/risk"].sum() + bias.detach().sum(), logits.sum())
    bag = Bag("s", TileGrid.full((64, 9 * 64), None, tile_px=64, mpp=None), x.numpy(), "planted")
    table = model.explain(bag)
    np.testing.assert_allclose(table["tile_probability"], torch.sigmoid(out.tile_logits), atol=1e-6)
    seen = model.look(x)  # the teacher's ranking, in survival too by the softmax of methods.md §3.3
    np.testing.assert_allclose(table["p"], seen.probability, atol=1e-6)
    np.testing.assert_allclose(table["p"].sum(1), 1, atol=1e-6)
    if encoder == "attn":
        np.testing.assert_allclose(table["p"].max(1), seen.score, atol=1e-6)


def test_hazards_are_those_of_the_last_layer(model):
    """Where nothing but the constants of the classifiers is left, every hazard is their sigmoid."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            last = name.endswith("bias") and len(parameter) in (1, len(TASK.leaves))
            parameter.fill_(4.0 if last else 0.0)
    said = answer(model, torch.randn(9, 6))
    expected = 1 / (1 + np.exp(-4))
    assert said.hazards == pytest.approx(expected, abs=1e-6)
    assert said.tile_probability == pytest.approx(expected, abs=1e-6)
    assert model.explain(bag(1.0, 3))["tile_probability"] == pytest.approx(expected, abs=1e-6)


def test_the_voices_of_the_first_version_on_dsmil_are_mean_hazards():
    model, x = make("mhim", version=1, encoder="dsmil").eval(), torch.randn(9, 6)
    with torch.no_grad():
        net = model.student
        pooled = net.online_encoder.survey(net.rows(x), net.predictor)
        voices = torch.stack(net.online_encoder.logits(pooled, net.predictor))
    assert (voices[0] - voices[1]).abs().max() > 0.05
    assert answer(model, x).hazards == pytest.approx(torch.sigmoid(voices).mean(0).numpy(), abs=1e-6)


def test_many_draws_give_their_mean_hazards():
    model, x = make("micromil", select="mc", draws=7, seed=4), torch.randn(30, 6)
    torch.nn.init.normal_(model.dec.cluster_centers, std=2.0)
    torch.nn.init.normal_(model.attn.weight, std=3.0)
    each = model.vary(x, draws=7, seed=4)
    assert each.std(0).max() > 0
    noise = model.draw(30, torch.Generator().manual_seed(4))
    first = model.eval().graph(x, noise=noise).logits
    assert torch.allclose(each[0], torch.sigmoid(first), atol=1e-6)
    assert answer(model, x).hazards == pytest.approx(each.mean(0).numpy(), abs=1e-6)


def test_the_mean_answer_of_extreme_hazards_is_finite():
    logits = torch.tensor([[90.0, -90.0], [88.0, -200.0]], requires_grad=True)
    said = mean_answer(logits, TASK)
    assert said.tolist() == pytest.approx([88 + np.log(2 / (1 + np.exp(-2))), -90 - np.log(2)], abs=1e-4)
    said.sum().backward()
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("n", [1, 2, 7])
def test_methods_learn_times(model, n):
    target = Target(slide=1, tiles=np.ones(n, np.int32), time=12.0, event=True)
    losses = model.train().loss([(torch.randn(n, 6), None, target)], 0.0)
    assert "tiles" not in losses
    total(losses).backward()
    assert not model.loss([(torch.randn(n, 6), None, Target(slide=1))], 0.0).get("slide")


def test_a_label_of_the_slide_says_nothing_of_time(model):
    x, draw, model = torch.randn(20, 6), torch.Generator(), model.eval()  # nothing else is random

    def losses(**label):
        target = Target(time=12.0, event=True, **label)
        found = model.loss([(x, None, target)], 0.5, generator=draw.manual_seed(1))
        return {name: loss.item() for name, loss in found.items()}

    plain = losses()
    assert plain["slide"] > 0
    for leaf in TASK.leaves:
        assert losses(slide=leaf) == plain


def test_labels_of_slides_weigh_no_times():
    labelled = [replace(c, target=replace(c.target, slide=1 + (i > 0))) for i, c in enumerate(planted(6))]
    split = Split(tuple(c.case for c in labelled))
    flat = LabelTree.from_paths(["a", "b"])
    weights = [Cohort(prepare(labelled), split, tree, torch.device("cpu")).weights() for tree in (TASK, flat)]
    assert weights[0] == {}
    assert weights[1]["c0"] == pytest.approx(3)


def test_maps_of_a_risk(model):
    said = predict(model, bag(1.0, 3), model_id="m")
    assert said.probabilities == ()
    assert said.survival.shape == (4,)
    assert said.risk == pytest.approx(-said.survival.sum())
    names = {m.name for m in said.maps}
    assert {"attention", "risk"} <= names
    assert not any(name.startswith(("class/", "probability/")) for name in names)
    assert (said.map("risk").values <= 0).all()


def test_methods_with_levels_refuse_time():
    assert "hmil" not in SINGLE
    with pytest.raises(ModelError, match="intervals of time have one; choose abmil or mhim"):
        methods.create("hmil", in_features=6, tree=TASK)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mean", "abmil", "mhim"])
def test_training_finds_a_planted_hazard(name):
    cases = planted()
    split = split_by_case({c.case: stratum(c.target, survival=True) for c in cases}, test=0.3, seed=0)
    learned = [c.target for c in cases if c.case in set(split.train)]
    task = Survival.from_times([t.time for t in learned], [t.event for t in learned])
    recipe = Recipe(epochs=12, stage1_epochs=4, lr=3e-3)
    config = small(name, init_student="all")
    trained = drain(train_steps(cases, split, method=name, config=config, recipe=recipe, tree=task))
    assert trained.metrics["survival/c_index"][0] > 0.68
    assert "validation/c_index" in trained.metrics
    assert trained.temperature == 1.0
