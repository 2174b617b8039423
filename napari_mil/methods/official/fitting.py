"""Weights into a network: under its names, in the order of its classes, strictly."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor, nn

from napari_mil.errors import ModelError
from napari_mil.methods.official.files import Weights

Classwise = Mapping[str, tuple[int, tuple[int, ...]]]


def named_like(weights: Weights, keys: Collection[str], same: Sequence[Sequence[str]]) -> Weights:
    """The weights under the names that `keys` use, where several beginnings of keys name one thing."""
    for names in same:
        stems = sorted(names, key=len, reverse=True)  # the longest first: one may begin another
        mine = next((s for s in stems if any(k.startswith(s) for k in keys)), stems[0])
        weights = {_restemmed(key, stems, mine, weights): value for key, value in weights.items()}
    return weights


def _restemmed(key: str, stems: Sequence[str], mine: str, taken: Collection[str]) -> str:
    """The key beginning with `mine`; a name that the file has already is left for the strict comparison."""
    stem = next((s for s in stems if key.startswith(s)), None)
    renamed = key if stem is None else mine + key.removeprefix(stem)
    return key if renamed in taken else renamed


def reordered(weights: Weights, classwise: Classwise, orders: Mapping[int, Sequence[int]]) -> Weights:
    """The weights with their classes in another order.

    Parameters
    ----------
    classwise : as in Layout
    orders : level → for each class of ours, its place in the file
    """
    return dict(_moved(key, value, classwise, orders) for key, value in weights.items())


def _moved(
    key: str, value: Tensor, classwise: Classwise, orders: Mapping[int, Sequence[int]]
) -> tuple[str, Tensor]:
    for stem, (level, axes) in classwise.items():
        pattern = re.escape(stem).replace(r"\#", r"(\d+)")
        if (found := re.match(pattern, key)) is None:
            continue
        order = list(orders[level])
        if "#" in stem and int(found[1]) in order:
            key = key[: found.start(1)] + str(order.index(int(found[1]))) + key[found.end(1) :]
        for axis in axes:
            if axis < value.ndim and value.shape[axis] == len(order):
                value = value.index_select(axis, torch.tensor(order))
    return key, value


def fill(net: nn.Module, weights: Weights, what: str, loose: Sequence[str] = ()) -> None:
    """Load strictly; ModelError naming every key and shape that does not fit. Keys that begin as in `loose`
    may be missing on either side.
    """
    own = net.state_dict()
    given = {k: v for k, v in weights.items() if k in own or not k.startswith(tuple(loose))}
    given |= {k: v for k, v in own.items() if k not in given and k.startswith(tuple(loose))}
    if trouble := misfit({k: v.shape for k, v in own.items()}, {k: v.shape for k, v in given.items()}):
        raise ModelError(f"The keys look like those of {what} but do not fit: {trouble}.")
    net.load_state_dict(given)


def misfit(expected: Mapping[str, Sequence[int]], given: Mapping[str, Sequence[int]]) -> str:
    """Which keys are unexpected, missing or of another shape, in words; empty where all fit."""
    parts = []
    if unexpected := [k for k in given if k not in expected]:
        parts.append(f"unexpected {', '.join(unexpected)}")
    if missing := [k for k in expected if k not in given]:
        parts.append(f"missing {', '.join(missing)}")
    wrong = [
        f"{k} is {tuple(given[k])} instead of {tuple(expected[k])}"
        for k in expected
        if k in given and tuple(given[k]) != tuple(expected[k])
    ]
    return "; ".join([*parts, *wrong])
