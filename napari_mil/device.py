"""Where to compute: device, autocast, and out-of-memory as a sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from napari_mil import __version__
from napari_mil.errors import DeviceError


def pick(wanted: str | None = None) -> torch.device:
    """The device asked for ("cpu", "cuda", "cuda:1", "mps"), or the best there is."""
    if wanted is None or wanted == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    device = torch.device(wanted)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise DeviceError(
            f"Device {wanted!r} was asked for, but this PyTorch sees no CUDA GPU; ask for 'cpu'."
        )
    return device


def describe(device: torch.device) -> str:
    """The device in words, for the screen and for cards."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return "Apple GPU" if device.type == "mps" else f"CPU, {torch.get_num_threads()} threads"


def surroundings(device: torch.device) -> dict[str, str]:
    """What a figure's reader must know of where it was computed (methods.md §6.3): versions, device, and
    whether float32 products were rounded ("highest": they were not).
    """
    return {
        "napari_mil": __version__,
        "torch": torch.__version__,
        "device": describe(device),
        "float32_products": torch.get_float32_matmul_precision(),
    }


def wide(values: torch.Tensor) -> torch.Tensor:
    """The same in float32 or wider: losses are summed in full precision whatever a network computed in."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def working(values: torch.Tensor) -> torch.Tensor:
    """The same in the precision of products here: autocast's where it acts, else float32 or wider."""
    device = values.device.type
    if torch.is_autocast_enabled(device):
        return values.to(torch.get_autocast_dtype(device))
    return wide(values)


@contextmanager
def memory_guard(what: str) -> Iterator[None]:
    """Turn an out-of-memory error inside the block into a DeviceError that says what did not fit and what to
    do.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise DeviceError(
            f"Not enough memory for {what}; close other programs, or set CUDA_VISIBLE_DEVICES to nothing to "
            "compute on the CPU."
        ) from error
