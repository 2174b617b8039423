"""Bags of any size, for every method of the registry: one tile, 200,000 tiles, and in whatever chunks."""

import dataclasses
import gc
from itertools import accumulate

import numpy as np
import pytest
import torch
from variants import VARIANTS

from napari_mil import methods
from napari_mil.blocks import rows
from napari_mil.correction import Target
from napari_mil.device import Memory, watching_memory
from napari_mil.infer import answer, maps_of
from napari_mil.labeltree import LabelTree
from napari_mil.mil import total

D = 12
TREE = LabelTree.from_paths(["Benign/N", "Benign/UDH", "Malignant/DCIS", "Malignant/IC"], normal=["Benign/N"])
CASES = [
    pytest.param((name, variant), id="-".join([name, *map(str, variant.values())]))
    for name in methods.names()
    for variant in VARIANTS.get(name, [{}])
]
#: what a method may hold at once beside a large bag of float16, in bags: HMIL has many maps, DSMIL sums what
#: it makes of tiles when all are seen, in self-attention they look at each other
HOLDS = {
    "hmil": 1.25,
    "dsmil": 2.5,
    "mhim dsmil": 2.5,
    "micromil": 1.5,
    "transmil": 8.0,
    "mhim selfattn": 8.0,
}


@pytest.fixture(params=CASES)
def case(request):
    return request.param


@pytest.fixture(autouse=True)
def _one_thread_and_seed():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def make(case, width=D, **more):
    name, variant = case
    known = {f.name for f in dataclasses.fields(methods.get(name).Config)}
    wanted = {"hidden": 32, "attention_width": 8, "clusters": 8, "heads": 2, **more}
    small = {k: v for k, v in wanted.items() if k in known}
    return methods.create(name, {**small, **variant}, in_features=width, tree=TREE)


def bag(n, width=D, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, width)))


