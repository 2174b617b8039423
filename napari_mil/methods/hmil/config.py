"""Options of HMIL, and the settings of the paper and its code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from napari_mil.mil import Preset
from napari_mil.options import option

#: what `compat` stands for, per option that is left at "preset"
COMPAT = {
    "clean": {
        "alpha_schedule": "quadratic",
        "use_instance_alignment": "yes",
        "align_form": "nll",
        "tau": "const",
        "scl_views": "true_class",
    },
    "official": {
        "alpha_schedule": "quadratic",
        "use_instance_alignment": "no",
        "align_form": "double_softmax",
        "tau": "cosine",
        "scl_views": "all_classes",
    },
    "paper": {
        "alpha_schedule": "linear",
        "use_instance_alignment": "yes",
        "align_form": "nll",
        "tau": "const",
        "scl_views": "true_class",
    },
}


#: methods.md §4.5; the code selects by several figures, this is the one that methods.md settles on
PUBLISHED = {
    "epochs": 200,
    "lr": 1e-4,
    "weight_decay": 0.0,
    "batch_bags": 64,
    "schedule": "plateau",
    "patience": 200,
    "select_by": "auc",
}


@dataclass(frozen=True, slots=True)
class HMILConfig:
    """Options of HMIL; those at "preset" follow `compat`."""

    compat: str = option(
        "clean",
        "clean: defects mended; official: as published in code; paper: as published in print",
        choices=("clean", "official", "paper"),
    )
    hidden: int = option(
        1024, "width of the coarse features; the fine ones have a quarter", low=16, high=4096
    )
    dropout: float = option(
        0.0, "dropout in the attention branches (0.25 where it is used)", low=0.0, high=0.9
    )
    alpha_schedule: str = option(
        "preset", "how the coarse terms fade", choices=("preset", "quadratic", "linear")
    )
    use_instance_alignment: str = option(
        "preset", "align coarse and fine attention tile by tile", choices=("preset", "yes", "no")
    )
    align_form: str = option(
        "preset",
        "how the lifted fine answer meets the coarse label",
        choices=("preset", "double_softmax", "nll"),
    )
    tau: str = option("preset", "temperature of the contrast", choices=("preset", "cosine", "const"))
    scl_views: str = option(
        "preset",
        "class vectors that stand for a bag in the contrast",
        choices=("preset", "all_classes", "true_class"),
    )
    presence_weight: float = option(
        0.0,
        "weight of what the attention rows say by themselves, so that a class looks at tiles of its own; "
        "1 helps class maps (not published, 0 in every preset)",
        low=0.0,
        high=10.0,
    )


PRESETS: Mapping[str, Preset] = {
    "official": Preset({"compat": "official"}, PUBLISHED, "TMI 2025, as in its code"),
    "paper": Preset({"compat": "paper"}, PUBLISHED, "TMI 2025, as in print"),
}
