"""Speed and memory of the methods: training steps against the published order, answers against their floor.

    python benchmarks/methods.py [--device cpu|cuda] [--tiles 10000] [--answer-tiles 50000]

Peers run in the same process, on the same weights and bag, in turns; figures are medians. A training step is
one bag through teacher, student, loss, optimiser and teacher update. A floor is the multiplications of our
own step or answer at the rate that a plain matrix product in float32 reaches in turn with it. Writes its
table into docs/benchmarks.md; torchmil's models run beside ours where torchmil is installed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import plain
import torch
from tables import processor, write_section
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from napari_mil import methods
from napari_mil.card import Recipe
from napari_mil.correction import Target
from napari_mil.device import over
from napari_mil.evaluate import Split
from napari_mil.infer import answer, maps_of
from napari_mil.labeltree import LabelTree
from napari_mil.mil import MILModel, total
from napari_mil.steps import drain
from napari_mil.train.cohort import Cohort, Prepared
from napari_mil.train.fit import Fit

D = 1024
FLAT = LabelTree.from_paths(["a", "b"])
TREE = LabelTree.from_paths(["B/N", "B/PB", "B/UDH", "A/FEA", "A/ADH", "M/DCIS", "M/IC"], normal=["B/N"])
#: the three poolers of MHIM and the ratios of its command
ENCODERS = ("attn", "dsmil", "selfattn")
MASK, KEEP = 0.03, 0.8
ANSWERS = ("abmil", "gabmil", "mhim", "dsmil", "clam_sb", "clam_mb", "hmil", "mhim selfattn", "transmil")


def ours(encoder: str, *, compat: str = "clean") -> MILModel:
    """MHIM v2 as it trains here."""
    config = {"encoder": encoder, "mask_ratio": MASK, "keep_ratio": KEEP, "compat": compat}
    return methods.create("mhim", config, in_features=D, tree=FLAT)


def published(model: MILModel) -> plain.Net:
    """The plain network on the same weights."""
    encoder = model.config.encoder
    net = plain.Net(encoder, D, 2)
    net.load_state_dict(model.student.state_dict())  # type: ignore[union-attr, operator]
    return net


def bag(n: int, device: str) -> Tensor:
    """A bag (n, D) of plausible features."""
    return torch.randn(n, D, generator=torch.Generator().manual_seed(0)).relu().to(device)


def training_step(model: MILModel, x: Tensor, *, bf16: bool) -> Callable[[], None]:
    """Our step as the engine does it: loss, backward, fused Adam, teacher."""
    model.to(x.device).train()
    learned = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.Adam(learned, 2e-4, weight_decay=1e-5, fused=True)
    example = [(x, None, Target(slide=2))]

    def step() -> None:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16):
            loss = total(model.loss(example, 0.0))
        assert loss is not None
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        model.after_step(0.0)

    return step


def plain_step(net: plain.Net, x: Tensor) -> Callable[[], None]:
    """The published step."""
    trainer = plain.Trainer(net.to(x.device), mask_ratio=MASK, keep_ratio=KEEP)
    trainer.teacher.to(x.device)
    label = torch.tensor([1], device=x.device)
    return lambda: trainer.step(x[None], label)


def clock(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def in_turns(acts: dict[str, Callable[[], Any]], device: str, repeats: int) -> dict[str, float]:
    """Median seconds of each act; the acts take turns, so that whatever else happens hits all of them."""
    seen: dict[str, list[float]] = {name: [] for name in acts}
    for act in acts.values():
        act()
    for _ in range(repeats):
        for name, act in acts.items():
            began = clock(device)
            act()
            seen[name].append(clock(device) - began)
    return {name: statistics.median(times) for name, times in seen.items()}


def step_of(kind: str, encoder: str, x: Tensor) -> Callable[[], None]:
    model = ours(encoder)
    return (
        plain_step(published(model), x) if kind == "plain" else training_step(model, x, bf16=kind == "bf16")
    )


def peak(kind: str, encoder: str, n: int, device: str) -> float:
    """MB beyond bag, weights and optimiser that torch holds at the worst moment of a step."""
    act = step_of(kind, encoder, bag(n, device))
    act()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        act()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    with torch.profiler.profile(profile_memory=True) as seen:
        act()
    held = [
        (event.start_ns(), event.nbytes())
        for event in seen.profiler.kineto_results.events()
        if event.name() == "[memory]"  # taken, or, below zero, given back
    ]
    return max(accumulate(size for _, size in sorted(held))) / 1e6


def steps_table(n: int, device: str, repeats: int) -> list[str]:
    x = bag(n, device)
    head = ["MHIM, encoder", "published order, s", "fp32, s", "ratio", "its floor, s", "ratio at the floor"]
    head += ["bf16, s", "ratio", "peak memory, MB"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    multiply, counted = product(device)
    for encoder in [e for e in ENCODERS if e in choices("mhim", "encoder")]:
        steps = {k: step_of(k, encoder, x) for k in ("plain", "fp32", "bf16")}
        found = in_turns(steps | {"product": multiply}, device, repeats)
        floor = multiplications(steps["fp32"]) * found["product"] / counted
        mb = {k: peak(k, encoder, n, device) for k in ("plain", "fp32")}
        row = [
            encoder,
            f"{found['plain']:.3f}",
            f"{found['fp32']:.3f}",
            f"{found['plain'] / found['fp32']:.2f} ×",
            f"{floor:.3f}",
            f"{found['plain'] / floor:.2f} ×",
            f"{found['bf16']:.3f}",
            f"{found['plain'] / found['bf16']:.2f} ×",
            f"{mb['plain']:.0f} → {mb['fp32']:.0f} ({mb['fp32'] / mb['plain']:.2f} ×)",
        ]
        lines.append("| " + " | ".join(row) + " |")
        print(lines[-1], flush=True)
    return lines


def choices(method: str, field: str) -> Sequence[Any]:
    known = methods.get(method).Config.__dataclass_fields__
    found: Sequence[Any] = known[field].metadata["choices"]
    return found


def product(device: str) -> tuple[Callable[[], Tensor], int]:
    """A plain product of the shape that projections have, and its multiply-adds."""
    a, b = torch.randn(16384, 1024, device=device), torch.randn(1024, 512, device=device)
    return lambda: a @ b, 16384 * 1024 * 512


class Multiplications(TorchDispatchMode):
    """Counts the multiply-adds of matrix products and of attention, and of convolutions on the way there, by
    torch's formulas.

    torch's counter itself does not follow a gradient inside a gradient, and its formula for a convolution's
    way back takes no account of groups; that way, about half a percent here, is left out.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        aten = torch.ops.aten
        counted = (aten.mm, aten.addmm, aten.bmm, aten.baddbmm, aten.convolution)
        self.formulas = {op.default: flop_registry[op] for op in counted}
        self.formulas[aten.addmm_.default] = flop_registry[aten.addmm]
        for way in ("", "_backward"):
            flash = "_scaled_dot_product_flash_attention"
            self.formulas |= {
                getattr(aten, flash + where + way).default: flop_registry[getattr(aten, flash + way)]
                for where in ("", "_for_cpu")
            }

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if func in self.formulas:
            self.count += self.formulas[func](*args, **(kwargs or {}), out_val=made) // 2
        return made


