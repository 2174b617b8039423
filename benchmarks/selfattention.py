"""Time of one self-attention answer with all its maps, beside that of its matrix products alone.

    OMP_NUM_THREADS=2 python benchmarks/selfattention.py --tiles 50000

The floor is the count of multiplications and additions of the formula (docs/methods.md, transmil) at the rate
that one large product reaches in the same run. Processor time is printed beside wall time: on a machine with
other work, only the first says something.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from collections.abc import Callable

import numpy as np
import torch

from napari_mil import methods
from napari_mil.infer import answer, maps_of
from napari_mil.labeltree import LabelTree

WIDTH, LANDMARKS, HEADS, TAPS, FEATURES = 512, 256, 8, 33, 1024
TREE = LabelTree.from_paths(["Benign/N", "Benign/UDH", "Malignant/DCIS", "Malignant/IC"], normal=["Benign/N"])
MODELS = {"transmil": ("transmil", {}), "mhim (selfattn)": ("mhim", {"encoder": "selfattn", "pure": True})}


def operations(tiles: int) -> dict[str, float]:
    """Multiplications and additions by part, counted as published but in the order K1 (K2⁺ (K3 v))."""
    tokens = -(-(tiles + 1) // LANDMARKS) * LANDMARKS
    return {
        "projection": 2 * tiles * FEATURES * WIDTH,
        "q, k, v, out": 2 * 2 * tokens * 4 * WIDTH**2,
        "K1, K3 and their products": 2 * 4 * 2 * tokens * LANDMARKS * WIDTH,
        "pseudo-inverse": 2 * 6 * 4 * 2 * HEADS * LANDMARKS**3,
        "convolutions": 2 * 2 * TAPS * tokens * WIDTH + 2 * 49 * tiles * WIDTH,
    }


def best(act: Callable[[], object], rounds: int) -> tuple[float, float]:
    """Least seconds of wall time and of processor time."""
    wall, cpu = [], []
    for _ in range(rounds):
        start = time.perf_counter(), time.process_time()
        act()
        wall.append(time.perf_counter() - start[0])
        cpu.append(time.process_time() - start[1])
    return min(wall), min(cpu)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiles", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    bag = np.random.default_rng(0).normal(size=(given.tiles, FEATURES)).astype(np.float32)
    count = operations(given.tiles)
    print(f"{given.tiles:,} tiles, {sum(count.values()) / 1e9:.0f} GFLOP:", end=" ")
    print(", ".join(f"{name} {n / 1e9:.0f}" for name, n in count.items()))
    left, right = torch.randn(given.tiles, WIDTH), torch.randn(3 * WIDTH, WIDTH)
    for name, (method, config) in MODELS.items():
        wall, cpu = best(lambda: left @ right.T, given.rounds)
        rate = 2 * given.tiles * 3 * WIDTH**2
        floor = [sum(count.values()) * s / rate for s in (wall, cpu)]
        model = methods.create(method, config, in_features=FEATURES, tree=TREE)
        took = best(lambda m=model: maps_of(answer(m, bag), TREE), given.rounds)
        print(
            f"{name}: wall {took[0]:.2f} s, {took[0] / floor[0]:.2f} × floor {floor[0]:.2f} s "
            f"({rate / wall / 1e9:.0f} GFLOP/s); processor {took[1]:.2f} s, {took[1] / floor[1]:.2f} × "
            f"floor {floor[1]:.2f} s; {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}, "
            f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB"
        )


if __name__ == "__main__":
    main()
