"""Places that may be asked about, and those that were answered, as one table."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from napari_mil.arrays import frozen

#: What can make a place worth a question, in the order in which ties are told.
CRITERIA: Mapping[str, str] = {
    "label": "the slide's label and the model contradict each other",
    "alike": "slides that look like it are labelled otherwise",
    "rests": "the slide's answer rests on it",
    "unsure": "the model wavers",
    "teacher": "teacher and student rank the tiles differently",
    "levels": "the coarse and the fine answer contradict each other",
    "far": "nothing that was labelled looks like it",
    "random": "drawn at random, so that no class starves",
}
#: Those that are known of a place by itself; the others depend on what else was labelled or asked.
OWN = ("label", "rests", "unsure", "teacher", "levels")
#: The cell of a place that is a whole slide.
WHOLE = (-1, -1)

_ARRAYS = {
    "cells": np.int32,
    "node": np.int32,
    "sure": np.float32,
    "given": np.int32,
    "said": np.int32,
    "stands_for": np.float32,
    "drawn": np.bool_,
    "features": np.float32,
}
_SHAPES = {"cells": 2, "features": None}


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """M places of one slide, or of many.

    Attributes
    ----------
    slides : id of each place's slide
    cells : (M, 2) int32 (row, col) on the slide's lattice; `WHOLE` is the slide itself
    node : (M,) int32 what the model says of the place: a leaf
    sure : (M,) float32 its probability
    given : (M,) int32 node of the slide's label, whoever gave it, 0: none
    said : (M,) int32 node that people gave the place, 0: it may be asked about
    stands_for : (M,) float32 how many labelled places this one stands for; 0 where it may be asked about
    drawn : (M,) bool, drawn at random from its slide and class, not chosen
    signals : criterion of `OWN` → (M,) float32, the larger the better a question; NaN: nothing to say
    features : (M, D) float32; of a whole slide the mean of the tiles that speak most for a lesion, or that
        have most attention where no leaf is normal
    words : per place criterion → the sentence that says it with its figures
    """

    slides: tuple[str, ...]
    cells: NDArray[np.int32]
    node: NDArray[np.int32]
    sure: NDArray[np.float32]
    given: NDArray[np.int32]
    said: NDArray[np.int32]
    stands_for: NDArray[np.float32]
    drawn: NDArray[np.bool_]
    signals: Mapping[str, NDArray[np.float32]]
    features: NDArray[np.float32]
    words: tuple[Mapping[str, str], ...]

    def __post_init__(self) -> None:
        n = len(self.slides)
        for name, kind in _ARRAYS.items():
            shape = (n, _SHAPES[name]) if name in _SHAPES else (n,)
            object.__setattr__(self, name, frozen(getattr(self, name), kind, shape=shape, name=name))
        known = {name: np.asarray(self.signals[name], np.float32) for name in OWN}
        object.__setattr__(self, "signals", known)

    def __len__(self) -> int:
        return len(self.slides)

    @property
    def whole(self) -> NDArray[np.bool_]:
        """(M,) which of them are whole slides."""
        return np.asarray(self.cells[:, 0] < 0)

    def take(self, rows: NDArray[Any]) -> Self:
        """Some of the places, by index or mask."""
        at = np.arange(len(self))[rows]
        picked: dict[str, Any] = {name: getattr(self, name)[at] for name in _ARRAYS}
        picked["signals"] = {name: values[at] for name, values in self.signals.items()}
        for name in ("slides", "words"):
            picked[name] = tuple(getattr(self, name)[i] for i in at)
        return type(self)(**picked)

    def standing_for(self, every: Places) -> Self:
        """The same places, of which the labelled tiles stand for all those of their label in `every`."""
        weight = np.array(self.stands_for)
        tiles, whole = self.said * ~self.whole, every.said * ~every.whole
        for node in np.unique(tiles[tiles > 0]):
            weight[tiles == node] = every.stands_for[whole == node].sum() / (tiles == node).sum()
        return replace(self, stands_for=weight)

    @classmethod
    def join(cls, parts: Iterable[Places]) -> Places:
        """The places of several slides, one after the other; features of one width."""
        tables = list(parts)
        joined: dict[str, Any] = {
            name: np.concatenate([getattr(t, name) for t in tables]) for name in _ARRAYS
        }
        joined["signals"] = {name: np.concatenate([t.signals[name] for t in tables]) for name in OWN}
        for name in ("slides", "words"):
            joined[name] = tuple(one for t in tables for one in getattr(t, name))
        return cls(**joined)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """The table as named arrays, to be kept; `from_arrays` is its inverse."""
        told = {f.name: getattr(self, f.name) for f in fields(self)}
        told |= {f"signal/{name}": values for name, values in told.pop("signals").items()}
        texts = json.dumps([told.pop("slides"), [dict(w) for w in told.pop("words")]])
        return {**told, "texts": np.frombuffer(texts.encode(), np.uint8)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Places:
        """A table from `to_arrays`; KeyError or ValueError when it is none."""
        slides, words = json.loads(bytes(arrays["texts"]))
        about = {name: arrays[name] for name in _ARRAYS}
        signals = {name: arrays[f"signal/{name}"] for name in OWN}
        return cls(slides=tuple(slides), words=tuple(words), signals=signals, **about)
