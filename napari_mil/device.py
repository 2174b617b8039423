"""Where to compute: device, autocast, and what to do and to say when memory is short."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

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
    n = torch.get_num_threads()
    return "Apple GPU" if device.type == "mps" else f"CPU, {n} thread{'' if n == 1 else 's'}"


def surroundings(device: torch.device) -> dict[str, str]:
    """What a figure's reader must know of where it was computed (methods.md §6.3): versions, device, and
    whether float32 products were rounded ("highest": they were not), on a CUDA GPU convolutions, too, for
    which PyTorch decides apart ("tf32": they were).
    """
    cudnn: Any = torch.backends.cudnn
    rounded = cudnn.conv.fp32_precision if hasattr(cudnn, "conv") else "tf32" if cudnn.allow_tf32 else "ieee"
    return {
        "napari_mil": __version__,
        "torch": torch.__version__,
        "device": describe(device),
        "float32_products": torch.get_float32_matmul_precision(),
        **({"float32_convolutions": rounded} if device.type == "cuda" else {}),
    }


class _Lent:
    """An array whose memory a tensor may share though it is read-only; numpy asks for what says so."""

    def __init__(self, array: NDArray[Any]) -> None:
        self.array = array
        self.__array_interface__ = {
            **array.__array_interface__,
            "data": (array.__array_interface__["data"][0], False),
        }


def over(array: NDArray[Any]) -> torch.Tensor:
    """A tensor over the memory of an array, also of one that is read-only as those of bags are: nobody may
    write to it.
    """
    whole = np.ascontiguousarray(array)
    return torch.from_numpy(whole if whole.flags.writeable else np.asarray(_Lent(whole)))


def random_state(device: torch.device) -> torch.Tensor:
    """The state of torch's own generator of this device; of several GPUs that of this one, whichever is
    current.
    """
    state: torch.Tensor = _generators(device).get_rng_state(*_which(device))
    return state


def set_random_state(device: torch.device, state: torch.Tensor) -> None:
    """Let torch's own generator of this device go on from a `random_state`."""
    _generators(device).set_rng_state(state, *_which(device))


def _generators(device: torch.device) -> Any:
    return torch if device.type == "cpu" else getattr(torch, device.type)


def _which(device: torch.device) -> tuple[torch.device, ...]:
    return () if device.type in {"cpu", "mps"} else (device,)  # of these there is one


def wide(values: torch.Tensor) -> torch.Tensor:
    """The same in float32 or wider: losses are summed in full precision whatever a network computed in."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def working(values: torch.Tensor) -> torch.Tensor:
    """The same in the precision of products here: autocast's where it acts, else float32 or wider."""
    device = values.device.type
    if torch.is_autocast_enabled(device):
        return values.to(torch.get_autocast_dtype(device))
    return wide(values)


@dataclass(slots=True)
class Memory:
    """What became known of memory while something was computed.

    Attributes
    ----------
    rows : so many tiles at a time; None: memory sufficed for as many as usual
    """

    rows: int | None = None

    @property
    def note(self) -> str:
        """What to tell a person; "" where there is nothing to tell."""
        return "" if self.rows is None else f"memory is short, {self.rows} tiles at a time"


_MEMORY: ContextVar[Memory] = ContextVar("memory")


@contextmanager
def watching_memory(memory: Memory | None = None) -> Iterator[Memory]:
    """What is computed inside the block goes on with the smaller chunks that memory once forced on it, or on
    what was computed with the same `memory` before.
    """
    memory = memory or Memory()
    token = _MEMORY.set(memory)
    try:
        yield memory
    finally:
        _MEMORY.reset(token)


def known_memory() -> Memory:
    """What became known of memory in the block of `watching_memory` around; nothing outside of one."""
    return _MEMORY.get(None) or Memory()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory did not suffice; of the CPU's PyTorch says it in words alone."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(
        words in str(error) for words in ("not enough memory", "can't allocate memory")
    )


@contextmanager
def memory_guard(what: str) -> Iterator[None]:
    """Turn an out-of-memory error inside the block into a DeviceError that says what did not fit and what to
    do.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise DeviceError(
            f"Not enough memory for {what}; close other programs, or set CUDA_VISIBLE_DEVICES to nothing to "
            "compute on the CPU."
        ) from error
