"""The contract of a method: MILModel and Output.

A method is one file in `methods/` with one subclass of MILModel per registered name. Shape letters: N tiles,
D features, C_l classes at level l of the label tree (coarse first), C classes of the finest level, B bags.

A method says how it looks at one training bag (`study`) and, where it has losses of its own, how several bags
become losses (`slide_losses`). Labels at leaves and inner nodes, and labels of single tiles, reach every
method through the shared parts below; docs/methods.md says how.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from napari_mil.bag import Bag
from napari_mil.correction import Target
from napari_mil.device import wide
from napari_mil.errors import ModelError
from napari_mil.labeltree import LabelTree, Survival, class_names, level_names

Example = tuple[Tensor, Tensor | None, Target]
Noise = Mapping[str, Tensor]
M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True, slots=True, eq=False)
class Output:
    """What a method says about one bag.

    Attributes
    ----------
    logits : one (C_l,) tensor per level, coarse first. A method with one head answers for the leaves; its
        coarser logits are the logarithms of the lifted probabilities, so that softmax(logits[l]) is always
        the level's answer.
    tile_logits : (N, C) t_i: class scores of every tile at the finest level
    attention : (N, 1) or class-wise (N, C); each column sums to 1 over the tiles
    maps : further named (N,) tensors, such as "attention/coarse/Benign" or "evidence/fine/ADH"; real numbers
        are a score, booleans a mask, whole numbers groups of tiles
    embedding : (E,) vector of the bag
    columns : further named (N,) tensors for `explain` alone, too many for a screen
    """

    logits: tuple[Tensor, ...]
    tile_logits: Tensor
    attention: Tensor
    maps: Mapping[str, Tensor]
    embedding: Tensor
    columns: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Study:
    """How a method saw one bag while learning from it.

    Attributes
    ----------
    logits : (C,) of the finest level, or one (C_l,) tensor per head that the method has
    tile_logits : tile indices (n,) → (n, C) their t_i on the full, unmasked bag
    extra : losses of this bag that need no label, already weighted
    seen : whatever the method's own `slide_losses` reads
    """

    logits: tuple[Tensor, ...]
    tile_logits: Callable[[Tensor], Tensor]
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    seen: Any = None


@dataclass(frozen=True, slots=True)
class Preset:
    """Settings that were published together: {option: value} of the method's Config and of the Recipe."""

    config: Mapping[str, Any]
    recipe: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""


