"""Weights of encoders: checked key by key, named by their content."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor

from napari_mil.errors import ModelError

Weights = dict[str, Tensor]


def fitted(
    held: Any, wanted: Mapping[str, torch.Size], without: Sequence[str], *, owner: str, source: str
) -> Weights:
    """The weights that a network of the shapes `wanted` needs, float32; every other key must be one to leave
    out.

    Parameters
    ----------
    held : a state dict, or one in a wrapper {state_dict} or {model}; "module." is taken off
    without : patterns of the keys that the network does without, such as "fc.*"
    owner, source : who needs them, and where they come from, for the sentences

    Raises
    ------
    ModelError
        It is no state dict, or keys are missing, unknown or of another shape; all of them are named.
    """
    if isinstance(held, Mapping):
        held = next((held[k] for k in ("state_dict", "model") if isinstance(held.get(k), Mapping)), held)
    if not isinstance(held, Mapping) or not all(isinstance(v, Tensor) for v in held.values()):
        raise ModelError(f"{source} holds no state dict; {owner} needs one with torchvision's names.")
    plain = {str(key).removeprefix("module."): value for key, value in held.items()}
    plain = {k: v for k, v in plain.items() if not any(fnmatchcase(k, pattern) for pattern in without)}
    wrong = [
        *(f"{key} is missing" for key in wanted if key not in plain),
        *(f"{key} is unknown" for key in plain if key not in wanted),
        *(
            f"{key} is {tuple(plain[key].shape)} where {tuple(shape)} is needed"
            for key, shape in wanted.items()
            if key in plain and plain[key].shape != shape
        ),
    ]
    if wrong:
        more = f" and {len(wrong) - 8} more" if len(wrong) > 8 else ""
        raise ModelError(f"{source} does not fit {owner}: {'; '.join(wrong[:8])}{more}.")
    return {key: plain[key].detach().to("cpu", torch.float32).contiguous() for key in wanted}


def content_id(weights: Mapping[str, Tensor]) -> str:
    """Twelve hexadecimal digits that tell these weights from all others, in whatever file they come."""
    digest = hashlib.sha256()
    for key in sorted(weights):
        values = weights[key].numpy()
        digest.update(f"{key}{values.shape}".encode() + values.astype("<f4").tobytes())
    return digest.hexdigest()[:12]
