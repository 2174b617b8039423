"""Rows worked through in chunks give what the whole bag gives, forwards and backwards, and hold less."""

import copy
import gc
import weakref

import pytest
import torch
from torch import nn

from napari_mil.blocks import AttentionPooler, Dropout, DSMILPooler, GatedScores, Rows, rows, streaming
from napari_mil.device import Memory, watching_memory

D_IN, D = 6, 5


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr(rows, "CPU_ROWS", 4)


def bag(n, seed=0):
    return torch.randn(n, D_IN, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network(pooler, *, gated=False, drop=0.0):
    torch.manual_seed(1)
    pool = AttentionPooler(D, 3, "tanh", gated=gated) if pooler == "attn" else DSMILPooler(D, 3, 2)
    parts = nn.ModuleDict(
        {"layer": nn.Linear(D_IN, D), "act": nn.GELU(), "drop": Dropout(drop), "pool": pool}
    )
    return parts.double()


def asked(net, x, at=None):
    return Rows(x, at, net["layer"], net["act"], net["drop"])


@pytest.mark.parametrize("tokens", [None, 2])
@pytest.mark.parametrize("n", [1, 3, 4, 5, 13])
@pytest.mark.parametrize(("pooler", "gated"), [("attn", False), ("attn", True), ("dsmil", False)])
def test_a_stream_pools_as_the_whole_does_and_so_do_its_gradients(pooler, gated, n, tokens):
    net = network(pooler, gated=gated)
    other, x = copy.deepcopy(net), bag(20)
    at = torch.randperm(20, generator=torch.Generator().manual_seed(2))[:n]
    more = None if tokens is None else bag(tokens, 3)[:, :D]
    streamed = net["pool"].stream(asked(net, x, at), more)
    whole = other["pool"].learn(other["act"](other["layer"](x[at])), more)
    torch.testing.assert_close(streamed.vector, whole.vector)
    torch.testing.assert_close(streamed.attention, whole.attention)
    for pooled in (streamed, whole):
        at_place = torch.arange(len(pooled.attention))[:, None]
        (pooled.vector.square().sum() + (pooled.attention * at_place).sum()).backward()
    for (name, mine), theirs in zip(net.named_parameters(), other.parameters(), strict=True):
        assert (mine.grad is None) == (theirs.grad is None), name
        if mine.grad is not None:
            torch.testing.assert_close(mine.grad, theirs.grad, msg=name)


def test_what_is_dropped_is_dropped_on_the_way_back_too():
    net, x = network("attn", drop=0.5).train(), bag(11)
    other = copy.deepcopy(net)
    torch.manual_seed(4)
    streamed = net["pool"].stream(asked(net, x))
    torch.manual_seed(4)
    h = torch.cat([other["drop"](other["act"](other["layer"](some))) for some in x.split(4)])
    assert 0 < (h == 0).sum() < h.numel()
    whole = other["pool"](h)
    torch.testing.assert_close(streamed.vector, whole.vector)
    for pooled in (streamed, whole):
        pooled.vector.square().sum().backward()
    for mine, theirs in zip(net.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)


@pytest.mark.parametrize("learning", [True, False])
def test_all_rows_are_the_projection(learning):
    net, x = network("attn"), bag(9)
    with torch.set_grad_enabled(learning):
        torch.testing.assert_close(asked(net, x).all(), net["act"](net["layer"](x)))
        none = asked(net, x, torch.empty(0, dtype=torch.long)).all()
    assert none.shape == (0, D)
    assert none.requires_grad == learning


def test_features_may_ask_for_a_gradient():
    net, x = network("attn"), bag(9).requires_grad_()
    net["pool"].stream(asked(net, x)).vector.sum().backward()
    streamed, x.grad = x.grad, None
    net["pool"](net["act"](net["layer"](x))).vector.sum().backward()
    torch.testing.assert_close(streamed, x.grad)


def test_what_learns_not_gets_no_gradient():
    net = network("attn")
    net["pool"].requires_grad_(False)
    net["pool"].stream(asked(net, bag(9))).vector.sum().backward()
    assert net["layer"].weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in net["pool"].parameters())


