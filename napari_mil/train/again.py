"""A step that ran out of memory, taken again with fewer tiles at a time, as if it had not begun."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from napari_mil.errors import DeviceError

if TYPE_CHECKING:
    from napari_mil.train.fit import Fit


class Moment:
    """Everything that a training step changes before it moves the weights, as it was when this was made."""

    def __init__(self, fit: Fit) -> None:
        self._fit = fit
        self._draws, self._random = fit.draws.get_state(), fit.random.state
        self._moved = [(tensor, tensor.detach().clone()) for tensor in fit.moving]
        self._recorded = None if fit.recorder is None else fit.recorder.state()

    @torch.no_grad()
    def come_back(self) -> None:
        """Make everything as it was; no gradient is left."""
        fit = self._fit
        fit.optimiser.zero_grad(set_to_none=True)
        fit.draws.set_state(self._draws)
        fit.random.state = self._random
        for tensor, before in self._moved:
            tensor.copy_(before)
        if fit.recorder is not None and self._recorded is not None:
            fit.recorder.load(self._recorded)


def moving(model: nn.Module) -> list[Tensor]:
    """What moves while a loss is computed, and not by its gradient; looked for once, since the walk through
    all modules takes longer than the copies.
    """
    named = (getattr(part, name) for part in model.modules() for name in getattr(part, "moves", ()))
    return [*named, *model.buffers()]


def too_much(sizes: Sequence[tuple[str, int]], rows: int) -> DeviceError:
    """The error that says which of a step's bags, (case, tiles) each, is too large, and what to lower."""
    case, tiles = max(sizes, key=lambda one: one[1])
    among = f", the largest of {len(sizes)} learned from together," if len(sizes) > 1 else ""
    fewer = "a smaller `batch_bags` or `hidden`" if among else "a smaller `hidden`"
    return DeviceError(
        f"Not enough memory for a training step on {case} of {tiles:,} tiles{among} even with "
        f"{min(rows, tiles):,} tiles at a time; close other programs and start the training again, which "
        f"goes on from its last epoch, or train anew with {fewer} or fewer tiles."
    )
