from __future__ import annotations

import dataclasses
from itertools import islice

import numpy as np
import pytest
import torch
from planted import FLAT, TREE, bag, cohort
from variants import VARIANTS

from napari_mil import methods
from napari_mil.bag import Bag
from napari_mil.card import Recipe
from napari_mil.correction import Target
from napari_mil.errors import BagError, ModelError
from napari_mil.evaluate import evaluate, obeyed, split_by_case
from napari_mil.infer import answer
from napari_mil.steps import drain
from napari_mil.train import (
    Split,
    Training,
    TrainingCase,
    best_so_far,
    recipe_for,
    retrain_recipe,
    train_steps,
)
from napari_mil.train.cohort import Cohort, prepare
from napari_mil.train.fit import REHEARSE

SMALL = {"hidden": 32, "attention_width": 16}
#: the ways in which methods differ for the engine: one head, a teacher with its own stage, a list of bags
KINDS = {"abmil": SMALL, "mhim": {**SMALL, "heads": 2}, "hmil": {"hidden": 128}}
QUICK = Recipe(epochs=4, lr=2e-3, min_epochs=4, stage1_epochs=2)


@pytest.fixture(scope="module")
def planted():
    cases, truths = cohort(28, n=24)
    split = split_by_case({c.case: c.target.slide for c in cases}, test=0.25, validation=0.25)
    return cases, split, truths


def _kinds():
    return [pytest.param(k, v, id=k) for k, v in KINDS.items() if k in methods.names()]


def _train(planted, method, config, recipe=QUICK, **options):
    cases, split, _ = planted
    return train_steps(
        cases, split, method=method, config=config, recipe=recipe, tree=TREE, device="cpu", **options
    )


def _same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "config"), _kinds())
def test_the_same_seed_gives_the_same_bits_and_another_seed_others(planted, method, config):
    recipe = dataclasses.replace(QUICK, epochs=2, stage1_epochs=1)
    one, two = (drain(_train(planted, method, config, recipe)).model.state_dict() for _ in range(2))
    assert _same(one, two)
    other = dataclasses.replace(recipe, seed=1)
    assert not _same(one, drain(_train(planted, method, config, other)).model.state_dict())


@pytest.mark.slow
@pytest.mark.parametrize(("method", "config"), _kinds())
@pytest.mark.parametrize("stop_after", [1, 4])
def test_a_resumed_run_ends_in_the_same_bits(planted, method, config, stop_after, tmp_path):
    whole = drain(_train(planted, method, config))
    steps = _train(planted, method, config, resume=tmp_path / "run.pt")
    for _ in range(stop_after):
        torch.rand(3)  # a consumer's own draws change nothing
        next(steps)
    steps.close()
    resumed = drain(_train(planted, method, config, resume=tmp_path / "run.pt"))
    assert _same(whole.model.state_dict(), resumed.model.state_dict())
    assert whole.history == resumed.history
    assert whole.best_epoch == resumed.best_epoch


#: every method, and those ways of MHIM whose draws or states differ
EVERY = [pytest.param((name, {}), id=name) for name in methods.names()] + [
    pytest.param(("mhim", variant), id="-".join(["mhim", *map(str, variant.values())]))
    for variant in VARIANTS["mhim"]
    if "official" in variant.values() or "dsmil" in variant.values()
]


@pytest.mark.slow
@pytest.mark.parametrize("case", EVERY)
def test_every_method_resumes_to_the_bit(case, tmp_path):
    name, variant = case
    known = {f.name for f in dataclasses.fields(methods.get(name).Config)}
    small = {"hidden": 16, "attention_width": 8, "heads": 2, "clusters": 4}
    cases, _ = cohort(9, n=9, labelled=True)
    split = Split(tuple(c.case for c in cases[:7]), tuple(c.case for c in cases[7:]))
    recipe = Recipe(epochs=3, min_epochs=3, stage1_epochs=1, lr=1e-3, batch_bags=2, class_weights=True)
    about = {"method": name, "config": {k: v for k, v in small.items() if k in known} | variant}
    about |= {"recipe": recipe, "tree": TREE, "device": "cpu"}
    whole = drain(train_steps(cases, split, **about))
    steps = train_steps(cases, split, resume=tmp_path / "run.pt", **about)
    for now in steps:
        if now.payload is not None and now.stage == "training" and now.done == 2:
            break
    steps.close()
    resumed = drain(train_steps(cases, split, resume=tmp_path / "run.pt", **about))
    assert _same(whole.model.state_dict(), resumed.model.state_dict())
    assert whole.history == resumed.history
    assert repr(whole.metrics) == repr(resumed.metrics)


