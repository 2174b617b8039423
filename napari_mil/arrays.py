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
    got = array.shape
    if len(got) != len(shape) or [1 for want, n in zip(shape, got, strict=True) if want not in (None, n)]:
        wanted = "(" + ", ".join("any" if s is None else str(s) for s in shape) + ")"
        raise ValueError(f"{name} has shape {got}; expected {wanted}.")
    if array is given and array.flags.writeable:
        array = array.copy()
    array.flags.writeable = False
    return array


def _cast(given: NDArray[Any], dtype: np.dtype[Any], name: str) -> NDArray[Any]:
    """A new array, or `given` itself."""
    if given.dtype == dtype or dtype.kind != "i":
        return given.astype(dtype, copy=False)
    array = None
    if given.dtype.kind in "biu":
        array = given.astype(dtype)
    elif given.dtype.kind == "f":
        with np.errstate(invalid="ignore"):  # told below
            array = given.astype(dtype)
    if array is None or not (array == given).all():
        raise ValueError(f"{name} holds what is no whole number of {dtype.itemsize * 8} bits.")
    return array
