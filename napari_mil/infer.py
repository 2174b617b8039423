"""A model and a bag make a Prediction: the slide's answer, and every map a window can show."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_mil.bag import Bag
from napari_mil.calls import call_tiles, calls, lesion_score
from napari_mil.device import memory_guard, over
from napari_mil.errors import BagError, ModelError
from napari_mil.labeltree import LIFTED, LabelTree, Survival, class_names, level_names, risk
from napari_mil.mil import MILModel, Output, answering
from napari_mil.prediction import Kind, Prediction, TileMap

#: the class map that ignores what the slide as a whole was called; a missed slide would else show nothing
WITHOUT_SLIDE = "class/{} without the slide's answer"
#: logarithms of answers that lie nearer than this are those of the same answer, but for rounding
SAME = 1e-3
#: what a method's map holds (numpy's letter) → its kind
_KINDS: Mapping[str, Kind] = {"f": "score", "b": "mask", "i": "groups"}


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What a model says about one bag, as numbers.

    Attributes
    ----------
    probabilities : per level, coarse first, (C_l,) float32 summing to 1; () where the task is time
    tile_probability : (N, C) float32, softmax of t_i (methods.md §6.11): classes of every tile at the
        finest level; where the task is time, the hazards of a bag that holds this tile alone
    attention : (N, 1) or class-wise (N, C) float32; each column sums to 1
    maps : the method's further (N,) columns by name: float32, or bool of a mask, or int32 of groups
    hazards : (K,) float32 where the task is time, else None
    heads : whether a coarser level is answered otherwise than the finest adds up to, before any temperature
    """

    probabilities: tuple[NDArray[np.float32], ...]
    tile_probability: NDArray[np.float32]
    attention: NDArray[np.float32]
    maps: Mapping[str, NDArray[Any]]
    hazards: NDArray[np.float32] | None = None
    heads: bool = False

    @property
    def lift(self) -> NDArray[np.float32]:
        """N·a_i: attention over its uniform share, (N, 1) or (N, C)."""
        return self.attention * len(self.attention)

    @property
    def overall_attention(self) -> NDArray[np.float32]:
        """(N,) attention summing to 1; class-wise attention is weighted by the slide's answer, that of
        intervals of time equally.
        """
        if self.attention.shape[1] == 1:
            return self.attention[:, 0]
        if not self.probabilities:
            return np.asarray(self.attention.mean(1), np.float32)
        weighted: NDArray[np.float32] = self.attention @ self.probabilities[-1]
        return weighted

    def rows(self, keep: NDArray[Any]) -> Answer:
        """The same answer cut to some of its tiles, such as those of one slide of a case; lifts stay those
        of the bag.
        """
        share = len(self.attention) / max(int(np.count_nonzero(keep)), 1)
        maps = {name: values[keep] for name, values in self.maps.items()}
        return replace(
            self,
            tile_probability=self.tile_probability[keep],
            attention=self.attention[keep] * np.float32(share),
            maps=maps,
        )


def answer(
    model: MILModel,
    features: NDArray[Any] | Tensor,
    cells: NDArray[Any] | Tensor | None = None,
    *,
    temperature: float = 1.0,
    device: torch.device | str | None = None,
) -> Answer:
    """Ask a model about one bag of features (N, D) and cells (N, 2).

    Runs in evaluation mode and leaves the model in the mode it was in. BagError on an empty bag,
    DeviceError when the memory does not suffice, ModelError when the answer is not finite.
    """
    if not len(features):
        raise BagError("The bag is empty, so there is nothing to ask the model about.")
    here = torch.device(device) if device is not None else next(model.parameters()).device
    with (
        memory_guard(f"the answer for {len(features)} tiles"),
        answering(model.to(here)),  # outside the inference mode: what is moved inside could never learn again
        torch.inference_mode(),
    ):
        output = model(_features(features, here), _tensor(cells, here, torch.int64))
        made = _numbers(output, model.tree, temperature)
    said = made.probabilities if made.hazards is None else (made.hazards,)
    if not all(np.isfinite(p).all() for p in (*said, made.tile_probability, made.attention)):
        raise ModelError(
            f"{model.name} gave an answer that is not finite; its weights or the features are damaged."
        )
    return made