def learned(model, x, *, few=None, half=False):
    """Losses, gradients and the answer of a bag whose slide and a few tiles are labelled, where so `few` rows
    fit into memory at once; `half` learns in bfloat16.
    """
    tiles = np.zeros(len(x), np.int32)
    tiles[::9] = TREE.leaves[1]
    model.train().zero_grad(set_to_none=True)
    torch.manual_seed(5)
    draws = torch.Generator().manual_seed(3)
    if hasattr(model, "student") and hasattr(model.student, "merge"):
        model.student.merge.global_q_mm.data.fill_(0.3)  # it moves while a loss is computed
    with watching_memory(Memory(few)):
        example = (x, None, Target(slide=TREE.leaves[2], tiles=tiles))
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            losses = model.loss([example], 0.5, generator=draws)
        total(losses).backward()
    said = {f"loss {name}": value.detach() for name, value in losses.items()}
    said |= {f"gradient {n}": p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    with torch.no_grad(), watching_memory(Memory(few)):
        out = model.eval()(x)
    told = {"tiles": out.tile_logits, "attention": out.attention, "vector": out.embedding}
    told |= {name: values.double() for name, values in out.maps.items()}
    return said | told | {f"logits {i}": x for i, x in enumerate(out.logits)}


def alike(found, expected):
    assert found.keys() == expected.keys()
    for name, value in found.items():
        size = max(1.0, expected[name].abs().max().item())
        torch.testing.assert_close(
            value, expected[name], atol=1e-9 * size, rtol=0, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_chunks_say_and_learn_what_the_whole_does(case, monkeypatch):
    model, x = make(case, dropout=0.0).double(), bag(77)
    monkeypatch.setattr(rows, "CPU_ROWS", 10_000)
    whole = learned(model, x)
    monkeypatch.setattr(rows, "CPU_ROWS", 16)
    alike(learned(model, x), whole)
    alike(learned(model, x, few=5), whole)


def test_what_is_dropped_is_the_same_however_few_tiles_fit_into_memory(case, monkeypatch):
    model, x = make(case, dropout=0.4).double(), bag(77)
    monkeypatch.setattr(rows, "CPU_ROWS", 16)
    alike(learned(model, x, few=5), learned(model, x))


def test_half_precision_learns_from_chunks_as_from_the_whole(case, monkeypatch):
    model, x = make(case, dropout=0.0), bag(77).float()
    found = []
    for size in (10_000, 16):
        monkeypatch.setattr(rows, "CPU_ROWS", size)
        said = learned(model, x, half=True)
        found.append(torch.cat([v.flatten().float() for k, v in said.items() if k.startswith("gradient")]))
    assert torch.cosine_similarity(*found, 0) > 0.99


def test_half_precision_answers_as_single_precision(case):
    model, x = make(case, dropout=0.0).eval(), bag(1500).float()
    with torch.no_grad():
        plain = model(x)
        with torch.autocast("cpu", torch.bfloat16):
            half = model(x)
    assert half.maps.keys() == plain.maps.keys()
    assert all(
        torch.isfinite(v.float()).all() for v in (half.tile_logits, half.attention, *half.maps.values())
    )
    assert torch.allclose(half.attention.float().sum(0), torch.ones(half.attention.shape[1]), atol=2e-2)
    said = [torch.softmax(out.logits[-1].float(), 0) for out in (half, plain)]
    assert (said[0] - said[1]).abs().max() < 2e-2


@pytest.mark.parametrize("n", [1, 2, 7])
def test_the_smallest_bags_are_answered_and_learned_from(case, n):
    model = make(case, dropout=0.25)
    for progress in (0.0, 1.0):
        model.train()
        total(model.loss([(bag(n).float(), None, Target(slide=TREE.leaves[1]))], progress)).backward()
        model.after_step(progress)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    maps = maps_of(answer(model, bag(n).numpy().astype(np.float16)), TREE)
    assert {"attention", "lesion", "class/fine"} <= {m.name for m in maps}
    assert all(np.isfinite(m.values).all() and len(m.values) == n for m in maps)


LARGE = [name for name in methods.names() if name != "mhim"]
LARGE += [f"mhim {e}" for e in methods.get("mhim").Config.__dataclass_fields__["encoder"].metadata["choices"]]


@pytest.fixture(scope="module")
def large():
    return np.random.default_rng(0).random((200_000, 64), np.float32).astype(np.float16)


@pytest.mark.parametrize("name", LARGE)
def test_two_hundred_thousand_tiles_are_answered_in_little_memory(name, large):
    method, _, encoder = name.partition(" ")
    model = make((method, {"encoder": encoder} if encoder else {}), 64)
    said, peak = measured(lambda: answer(model, large))
    maps = maps_of(said, TREE)
    assert all(np.isfinite(m.values).all() and len(m.values) == len(large) for m in maps)
    assert 0 < peak < HOLDS.get(name, 1.0) * large.nbytes


def measured(act):
    """What `act` gives, and how many bytes torch held at the worst moment."""
    gc.collect()
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as seen:
        made = act()
    changes = [
        (e.start_ns(), e.nbytes())
        for e in seen.profiler.kineto_results.events()
        if e.name() == "[memory]"  # taken, or, below zero, given back
    ]
    return made, max(accumulate(size for _, size in sorted(changes)))


@pytest.mark.parametrize("name", LARGE)
def test_short_of_memory_a_step_holds_less(name, large):
    method, _, encoder = name.partition(" ")
    model = make((method, {"encoder": encoder} if encoder else {}), 64, hidden=64).train()
    example = [(torch.from_numpy(large[:8000].astype(np.float32)), None, Target(slide=TREE.leaves[1]))]

    def step(few):
        with watching_memory(Memory(few)):
            total(model.loss(example, 0.5)).backward()

    step(None)
    peaks = [measured(lambda few=few: step(few))[1] for few in (None, 256)]
    assert peaks[1] < (0.75 if name in {"transmil", "mhim selfattn"} else 0.5) * peaks[0]


@pytest.mark.parametrize("encoder", ["attn", "gated", "dsmil"])
def test_as_published_a_step_of_mhim_holds_no_more(encoder, large):
    example = [(torch.from_numpy(large[:8000].astype(np.float32)), None, Target(slide=TREE.leaves[1]))]
    peaks = []
    for compat in ("official", "clean"):
        model = make(("mhim", {"encoder": encoder, "compat": compat}), 64, hidden=64).train()
        total(model.loss(example, 0.5)).backward()
        peaks.append(measured(lambda model=model: total(model.loss(example, 0.5)).backward())[1])
    assert peaks[0] < 1.1 * peaks[1]