def test_the_consumers_random_numbers_are_left_alone(planted):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    drain(_train(planted, "abmil", SMALL, dataclasses.replace(QUICK, epochs=1)))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.slow
def test_training_learns_what_was_planted():
    cases, truths = cohort(40, tree=FLAT, signal=6.0, share=0.2)
    split = split_by_case({c.case: c.target.slide for c in cases}, test=0.5, validation=0.25)
    recipe = dataclasses.replace(QUICK, epochs=30, lr=4e-3)
    trained = drain(
        train_steps(cases, split, method="abmil", config=SMALL, recipe=recipe, tree=FLAT, device="cpu")
    )
    assert trained.metrics["lesion/auc"][0] > 0.9
    assert not trained.model.training
    held = [dataclasses.replace(c, tiles=(truths[c.case],)) for c in cases if c.case in split.test]
    assert evaluate(trained.model, held, resamples=10)["tile/auc"][0] > 0.8


def test_progress_carries_the_figures_of_every_epoch(planted):
    told = []
    trained = drain(_train(planted, "mhim", KINDS["mhim"]), told.append)
    rows = [p.payload for p in told if p.payload]
    assert [(r["stage"], r["epoch"]) for r in rows] == [
        *(("baseline", i) for i in (1, 2)),
        *(("training", i) for i in (1, 2, 3, 4)),
    ]
    assert rows == list(trained.history)
    assert all(np.isfinite(r["loss"]) and "validation/fine/auc" in r for r in rows)
    assert {p.total for p in told if p.stage == "training"} == {4}


def test_the_best_epoch_is_kept_and_not_the_last(planted):
    trained = drain(_train(planted, "abmil", SMALL, dataclasses.replace(QUICK, lr=0.5, epochs=8)))
    scores = [row["score"] for row in trained.history]
    assert trained.best_epoch == 1 + int(np.argmax(scores))
    assert trained.metrics["validation/score"] == max(scores)
    cases, split, _ = planted
    again = evaluate(trained.model, [c for c in cases if c.case in split.validation], resamples=10)
    assert again["fine/auc"][0] == pytest.approx(trained.metrics["validation/fine/auc"])


def test_patience_ends_a_run_early(planted):
    impatient = dataclasses.replace(QUICK, epochs=60, patience=2, min_epochs=4, lr=1e-7)
    trained = drain(_train(planted, "abmil", SMALL, impatient))
    assert len(trained.history) == max(4, trained.best_epoch + 2)


def test_cancelling_keeps_the_best_so_far(planted, tmp_path):
    file = tmp_path / "run.pt"
    steps = _train(planted, "abmil", SMALL, resume=file)
    rows = list(islice((p.payload for p in steps if p.payload is not None), 3))
    steps.close()
    kept = best_so_far(file)
    assert list(kept.history) == rows
    best = max(rows, key=lambda r: r["score"])
    assert kept.best_epoch == best["epoch"]
    cases, split, _ = planted
    held = [c for c in cases if c.case in split.validation]
    assert evaluate(kept.model, held, resamples=10)["coarse/auc"][0] == pytest.approx(
        best["validation/coarse/auc"]
    )
    assert [p.name for p in tmp_path.iterdir()] == ["run.pt"]


def test_the_best_so_far_is_at_hand_without_a_file(planted):
    cases, split, _ = planted
    run = Training(cases, split, method="mhim", config=KINDS["mhim"], recipe=QUICK, tree=TREE, device="cpu")
    steps = run.steps()
    next(steps)
    assert run.trained() is None  # the baseline is not what was asked for
    next(p for p in steps if p.stage == "training" and p.payload)
    steps.close()
    assert run.trained().best_epoch == 1


def test_a_damaged_or_foreign_checkpoint_is_refused(planted, tmp_path):
    file = tmp_path / "run.pt"
    file.write_bytes(b"no checkpoint")
    with pytest.raises(ModelError, match="no checkpoint of a training run"):
        drain(_train(planted, "abmil", SMALL, resume=file))
    file.unlink()
    drain(_train(planted, "abmil", SMALL, dataclasses.replace(QUICK, epochs=1), resume=file))
    with pytest.raises(ModelError, match="belongs to another run"):
        drain(_train(planted, "abmil", SMALL, resume=file))


