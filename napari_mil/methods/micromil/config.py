"""Options of MicroMIL, and the settings of the paper and its code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from napari_mil.mil import Preset
from napari_mil.options import option

#: the ways to choose representatives to answer
SELECT = ("argmax", "stochastic", "mc")


@dataclass(frozen=True, slots=True)
class MicroMILConfig:
    """Options of MicroMIL."""

    compat: str = option(
        "clean",
        "clean: defects mended; official: as published in code; paper: as published in print",
        choices=("clean", "official", "paper"),
    )
    clusters: int = option(36, "clusters, each represented by one image (K)", low=1, high=128)
    width: int = option(0, "width of the projected features; 0: that of the features given", low=0, high=4096)
    layers: int = option(2, "graph attention layers", low=1, high=8)
    hidden: int = option(128, "width of the graph's nodes", low=4, high=1024)
    dropout: float = option(0.5, "share of node states dropped while training", low=0.0, high=0.9)
    tau: float = option(1.0, "temperature of the choice of representatives", low=0.01, high=100.0)
    select: str = option(
        "preset",
        "how representatives are chosen to answer: the best, one draw, or the mean of many draws",
        choices=("preset", *SELECT),
    )
    draws: int = option(16, "draws of which mc takes the mean", low=1, high=1000)
    seed: int = option(0, "seed of the draws to answer", low=0, high=2**31 - 1)
    dec_weight: float = option(0.0, "weight of the clustering loss of deep embedding", low=0.0, high=100.0)


#: what `compat` stands for: how representatives are chosen to answer, which of them may be a node's
#: neighbour, whether the logits go through an activation, and whether node states are dropped after the
#: first epoch, whose evaluation the published code never comes back from
COMPAT: Mapping[str, Mapping[str, Any]] = {
    "clean": {"select": "argmax", "neighbours": "others", "activate": False, "drops_on": True},
    "official": {"select": "stochastic", "neighbours": "all", "activate": True, "drops_on": False},
    "paper": {"select": "argmax", "neighbours": "later", "activate": True, "drops_on": True},
}
#: methods.md §5.4; the code stops by F1 on the test set, here the AUC of validation cases decides
PUBLISHED: Mapping[str, Any] = {"epochs": 50, "lr": 1e-4, "weight_decay": 1e-6, "patience": 5} | {
    "batch_bags": 1, "schedule": "constant", "min_epochs": 0, "select_by": "auc"
}  # fmt: skip
#: methods.md §5.3, 5.6; what is not in print is as in the code
PRINTED: Mapping[str, Any] = {"compat": "paper", "width": 128}
IN_PRINT = "MICCAI 2025, as in print"

PRESETS: Mapping[str, Preset] = {
    "official": Preset({"compat": "official", "clusters": 36}, PUBLISHED, "MICCAI 2025, as in its code"),
    "BreakHis": Preset({**PRINTED, "clusters": 16}, {**PUBLISHED, "lr": 1e-3}, IN_PRINT),
    "Seegene": Preset({**PRINTED, "clusters": 36}, {**PUBLISHED, "lr": 1e-3}, IN_PRINT),
}
