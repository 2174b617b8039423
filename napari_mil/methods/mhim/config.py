"""Options of MHIM, and the settings of the papers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from napari_mil.mil import Preset
from napari_mil.options import option

INIT = ("none", "projection", "all")
FIRST, SECOND = {"version": (1,)}, {"version": (2,)}


@dataclass(frozen=True, slots=True)
class MHIMConfig:
    """Options of MHIM; the defaults are those of the published commands, in clean numerics."""

    version: int = option(
        2,
        "2: class-aware scores and recycling (IJCV 2025); 1: attention and three masks (ICCV 2023)",
        choices=(1, 2),
    )
    encoder: str = option(
        "attn",
        "how tiles are pooled: AB-MIL, plain or gated, self-attention as in TransMIL, or DSMIL",
        choices=("attn", "gated", "selfattn", "dsmil"),
    )
    compat: str = option(
        "clean", "clean: defects mended; official: as published", choices=("clean", "official")
    )
    pure: bool = option(False, "the encoder alone, without teacher, hiding and recycling (stage 1)")
    teacher: bool = option(True, "keep a teacher; without one the model can only answer")
    hidden: int = option(512, "width of the projected features", low=8, high=4096)
    attention_width: int = option(128, "width of the attention layer", low=1, high=4096)
    act: str = option("gelu", "activation after the projection", choices=("gelu", "relu"))
    da_act: str = option(
        "relu",
        "activation of the attention layer",
        choices=("relu", "tanh", "gelu"),
        heard={"encoder": ("attn", "gated")},
    )
    dropout: float = option(0.25, "share of projected features dropped while training", low=0.0, high=0.9)
    heads: int = option(8, "heads of the recycling and of the self-attention", low=1, high=64)
    mask_ratio: float = option(0.03, "share of tiles hidden for their high score", low=0.0, high=0.95)
    hidden_ratio_random: float = option(
        1.0, "of that many more candidates, the share hidden at random; 1: all", low=0.01, high=1.0
    )
    low_mask_ratio: float = option(
        0.0, "version 1: share of tiles hidden for their low score", low=0.0, high=0.95, heard=FIRST
    )
    random_mask_ratio: float = option(
        0.0, "version 1: share of tiles hidden at random", low=0.0, high=0.95, heard=FIRST
    )
    fusion: str = option(
        "vote",
        "how heads agree on salient tiles where there are several",
        choices=("vote", "mean"),
        heard={"encoder": ("selfattn",)},
    )
    mask_schedule: str = option("none", "cosine: the hidden share decays to 0", choices=("none", "cosine"))
    keep_ratio: float = option(
        0.8, "share of the rest seen directly; others are recycled", low=0.0, high=1.0, heard=SECOND
    )
    recycle_tokens: int = option(
        5, "tokens made of recycled tiles; 0: no recycling", low=0, high=64, heard=SECOND
    )
    query_momentum: float = option(
        0.9999, "momentum of the recycling queries", low=0.0, high=1.0, heard=SECOND
    )
    ema: float = option(0.9997, "momentum of the teacher", low=0.0, high=1.0)
    ema_schedule: str = option("none", "cosine: the momentum rises to 1", choices=("none", "cosine"))
    consistency: float = option(0.5, "weight of the consistency loss with the teacher", low=0.0, high=100.0)
    temperature: float = option(0.1, "temperature of the teacher's bag vector", low=0.001, high=10.0)
    score: str = option(
        "class",
        "what salience means: confidence of the tile's class, or attention",
        choices=("class", "attention"),
        heard=SECOND,
    )
    score_bias: bool = option(
        False,
        "add the classifier's bias to the tile's class scores",
        heard={"encoder": ("attn", "gated", "selfattn")},
    )
    init_student: str = option(
        "all", "what the student takes from stage 1; as published: none (version 2)", choices=INIT
    )


#: methods.md §3.8, 3.13: one horizon of 200 epochs for the learning rate, however early a training stops;
#: the seed is that of the commands
_ADAM = {
    "seed": 2021,
    "epochs": 200,
    "lr": 2e-4,
    "weight_decay": 1e-5,
    "patience": 20,
    "stage1_epochs": 200,
    "stopping": "official",
    "select_by": "official",
}
#: methods.md §3.12: what version 1 did otherwise
_ADAM_V1 = {**_ADAM, "schedule": "cosine-to-0", "select_by": "auc"}
_V2 = {"version": 2, "compat": "official", "mask_ratio": 0.03, "recycle_tokens": 5, "init_student": "none"}
_V1 = {
    "version": 1,
    "compat": "official",
    "act": "relu",
    "mask_schedule": "cosine",
    "ema": 0.9999,
    "init_student": "projection",
}
_C16 = {"consistency": 0.1, "hidden_ratio_random": 0.5}
_TCGA = {"consistency": 0.5, "mask_ratio": 0.02, "low_mask_ratio": 0.2}


def _v1(*parts: dict[str, Any], earliest: int, patience: int, **more: Any) -> Preset:
    config: dict[str, Any] = dict(_V1)
    for part in parts:
        config |= part
    return Preset(config | more, {**_ADAM_V1, "min_epochs": earliest, "patience": patience}, "ICCV 2023")


#: methods.md §3.13: what version 2 was tuned over, and shares as its abstract's large-scale masking reads
GRID = {
    "mask_ratio": (0.01, 0.03, 0.05),
    "keep_ratio": (0.8, 0.9, 0.2, 0.1),
    "recycle_tokens": (1, 5, 10),
}

#: settings of the papers; "paper_reading" takes the abstract's large-scale masking for the recycled share
PRESETS = {
    "v2-command": Preset(_V2 | {"keep_ratio": 0.8}, {**_ADAM, "min_epochs": 100}, "IJCV 2025, its command"),
    "v2-paper-reading": Preset(
        _V2 | {"keep_ratio": 0.2}, {**_ADAM, "min_epochs": 100}, "IJCV 2025, as its abstract reads"
    ),
    "v2-survival": Preset(
        _V2 | {"keep_ratio": 0.8},
        {**_ADAM, "min_epochs": 30, "patience": 15},
        "IJCV 2025, its command for follow-up times",
    ),
    "v1-c16-attn": _v1(_C16, earliest=130, patience=30, mask_ratio=0.01, random_mask_ratio=0.5),
    "v1-c16-selfattn": _v1(
        _C16,
        earliest=130,
        patience=30,
        encoder="selfattn",
        mask_ratio=0.03,
        low_mask_ratio=0.8,
        ema_schedule="cosine",
    ),
    "v1-tcga-attn": _v1(_TCGA, earliest=70, patience=20, random_mask_ratio=0.7, ema_schedule="cosine"),
    "v1-tcga-selfattn": _v1(_TCGA, earliest=70, patience=20, encoder="selfattn", random_mask_ratio=0.6),
}
