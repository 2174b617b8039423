"""The sets that `quality.py` measures on: cases with labels and folds, and which methods run on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from napari_mil.bag import Bag
from napari_mil.correction import Target
from napari_mil.evaluate import Split, TrainingCase
from napari_mil.grid import TileGrid
from napari_mil.labeltree import LabelTree

#: narrower networks, fewer epochs and twice the rate of the defaults, the same for every method: a run takes
#: seconds (at the rate of the defaults, AB-MIL of this width had not begun to learn after 15 epochs); no run
#: is stopped, since with rare lesions some had not begun to learn by then
NARROW = {"hidden": 128}
SHORT = {"epochs": 15, "min_epochs": 15, "stage1_epochs": 6, "lr": 1e-3}


@dataclass(frozen=True, slots=True)
class Arm:
    """A method with its options; `method` may also be a baseline that `measured.PLAIN` knows."""

    method: str
    config: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=lambda: SHORT)


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """What one seed of a set gives.

    Attributes
    ----------
    cases : by id
    folds : splits by case, each with a validation part
    truth : per case (N,) nodes of its tiles, where they are known
    once : per case (n,) the tiles that show something new, where photographs repeat
    risk : per case the risk that its time was drawn with
    """

    cases: Mapping[str, TrainingCase]
    folds: tuple[Split, ...]
    truth: Mapping[str, np.ndarray] = field(default_factory=dict)
    once: Mapping[str, np.ndarray] = field(default_factory=dict)
    risk: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Set:
    """A set: how it is drawn, what runs on it, and what is told of it.

    Attributes
    ----------
    title, about : its heading and a few sentences
    draw : seed, folder of real data → Drawn
    tree : the labels; None: time is the task, and each fold makes its own intervals
    arms : name → Arm; `tried` are further ones that only a sweep runs
    against : arm → its baselines
    figures : names of `summary.FIGURES`; the first is compared
    folds : how many each seed has
    standardise : features are shifted and scaled by mean and deviation of the tiles of the training part
    """

    title: str
    about: str
    draw: Callable[[int, Path | None], Drawn]
    tree: LabelTree | None
    arms: Mapping[str, Arm]
    against: Mapping[str, tuple[str, ...]]
    figures: tuple[str, ...]
    folds: int = 1
    standardise: bool = False
    tried: Mapping[str, Arm] = field(default_factory=dict)
    needs: str = ""  #: file or folder of the real data that it reads
    edition: Any = 1  #: what a kept run must agree on besides its arm

    def identity(self, arm: str) -> str:
        """What a kept run must agree on to count."""
        return repr((asdict({**self.arms, **self.tried}[arm]), self.edition, self.folds, self.standardise))


def bag(name: str, features: np.ndarray) -> Bag:
    """A bag whose tiles lie in rows of twenty."""
    n = len(features)
    cells = np.stack(np.divmod(np.arange(n), 20), 1)
    grid = TileGrid((256 * (n // 20 + 1), 20 * 256), (0.5, 0.5), 256, 0.5, cells)
    return Bag(name, grid, np.asarray(features, np.float32), "made up")


def case(name: str, features: np.ndarray | list[np.ndarray], target: Target) -> TrainingCase:
    """A case of one or several bags."""
    several = features if isinstance(features, list) else [features]
    return TrainingCase(name, tuple(bag(f"{name}/{i}", f) for i, f in enumerate(several)), target)


def in_turn(names: list[str], train: int, validation: int) -> Split:
    """The first ones to learn from, the next to decide with, the rest to report on."""
    return Split(
        tuple(names[:train]), tuple(names[train : train + validation]), tuple(names[train + validation :])
    )


def mhim(encoder: str = "attn", **config: Any) -> Arm:
    return Arm("mhim", {**NARROW, "encoder": encoder, **config})
