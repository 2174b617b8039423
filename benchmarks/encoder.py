"""How fast the built-in encoder is, and what a linear probe sees in its numbers, beside two others.

    NAPARI_MIL_TEST_DATA=FOLDER python benchmarks/encoder.py             the table
    NAPARI_MIL_TEST_DATA=FOLDER python benchmarks/encoder.py constants   how well the fixed scale fits

FOLDER holds `slides/patlas_liver_metastatic_sarcoma_HE_crop.tif` (a sarcoma in the liver) and its coarse
outlines in `annotations/`; with `encoders/nic_multitask4_torch.safetensors` the Neural Image Compression
encoder is measured too.

Probe: of the tiles that lie wholly in one outline, ten of tumour and ten of liver are drawn; logistic
regression on them ranks all the others. Each number is standardised first: over the slide's own tiles, which
needs no label, or (strict) over the twenty labelled tiles alone. Mean, least and greatest AUC of ten draws.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from napari_mil import encoders
from napari_mil.encode import encode_steps
from napari_mil.encoders import Encoder
from napari_mil.grid import TileGrid
from napari_mil.slides import Slide, open_slide
from napari_mil.steps import drain
from napari_mil.tissue import tissue_grid

LIVER = "patlas_liver_metastatic_sarcoma_HE_crop"
NIC = "encoders/nic_multitask4_torch.safetensors"
TYPICAL = (
    "patlas_duodenum_tubular_adenoma_HE.tif",
    "CMU-1-Small-Region.svs",
    "TCGA-CR-7395-01A-01-TS1.svs",
    "patlas_stomach_hpylori_HE.ome.tif",
    "patlas_duodenum_NET_HE_jpeg2000.tif",
)


class MeanColour(Encoder):
    """Mean red, green and blue: what any encoder must beat."""

    name, id, width, tile_px, mpp = "mean colour", "mean-colour", 3, 256, 0.5

    def __call__(self, tiles: Tensor) -> Tensor:
        """(B, 3)."""
        return tiles.float().mean((1, 2)) / 255


class NeuralImageCompression(Encoder):
    """A small pretrained histology network (Tellez et al. 2021): mean over the 128 px quarters of a tile."""

    name, id, width, tile_px, mpp = "NIC, pretrained", "nic", 128, 256, 0.5

    def __init__(self, weights: Path) -> None:
        from safetensors.torch import load_file

        layers: list[nn.Module] = [nn.AvgPool2d(2)]
        for i in range(4):
            layers += [
                nn.Conv2d(128 if i else 3, 128, 3, 2),
                nn.LeakyReLU(0.2),
                nn.BatchNorm2d(128, eps=1e-3),
            ]
        self.body, self.head = nn.Sequential(*layers).eval(), nn.Linear(1152, 128)
        state = load_file(weights)
        shapes = {k: v.shape for k, v in self.body.state_dict().items()}
        self.body.load_state_dict({k: state[k] for k in shapes})
        last = next(k.removesuffix(".weight") for k, v in state.items() if v.shape == (128, 1152))
        self.head.load_state_dict({k: state[f"{last}.{k}"] for k in ("weight", "bias")})

    def __call__(self, tiles: Tensor) -> Tensor:
        """(B, 128)."""
        quarters = tiles.unflatten(1, (2, 128)).unflatten(3, (2, 128)).permute(0, 1, 3, 5, 2, 4).flatten(0, 2)
        seen = self.body(quarters.float() / 127.5 - 1)
        return self.head(seen.permute(0, 2, 3, 1).flatten(1)).unflatten(0, (-1, 4)).mean(1)


@dataclass(frozen=True)
class Probed:
    """AUC of each draw."""

    auc: NDArray[np.float64]

    def __str__(self) -> str:
        return f"{self.auc.mean():.3f} ({self.auc.min():.3f} … {self.auc.max():.3f})"


def labelled(data: Path, slide: Slide) -> tuple[TileGrid, NDArray[np.int64]]:
    """The tiles of the liver slide that lie wholly in an outline; 1 for tumour, 0 for liver."""
    outlines = json.loads((data / f"annotations/{LIVER}.coarse.geojson").read_text("utf-8"))["features"]
    areas = {
        f["properties"]["classification"]["name"]: shapely.geometry.shape(f["geometry"]) for f in outlines
    }
    grid = tissue_grid(slide)
    y0, x0, y1, x1 = grid.boxes_px.T
    tiles = shapely.box(x0, y0, x1, y1)
    tumour, liver = (shapely.covers(areas[name], tiles) for name in ("Tumor", "Normal"))
    keep = tumour | liver
    return grid.with_cells(grid.cells[keep]), tumour[keep].astype(np.int64)


def probe(
    features: NDArray[Any],
    labels: NDArray[np.int64],
    *,
    draws: int = 10,
    each: int = 10,
    by_slide: bool = True,
) -> Probed:
    """AUC on the rest after a logistic regression on `each` tiles of either class, for `draws` seeds.

    The numbers are standardised over all tiles of the slide, or without `by_slide` over the labelled alone.
    """
    x = features.astype(np.float64)
    scores = []
    for seed in range(draws):
        rng = np.random.default_rng(seed)
        chosen = np.concatenate(
            [rng.choice(np.flatnonzero(labels == k), each, replace=False) for k in (0, 1)]
        )
        rest = np.ones(len(labels), bool)
        rest[chosen] = False
        known = x if by_slide else x[chosen]
        scaled = (x - known.mean(0)) / (known.std(0) + 1e-6)
        model = LogisticRegression(C=1.0, max_iter=5000).fit(scaled[chosen], labels[chosen])
        scores.append(roc_auc_score(labels[rest], model.decision_function(scaled[rest])))
    return Probed(np.array(scores))


def speed(encoder: Encoder, tiles: Tensor, *, repeats: int = 3) -> tuple[float, float]:
    """(tiles per second in memory, CPU milliseconds per tile), the best of several runs in batches of 64."""
    best = spent = float("inf")
    with torch.inference_mode():
        encoder(tiles[:64])
        for _ in range(repeats):
            start, before = time.perf_counter(), time.process_time()
            for part in tiles.split(64):
                encoder(part)
            if tiles.device.type == "cuda":
                torch.cuda.synchronize()
            best = min(best, time.perf_counter() - start)
            spent = min(spent, time.process_time() - before)
    return len(tiles) / best, spent / len(tiles) * 1000


def table(data: Path) -> int:
    """Print the table; 1 when the built-in encoder misses its targets."""
    known: list[Encoder] = [encoders.create(), MeanColour()]
    if (data / NIC).exists():
        known.append(NeuralImageCompression(data / NIC))
    with open_slide(data / f"slides/{LIVER}.tif") as slide:
        grid, labels = labelled(data, slide)
        some = grid.boxes_px[:: max(1, len(grid) // 256)][:256]
        tiles = torch.from_numpy(np.stack([slide.read(tuple(box), out_px=(256, 256)) for box in some]))
        tumour = int(labels.sum())
        print(f"{tumour} tiles of tumour, {len(labels) - tumour} of liver; {torch.get_num_threads()} threads")
        print(f"load {os.getloadavg()[0]:.1f} (tiles/s count only when it is near 0)\n")
        print("| encoder | numbers | tiles/s | CPU ms per tile | from the slide | AUC | AUC, strict |")
        print("|---|---|---|---|---|---|---|")
        results = [_row(encoder, slide, grid, labels, tiles) for encoder in known]
    if torch.cuda.is_available():
        rate, _ = speed(known[0], tiles.cuda())
        print(f"\nbuilt-in on {torch.cuda.get_device_name()}: {rate:.0f} tiles/s in memory")
    rate, probed = results[0]
    print(f"\ntargets: {rate:.0f} tiles/s (≥ 400 on 2 cores), AUC {probed.auc.mean():.3f} (≥ 0.97)")
    return int(probed.auc.mean() < 0.97 or rate < 400)


def _row(
    encoder: Encoder, slide: Slide, grid: TileGrid, labels: NDArray[np.int64], tiles: Tensor
) -> tuple[float, Probed]:
    rate, spent = speed(encoder, tiles)
    start = time.perf_counter()
    bag = drain(encode_steps(slide, grid, encoder, device="cpu"))
    whole = len(grid) / (time.perf_counter() - start)
    found = probe(bag.features, labels)
    strict = probe(bag.features, labels, by_slide=False)
    print(f"| {encoder.name} | {encoder.width} | {rate:.0f} | {spent:.1f} | {whole:.0f} ", end="")
    print(f"| {found} | {strict} |", flush=True)
    return rate, found


def constants(data: Path) -> int:
    """Print mean and spread per group of the scaled numbers over the tissue of five H&E slides."""
    from napari_mil.encoders import builtin
    from napari_mil.encoders.builtin_scale import SCALE

    means, spreads = [], []
    for name in TYPICAL:
        with open_slide(data / "slides" / name) as slide:
            grid = tissue_grid(slide if slide.mpp else slide.with_mpp(0.5))
            grid = grid.with_cells(grid.cells[:: max(1, len(grid) // 150)])
            bag = drain(encode_steps(slide, grid, encoders.create(), device="cpu"))
        means.append(bag.features.astype(np.float64).mean(0))
        spreads.append(bag.features.astype(np.float64).var(0))
    centre = np.mean(means, axis=0)
    spread = np.sqrt(np.mean(spreads, axis=0) + np.var(means, axis=0))
    print("| group | numbers | mean | spread |\n|---|---|---|---|")
    at = 0
    for name, (mean, _) in SCALE.items():
        part = slice(at, at + len(mean))
        print(f"| {name} | {len(mean)} | {centre[part].mean():+.2f} | {spread[part].mean():.2f} |")
        at += len(mean)
    print(f"\nall {len(builtin.MEAN)}: mean {centre.mean():+.2f}, spread {spread.mean():.2f}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="?", choices=("table", "constants"), default="table")
    chosen = parser.parse_args(arguments)
    if not os.environ.get("NAPARI_MIL_TEST_DATA"):
        print("Set NAPARI_MIL_TEST_DATA to the folder with the real slides.", file=sys.stderr)
        return 2
    return {"table": table, "constants": constants}[chosen.what](Path(os.environ["NAPARI_MIL_TEST_DATA"]))


if __name__ == "__main__":
    sys.exit(main())
