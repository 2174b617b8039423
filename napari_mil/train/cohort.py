"""The cases of a run as tensors: what is learned from, what decides, and how a bag comes to the device."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from napari_mil.correction import Target
from napari_mil.device import over
from napari_mil.evaluate import Split, TrainingCase
from napari_mil.infer import Answer, answer
from napari_mil.labeltree import LabelTree, Survival
from napari_mil.mil import Example, MILModel
from napari_mil.train.feeding import Sent, send

#: bags are kept as float32 while they fit in this many bytes together, and converted at every visit beyond
KEEP_BYTES = 2 << 30
Visit = tuple[str, bool]  #: a case, and whether only its tile labels count this time


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """One case as tensors on the CPU.

    Attributes
    ----------
    parts : features (n, D) of each of its slides, maybe still on disk; `features` (N, D) of them all
    cells : (N, 2) int64
    target : with tile labels
    """

    parts: tuple[torch.Tensor, ...]
    cells: torch.Tensor
    target: Target

    def __len__(self) -> int:
        return len(self.cells)

    @property
    def features(self) -> torch.Tensor:
        """(N, D); those of several slides are joined whenever they are asked for."""
        return self.parts[0] if len(self.parts) == 1 else torch.cat(self.parts)


def known_at(visit: Visit, target: Target) -> Target:
    """What counts of a case's target at a visit; of one for its tile labels nothing that is known of the
    slide.
    """
    return dataclasses.replace(target, slide=0, time=None, event=None) if visit[1] else target


def prepare(cases: Sequence[TrainingCase]) -> dict[str, Prepared]:
    """Cases by id, joined and converted once while memory allows; others stay where their bags are."""
    small = sum(4 * bag.features.size for case in cases for bag in case.bags) <= KEEP_BYTES
    made = {}
    for case in cases:
        if small:
            features, cells, target = case.joined()
            parts = [features.astype(np.float32, copy=False)]
        else:
            cells, target = case.placed()
            parts = [bag.features for bag in case.bags]
        made[case.case] = Prepared(tuple(map(over, parts)), torch.from_numpy(cells.astype(np.int64)), target)
    return made


@dataclass(frozen=True, slots=True, eq=False)
class Cohort:
    """The cases of a run: which to learn from, which to decide with, and where to compute."""

    data: Mapping[str, Prepared]
    split: Split
    tree: LabelTree
    device: torch.device

    def target(self, case: str) -> Target:
        """What is known of a case."""
        return self.data[case].target

    @property
    def labelled(self) -> list[str]:
        """Training cases with labelled tiles."""
        learned = ((c, self.target(c).tiles) for c in self.split.train)
        return [c for c, tiles in learned if tiles is not None and tiles.any()]

    @property
    def useful(self) -> list[str]:
        """Training cases that say anything."""
        tiles = set(self.labelled)
        return [c for c in self.split.train if self.target(c).says(self.tree) or c in tiles]

    def weights(self) -> dict[str, float]:
        """Inverse frequency of each training case's label, mean 1 over the labelled cases, and 1 of others;
        none where the task is time, which such a label says nothing of.
        """
        if isinstance(self.tree, Survival):
            return {}
        nodes = [self.target(c).slide for c in self.split.train]
        found, counts = np.unique([n for n in nodes if n], return_counts=True)
        total = int(counts.sum())
        share = {int(n): total / (len(found) * int(k)) for n, k in zip(found, counts, strict=True)}
        return {c: share.get(n, 1.0) for c, n in zip(self.split.train, nodes, strict=True)}

    def fetch(self, visit: Visit) -> tuple[Visit, Sent]:
        """Send what a visit learns from to the device; `example` takes it there."""
        there = self.data[visit[0]]
        return visit, send((there.features, there.cells), self.device)

    def example(self, fetched: tuple[Visit, Sent]) -> Example:
        """What a method's loss reads."""
        visit, sent = fetched
        features, cells = sent.arrived()
        return features.to(torch.float32), cells, known_at(visit, self.target(visit[0]))

    def ask(self, model: MILModel, case: str) -> Answer:
        """A model's answer for a case."""
        return answer(model, self.data[case].features, self.data[case].cells, device=self.device)
