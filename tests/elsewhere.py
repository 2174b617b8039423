"""A device that is none: its tensors lie in the processor's memory, but do not meet those that say so.

Whoever computes on it takes the ways that a GPU takes, and fails where a GPU would: at an operation on
tensors of two devices. Rounding, memory and speed are the processor's. Built on PyTorch's own doubles of a
backend.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

NAME = "elsewhere"
_aten = torch.ops.aten
#: what takes tensors of two devices on a GPU as well: an index may come from the processor, a copy goes over
_OVER = (
    _aten.index.Tensor,
    _aten.index_put.default,
    _aten.index_put_.default,
    _aten._index_put_impl_.default,
)
#: what autocast computes in half precision
_HALVED = ("linear", "matmul", "mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "conv1d", "conv2d")
_HALVED += ("scaled_dot_product_attention",)


class _Module:
    """What PyTorch asks of a device's module."""

    is_available = is_initialized = staticmethod(lambda: True)
    _is_in_bad_fork = staticmethod(lambda: False)
    device_count = staticmethod(lambda: 1)
    current_device = staticmethod(lambda: 0)
    manual_seed_all = staticmethod(lambda _seed: None)
    get_amp_supported_dtype = staticmethod(lambda: [torch.float16, torch.bfloat16])

    def __init__(self) -> None:
        self.state = torch.Generator().manual_seed(0).get_state()

    def get_rng_state(self, _device: Any = None) -> torch.Tensor:
        return self.state

    def set_rng_state(self, state: torch.Tensor, _device: Any = None) -> None:
        self.state = state


class Elsewhere(torch.Tensor):
    """A tensor of that device."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls: Any, inner: torch.Tensor) -> Any:
        made = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=torch.device(NAME, 0),
        )
        made.inner = inner
        return made

    def __repr__(self, **_: Any) -> str:
        return f"Elsewhere({self.inner})"

    def tolist(self) -> Any:
        return self.inner.tolist()

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        made: Any = Elsewhere(self.inner.clone())
        if isinstance(self, torch.nn.Parameter):
            made = torch.nn.Parameter(made, requires_grad=self.requires_grad)
        memo[id(self)] = made
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class Device(TorchDispatchMode):
    """Inside, what is made on the device "elsewhere", or sent there, is there."""

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors: list[torch.Tensor] = []
    tree_map_only(torch.Tensor, tensors.append, (args, kwargs))
    there = [t for t in tensors if isinstance(t, Elsewhere)]
    here = [t for t in tensors if not isinstance(t, Elsewhere) and t.ndim]
    goes_over = func is _aten.copy_.default or (func in _OVER and isinstance(args[0], Elsewhere))
    if there and here and not goes_over:
        raise RuntimeError(f"{func}: tensors of two devices")
    device = kwargs.get("device")
    if device is not None:
        kwargs = {**kwargs, "device": torch.device("cpu"), "pin_memory": False}
    asked, given = tree_map_only(Elsewhere, lambda t: t.inner, (args, kwargs))
    made = func(*asked, **{k: v for k, v in given.items() if k in kwargs and k != "pin_memory"})
    if any(r.alias_info is not None and r.alias_info.is_write for r in func._schema.returns):
        known = {id(t.inner): t for t in there}  # in place: the very tensor that was handed in
        return tree_map_only(torch.Tensor, lambda t: known.get(id(t), t), made)
    stays = bool(there) if device is None else torch.device(device).type == NAME
    return tree_map_only(torch.Tensor, Elsewhere, made) if stays else made


def _copy_from(source: Any, to: Any, _non_blocking: bool = False) -> Any:
    inner = [t.inner if isinstance(t, Elsewhere) else t for t in (source, to)]
    inner[1].copy_(inner[0])
    return to


def _empty(size: Any, stride: Any, **about: Any) -> Elsewhere:
    return Elsewhere(torch.empty_strided(size, stride, dtype=about.get("dtype")))


def _halved(name: str) -> Any:
    """An operation as autocast has it, in its precision."""
    op, keys = getattr(_aten, name).default, torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)

    def cast(x: torch.Tensor) -> torch.Tensor:
        return x.to(torch.get_autocast_dtype(NAME)) if x.dtype == torch.float32 else x

    def act(*args: Any, **kwargs: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(keys):
            args, kwargs = tree_map_only(torch.Tensor, cast, (args, kwargs))
            return op(*args, **kwargs)

    return act


def _registered() -> tuple[torch.library.Library, torch.library.Library]:
    """Make the device known to PyTorch; what must live as long as it does."""
    backend_registration._setup_privateuseone_for_python_backend(NAME, _Module())
    aten, every = torch.library.Library("aten", "IMPL"), torch.library.Library("_", "IMPL")
    aten.impl("empty_strided", _empty, "PrivateUse1")
    aten.impl("_copy_from", _copy_from, "PrivateUse1")
    every.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    for name in _HALVED:
        aten.impl(name, _halved(name), "AutocastPrivateUse1")
    return aten, every


#: whether this PyTorch can pretend
ABLE = hasattr(backend_registration, "_setup_privateuseone_for_python_backend")
_KEPT = _registered() if ABLE else None


class Generator(torch.Generator):
    """A generator for that device: the processor's."""

    def __new__(cls, device: Any = "cpu") -> Any:
        return super().__new__(cls, "cpu" if torch.device(device).type == NAME else device)

    def __init__(self, device: Any = "cpu") -> None:
        pass