def test_a_checkpoint_that_cannot_be_written_is_one_sentence(planted, tmp_path):
    with pytest.raises(OSError, match=r"cannot be written: .*; free some space"):
        drain(_train(planted, "abmil", SMALL, resume=tmp_path / "no such folder" / "run.pt"))


def test_what_does_not_fit_is_refused(planted):
    cases, split, _ = planted
    with pytest.raises(BagError, match="'lost' of the split has no bags"):
        Training(cases, Split(("lost",)), method="abmil", tree=TREE)
    with pytest.raises(BagError, match="same id"):
        Training([*cases, cases[0]], split, method="abmil", tree=TREE)
    other = TrainingCase("wide", (bag(4, seed=0, width=30)[0],), Target(4))
    with pytest.raises(BagError, match="different encoders"):
        Training([cases[0], other], Split((cases[0].case, "wide")), method="abmil", tree=TREE)
    with pytest.raises(BagError, match="No training case has a label"):
        Training(
            [dataclasses.replace(cases[0], target=Target())],
            Split((cases[0].case,)),
            method="abmil",
            tree=TREE,
        )
    with pytest.raises(ModelError, match="lr is 5"):
        Training(cases, split, method="abmil", recipe=Recipe(lr=5), tree=TREE)
    flat = methods.create("abmil", SMALL, in_features=24, tree=FLAT).state_dict()
    with pytest.raises(ModelError, match="weights of the model to start from do not fit abmil"):
        drain(_train(planted, "abmil", SMALL, start=flat))


def test_a_loss_that_is_not_finite_is_one_sentence(planted):
    cases, split, _ = planted
    one = cases[0].bags[0]
    huge = Bag(one.slide_id, one.grid, np.full((len(one), 24), 3e38, np.float32), one.encoder)
    split = Split((cases[0].case,))
    spoiled = [dataclasses.replace(cases[0], bags=(huge,))]
    with pytest.raises(ModelError, match="or look for damaged features"):
        drain(train_steps(spoiled, split, method="abmil", config=SMALL, tree=TREE, device="cpu"))


def test_without_validation_cases_the_last_epoch_counts(planted):
    cases, split, _ = planted
    split = Split((*split.train, *split.validation))
    trained = drain(
        train_steps(cases, split, method="abmil", config=SMALL, recipe=QUICK, tree=TREE, device="cpu")
    )
    assert trained.best_epoch == QUICK.epochs
    assert not trained.metrics
    assert trained.temperature == 1.0


def test_rare_classes_weigh_more_when_asked(planted):
    cases, _, _ = planted
    common = [dataclasses.replace(c, target=Target(TREE.node("N"))) for c in cases[:20]]
    rare = [dataclasses.replace(c, target=Target(TREE.node("IC"))) for c in cases[20:22]]
    every = [*common, *rare]
    split = Split(tuple(c.case for c in every))

    def chance_of_rare(class_weights):
        recipe = dataclasses.replace(QUICK, class_weights=class_weights, lr=1e-3, epochs=3)
        run = train_steps(every, split, method="mean", recipe=recipe, tree=TREE, device="cpu")
        model = drain(run).model
        ic = TREE.leaves.index(TREE.node("IC"))
        return np.mean([answer(model, c.bags[0].features).probabilities[-1][ic] for c in every])

    assert chance_of_rare(class_weights=True) > 2 * chance_of_rare(class_weights=False)


def test_cases_without_a_label_do_not_change_what_labels_weigh(planted):
    nodes = [TREE.node(label) if label else 0 for label in ("N", "N", "N", "IC", "", "", "", "")]
    every = [dataclasses.replace(c, target=Target(n)) for c, n in zip(planted[0], nodes, strict=False)]
    split = Split(tuple(c.case for c in every))
    weights = Cohort(prepare(every), split, TREE, torch.device("cpu")).weights()
    assert list(weights.values()) == pytest.approx([2 / 3] * 3 + [2.0] + [1.0] * 4)


def test_bags_are_converted_at_every_visit_when_memory_is_short(planted, monkeypatch):
    recipe = dataclasses.replace(QUICK, epochs=1)
    roomy = drain(_train(planted, "abmil", SMALL, recipe))
    monkeypatch.setattr("napari_mil.train.cohort.KEEP_BYTES", 0)
    tight = drain(_train(planted, "abmil", SMALL, recipe))
    assert _same(roomy.model.state_dict(), tight.model.state_dict())


