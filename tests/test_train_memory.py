"""A training step that runs out of memory is taken again with less at a time, and nothing else is changed."""

import csv
import dataclasses

import pytest
import torch
from planted import TREE, cohort
from torch import nn

from napari_mil import methods
from napari_mil.blocks import rows
from napari_mil.card import Recipe
from napari_mil.errors import DeviceError
from napari_mil.evaluate import Split
from napari_mil.steps import ASIDE, drain
from napari_mil.train import Log, train_steps
from napari_mil.train.cohort import Cohort, prepare
from napari_mil.train.fit import Fit, OwnRandom
from napari_mil.train.recording import Recorder

WIDTH, TILES = 24, 40
SMALL = {"hidden": 32, "attention_width": 16}
HIDES = {**SMALL, "heads": 2, "hidden_ratio_random": 0.5, "recycle_tokens": 2, "query_momentum": 0.5}
KINDS = {
    "mean": ("mean", {"hidden": 32}),
    "abmil": ("abmil", SMALL),
    "gabmil": ("gabmil", SMALL),
    "dsmil": ("dsmil", SMALL),
    "clam_sb": ("clam_sb", SMALL),
    "clam_mb": ("clam_mb", {**SMALL, "subtyping": True}),
    "transmil": ("transmil", {"hidden": 32, "heads": 2}),
    "micromil": ("micromil", {"clusters": 4, "hidden": 16}),
    "hmil": ("hmil", {"hidden": 64, "dropout": 0.2}),
    "mhim": ("mhim", HIDES),
    "mhim-gated": ("mhim", {**HIDES, "encoder": "gated"}),
    "mhim-dsmil": ("mhim", {**HIDES, "encoder": "dsmil"}),
    "mhim-selfattn": ("mhim", {**HIDES, "encoder": "selfattn"}),
    "mhim-official": ("mhim", {**HIDES, "compat": "official"}),
}
RECIPE = Recipe(epochs=2, min_epochs=2, lr=1e-3, batch_bags=2, stage1_epochs=0)


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr(rows, "CPU_ROWS", 16)
    monkeypatch.setattr(rows, "LEAST_ROWS", 4)


def cases():
    return cohort(8, n=TILES, width=WIDTH)[0]


def split(known):
    return Split(tuple(c.case for c in known[:6]), tuple(c.case for c in known[6:]), ())


def fitted(kind, *, record=False):
    """A run of two epochs, what it told, and the fit after it."""
    method, config = KINDS[kind]
    known = cases()
    cpu = torch.device("cpu")
    with OwnRandom(cpu, 0).ours():
        model = methods.create(method, config, in_features=WIDTH, tree=TREE)
    recorder = Recorder([known[0].case], known, model) if record else None
    fit = Fit(model, RECIPE, "training", Cohort(prepare(known), split(known), TREE, cpu), recorder)
    for group in fit.optimiser.param_groups:
        group["eps"] = 1e-3  # where the true gradient is 0, a step must not be made of its rounding alone
    told = []
    for _ in range(2):
        drain(fit.epoch_steps(), told.append)
    return fit, told


def short_of_memory(monkeypatch, how, bags=2):
    """Plant the error: in every projection of more than 8 tiles, or once at the end of the second step's way
    back, where each step has so many.
    """
    if how == "forward":
        plain = nn.Linear.forward

        def forward(self, x):
            if x.shape[-1] == WIDTH and len(x) > 8:
                raise torch.OutOfMemoryError("planted")
            return plain(self, x)

        monkeypatch.setattr(nn.Linear, "forward", forward)
        return
    plain, times = torch.Tensor.backward, []

    def backward(self, *given, **more):
        plain(self, *given, **more)
        times.append(1)
        if len(times) == 2 * bags:
            raise RuntimeError("DefaultCPUAllocator: not enough memory")

    monkeypatch.setattr(torch.Tensor, "backward", backward)