def _numbers(output: Output, tree: LabelTree, temperature: float) -> Answer:
    """An output as numbers: probabilities by softmax, hazards by sigmoid where the task is time."""
    maps = {name: _column(values) for name, values in output.maps.items()}
    attention, tiles = _numpy(output.attention), output.tile_logits.float()
    if isinstance(tree, Survival):
        hazards = _numpy(torch.sigmoid(output.logits[-1].cpu().double()))
        return Answer((), _numpy(torch.sigmoid(tiles)), attention, maps, hazards)
    plain = [torch.softmax(level.cpu().double(), -1).numpy() for level in output.logits]
    said = tuple(np.asarray(p, np.float32) for p in said_at(plain, tree, temperature))
    heads = any(np.abs(p - tree.lift(plain[-1], n)).max() > LIFTED for n, p in enumerate(plain[:-1]))
    return Answer(said, _numpy(torch.softmax(tiles, -1)), attention, maps, heads=heads)


def tempered(probability: NDArray[Any], temperature: float) -> NDArray[np.float64]:
    """(…, C) softmax(log p / T): what answers are at another temperature; T above 1 makes them less sure."""
    logits = log_of(probability) / temperature
    scaled = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray(scaled / scaled.sum(-1, keepdims=True))


def log_of(probability: NDArray[Any]) -> NDArray[np.float64]:
    """(…, C) log p; what float32 holds as 0 is the least that it can hold."""
    return np.asarray(np.log(np.maximum(np.asarray(probability, np.float64), np.finfo(np.float32).tiny)))


def said_at(
    plain: Sequence[NDArray[Any]], tree: LabelTree, temperature: float
) -> tuple[NDArray[np.float64], ...]:
    """Answers (…, C_l) per level, coarse first, at another temperature than the 1 that they are given at.

    A level that is what the one below it adds up to still is: its sums are taken again. One with a head of
    its own has its own answer at that temperature.
    """
    if temperature == 1:
        return tuple(np.asarray(p, np.float64) for p in plain)
    said = [tempered(plain[-1], temperature)]
    for level in reversed(range(len(plain) - 1)):
        above, below = tree.nodes_at(level), tree.nodes_at(level + 1)
        up = np.array([[float(tree.parent[node] == top) for top in above] for node in below])
        own, sums = np.asarray(plain[level]), np.asarray(plain[level + 1], np.float64) @ up
        lifted = np.abs(log_of(own) - log_of(sums)).max(initial=0) < SAME
        said.insert(0, said[0] @ up if lifted else tempered(own, temperature))
    return tuple(said)


def _features(values: Any, device: torch.device) -> Any:
    """As float32; half precision, which a model widens a few rows at a time, as it is."""
    half = str(values.dtype).removeprefix("torch.") in ("float16", "bfloat16")
    return _tensor(values, device, None if half else torch.float32)


def _tensor(values: Any, device: torch.device, dtype: torch.dtype | None) -> Any:
    if values is None:
        return None
    if isinstance(values, Tensor):
        return values.to(device, dtype)
    return over(np.asarray(values)).to(device, dtype)


def _numpy(values: Tensor) -> NDArray[np.float32]:
    return np.asarray(values.float().cpu().numpy(), np.float32)


def _column(values: Tensor) -> NDArray[Any]:
    """A method's map: masks stay bool and groups whole numbers."""
    if values.dtype.is_floating_point:
        return _numpy(values)
    return np.asarray(values.cpu().numpy(), np.bool_ if values.dtype == torch.bool else np.int32)


def lesion(said: Answer, tree: LabelTree) -> NDArray[np.float32] | None:
    """(N,) how much a tile was looked at as a lesion (methods.md §6.11), or None when the tree cannot say."""
    normal = tree.normal_classes()
    return None if normal.all() or not normal.any() else lesion_score(said.tile_probability, said.lift, tree)


def call(said: Answer, tree: LabelTree, *, level: int = -1, with_slide: bool = True) -> NDArray[np.int32]:
    """(N,) the node each tile is called at a level, 0 = no call; `with_slide` lets the slide's own answer
    veto.
    """
    slide = said.probabilities[-1] if with_slide else None
    return call_tiles(said.tile_probability, said.lift, slide, tree, level=level)


