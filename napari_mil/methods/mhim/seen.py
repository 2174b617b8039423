"""What MHIM saw of a bag, for who wants to know."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from napari_mil.blocks import Hiding


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """What the teacher sees.

    Attributes
    ----------
    score : (N,) salience, or (H, N) one row per head
    attention : (N,), the mean over classes where it is class-wise
    probability : (N, C) of weighted tiles
    embedding : (D,) or (C, D) the bag
    """

    score: Tensor
    attention: Tensor
    probability: Tensor
    embedding: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One training step on one bag, for who wants to know: the voices' (C,) logits, what the teacher saw and
    what was hidden (None in pure mode).
    """

    voices: tuple[Tensor, ...]
    teacher: Look | None = None
    part: Hiding | None = None
