"""Record a run: which tiles of chosen slides were hidden in every epoch, and how they scored, for replay.

Of a training case it is what happened when the epoch visited it. A case that is not learned from is asked at
the end of every epoch, as `masks.simulate` would, and its record says so. About 2.4 bytes per tile and epoch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from napari_mil.arrays import frozen
from napari_mil.blocks import HidesTiles, Hiding
from napari_mil.errors import BagError, ModelError
from napari_mil.evaluate import TrainingCase
from napari_mil.mil import MILModel, Study

FILE = "recording.safetensors"
_FORMAT = "napari-mil recording 1"
#: codes of masks.ROLES are below 8: three bits each
_BITS = 3


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """What became of one slide's tiles in every epoch of a run.

    Attributes
    ----------
    slide_id : the slide
    epochs : (E,) int32, counted from 1
    roles : (E, N) int8, see masks.ROLES
    scores : (E, N) float32, the teacher's scores (of several heads their mean), exact to one in 2000 of their
        spread
    simulated : whether the slide was asked at the end of each epoch instead of learned from in it
    """

    slide_id: str
    epochs: NDArray[np.int32]
    roles: NDArray[np.int8]
    scores: NDArray[np.float32]
    simulated: bool

    def __post_init__(self) -> None:
        for name, kind, rank in (("epochs", np.int32, 1), ("roles", np.int8, 2), ("scores", np.float32, 2)):
            object.__setattr__(self, name, frozen(getattr(self, name), kind, shape=(None,) * rank, name=name))

    @property
    def hidden(self) -> NDArray[np.bool_]:
        """(E, N) hidden for any reason."""
        return np.asarray((self.roles != 0) & (self.roles != 2))

    @property
    def frequency(self) -> NDArray[np.float32]:
        """(N,) share of the epochs in which a tile was hidden."""
        return np.asarray(self.hidden.mean(0), np.float32)

    @property
    def stayed(self) -> NDArray[np.float32]:
        """(E,) of an epoch's hidden tiles, the share that was hidden in the one before; 1 in the first."""
        now, before = self.hidden[1:], self.hidden[:-1]
        share = (now & before).sum(1) / np.maximum(now.sum(1), 1)
        return np.concatenate([[1.0], share])[: len(self.epochs)].astype(np.float32)


class Recorder:
    """Collects the recordings of a run; what it has is part of the run's checkpoint.

    Parameters
    ----------
    chosen : ids of slides or cases; BagError when one is not in the run
    cases : the cases of the run
    model : what is trained; ModelError when it hides no tiles
    """

    def __init__(self, chosen: Sequence[str], cases: Sequence[TrainingCase], model: MILModel) -> None:
        self._places: dict[str, list[tuple[str, int, int]]] = {}
        self._rows: dict[str, dict[str, list[Any]]] = {}
        self._model = hides(model)
        for name in chosen:
            if not self._choose(name, cases):
                raise not_learned(name)

    def _choose(self, name: str, cases: Sequence[TrainingCase]) -> bool:
        found = False
        for case in cases:
            begin = 0
            for bag in case.bags:
                if name in (case.case, bag.slide_id):
                    found = True
                    places = self._places.setdefault(case.case, [])
                    if (place := (bag.slide_id, begin, begin + len(bag))) not in places:
                        places.append(place)
                begin += len(bag)
        return found

    @property
    def cases(self) -> tuple[str, ...]:
        """The cases that are recorded."""
        return tuple(self._places)

    def watching(self, visits: Sequence[tuple[str, bool]], epoch: int) -> Callable[[int, Study], None] | None:
        """What a step's `watch` should be, or None when it visits no chosen case for its own sake."""
        wanted = {i: case for i, (case, only) in enumerate(visits) if case in self._places and not only}
        if not wanted:
            return None

        def watch(at: int, study: Study) -> None:
            if at in wanted:  # what a method that hides tiles has seen: the teacher's look and the parting
                self.take(wanted[at], study.seen.teacher.score, study.seen.part, epoch, simulated=False)

        return watch

    @torch.no_grad()
    def ask(self, case: str, features: torch.Tensor, epoch: int, progress: float, seed: int) -> None:
        """Record what the model, in evaluation mode, would hide of a case that it does not learn from."""
        generator = torch.Generator().manual_seed(seed + epoch)
        score = self._model.salience(features, seed=seed + epoch)
        part = self._model.hide(score, progress=progress, generator=generator)
        self.take(case, score, part, epoch, simulated=True)

    def take(self, case: str, score: torch.Tensor, part: Hiding, epoch: int, *, simulated: bool) -> None:
        """Keep a case's hidden set and scores (N,) or (H, N) of an epoch."""
        shown = (score if score.ndim == 1 else score.mean(0)).detach().double().cpu().numpy()
        roles = part.roles(len(shown)).numpy()
        for slide, begin, end in self._places[case]:
            rows = self._rows.setdefault(slide, {"epochs": [], "roles": [], "scores": [], "spread": []})
            mine = shown[begin:end]
            middle, spread = float(mine.mean()), float(mine.std()) or 1.0
            rows["epochs"].append(epoch)
            rows["roles"].append(torch.from_numpy(_pack(roles[begin:end])))
            rows["scores"].append(torch.from_numpy(((mine - middle) / spread).astype(np.float16)))
            rows["spread"].append([middle, spread])
            rows["simulated"] = [simulated]

    def state(self) -> dict[str, Any]:
        """Everything so far, as tensors and plain values."""
        return {slide: {k: list(v) for k, v in rows.items()} for slide, rows in self._rows.items()}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self._rows = {slide: {k: list(v) for k, v in rows.items()} for slide, rows in state.items()}


