"""What a checkpoint file holds: read as weights only, its wrappers taken off."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from napari_mil.errors import ModelError
from napari_mil.options import expect
from napari_mil.weightfile import read_weights

Weights = dict[str, Tensor]
Source = str | Path | Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Bundle:
    """What a file holds under its own key names: the weights asked for, and its teacher's or None."""

    weights: Weights
    teacher: Weights | None


def unpack(source: Source, part: str = "student") -> Bundle:
    """The tensors of a file or a state dict, without {model, teacher, epoch}, {model_state_dict} and
    "module."; ModelError when there are none.
    """
    if part not in ("student", "teacher"):
        raise ModelError(f"part is {part!r}; it must be 'student' or 'teacher'.")
    expect("The checkpoint", source, (str, Path, Mapping), "a path or a state dict")
    held = source if isinstance(source, Mapping) else read_weights(Path(source), "checkpoint")
    if not isinstance(held, Mapping):
        raise ModelError(f"The checkpoint holds a {type(held).__name__}; a state dict was expected.")
    wrapper = next(
        (k for k in ("model", "model_state_dict", "state_dict") if isinstance(held.get(k), Mapping)), None
    )
    teacher = held.get("teacher") if isinstance(held.get("teacher"), Mapping) else None
    if part == "teacher" and teacher is None:
        raise ModelError("The checkpoint holds no teacher; load its student.")
    taught = None if teacher is None else _plain(teacher)
    if taught is not None and (part == "teacher" or wrapper is None):
        return Bundle(taught, taught)
    return Bundle(_plain(held if wrapper is None else held[wrapper]), taught)


def _plain(held: Mapping[str, Any]) -> Weights:
    """The tensors of a state dict in float32, without "module." and the second name of MHIM's queries."""
    weights: Weights = {}
    for key, value in held.items():
        if not isinstance(value, Tensor):
            raise ModelError(f"{key} of the checkpoint is a {type(value).__name__}; a tensor was expected.")
        tensor = value.detach().cpu()
        tensor = tensor.float() if tensor.is_floating_point() else tensor
        if not torch.isfinite(tensor).all():
            raise ModelError(f"{key} of the checkpoint holds numbers that are not finite.")
        weights[re.sub(r"(^|\.)(?:module\.)+", r"\1", str(key))] = tensor
    alias = weights.pop("merge.global_q", None)
    if alias is not None and not torch.equal(weights.setdefault("merge.global_q_mm", alias), alias):
        raise ModelError(
            "merge.global_q and merge.global_q_mm of the checkpoint differ; they are one tensor."
        )
    return weights