class MILModel(nn.Module, ABC):
    """A multiple-instance learning method on bags of tile features.

    Class attributes
    ----------------
    name : the registry's name
    paper : the source
    Config : frozen dataclass of options with bounds; it becomes the form
    exceptions : property a conformance test skips → why, with the paragraph of docs/methods.md; a model may
        name those of its options
    recipe : training settings that suit a small study where Recipe's defaults do not, {field: value}
    presets : settings of the papers by name
    grid : values that were searched, {option of Config or Recipe: values}
    contrasts_bags : whether the losses compare the bags of a step, so that it needs them all at once
    bf16 : whether training keeps its figures under bfloat16 autocast
    notes : what a reader must know of a map, by the first part of its name, {"class": "approximate: …"}
    modes : ways in which `explain` can be asked
    parts : columns of `explain` with several numbers per tile that are not of the classes → of what they are

    Attributes
    ----------
    config, in_features, tree : what the model was made with
    classes : C, the number of leaves
    assumed : what a foreign checkpoint did not say and was assumed
    whole_epochs : whether its schedules stand still within an epoch, whose progress is that of its beginning
    """

    name: ClassVar[str]
    paper: ClassVar[str]
    Config: ClassVar[type]
    exceptions: Mapping[str, str] = {}
    recipe: ClassVar[Mapping[str, Any]] = {}
    presets: ClassVar[Mapping[str, Preset]] = {}
    grid: ClassVar[Mapping[str, Sequence[Any]]] = {}
    contrasts_bags: ClassVar[bool] = False
    bf16: ClassVar[bool] = False
    notes: Mapping[str, str] = {}
    modes: ClassVar[tuple[str, ...]] = ("clean", "official")
    parts: ClassVar[Mapping[str, str]] = {}
    assumed: tuple[str, ...] = ()
    whole_epochs: bool = False

    def __init__(self, config: Any, in_features: int, tree: LabelTree) -> None:
        super().__init__()
        if in_features < 1:
            raise ModelError(f"{self.name}: {in_features} numbers per tile; at least one is needed.")
        self.config = config
        self.in_features = in_features
        self.tree = tree
        self.classes = len(tree.leaves)
        for level in range(tree.levels):
            self.register_buffer(f"under_{level}", _membership(tree, level), persistent=False)

    @abstractmethod
    def forward(self, features: Tensor, cells: Tensor | None = None) -> Output:
        """Answer for one bag: features (N, D), cells (N, 2) or None → Output. ModelError on an empty bag."""

    @abstractmethod
    def study(
        self,
        features: Tensor,
        cells: Tensor | None,
        progress: float,
        *,
        generator: torch.Generator | None = None,
        noise: Noise | None = None,
    ) -> Study:
        """Look at one training bag as this method does while it learns; `loss` gives it checked features."""

    def loss(
        self,
        examples: Sequence[Example],
        progress: float,
        *,
        generator: torch.Generator | None = None,
        noise: Noise | None = None,
        tile_weight: float = 1.0,
        weights: Sequence[float] | None = None,
        batch: Sequence[Target] | None = None,
        watch: Callable[[int, Study], None] | None = None,
    ) -> dict[str, Tensor]:
        """Named scalar losses over a list of bags; their sum is optimised (see `total`).

        A term stands only where something speaks for it: a bag without labels gives no supervised term, and
        the dict is empty when there is nothing to learn from.

        Parameters
        ----------
        examples : (features (N, D), cells (N, 2) or None, Target) per bag
        progress : share of the training done, in [0, 1]; drives schedules
        generator : source of the method's own draws (dropout uses torch's global one)
        noise : replaces the draws of one bag so that a step can be replayed, such as {"grn": (n,)}
        tile_weight : λ_tile, the weight of tile labels
        weights : one factor per bag for what its slide label says (class weights), or None
        batch : targets of the whole step when `examples` are only some of its bags; the losses are then their
            share, so that those of all parts add up to those of the step
        watch : called with each bag's place and how it was seen
        """
        if noise is not None and len(examples) != 1:
            raise ModelError(f"Noise replaces the draws of one bag; {len(examples)} bags were given.")
        studies = [
            self.study(self.check(x), cells, progress, generator=generator, noise=noise)
            for x, cells, _ in examples
        ]
        if watch is not None:
            for at, study in enumerate(studies):
                watch(at, study)
        targets = [t for _, _, t in examples]
        whole = targets if batch is None else batch
        share = max(sum(t.says(self.tree) for t in targets), 1) / max(
            sum(t.says(self.tree) for t in whole), 1
        )
        losses = {n: v * share for n, v in self.slide_losses(studies, targets, progress, weights).items()}
        for name in dict.fromkeys(n for s in studies for n in s.extra):
            said = torch.stack([s.extra[name] for s in studies if name in s.extra])
            losses[name] = said.mean() * (len(studies) / len(whole))
        if tile_weight > 0:
            tiles = self._tile_loss(studies, examples, whole)
            if tiles is not None:
                losses["tiles"] = tile_weight * tiles
        return losses

    def slide_losses(
        self,
        studies: Sequence[Study],
        targets: Sequence[Target],
        progress: float,  # noqa: ARG002 - for methods with schedules
        weights: Sequence[float] | None,
    ) -> dict[str, Tensor]:
        """−log of the probability of what is known of a bag, mean over the bags of which something is."""
        known = [i for i, t in enumerate(targets) if t.says(self.tree)]
        if not known:
            return {}
        nll = self.slide_nll(torch.stack([studies[i].logits[-1] for i in known]), [targets[i] for i in known])
        if weights is not None:
            nll = nll * nll.new_tensor([weights[i] for i in known])
        return {"slide": nll.mean()}

    def slide_nll(self, logits: Tensor, targets: Sequence[Target]) -> Tensor:
        """(B,) −log of the probability of each bag's label node, or of its survival; logits (B, C)."""
        if isinstance(self.tree, Survival):
            return survival_nll(logits, targets, self.tree)
        return self.node_nll(logits, [t.slide for t in targets])

    def _tile_loss(
        self, studies: Sequence[Study], examples: Sequence[Example], whole: Sequence[Target]
    ) -> Tensor | None:
        """Mean over nodes present in the whole step of the mean over their tiles of −log Σ_{leaf under node}
        softmax(t_i); the share of these bags. Where the task is time, labels of tiles say nothing.
        """
        if isinstance(self.tree, Survival):
            return None
        logits, nodes = [], []
        for study, (features, _, target) in zip(studies, examples, strict=True):
            if target.tiles is None:
                continue
            if len(target.tiles) != len(features):
                raise ModelError(
                    f"{len(target.tiles)} tile labels for {len(features)} tiles; one per tile is expected."
                )
            at = np.flatnonzero(target.tiles)
            if len(at):
                nodes.append(target.tiles[at])
                logits.append(study.tile_logits(torch.from_numpy(at).to(features.device)))
        if not nodes:
            return None
        labels = np.concatenate(nodes)
        every = np.concatenate([t.tiles for t in whole if t.tiles is not None])
        present, counts = np.unique(every[every > 0], return_counts=True)
        share = (1 / (counts * len(counts)))[np.searchsorted(present, labels)]
        nll = self.node_nll(torch.cat(logits), labels)
        return (nll * torch.as_tensor(share, dtype=nll.dtype, device=nll.device)).sum()

    def node_nll(
        self, logits: Tensor, nodes: Sequence[int] | NDArray[np.int32], *, level: int = -1
    ) -> Tensor:
        """(B,) −log Σ softmax(logits (B, C_level)) over the classes of `level` under, or above, each node."""
        at = torch.as_tensor(nodes, dtype=torch.long, device=logits.device)
        under: Tensor = getattr(self, f"under_{level % self.tree.levels}")
        return -torch.logsumexp(torch.log_softmax(wide(logits), -1) + under[at], -1)

    def lifted(self, logits: Tensor, *, level: int = -1) -> tuple[Tensor, ...]:
        """One (C_l,) tensor per level up to `level`, whose (C_level,) logits are given; above it lifted."""
        last = level % self.tree.levels
        under: Tensor = getattr(self, f"under_{last}")
        logp = torch.log_softmax(logits, -1)
        above = (torch.logsumexp(logp + under[list(self.tree.nodes_at(level))], -1) for level in range(last))
        return (*above, logits)

    def named(self, kind: str, values: Tensor, *, level: int = -1) -> dict[str, Tensor]:
        """(N, C_level) values as maps `kind/<level>/<class>` of (N,)."""
        at = level % self.tree.levels
        stem = f"{kind}/{level_names(self.tree)[at]}"
        maps = {f"{stem}/{c}": values[:, k] for k, c in enumerate(class_names(self.tree, at))}
        if isinstance(self.tree, Survival) and kind.startswith("evidence"):  # it adds to the hazard logits
            return {f"{kind}/risk": values.sum(1), **maps}
        return maps

    def check(self, features: Tensor) -> Tensor:
        """Features (N, D), as float32 or wider where gradients are kept; ModelError when they are empty or of
        another width. Without gradients the first layer widens them, a few rows at a time (blocks.by_rows).
        """
        if features.ndim != 2 or features.shape[1] != self.in_features:
            raise ModelError(
                f"{self.name} reads bags of shape (tiles, {self.in_features}), not {tuple(features.shape)}."
            )
        if not len(features):
            raise ModelError(f"{self.name}: the bag is empty; a bag needs at least one tile.")
        return wide(features) if torch.is_grad_enabled() else features

    def after_step(self, progress: float) -> None:
        """Called after every optimiser step (a teacher follows here)."""

    def stage1(self) -> MILModel | None:
        """The model to train first on the same data, or None; `start_from` then receives it trained."""
        return None

    def start_from(self, trained: MILModel) -> None:
        """Take over what a trained stage-1 model has to give."""

    @torch.no_grad()
    def explain(self, bag: Bag, *, seed: int = 0, mode: str = "clean") -> dict[str, NDArray[Any]]:  # noqa: ARG002
        """Per-tile columns {column: (N, …)}, in the order of the bag; the same for the same seed.

        index, row, col, attention (N,) or (N, C), lift (N·attention), tile_probability (N, C) (hazards where
        the task is time), and every map and further column of the method under its name.
        """
        with answering(self):
            return columns_of(self(as_tensor(self, bag)), bag, self.tree)