def predict(
    model: MILModel,
    bag: Bag,
    *,
    model_id: str,
    scope: Literal["slide", "region"] = "slide",
    temperature: float = 1.0,
    calibrated: bool = False,
    device: torch.device | str | None = None,
) -> Prediction:
    """What a model says about a bag, with its maps.

    Maps: `attention`, class-wise `attention/fine/ADH`, `evidence/fine/ADH` where the slide's answer is a
    sum over tiles (`evidence/bag voice/fine/ADH` where half of it is one), `probability/<level>/<label>`,
    `class/<level>`, `class/<level> without the slide's answer`, `lesion` (where the tree says which leaves
    are normal), `disagreement` (where the method answers for two levels by itself). Where the task is time:
    `attention`, `risk` of a bag that holds the tile alone, `evidence/risk` where the hazard logits are a sum
    over tiles. Whether the model may run on the bag is its card's to say. Errors as `answer`.
    """
    said = answer(model, bag.features, bag.grid.cells, temperature=temperature, device=device)
    maps = maps_of(said, model.tree, model.notes, note="this region only" if scope == "region" else "")
    told = (said.probabilities, maps, calibrated, said.hazards)
    return Prediction(bag.slide_id, bag.grid.id, model_id, scope, *told, heads=said.heads)


def maps_of(
    said: Answer, tree: LabelTree, notes: Mapping[str, str] | None = None, *, note: str = ""
) -> tuple[TileMap, ...]:
    """Every map of an answer. `notes` (MILModel.notes) are added to those of the maps that they name, `note`
    to all.
    """
    made: dict[str, TileMap] = {}
    found = _time_maps(said, tree) if isinstance(tree, Survival) else _tree_maps(said, tree)
    for one in found:
        made.setdefault(one.name, one)
    return tuple(
        replace(m, note="; ".join(filter(None, (m.note, (notes or {}).get(m.name.split("/")[0]), note))))
        for m in made.values()
    )


def _tree_maps(said: Answer, tree: LabelTree) -> Iterable[TileMap]:
    yield from _score_maps(said, tree)
    yield from _class_maps(said, tree)


def _time_maps(said: Answer, task: Survival) -> Iterable[TileMap]:
    class_wise = said.attention.shape[1] > 1
    yield _score("attention", said.overall_attention, note="mean over the intervals" if class_wise else "")
    alone = risk(said.tile_probability).astype(np.float32)
    span = (-float(said.tile_probability.shape[1]), 0.0)
    yield TileMap("risk", "score", alone, span, note="of a bag that holds this tile alone")
    if class_wise:
        columns = _by_class(said.attention)
        for k, interval in enumerate(class_names(task, 0)):
            yield _score(f"attention/time/{interval}", columns[k])
    for name, values in said.maps.items():
        yield TileMap(name, "score", values)


def _score_maps(said: Answer, tree: LabelTree) -> Iterable[TileMap]:
    names = level_names(tree)
    class_wise = said.attention.shape[1] > 1
    weighed = "attention of each class, weighted by the slide's answer" if class_wise else ""
    yield _score("attention", said.overall_attention, note=weighed)
    if (score := lesion(said, tree)) is not None:
        how = (
            "largest lift of a lesion class"
            if class_wise
            else "attention lift × chance that the tile is a lesion"
        )
        yield _score("lesion", score, note=how)
    if class_wise:
        for label, values in zip(class_names(tree, tree.levels - 1), _by_class(said.attention), strict=True):
            yield _score(f"attention/{names[-1]}/{label}", values)
    for name, values in said.maps.items():
        kind, span = _KINDS[values.dtype.kind], (0.0, 1.0) if name == "disagreement" else None
        groups = np.unique(values).tolist() if kind == "groups" else []
        yield TileMap(name, kind, values, span, {code: f"{name} {code}" for code in groups})
    for level, name in enumerate(names):
        lifted = _by_class(tree.lift(said.tile_probability, level))
        for label, values in zip(class_names(tree, level), lifted, strict=True):
            yield TileMap(f"probability/{name}/{label}", "score", values, (0.0, 1.0))


def _class_maps(said: Answer, tree: LabelTree) -> Iterable[TileMap]:
    names, answers = level_names(tree), (said.probabilities[-1], None)
    each = [calls(said.tile_probability, said.lift, answers, tree, level=i) for i in range(len(names))]
    for title, found in zip(("class/{}", WITHOUT_SLIDE), zip(*each, strict=True), strict=True):
        for name, nodes in zip(names, found, strict=True):
            nodes.flags.writeable = False  # so that a map takes it as it is
            yield TileMap(title.format(name), "nodes", nodes)


def _score(name: str, values: NDArray[np.float32], *, note: str = "") -> TileMap:
    return TileMap(name, "score", values, (0.0, max(float(values.max()), 1e-12)), note=note)


def _by_class(values: NDArray[Any]) -> NDArray[Any]:
    """(C, N) of (N, C), read-only, so that maps are its rows and no copies of them."""
    turned = np.ascontiguousarray(values.T)
    turned.flags.writeable = False
    return turned
