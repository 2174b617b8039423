"""Which tiles to hide, by a score: the masks of MHIM, versions 1 and 2 (methods.md §3.4, 3.5, 3.12), and the
contract of a method that hides tiles.

Shape letters: N tiles, H heads. Everything works on indices on the device of the score; nothing is drawn but
from the generator, or replaced by noise whose argsort is the order drawn. `exact` counts and orders as the
published code does, whose ties are arbitrary; else equal scores go to the lower index, on every device.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from napari_mil.blocks.basics import ceil_count, draw_order, draw_uniform, floor_count


@dataclass(frozen=True, slots=True, eq=False)
class Hiding:
    """Which tiles a method hides in one training step; index tensors (n,) int64.

    `kept`, `recycled` and the hidden ones together are range(N); a tile may be hidden for several reasons.

    Attributes
    ----------
    hidden : hidden for a high score, most salient first where nothing random enters
    kept : seen directly, in the order in which the student sees them
    recycled : seen only through the recycled tokens
    candidates : the tiles that `hidden` was drawn from
    tokens : number of recycled tokens that the student sees beside the kept tiles
    low, random : hidden for a low score; hidden at random
    """

    hidden: Tensor
    kept: Tensor
    recycled: Tensor
    candidates: Tensor
    tokens: int
    low: Tensor
    random: Tensor

    def roles(self, tiles: int) -> Tensor:
        """(N,) int8 what becomes of each tile: 0 kept, 1 hidden for a high score, 2 recycled, 3 for a low
        score, 4 at random; of several reasons high counts before low before random.
        """
        role = torch.zeros(tiles, dtype=torch.int8)
        for code, at in ((2, self.recycled), (4, self.random), (3, self.low), (1, self.hidden)):
            role[at.cpu()] = code
        return role


@runtime_checkable
class HidesTiles(Protocol):
    """A method whose teacher decides what its student may see."""

    def has_teacher(self) -> bool:
        """Whether this model holds a teacher (an imported one may not)."""

    def salience(self, features: Tensor, *, mode: str | None = None, seed: int = 0) -> Tensor:
        """(N,) the teacher's score, or (H, N) one row per head; `mode` None: the model's own; "official":
        dropout drawn from `seed`.
        """

    def is_random(self, *, mode: str | None = None) -> bool:
        """Whether a draw enters `salience`, so that another seed gives other scores."""

    def hide(
        self,
        score: Tensor,
        *,
        mask_ratio: float | None = None,
        keep_ratio: float | None = None,
        progress: float = 0.0,
        generator: torch.Generator | None = None,
        noise: Mapping[str, Tensor] | None = None,
    ) -> Hiding:
        """The tiles hidden for the score of `salience`; None = the model's own ratios."""


@runtime_checkable
class JudgesTeacher(Protocol):
    """A method whose teacher is judged beside its student while they learn."""

    def taught(self) -> Any:
        """The model with the teacher answering in its student's place, or None where it is not judged."""


def extreme(score: Tensor, count: int, *, largest: bool, exact: bool) -> Tensor:
    """(count,) the tiles with the largest (smallest) score (N,), the most extreme first."""
    if exact:
        return torch.topk(score, count, largest=largest).indices
    return torch.sort(score, descending=largest, stable=True)[1][:count]


def chosen(score: Tensor, count: int, *, largest: bool, exact: bool, fusion: str) -> Tensor:
    """(≤ count,) the tiles that a score (N,), or one per head (H, N), puts at its end.

    fusion "vote": every head marks its `count` tiles, those with most marks are taken; "mean": every head
    gives an equal part of the count, together fewer where they agree.
    """
    if score.ndim == 1:
        return extreme(score, count, largest=largest, exact=exact)
    heads = len(score)
    if fusion == "mean":
        each = [extreme(row, count // heads, largest=largest, exact=exact) for row in score]
        together: Tensor = torch.unique(torch.cat(each))
        return together
    votes = torch.zeros_like(score[0], dtype=torch.int32)
    for row in score:
        votes[extreme(row, count, largest=largest, exact=exact)] += 1
    return extreme(votes, count, largest=True, exact=exact)


def high(
    score: Tensor,
    ratio: float,
    random_share: float,
    *,
    generator: torch.Generator | None,
    noise: Tensor | None,
    exact: bool,
    fusion: str = "vote",
) -> tuple[Tensor, Tensor]:
    """Candidates (c,) and, of them, the hidden (h,): the most salient, or a random share of more of them.

    One tile alone is not hidden.
    """
    n = score.shape[-1]
    wide = ratio / random_share
    if wide > 1:
        random_share, wide = ratio, 1.0
    count = min(n, max(0, ceil_count(n, wide, exact=exact))) if n > 1 else 0
    candidates = chosen(score, count, largest=True, exact=exact, fusion=fusion)
    if random_share >= 1 or not len(candidates):
        return candidates, candidates
    order = _order(len(candidates), score.device, generator, noise)
    return candidates, candidates[order[: ceil_count(len(candidates), random_share, exact=exact)]]


def low(score: Tensor, ratio: float, *, exact: bool, fusion: str = "vote") -> Tensor:
    """(c,) the tiles with the lowest score, the lowest first."""
    n = score.shape[-1]
    count = ceil_count(n, ratio, exact=exact) if ratio > 0 and n > 1 else 0
    return chosen(score, min(n, count), largest=False, exact=exact, fusion=fusion)


def at_random(
    n: int,
    ratio: float,
    device: torch.device,
    *,
    generator: torch.Generator | None,
    noise: Tensor | None,
    exact: bool,
) -> Tensor:
    """(c,) a random share of n tiles."""
    if ratio <= 0 or n <= 1:
        return torch.empty(0, dtype=torch.long, device=device)
    return _order(n, device, generator, noise)[: ceil_count(n, ratio, exact=exact)]


def remaining(n: int, masks: list[Tensor], *, exact: bool) -> Tensor:
    """(m,) the tiles in no mask, ascending; `exact`: in the order of a difference of Python's sets, which the
    order-sensitive encoder of version 1 was trained with where a quarter or more was hidden.
    """
    hidden = torch.cat(masks)
    if exact:
        left = list(set(range(n)) - set(hidden.tolist()))
        return torch.tensor(left, dtype=torch.long, device=hidden.device)
    shown = torch.ones(n, dtype=torch.bool, device=hidden.device)
    shown[hidden] = False
    return shown.nonzero()[:, 0]


def split(
    left: Tensor, keep: float, *, generator: torch.Generator | None, noise: Tensor | None, exact: bool
) -> tuple[Tensor, Tensor]:
    """Of the tiles left, those kept and those recycled; `exact` keeps the kept in their random order."""
    n = len(left)
    count = min(n, floor_count(n, keep, exact=exact))
    if count == n:
        return left, left[:0]
    draw = draw_uniform(n, left.device, generator) if noise is None else noise.to(left.device)
    order = torch.argsort(draw)
    kept, recycled = left[order[:count]], left[order[count:]]
    return (kept, recycled) if exact else (kept.sort().values, recycled)


def _order(n: int, device: torch.device, generator: torch.Generator | None, noise: Tensor | None) -> Tensor:
    return draw_order(n, device, generator) if noise is None else torch.argsort(noise.to(device))
