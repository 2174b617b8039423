"""Files of weights from others: read without running any code of them."""

from __future__ import annotations

import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from napari_mil.errors import ModelError, reason

OTHER = "damaged, or a file of another kind"
PICKLE = b"\x80"  #: what a pickle begins with, whatever its format


def read_weights(path: Path, what: str) -> Any:
    """What a file holds: safetensors, or PyTorch's formats (old and new) as weights only, on the CPU.

    what : what the file should be, for the sentences, such as "checkpoint"

    Raises
    ------
    ModelError
        The file is missing, damaged, or would run code of its maker.
    """
    if not path.is_file():
        raise ModelError(f"There is no {what} {path}; check the path.")
    try:
        with path.open("rb") as file:
            head = file.read(9)
        if head[8:] == b"{":  # the length of safetensors' JSON header comes first
            return safetensors.torch.load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols; what is not understood raises
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        asked = _asked_for(str(error))
        if asked is None and head[:1] != PICKLE:
            raise ModelError(f"{path.name} is no readable {what}: {OTHER}.") from error
        raise ModelError(
            f"{path.name} holds more than weights ({asked or 'objects'}) and could run code of its maker; "
            "it is refused, ask for the state dict alone."
        ) from error
    except Exception as error:  # a damaged file may raise anything inside the parsers
        said = reason(error)
        said = said if re.search(r"[^\W\d]{2}", said) else OTHER
        raise ModelError(f"{path.name} is no readable {what}: {said}.") from error


def _asked_for(message: str) -> str | None:
    """What a refused pickle wanted, from the words of its refusal; None where it did not understand it."""
    if "GLOBAL" in message:
        found = re.search(r"GLOBAL ([\w.]+)", message)
        return f"it asks for {found.group(1)}" if found else "objects"
    found = re.search(r"WeightsUnpickler error:\s*(.+)", message)
    said = found.group(1) if found else message.rsplit("\n", maxsplit=1)[-1]
    return None if said.startswith("Unsupported operand") else said.strip(" .")