def test_bfloat16_streams_as_it_pools():
    net, x = network("attn").float(), bag(40).float()
    other = copy.deepcopy(net)
    with torch.autocast("cpu", torch.bfloat16):
        streamed = net["pool"].stream(asked(net, x)).vector
        whole = other["pool"](other["act"](other["layer"](x))).vector
    torch.testing.assert_close(streamed.float(), whole.float(), atol=2e-2, rtol=0)
    for vector in (streamed, whole):
        vector.float().square().sum().backward()
    for mine, theirs in zip(net.parameters(), other.parameters(), strict=True):
        assert mine.grad.dtype == mine.dtype
        torch.testing.assert_close(mine.grad, theirs.grad, atol=5e-2, rtol=5e-2)


@pytest.mark.parametrize(("pooler", "more"), [("attn", 3), ("dsmil", D + 3 + 3)])
def test_of_the_rows_nothing_waits_that_is_soon_made_again(monkeypatch, pooler, more):
    """`more`: numbers of a row that wait beside its product: those of the attention's layers, and values."""
    monkeypatch.setattr(rows, "CPU_ROWS", 1000)
    net, x = network(pooler, drop=0.25).float().train(), bag(4000).float()
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as seen:
        pooled = net["pool"].stream(asked(net, x))
    changes = [e.nbytes() for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    products, mask, told = 4 * D, D, 4 * 4 * pooled.attention.shape[1]
    assert 0 < sum(changes) < 1.05 * len(x) * (products + mask + 4 * more + told)
    pooled.vector.sum().backward()


@pytest.mark.parametrize("n", [3, 13])
def test_what_is_summed_by_weights_has_the_gradients_of_a_plain_sum(n):
    net, x = network("attn"), bag(n)
    other = copy.deepcopy(net)
    twice = nn.Linear(D, D).double()
    told, values = asked(net, x).summed(lambda h: (h.sum(1), twice(h)), tuple(twice.parameters()))
    weights = torch.softmax(torch.stack([torch.cat([s for (s,) in told]), torch.arange(n) / n], 1), 0)
    once, again = values.sum(weights), values.sum(weights[:, :1] ** 2)
    (once.square().sum() + again.sum()).backward()
    got, twice.weight.grad = twice.weight.grad, None
    h = other["act"](other["layer"](x))
    weights = torch.softmax(torch.stack([h.sum(1), torch.arange(n) / n], 1), 0)
    ((weights.T @ twice(h)).square().sum() + ((weights[:, :1] ** 2).T @ twice(h)).sum()).backward()
    torch.testing.assert_close(got, twice.weight.grad)
    for name in ("weight", "bias"):
        torch.testing.assert_close(getattr(net["layer"], name).grad, getattr(other["layer"], name).grad)


@pytest.mark.parametrize("n", [0, 1, 4, 9])
def test_rows_are_treated_alike_with_and_without_gradient(n):
    net, x = network("attn"), bag(9)[:n]
    whole = rows.by_rows(net["layer"], x)
    with torch.no_grad():
        torch.testing.assert_close(rows.by_rows(net["layer"], x), whole)
        assert rows.by_rows(net["layer"].float(), x.half()).dtype == torch.float32


@pytest.mark.parametrize("few", [1, 3])
@pytest.mark.parametrize(("pooler", "gated"), [("attn", False), ("attn", True), ("dsmil", False)])
def test_short_of_memory_a_stream_draws_and_learns_the_same(pooler, gated, few):
    net, x = network(pooler, gated=gated, drop=0.4).train(), bag(11)
    if gated:  # draws within the head as well
        net["pool"].attention = GatedScores(D, 3, 1, "tanh", bias=True, dropout=0.4).double()
    said = []
    for size in (None, few):
        torch.manual_seed(4)
        net.zero_grad()
        with watching_memory(Memory(size)):
            vector = net["pool"].stream(asked(net, x)).vector
        vector.square().sum().backward()
        said.append((vector, torch.rand(1), *[p.grad for p in net.parameters() if p.grad is not None]))
    for mine, theirs in zip(*said, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_short_of_memory_rows_are_made_anew_and_learn_the_same():
    net, x = nn.Sequential(nn.Linear(D_IN, D), nn.GELU(), Dropout(0.4), nn.Linear(D, 2)).double(), bag(11)
    said = []
    for size in (None, 4):
        torch.manual_seed(4)
        net.zero_grad()
        with watching_memory(Memory(size)):
            made = rows.by_rows(net, x)
        made.square().sum().backward()
        said.append((made, torch.rand(1), *[p.grad for p in net.parameters()]))
    for mine, theirs in zip(*said, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_what_is_not_used_of_a_stream_is_let_go(monkeypatch):
    made, plain = [], streaming.Streamed.forward

    def forward(ctx, *given):
        said = plain(ctx, *given)
        made.extend(map(weakref.ref, ctx.held))
        return said

    monkeypatch.setattr(streaming.Streamed, "forward", staticmethod(forward))
    net = network("attn")
    gc.disable()  # at once, not when somebody collects what holds itself
    try:
        net["pool"].stream(asked(net, bag(11)))
        assert len(made) == 3
        assert not any(chunk() for chunk in made)
    finally:
        gc.enable()


@pytest.mark.parametrize("pooler", ["attn", "dsmil"])
def test_short_of_memory_nothing_waits_but_what_is_said(pooler, monkeypatch):
    monkeypatch.setattr(rows, "CPU_ROWS", 1000)
    net, x = network(pooler, drop=0.25).float().train(), bag(4000).float()
    gc.disable()
    try:
        with (
            watching_memory(Memory(100)),
            torch.profiler.profile(
                activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
            ) as seen,
        ):
            pooled = net["pool"].stream(asked(net, x))
    finally:
        gc.enable()
    changes = [e.nbytes() for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    # scores, attention, and DSMIL's queries and values; a generator's state for each usual chunk
    told = {"attn": 1 + 1, "dsmil": 2 * 2 + 2 * 2 + 2 * 3 + D}[pooler]
    assert 0 < sum(changes) < 1.05 * len(x) * 4 * told + 4 * 6000 + 40 * 4 * 2 * D
    pooled.vector.sum().backward()


class Greedy(nn.Linear):
    """Has memory for three rows at once."""

    error = torch.OutOfMemoryError("planted")

    def forward(self, x):
        self.sizes = [*getattr(self, "sizes", ()), len(x)]
        if len(x) > 3:
            raise self.error
        return super().forward(x)


def greedy(monkeypatch, *, least=1):
    monkeypatch.setattr(rows, "CPU_ROWS", 8)
    monkeypatch.setattr(rows, "LEAST_ROWS", least)
    net = network("attn")
    plain, net["layer"] = net["layer"], Greedy(D_IN, D).double()
    net["layer"].load_state_dict(plain.state_dict())
    return net, plain


@pytest.mark.parametrize("way", ["all", "each", "by_rows"])
@pytest.mark.parametrize("at", [None, torch.arange(10, -1, -1)])
def test_where_memory_is_short_half_as_many_rows_are_tried(monkeypatch, way, at):
    net, plain = greedy(monkeypatch)
    x = bag(11)
    some, ways = asked(net, x, at), {}
    ways["all"] = some.all
    ways["each"] = lambda: torch.cat([h for (h,) in some.each(lambda h: (h,))])
    ways["by_rows"] = lambda: rows.by_rows(lambda y: net["act"](net["layer"](y)), x if at is None else x[at])
    with torch.no_grad(), watching_memory() as memory:
        whole = net["act"](plain(x if at is None else x[at]))
        torch.testing.assert_close(ways[way](), whole)
        assert net["layer"].sizes == [8, 4, 2, 2, 2, 2, 2, 1]
        assert memory.note == "memory is short, 2 tiles at a time"
        ways[way]()
        assert net["layer"].sizes[8:] == [2, 2, 2, 2, 2, 1]  # not tried in vain again
    with torch.no_grad(), watching_memory() as memory:
        asked(net, x[:3]).all()
        assert memory.note == ""


@pytest.mark.parametrize(
    ("error", "tried"),
    [
        (torch.OutOfMemoryError("planted"), [8, 4]),
        (RuntimeError("DefaultCPUAllocator: not enough memory"), [8, 4]),
        (RuntimeError("planted"), [8]),
    ],
)
def test_what_does_not_fit_in_few_rows_or_fails_otherwise_is_an_error(monkeypatch, error, tried):
    net, _ = greedy(monkeypatch, least=4)
    net["layer"].error = error
    with torch.no_grad(), pytest.raises(RuntimeError, match=str(error)):
        asked(net, bag(11)).all()
    assert net["layer"].sizes == tried
