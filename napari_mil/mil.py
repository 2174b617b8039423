"""The contract of a method: MILModel and Output.

A method is one file in `methods/` with one subclass of MILModel. Shape letters: N tiles, D feature width, C_l classes at
level l of the label tree (coarse first), C = classes of the finest level.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from napari_mil.bag import Bag
from napari_mil.correction import Target
from napari_mil.labeltree import LabelTree

Example = tuple[Tensor, Tensor | None, Target]


@dataclass(frozen=True, slots=True, eq=False)
class Output:
    """What a method says about one bag.

    Attributes
    ----------
    logits : one (C_l,) tensor per level, coarse first. A method with one head answers for the leaves; its coarser
        logits are the logarithms of the lifted probabilities, so that softmax(logits[l]) is always the level's answer.
    tile_logits : (N, C) t_i of methods.md §6.11: class scores of every tile at the finest level
    attention : (N, 1) or class-wise (N, C); each column sums to 1 over the tiles
    maps : further named (N,) tensors, such as "attention/coarse/Benign" or "evidence/fine/ADH"
    embedding : (E,) vector of the bag
    """

    logits: tuple[Tensor, ...]
    tile_logits: Tensor
    attention: Tensor
    maps: Mapping[str, Tensor]
    embedding: Tensor


class MILModel(nn.Module, ABC):
    """A multiple-instance learning method on bags of tile features.

    Class attributes
    ----------------
    name : the registry's name
    paper : the source
    Config : frozen dataclass of options with bounds; it becomes the form
    exceptions : property a conformance test skips → why, with the paragraph of methods.md
    """

    name: ClassVar[str]
    paper: ClassVar[str]
    Config: ClassVar[type]
    exceptions: ClassVar[Mapping[str, str]] = {}

    def __init__(self, config: Any, in_features: int, tree: LabelTree) -> None:
        super().__init__()
        self.config = config
        self.in_features = in_features
        self.tree = tree

    @abstractmethod
    def forward(self, features: Tensor, cells: Tensor | None = None) -> Output:
        """Answer for one bag: features (N, D), cells (N, 2) or None → Output. ModelError on an empty bag."""

    @abstractmethod
    def loss(
        self,
        examples: Sequence[Example],
        progress: float,
        *,
        generator: torch.Generator | None = None,
        noise: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Named scalar losses over a list of bags; their sum is optimised.

        progress in [0, 1] drives schedules; `noise` replaces random draws so that a step can be replayed.
        """

    def after_step(self, progress: float) -> None:
        """Called after every optimiser step (a teacher follows here)."""

    def stage1(self) -> MILModel | None:
        """The model to train first on the same data, or None; `start_from` then receives it trained."""
        return None

    def start_from(self, trained: MILModel) -> None:
        """Take over what a trained stage-1 model has to give."""

    @abstractmethod
    def explain(self, bag: Bag, *, seed: int = 0, mode: str = "clean") -> dict[str, NDArray[Any]]:
        """Per-tile columns of methods.md §3.11 / §4.6: {column: (N, …)}. Deterministic for a seed."""
