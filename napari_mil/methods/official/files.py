"""What a checkpoint file holds: read as weights only, its wrappers taken off."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from napari_mil.errors import ModelError, reason

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
    held = source if isinstance(source, Mapping) else _read(Path(source))
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


def _read(path: Path) -> Any:
    """What a file holds, without running any code of it."""
    if not path.is_file():
        raise ModelError(f"There is no checkpoint {path}.")
    try:
        with path.open("rb") as file:
            head = file.read(9)
        if head[8:] == b"{":  # the length of safetensors' JSON header comes first
            return safetensors.torch.load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols; what is not understood raises
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        asked = (
            str(error).split("\n")[-1].strip(" .") if "GLOBAL" not in str(error) else _asked_for(str(error))
        )
        raise ModelError(
            f"{path.name} holds more than weights ({asked}) and could run code of its maker; it is refused, "
            "ask for the state dict alone."
        ) from error
    except Exception as error:  # a damaged file may raise anything inside the parsers
        raise ModelError(f"{path.name} is no readable checkpoint: {reason(error)}.") from error


def _asked_for(message: str) -> str:
    found = re.search(r"GLOBAL ([\w.]+)", message)
    return f"it asks for {found.group(1)}" if found else "objects"


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
        weights[re.sub(r"(^|\.)module\.", r"\1", str(key))] = tensor
    alias = weights.pop("merge.global_q", None)
    if alias is not None and not torch.equal(weights.setdefault("merge.global_q_mm", alias), alias):
        raise ModelError(
            "merge.global_q and merge.global_q_mm of the checkpoint differ; they are one tensor."
        )
    return weights
