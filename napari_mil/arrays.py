"""Checks on the arrays that the nouns carry."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray


def frozen(
    values: Any, dtype: DTypeLike | None = None, *, shape: tuple[int | None, ...], name: str
) -> NDArray[Any]:
    """`values` as a read-only array of `dtype`; ValueError when its shape is not `shape` (None matches any
    length), or when it holds what no whole number of `dtype` can hold.

    A writeable input is copied, so that nobody can change a noun through the array it was made from.
    """
    given = np.asarray(values)
    array = given if dtype is None else _cast(given, np.dtype(dtype), name)
    fits = array.ndim == len(shape) and all(
        want is None or want == got for want, got in zip(shape, array.shape, strict=True)
    )
    if not fits:
        wanted = "(" + ", ".join("any" if s is None else str(s) for s in shape) + ")"
        raise ValueError(f"{name} has shape {array.shape}; expected {wanted}.")
    if array.flags.writeable:
        array = array.copy()
        array.flags.writeable = False
    return array


def _cast(given: NDArray[Any], dtype: np.dtype[Any], name: str) -> NDArray[Any]:
    if given.dtype == dtype or dtype.kind != "i":
        return given.astype(dtype, copy=False)
    with np.errstate(invalid="ignore"):  # told below
        array = given.astype(dtype) if given.dtype.kind in "biuf" else None
    if array is None or not np.array_equal(array, given):
        raise ValueError(f"{name} holds what is no whole number of {dtype.itemsize * 8} bits.")
    return array
