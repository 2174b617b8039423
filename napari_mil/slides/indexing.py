"""What numpy understands as an index, as a box to read and an index within it."""

from __future__ import annotations

from typing import Any

import numpy as np

Span = tuple[int, int]


def boxed(key: Any, shape: tuple[int, ...]) -> tuple[list[Span], tuple[Any, ...]]:
    """The (start, stop) that an index spans along every axis of an array, and the index within that box.

    IndexError for what numpy would not take as an index.

    >>> boxed((slice(2, 9, 3), None, -1), (10, 5))
    ([(2, 9), (4, 5)], (slice(None, None, 3), None, 0))
    """
    spans: list[Span] = []
    inside: list[Any] = []
    for one in _expand(_plain(key, shape), len(shape)):
        if _adds_an_axis(one):
            inside.append(one)
            continue
        span, index = _span(one, shape[len(spans)])
        spans.append(span)
        inside.append(index)
    return spans, tuple(inside)


def _adds_an_axis(key: Any) -> bool:
    return key is None or isinstance(key, (bool, np.bool_))


def _plain(key: Any, shape: tuple[int, ...]) -> list[Any]:
    """The parts of an index; a mask becomes the places where it is true, one list for each of its axes."""
    parts: list[Any] = []
    at = 0
    keys = key if isinstance(key, tuple) else (key,)
    for i, one in enumerate(keys):
        if one is Ellipsis:
            at = len(shape) - sum(_axes(other) for other in keys[i + 1 :])
        mask = None if isinstance(one, slice) or one is Ellipsis or _adds_an_axis(one) else np.asarray(one)
        if mask is None or mask.dtype != bool:
            parts.append(one)
        elif mask.shape != shape[at : at + mask.ndim]:
            raise IndexError(
                f"a mask of shape {mask.shape} does not fit axes of {shape[at : at + mask.ndim]}"
            )
        else:
            parts.extend(np.nonzero(mask))
        at += _axes(one)
    return parts


def _axes(key: Any) -> int:
    """How many axes a part of an index is for."""
    if key is Ellipsis or _adds_an_axis(key):
        return 0
    if isinstance(key, slice):
        return 1
    array = np.asarray(key)
    return array.ndim if array.dtype == bool else 1


def _expand(keys: list[Any], ndim: int) -> list[Any]:
    """Parts for every axis."""
    missing = ndim - sum(one is not Ellipsis and not _adds_an_axis(one) for one in keys)
    if missing < 0:
        raise IndexError(f"too many indices: {ndim - missing} for an array of {ndim} dimensions")
    at = next((i for i, one in enumerate(keys) if one is Ellipsis), len(keys))
    rest = keys[at + 1 :]
    if any(one is Ellipsis for one in rest):
        raise IndexError("an index can only have a single ellipsis ('...')")
    return [*keys[:at], *[slice(None)] * missing, *rest]


def _span(key: Any, length: int) -> tuple[Span, Any]:
    """The (start, stop) that an index of one axis spans, and the index within that span."""
    if isinstance(key, slice):
        where = range(length)[key]
        if not where:
            return (0, 0), slice(0, 0)
        low = min(where[0], where[-1])
        return (low, max(where[0], where[-1]) + 1), slice(None, None, where.step)
    index = np.asarray(key)
    if index.size == 0:
        return (0, 0), index.astype(np.intp)
    if index.dtype.kind not in "iu":
        raise IndexError(f"{key!r} is no index: integers, slices, masks, ... and None are")
    index = index.astype(np.intp)
    if index.min() < -length or index.max() >= length:
        raise IndexError(f"index {key} is out of bounds for an axis of {length}")
    index = np.where(index < 0, index + length, index)
    low = int(index.min())
    found = index - low
    return (low, int(index.max()) + 1), int(found) if found.ndim == 0 else found
