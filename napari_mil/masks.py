"""Which tiles MHIM would hide in training: simulated for one bag, by the method's own masking.

The teacher's score is computed once per draw; every ratio after that is answered from it, fast enough for a
slider.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_mil.arrays import frozen
from napari_mil.bag import Bag
from napari_mil.blocks import HidesTiles, Hiding
from napari_mil.errors import BagError, ModelError
from napari_mil.mil import MILModel, as_tensor
from napari_mil.options import expect, one_of

#: what the codes of `Masks.role` mean
ROLES: Mapping[int, str] = {
    0: "left to learn from (hard)",
    1: "hidden from the student (salient)",
    2: "recycled",
    3: "hidden (low score)",
    4: "hidden (random)",
}


@dataclass(frozen=True, slots=True, eq=False)
class Masks:
    """What one simulated training step would do with each tile, in the order of the bag.

    Attributes
    ----------
    hidden : (N,) bool, hidden from the student in the first draw
    role : (N,) int8, see ROLES; which tiles are recycled is one draw of many
    frequency : (N,) float32, share of draws in which a tile is hidden; 0 or 1 where nothing random enters
    recycled_frequency : (N,) float32, share of draws in which a tile is recycled; which of the tiles left are
        is always drawn, each with the same chance
    score : (N,) float32, the teacher's score in the first draw (of several heads their mean)
    rank : (N,) int32, place of the score, 0 the highest
    counts : tiles, candidates, hidden, left, kept, recycled, student_tokens
    random : whether `hidden` can differ between draws
    """

    hidden: NDArray[np.bool_]
    role: NDArray[np.int8]
    frequency: NDArray[np.float32]
    recycled_frequency: NDArray[np.float32]
    score: NDArray[np.float32]
    rank: NDArray[np.int32]
    counts: Mapping[str, int] = field(default_factory=dict)
    random: bool = False

    def __post_init__(self) -> None:
        kinds = {
            "hidden": bool,
            "role": np.int8,
            "frequency": np.float32,
            "recycled_frequency": np.float32,
            "score": np.float32,
            "rank": np.int32,
        }
        for name, kind in kinds.items():
            object.__setattr__(self, name, frozen(getattr(self, name), kind, shape=(None,), name=name))


class Simulator:
    """Answers for any ratios of one bag; the teacher's scores are kept.

    Parameters
    ----------
    model : a model with a teacher; ModelError otherwise
    bag : the tiles
    mode : "clean", "official" (the teacher's dropout acts, each draw with its own seed), or None: the
        model's own
    """

    def __init__(self, model: MILModel, bag: Bag, *, mode: str | None = None) -> None:
        if not isinstance(model, HidesTiles):
            expect("The model", model, MILModel, "an mhim model, as `official.load` gives it")
            raise ModelError(f"{model.name} has no teacher and hides no tiles; choose an mhim model.")
        if not model.has_teacher():
            raise ModelError(
                f"This {model.name} model holds no teacher, so nobody knows which tiles it hid; "
                "load a checkpoint with its teacher."
            )
        expect("The bag", bag, Bag, "a Bag of features", BagError)
        one_of("mode", mode, (*model.modes, None))
        self._model: HidesTiles = model
        self._features = as_tensor(model, bag)
        self._mode = mode
        self._scores: dict[int, tuple[Tensor, NDArray[np.float32], NDArray[np.int32]]] = {}

    def __call__(
        self,
        *,
        mask_ratio: float | None = None,
        keep_ratio: float | None = None,
        draws: int = 1,
        seed: int = 0,
        progress: float = 0.0,
    ) -> Masks:
        """The tiles hidden at these ratios; None = the model's own, at a training progress in [0, 1]."""
        expect("draws", draws, int)
        expect("seed", seed, int)
        expect("progress", progress, float)
        for name, value in (("mask_ratio", mask_ratio), ("keep_ratio", keep_ratio)):
            if value is None:
                continue
            expect(name, value, float)
            if not 0 <= value <= 1:
                raise ModelError(f"{name} is {value}; it is a share of the tiles and must lie in [0, 1].")
        if draws < 1:
            raise ModelError(f"draws is {draws}; at least one is needed.")
        ratios = {"mask_ratio": mask_ratio, "keep_ratio": keep_ratio, "progress": progress}
        first, n = self._hide(seed, **ratios), len(self._features)
        random = self._is_random() or len(first.hidden) < len(first.candidates) or len(first.random) > 0
        role = first.roles(n).numpy()
        hidden = _hidden(role)
        seeds = range(seed + 1, seed + draws) if random or len(first.recycled) else ()
        roles = chain([role], (self._hide(s, **ratios).roles(n).numpy() for s in seeds))
        often, recycled = _shares(roles, n)
        _, score, rank = self._scored(seed)
        return Masks(hidden, role, often, recycled, score, rank, _counts(first, role), random)

    def _hide(self, seed: int, **ratios: float | None) -> Hiding:
        generator = torch.Generator().manual_seed(seed)
        return self._model.hide(self._scored(seed)[0], generator=generator, **ratios)  # type: ignore[arg-type]

    def _is_random(self) -> bool:
        return self._model.is_random(mode=self._mode)

    def _scored(self, seed: int) -> tuple[Tensor, NDArray[np.float32], NDArray[np.int32]]:
        """Score and rank of the tiles, computed once; with dropout once per seed."""
        key = seed if self._is_random() else 0
        if key not in self._scores:
            score = self._model.salience(self._features, mode=self._mode, seed=key)
            shown = score if score.ndim == 1 else score.mean(0)
            order = torch.sort(shown, descending=True, stable=True).indices.cpu().numpy()
            rank = np.empty(len(order), np.int32)
            rank[order] = np.arange(len(order), dtype=np.int32)
            plain = shown.float().cpu().numpy()
            rank.flags.writeable = plain.flags.writeable = False
            self._scores[key] = (score, plain, rank)
        return self._scores[key]


def simulate(
    model: MILModel,
    bag: Bag,
    *,
    mask_ratio: float | None = None,
    keep_ratio: float | None = None,
    draws: int = 1,
    seed: int = 0,
    mode: str | None = None,
    progress: float = 0.0,
) -> Masks:
    """Which tiles of `bag` the model's teacher would hide from its student; None = the model's own ratios,
    a scheduled mask ratio at `progress`, the share of the training that is done.

    Deterministic for a seed. With `draws` > 1, `frequency` and `recycled_frequency` say how often each tile
    is hidden and recycled over that many seeds. ModelError for a model without a teacher.
    """
    answer = Simulator(model, bag, mode=mode)
    return answer(mask_ratio=mask_ratio, keep_ratio=keep_ratio, draws=draws, seed=seed, progress=progress)


def _shares(roles: Iterable[NDArray[np.int8]], tiles: int) -> NDArray[np.float32]:
    """(2, N) the shares of draws in which each tile is hidden, and recycled."""
    times, draws = np.zeros((2, tiles), np.float32), 0
    for role in roles:
        times += np.stack([_hidden(role), role == 2])
        draws += 1
    return times / np.float32(draws)


def _hidden(role: NDArray[np.int8]) -> NDArray[np.bool_]:
    """(N,) whether a role means hidden: neither left to learn from nor recycled."""
    return np.asarray((role != 0) & (role != 2))


def _counts(part: Hiding, role: NDArray[np.int8]) -> dict[str, int]:
    hidden = int(_hidden(role).sum())
    return {
        "tiles": len(role),
        "candidates": len(part.candidates),
        "hidden": hidden,
        "hidden_low": int((role == 3).sum()),
        "hidden_random": int((role == 4).sum()),
        "left": len(role) - hidden,
        "kept": len(part.kept),
        "recycled": len(part.recycled),
        "student_tokens": len(part.kept) + part.tokens,
    }
