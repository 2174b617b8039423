"""DSMIL as its authors publish it, as a model of ours that answers exactly alike."""

from __future__ import annotations

import torch
from torch import Tensor

from napari_mil.errors import ModelError
from napari_mil.methods.official.files import Weights
from napari_mil.methods.official.fitting import misfit, named_like

_Q, _V = "b_classifier.q.", "b_classifier.v.1."


def dsmil_in_ours(weights: Weights) -> Weights:
    """Weights of Li et al. 2021 (their own key names) in those of `dsmil`, for `hidden` = 2 D and ReLU.

    Theirs has no projection, mostly no values of their own, and often one logit for two classes. Ours has a
    projection, values and a softmax, so

    * the projection lays relu(h) and relu(−h) side by side, and every weight w on h becomes (w, −w) on them:
      w·relu(h) − w·relu(−h) = w·h;
    * values that are the features themselves pass that pair through unchanged: it is not negative;
    * one logit x becomes (−x/2, x/2): softmax of that is (1 − sigmoid x, sigmoid x).

    ModelError naming all keys and shapes that do not fit theirs.
    """
    given = named_like(
        weights, ["i_classifier."], [("i_classifier.fc.0.", "i_classifier.fc.", "i_classifier.")]
    )
    _check(given)
    width = given[f"{_Q}0.weight"].shape[1]
    score, scored = given["i_classifier.weight"], given["i_classifier.bias"]
    read, shift = given["b_classifier.fcc.weight"], given["b_classifier.fcc.bias"]
    if len(score) == 1:
        sides = torch.tensor([-0.5, 0.5])
        score, scored, shift = sides[:, None] * score, sides * scored, sides * shift
        read = torch.cat([torch.zeros(2, 1, width), sides[:, None, None] * read], 1)
    one = torch.eye(width)
    ours = {
        "feature.0.weight": torch.cat([one, -one]),
        "feature.0.bias": torch.zeros(2 * width),
        "i_classifier.weight": _both(score),
        "i_classifier.bias": scored,
        "b_classifier.fcc.bias": shift,
        **{key: value for key, value in given.items() if key.startswith(_Q)},
        f"{_Q}0.weight": _both(given[f"{_Q}0.weight"]),
    }
    return {**ours, **_values(given, read)}


def _values(given: Weights, read: Tensor) -> Weights:
    """The values of both halves, and what reads them: the pair itself, or theirs and nothing."""
    width = read.shape[-1]
    if f"{_V}weight" not in given:
        return {
            "b_classifier.fcc.weight": _both(read),
            f"{_V}weight": torch.eye(2 * width),
            f"{_V}bias": torch.zeros(2 * width),
        }
    nothing = torch.zeros(width, 2 * width)
    return {
        "b_classifier.fcc.weight": torch.cat([read, torch.zeros_like(read)], -1),
        f"{_V}weight": torch.cat([_both(given[f"{_V}weight"]), nothing]),
        f"{_V}bias": torch.cat([given[f"{_V}bias"], nothing[:, 0]]),
    }


def _both(weight: Tensor) -> Tensor:
    """(…, D) on h → (…, 2 D) on relu(h) and relu(−h)."""
    return torch.cat([weight, -weight], -1)


def _check(given: Weights) -> None:
    first, last = given.get(f"{_Q}0.weight"), given.get("b_classifier.fcc.weight")
    wide, width = first.shape if first is not None and first.ndim == 2 else (128, 512)
    classes = len(last) if last is not None and last.ndim == 3 else 1
    expected: dict[str, tuple[int, ...]] = {
        "i_classifier.weight": (classes, width),
        "i_classifier.bias": (classes,),
        f"{_Q}0.weight": (wide, width),
        f"{_Q}0.bias": (wide,),
        f"{_Q}2.weight": (wide, wide),
        f"{_Q}2.bias": (wide,),
        "b_classifier.fcc.weight": (classes, classes, width),
        "b_classifier.fcc.bias": (classes,),
    }
    if any(key.startswith(_V) for key in given):
        expected |= {f"{_V}weight": (width, width), f"{_V}bias": (width,)}
    if trouble := misfit(expected, {k: tuple(v.shape) for k, v in given.items()}):
        raise ModelError(
            f"The keys look like those of dsmil as its authors publish it but do not fit: {trouble}."
        )