def multiplications(act: Callable[[], Any]) -> int:
    """Multiply-adds of an act, also on the way back."""
    with Multiplications() as counter:
        act()
    return counter.count


@torch.no_grad()
def forward(model: MILModel, x: Tensor) -> None:
    """The bag's answer alone."""
    model.eval()(x)


def created(name: str) -> tuple[MILModel, LabelTree]:
    """A model of ANSWERS, and its tree."""
    method, _, encoder = name.partition(" ")
    tree = TREE if "flat tree" in methods.get(method).exceptions else FLAT
    return methods.create(method, {"encoder": encoder} if encoder else None, in_features=D, tree=tree), tree


def answers_table(n: int, device: str, repeats: int) -> list[str]:
    half = bag(n, "cpu").half().numpy()
    small, (multiply, counted) = bag(2048, device), product(device)
    head = ["method", "answer, s", "answer + all maps, s", "floor, s", "answer / floor"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name in ANSWERS:
        model, tree = created(name)
        model.eval().to(device)
        acts = {
            "answer": lambda model=model: answer(model, half, device=device),
            "maps": lambda model=model, tree=tree: maps_of(answer(model, half, device=device), tree),
        }
        found = in_turns(acts | {"product": multiply}, device, repeats)
        floor = multiplications(partial(forward, model, small)) / len(small) * n * found["product"] / counted
        row = [
            name,
            f"{found['answer']:.3f}",
            f"{found['maps']:.3f}",
            f"{floor:.3f}",
            f"{found['answer'] / floor:.2f}",
        ]
        lines.append("| " + " | ".join(row) + " |")
        print(lines[-1], flush=True)
    return lines


def large_table(n: int, device: str, repeats: int) -> list[str]:
    """Answers with all maps for a bag of `n` tiles in pinned memory of the host, float16."""
    half = bag(n, "cpu").half()
    half = half.pin_memory() if device == "cuda" else half
    lines = ["| method | answer, s | answer + all maps, s |", "|---|---|---|"]
    for name in ANSWERS:
        model, tree = created(name)
        model.eval().to(device)
        acts = {
            "answer": lambda model=model: answer(model, half, device=device),
            "maps": lambda model=model, tree=tree: maps_of(answer(model, half, device=device), tree),
        }
        found = in_turns(acts, device, repeats)
        lines.append(f"| {name} | {found['answer']:.3f} | {found['maps']:.3f} |")
        print(lines[-1], flush=True)
    return lines


def epoch_table(bags: int, n: int, device: str, repeats: int) -> list[str]:
    """An epoch of MHIM over bags that come from files, and over the same bags that lie on the device."""
    where, tree = torch.device(device), FLAT
    names = [f"case {i}" for i in range(bags)]
    lines = ["| MHIM, encoder | from files, s | on the device, s | ratio |", "|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as folder:
        here, there = {}, {}
        for i, name in enumerate(names):
            file = np.memmap(Path(folder) / f"{i}", np.float16, "w+", shape=(n, D))
            file[:] = np.random.default_rng(i).standard_normal((n, D), np.float32)
            file.flush()
            mapped = np.memmap(Path(folder) / f"{i}", np.float16, "r", shape=(n, D))
            cells = torch.from_numpy(np.stack(np.divmod(np.arange(n), 100), 1))
            target = Target(slide=tree.leaves[i % 2])
            here[name] = Prepared((over(mapped),), cells, target)
            there[name] = Prepared((here[name].features.to(where),), cells.to(where), target)
        for encoder in ENCODERS:
            acts = {}
            for kind, data in (("files", here), ("device", there)):
                fit = Fit(ours(encoder), Recipe(), "training", Cohort(data, Split(tuple(names)), tree, where))
                acts[kind] = lambda fit=fit: drain(fit.epoch_steps())
            found = in_turns(acts, device, repeats)
            ratio = found["files"] / found["device"]
            lines.append(f"| {encoder} | {found['files']:.2f} | {found['device']:.2f} | {ratio:.2f} × |")
            print(lines[-1], flush=True)
    return lines


def torchmil_models() -> dict[str, torch.nn.Module]:
    """Torchmil's models of the widths that ours have; {} where torchmil is not installed."""
    try:
        from torchmil.models import ABMIL, DSMIL, TransMIL
    except ImportError:
        return {}

    def project() -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Linear(D, 512), torch.nn.ReLU())

    return {
        "abmil": ABMIL(in_shape=(D,), att_dim=128, feat_ext=project()),
        "dsmil": DSMIL(in_shape=(D,), att_dim=128, nonlinear_v=True, feat_ext=project()),
        "transmil": TransMIL(in_shape=(D,), att_dim=512, n_heads=8, n_landmarks=256),
    }


def peers_table(n: int, device: str, repeats: int) -> list[str]:
    """Torchmil's models beside ours: an answer in evaluation mode, and a training step (forward, backward,
    Adam).
    """
    x = bag(n, device)
    head = [
        "method",
        "answer, torchmil, s",
        "here, s",
        "ratio",
        "training step, torchmil, s",
        "here, s",
        "ratio",
    ]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name, peer in torchmil_models().items():
        same = {"dropout": 0.0, "act": "relu"}  # as torchmil's have it
        mine = methods.create(name, same, in_features=D, tree=FLAT)
        models = {"peer": peer.to(device).eval(), "here": mine.to(device).eval()}
        bags = {"peer": x[None], "here": x}
        with torch.inference_mode():
            said = in_turns(
                {who: partial(model, bags[who]) for who, model in models.items()}, device, repeats
            )
        learns = {"peer": torchmil_step(peer, x), "here": training_step(mine, x, bf16=False)}
        learned = in_turns(learns, device, repeats)
        cells = [
            text
            for found in (said, learned)
            for text in (
                f"{found['peer']:.3f}",
                f"{found['here']:.3f}",
                f"{found['peer'] / found['here']:.2f} ×",
            )
        ]
        lines.append("| " + " | ".join([name, *cells]) + " |")
        print(lines[-1], flush=True)
    return lines if len(lines) > 2 else []


def torchmil_step(peer: Any, x: Tensor) -> Callable[[], None]:
    """A step of one bag through torchmil's own loss, with the optimiser that ours has."""
    peer.train()
    optimiser = torch.optim.Adam(peer.parameters(), 2e-4, weight_decay=1e-5, fused=True)
    label = torch.ones(1, device=x.device)

    def step() -> None:
        _, losses = peer.compute_loss(label, x[None])
        optimiser.zero_grad(set_to_none=True)
        sum(losses.values()).backward()
        optimiser.step()

    return step


def heading(given: argparse.Namespace, load: float) -> str:
    device = torch.cuda.get_device_name() if given.device == "cuda" else processor()
    return (
        f"`python benchmarks/methods.py --device {given.device}`, {datetime.now(UTC).date().isoformat()}, "
        f"{device}, "
        f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}, torch "
        f"{torch.__version__}, Python {platform.python_version()}; "
        f"load of the machine at the start {load:.1f}. Medians of {given.repeats} turns."
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--tiles", type=int, default=10_000)
    parser.add_argument("--answer-tiles", type=int, default=50_000)
    parser.add_argument("--large", type=int, default=0, help="tiles of the largest bag (on a GPU 1,000,000)")
    parser.add_argument("--bags", type=int, default=0, help="bags of an epoch (on a GPU 400)")
    parser.add_argument("--bag-tiles", type=int, default=9000)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write the tables here as well")
    parser.add_argument("--no-docs", action="store_true")
    parser.add_argument("--docs", type=Path, default=Path(__file__).parents[1] / "docs" / "benchmarks.md")
    given = parser.parse_args(argv)
    torch.manual_seed(0)
    load = os.getloadavg()[0]
    parts = {
        f"Training steps, {given.tiles:,} × {D}": steps_table(given.tiles, given.device, given.repeats),
        f"Answers, {given.answer_tiles:,} × {D}": answers_table(
            given.answer_tiles, given.device, given.repeats
        ),
        "Beside torchmil": peers_table(given.tiles, given.device, given.repeats),
    }
    gpu = given.device == "cuda"
    if large := given.large or gpu * 1_000_000:
        title = f"Answers for a bag in the host's memory, {large:,} × {D}, float16"
        parts[title] = large_table(large, given.device, given.repeats)
    if bags := given.bags or gpu * 400:
        title = f"An epoch over {bags} bags of {given.bag_tiles:,} × {D}, float16"
        parts[title] = epoch_table(bags, given.bag_tiles, given.device, min(given.repeats, 3))
    blocks = [f"### {title}\n\n" + "\n".join(lines) for title, lines in parts.items() if lines]
    text = "\n\n".join(["## Speed of the methods, " + given.device, heading(given, load), *blocks])
    print(text)
    if given.json:
        given.json.write_text(json.dumps(parts, indent=1), encoding="utf-8")
    if not given.no_docs:
        write_section(given.docs, f"methods-{given.device}", text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