@pytest.mark.parametrize("how", ["forward", "backward"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_step_is_taken_again_and_ends_the_same(kind, how, monkeypatch):
    hides = kind.startswith("mhim")
    plain, before = fitted(kind, record=hides)
    short_of_memory(monkeypatch, how, bags=1 if kind == "hmil" else 2)
    fit, told = fitted(kind, record=hides)
    assert not any(p.stage == ASIDE for p in before)
    assert [p.note for p in told if p.stage == ASIDE] == [
        "training, epoch 1: memory is short, 8 tiles at a time."
    ]
    assert [row["tiles_at_a_time"] for row in fit.history] == [8, 8]
    assert torch.equal(fit.draws.get_state(), plain.draws.get_state())
    assert torch.equal(fit.random.state["cpu"], plain.random.state["cpu"])
    for row, other in zip(fit.history, plain.history, strict=True):
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-4)
    for name, value in plain.model.state_dict().items():
        torch.testing.assert_close(fit.model.state_dict()[name], value, rtol=1e-3, atol=2e-5, msg=name)
    if hides:
        mine, theirs = ({s: r["epochs"] for s, r in f.recorder.state().items()} for f in (fit, plain))
        assert mine == theirs == {next(iter(mine)): [1, 2]}


def test_the_log_says_it(monkeypatch, tmp_path):
    known = cases()
    short_of_memory(monkeypatch, "forward")
    told = []
    about = {"method": "abmil", "config": SMALL, "tree": TREE, "recipe": RECIPE}
    drain(train_steps(known, split(known), log=Log(tmp_path), **about), told.append)
    assert [p.note for p in told if p.stage == ASIDE] == [
        "training, epoch 1: memory is short, 8 tiles at a time."
    ]
    with (tmp_path / "history.csv").open(encoding="utf-8") as stream:
        assert [row["tiles_at_a_time"] for row in csv.DictReader(stream)] == ["8", "8"]


def test_a_resumed_run_goes_on_with_as_few_tiles_at_a_time(monkeypatch, tmp_path):
    known = cases()
    about = {"method": "abmil", "config": SMALL, "tree": TREE, "recipe": RECIPE}
    with monkeypatch.context() as here:
        short_of_memory(here, "backward")
        whole = drain(train_steps(known, split(known), **about))
    with monkeypatch.context() as here:
        short_of_memory(here, "backward")
        steps = train_steps(known, split(known), resume=tmp_path / "run.ckpt", **about)
        next(p for p in steps if p.payload is not None)
        steps.close()
    told = []
    again = drain(train_steps(known, split(known), resume=tmp_path / "run.ckpt", **about), told.append)
    assert not any(p.stage == ASIDE for p in told)  # it was said, and nothing runs out of memory again
    assert again.history == whole.history
    for name, value in whole.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], value), name


@pytest.mark.parametrize(
    ("method", "config", "among", "lower"),
    [
        ("abmil", SMALL, "", "a smaller `hidden` or fewer tiles"),
        ("hmil", {"hidden": 64}, ", the largest of 2 learned from together,", "`batch_bags` or `hidden`"),
    ],
)
def test_a_step_that_cannot_be_smaller_ends_the_run_which_can_be_gone_on_with(
    method, config, among, lower, monkeypatch, tmp_path
):
    known = cases()
    about = {"method": method, "config": config, "tree": TREE, "recipe": RECIPE}
    whole = drain(train_steps(known, split(known), **about))
    steps = train_steps(known, split(known), resume=tmp_path / "run.ckpt", **about)
    next(p for p in steps if p.payload is not None)

    def full(*_given, **_more):
        raise torch.OutOfMemoryError("planted")

    with monkeypatch.context() as here:
        here.setattr(torch.Tensor, "backward", full)
        with pytest.raises(DeviceError) as said:
            drain(steps)
    words = str(said.value)
    assert words.startswith("Not enough memory for a training step on case-00")
    assert f"of 40 tiles{among} even with 4 tiles at a time; close other programs" in words
    assert lower in words
    again = drain(train_steps(known, split(known), resume=tmp_path / "run.ckpt", **about))
    assert again.history == whole.history
    for name, value in whole.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], value), name


def test_another_error_ends_the_run_as_it_is(monkeypatch):
    known = cases()

    def broken(*_given, **_more):
        raise RuntimeError("planted")

    monkeypatch.setattr(torch.Tensor, "backward", broken)
    recipe = dataclasses.replace(RECIPE, epochs=1, min_epochs=1)
    with pytest.raises(RuntimeError, match="planted"):
        drain(
            train_steps(known, split(known), method="mean", config={"hidden": 32}, tree=TREE, recipe=recipe)
        )


def test_what_moves_during_a_step_is_the_model_s_own_after_training_too():
    fit, _ = fitted("mhim")
    own = {id(tensor) for tensor in (*fit.model.parameters(), *fit.model.buffers())}
    assert {id(tensor) for tensor in fit.moving} <= own
    assert any(tensor is fit.model.student.merge.global_q_mm for tensor in fit.moving)