def hides(model: MILModel) -> HidesTiles:
    """The model, which hides tiles while it learns; ModelError when it does not."""
    if not isinstance(model, HidesTiles) or not model.has_teacher():
        raise ModelError(
            f"{model.name} hides no tiles while it learns, so there is nothing to record; "
            "choose mhim, or leave out `record`."
        )
    return model


def not_learned(name: str) -> BagError:
    """The error about a slide or case to record that is not in the training."""
    return BagError(
        f"{name!r} is to be recorded, but is no slide or case of this training; "
        "choose one of its labelled slides."
    )


def dump(state: Mapping[str, Any]) -> bytes:
    """A Recorder's state as the bytes of a recording file; `load` is its inverse."""
    arrays: dict[str, NDArray[Any]] = {}
    about: list[dict[str, Any]] = []
    for i, (slide, rows) in enumerate(state.items()):
        about.append(
            {"slide": slide, "tiles": len(rows["scores"][0]), "simulated": bool(rows["simulated"][0])}
        )
        arrays[f"{i}/epochs"] = np.array(rows["epochs"], np.int32)
        arrays[f"{i}/roles"] = np.stack([np.asarray(r) for r in rows["roles"]])
        arrays[f"{i}/scores"] = np.stack([np.asarray(s) for s in rows["scores"]])
        arrays[f"{i}/spread"] = np.array(rows["spread"], np.float64)
    text = json.dumps({"format": _FORMAT, "slides": about})
    return bytes(save_arrays({**arrays, "about": np.frombuffer(text.encode(), np.uint8)}))


def load(source: Path | str | bytes) -> dict[str, Recording]:
    """The recordings of a run by slide id, from a file or its bytes; ModelError when it is none."""
    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    try:
        arrays = load_arrays(data)
        about = json.loads(arrays["about"].tobytes())
        if about["format"] != _FORMAT:
            raise ModelError(f"This recording has the format {about['format']!r}; update napari-mil.")
        return {one["slide"]: _recording(one, arrays, i) for i, one in enumerate(about["slides"])}
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"This is no recording of a training run: {error}.") from error


def _recording(about: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], i: int) -> Recording:
    middle, spread = arrays[f"{i}/spread"].T[:, :, None]
    scores = arrays[f"{i}/scores"].astype(np.float64) * spread + middle
    roles = _unpack(arrays[f"{i}/roles"], about["tiles"])
    return Recording(
        about["slide"], arrays[f"{i}/epochs"], roles, scores.astype(np.float32), about["simulated"]
    )


def _pack(roles: NDArray[np.int8]) -> NDArray[np.uint8]:
    """(N,) codes below 8 → (3, ceil(N / 8)) their bits."""
    return np.stack([np.packbits((roles >> bit) & 1) for bit in range(_BITS)])


def _unpack(packed: NDArray[np.uint8], tiles: int) -> NDArray[np.int8]:
    """(E, 3, ceil(N / 8)) → (E, N), the inverse of `_pack` for every epoch."""
    bits = np.unpackbits(packed, axis=2, count=tiles)
    return np.asarray(sum(bits[:, bit].astype(np.int8) << bit for bit in range(_BITS)), np.int8)