def as_tensor(model: MILModel, bag: Bag) -> Tensor:
    """The features of a bag where the model is, in its precision."""
    parameter = next(model.parameters())
    return torch.tensor(bag.features).to(parameter.device, parameter.dtype)


def places(bag: Bag) -> dict[str, NDArray[Any]]:
    """The columns index, row, col of a bag."""
    return {
        "index": np.arange(len(bag), dtype=np.int32),
        "row": bag.grid.cells[:, 0],
        "col": bag.grid.cells[:, 1],
    }


def survival_nll(logits: Tensor, targets: Sequence[Target], task: Survival) -> Tensor:
    """(B,) −log likelihood of discrete-time survival, from hazard logits (B, K) (methods.md §3.9).

    An event in interval Y: −log S_{Y−1} − log h_Y; censored in Y: −log S_Y. All in logarithms of sigmoids, so
    that nothing has to be clamped; the published code clamps at 1e-7, which differs only beyond that.
    """
    bins = torch.tensor([task.bin_of(float(t.time or 0.0)) for t in targets], device=logits.device)
    happened = torch.tensor([bool(t.event) for t in targets], device=logits.device)
    survived = torch.cumsum(torch.nn.functional.logsigmoid(-logits), -1)
    here = survived.gather(1, bins[:, None])[:, 0]
    before = here - torch.nn.functional.logsigmoid(-logits).gather(1, bins[:, None])[:, 0]
    hit = torch.nn.functional.logsigmoid(logits).gather(1, bins[:, None])[:, 0]
    return -torch.where(happened, before + hit, here)