@pytest.mark.slow
@pytest.mark.parametrize(("method", "config"), _kinds())
def test_a_retrained_model_obeys_its_corrections(planted, method, config):
    cases, split, _ = planted
    recipe = dataclasses.replace(QUICK, epochs=10)
    parent = drain(_train(planted, method, config, recipe))
    one, truth = bag(TREE.node("ADH"), seed=99, share=0.25)
    wrong = np.where(truth == TREE.node("ADH"), TREE.node("FEA"), 0).astype(np.int32)
    wrong[np.flatnonzero(wrong)[0]] = TREE.node("Malignant")  # one coarse label among the fine ones
    corrected = TrainingCase("corrected", (one,), Target(TREE.node("FEA")), (wrong,))
    grown = dataclasses.replace(split, train=(*split.train, "corrected"))
    start = {k: v.clone() for k, v in parent.model.state_dict().items()}
    assert obeyed(answer(parent.model, one.features).tile_probability, wrong, TREE).mean() < 0.5

    run = train_steps(
        [*cases, corrected],
        grown,
        method=method,
        config=config,
        recipe=retrain_recipe(recipe),
        tree=TREE,
        device="cpu",
        start=start,
    )
    child = drain(run)
    assert obeyed(answer(child.model, one.features).tile_probability, wrong, TREE).mean() >= 0.9
    assert child.metrics["obeyed"] >= 0.9
    assert {row["stage"] for row in child.history} == {"training"}
    assert _same(start, parent.model.state_dict())
    assert child.metrics["fine/auc"][0] > parent.metrics["fine/auc"][0] - 0.1


def test_going_on_from_a_published_recipe_chooses_by_obedience_too():
    published = recipe_for("hmil", {"record": "a"}, preset="official")
    gentle = retrain_recipe(published, seed=4)
    assert (gentle.select_by, gentle.stopping, gentle.schedule, gentle.record) == (
        "score",
        "plain",
        "cosine",
        (),
    )
    assert (gentle.batch_bags, gentle.seed) == (published.batch_bags, 4)


def test_visits_rehearse_only_what_is_not_followed(planted):
    cases, split, truths = planted
    first = dataclasses.replace(cases[0], tiles=(truths[cases[0].case],))
    every = [first, *cases[1:]]
    split = Split(tuple(c.case for c in every))
    recipe = dataclasses.replace(QUICK, epochs=1, tile_share=0.2)
    run = Training(every, split, method="abmil", config=SMALL, recipe=recipe, tree=TREE, device="cpu")
    drain(run.steps())
    fit = run.current
    fit.disobeyed, fit.insistence = [first.case], 1
    visits = fit._visits()
    assert len(visits) == len(every) + REHEARSE
    assert sorted(c for c, only in visits if not only) == sorted(split.train)
    assert {c for c, only in visits if only} == {first.case}
    fit.insistence = 4  # two epochs did not suffice
    assert len(fit._visits()) == len(every) + 4 * REHEARSE
    fit.disobeyed = []
    assert len(fit._visits()) == len(every)


@pytest.mark.slow
def test_a_run_says_how_calibrated_its_answers_are():
    cases, _ = cohort(120, n=24, signal=4.0)
    split = split_by_case({c.case: c.target.slide for c in cases}, test=0.25, validation=0.3)
    recipe = dataclasses.replace(QUICK, lr=1e-3, epochs=6)
    run = {"method": "abmil", "config": SMALL, "recipe": recipe, "tree": TREE, "device": "cpu"}
    trained = drain(train_steps(cases, split, **run))
    assert trained.calibrated
    assert {"fine/ece", "fine/ece_before", "coarse/ece"} <= set(trained.metrics)
    assert trained.reliability["part"] == "test"
    assert sum(trained.reliability["said"]["count"]) == len(split.test)
    assert trained.made_with["torch"] == torch.__version__
    few = Split(split.train, split.validation[:5], split.test)
    plain = drain(train_steps(cases, few, **run))
    assert (plain.calibrated, plain.temperature) == (False, 1.0)
    assert "fine/ece_before" not in plain.metrics


@pytest.mark.slow
def test_the_official_rules_choose_and_stop(planted):
    official = {"stopping": "official", "select_by": "official", "patience": 2, "min_epochs": 5}
    recipe = dataclasses.replace(QUICK, epochs=30, lr=1e-7, schedule="constant", **official)
    trained = drain(_train(planted, "abmil", SMALL, recipe))
    scores = [row["score"] for row in trained.history]
    assert scores == [row["validation/fine/balanced_accuracy"] for row in trained.history]
    assert trained.best_epoch == 1 + int(np.argmax(scores))
    below = [score < max(scores[: i + 1]) for i, score in enumerate(scores)]
    assert len(scores) == 30 or (len(scores) > 6 and all(below[-2:]))