def answered(logits: Tensor, tree: LabelTree) -> Tensor:
    """(…, C) logits as probabilities, or as hazards where the task is time."""
    return torch.sigmoid(logits) if isinstance(tree, Survival) else torch.softmax(logits, -1)


def mean_answer(logits: Tensor, tree: LabelTree) -> Tensor:
    """(C,) the logits whose answer is the mean of the answers of logits (R, C), see `answered`."""
    if isinstance(tree, Survival):
        comes, stays = (torch.nn.functional.logsigmoid(side).logsumexp(0) for side in (logits, -logits))
        return comes - stays
    return torch.logsumexp(torch.log_softmax(logits, -1), 0) - math.log(len(logits))


def columns_of(out: Output, bag: Bag, tree: LabelTree) -> dict[str, NDArray[Any]]:
    """The per-tile columns that every method can give of a bag; see `MILModel.explain`."""
    attention = out.attention.squeeze(1) if out.attention.shape[1] == 1 else out.attention
    columns = {
        "attention": attention,
        "lift": attention * len(bag),
        "tile_probability": answered(out.tile_logits, tree),
        **out.maps,
        **out.columns,
    }
    return {**places(bag), **{k: v.cpu().numpy() for k, v in columns.items()}}


def total(losses: Mapping[str, Tensor]) -> Tensor | None:
    """The sum that is optimised, or None when there is nothing to learn from."""
    return torch.stack(tuple(losses.values())).sum() if losses else None


@contextmanager
def answering(model: M) -> Iterator[M]:
    """The model in eval mode for the length of a block; its mode is restored afterwards."""
    was = model.training
    model.eval()
    try:
        yield model
    finally:
        model.train(was)


def _membership(tree: LabelTree, level: int) -> Tensor:
    """(nodes, C_level) 0 where the class lies under the node, is it or lies above it, −inf elsewhere."""
    table = torch.full((len(tree), len(tree.nodes_at(level))), -torch.inf)
    for k, top in enumerate(tree.nodes_at(level)):
        line = {0, top, *tree.ancestors(top)}
        for node in range(len(tree)):
            if node in line or top in tree.ancestors(node):
                table[node, k] = 0.0
    return table