@pytest.mark.slow
@pytest.mark.parametrize(("method", "config"), _kinds())
def test_steps_of_several_bags_learn(planted, method, config):
    recipe = dataclasses.replace(QUICK, batch_bags=4, epochs=6)
    trained = drain(_train(planted, method, config, recipe))
    first, *_, last = [row["loss/slide" if method != "hmil" else "loss/fine"] for row in trained.history]
    assert last < first


@pytest.mark.parametrize(("compat", "steps"), [("official", 1), ("clean", 4), ("paper", 4)])
def test_the_schedules_of_hmil_move_once_an_epoch_as_published(planted, monkeypatch, compat, steps):
    cases, split, _ = planted
    told = []
    asked = methods.get("hmil").slide_losses

    def listening(self, studies, targets, progress, weights):
        told.append(progress)
        return asked(self, studies, targets, progress, weights)

    monkeypatch.setattr(methods.get("hmil"), "slide_losses", listening)
    few = Split(split.train[:4])
    recipe = dataclasses.replace(QUICK, epochs=2)
    config = {**KINDS["hmil"], "compat": compat}
    drain(train_steps(cases, few, method="hmil", config=config, recipe=recipe, tree=TREE, device="cpu"))
    assert sorted({e for e in told if e < 0.5}) == [i / (2 * steps) for i in range(steps)]
    assert sorted({e for e in told if e >= 0.5}) == [0.5 + i / (2 * steps) for i in range(steps)]


class Held:
    """Bytes that autograd keeps for the backward pass, now and at most."""

    def __init__(self):
        self.now = self.most = 0

    def keep(self, tensor):
        held, size = self, tensor.nbytes

        class Kept:
            def __init__(self):
                held.now += size
                held.most = max(held.most, held.now)

            def __del__(self):
                held.now -= size

        kept = Kept()
        kept.tensor = tensor
        return kept


def test_a_step_of_many_bags_holds_one_at_a_time_unless_they_are_contrasted(planted):
    cases, _, _ = planted
    split = Split(tuple(c.case for c in cases))

    def most(method, config, bags):
        recipe = dataclasses.replace(QUICK, epochs=1, batch_bags=bags, stage1_epochs=0)
        run = train_steps(cases, split, method=method, config=config, recipe=recipe, tree=TREE, device="cpu")
        held = Held()
        with torch.autograd.graph.saved_tensors_hooks(held.keep, lambda kept: kept.tensor):
            drain(run)
        return held.most

    for method in ("abmil", "mhim"):
        assert most(method, KINDS[method], 8) < 1.5 * most(method, KINDS[method], 1)
    assert most("hmil", KINDS["hmil"], 8) > 5 * most("hmil", KINDS["hmil"], 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "config"),
    [
        ("mean", {}),
        pytest.param("mhim", {**KINDS["mhim"], "init_student": "all"}, marks=pytest.mark.soak),
    ],
)
def test_bf16_keeps_the_auc_and_the_weights_in_float32(method, config):
    cases, _ = cohort(120, tree=FLAT, n=60, signal=2.4, share=0.08)  # hard enough for an AUC below 1
    split = split_by_case({c.case: c.target.slide for c in cases}, test=0.5, validation=0.25)
    found = {}
    for precision in ("fp32", "bf16"):
        recipe = dataclasses.replace(QUICK, epochs=12, stage1_epochs=6, precision=precision)
        run = {"method": method, "config": config, "recipe": recipe, "tree": FLAT, "device": "cpu"}
        found[precision] = drain(train_steps(cases, split, **run))
        assert {p.dtype for p in found[precision].model.parameters()} == {torch.float32}
    one, two = (found[p].metrics["lesion/auc"][0] for p in ("fp32", "bf16"))
    assert 0.9 < one < 1
    assert two == pytest.approx(one, abs=0.02)
    assert not _same(*(found[p].model.state_dict() for p in ("fp32", "bf16")))


def test_a_method_that_does_not_keep_its_figures_in_bf16_says_so(planted):
    with pytest.raises(ModelError, match="hmil does not keep its figures in bfloat16"):
        drain(_train(planted, "hmil", KINDS["hmil"], dataclasses.replace(QUICK, precision="bf16")))
