"""The contract of a method: MILModel and Output.

A method is one file in `methods/` with one subclass of MILModel per registered name. Shape letters: N tiles,
D features, C_l classes at level l of the label tree (coarse first), C classes of the finest level, B bags.

A method says how it looks at one training bag (`study`) and, where it has losses of its own, how several bags
become losses (`slide_losses`). Labels at leaves and inner nodes, and labels of single tiles, reach every
method through the shared parts below; docs/methods.md says how.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from napari_mil.bag import Bag
from napari_mil.correction import Target
from napari_mil.errors import ModelError
from napari_mil.labeltree import LabelTree, class_names, level_names

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
    maps : further named (N,) tensors, such as "attention/coarse/Benign" or "evidence/fine/ADH"
    embedding : (E,) vector of the bag
    columns : further named (N,) tensors for `explain` alone, too many for a screen
    notes : what a reader must know of the "tiles" (their classes) and of the "attention", if anything
    """

    logits: tuple[Tensor, ...]
    tile_logits: Tensor
    attention: Tensor
    maps: Mapping[str, Tensor]
    embedding: Tensor
    columns: Mapping[str, Tensor] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)


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
        noise: Noise | None = None,
    ) -> Hiding:
        """The tiles hidden for the score of `salience`; None = the model's own ratios."""


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
    exceptions : property a conformance test skips → why, with the paragraph of docs/methods.md; a
        model may have others than its class, where an option brings them
    recipe : training settings that suit a small study where Recipe's defaults do not, {field: value}
    presets : settings of the papers by name

    Attributes
    ----------
    config, in_features, tree : what the model was made with
    classes : C, the number of leaves
    assumed : what a foreign checkpoint did not say and was assumed
    """

    name: ClassVar[str]
    paper: ClassVar[str]
    Config: ClassVar[type]
    exceptions: ClassVar[Mapping[str, str]] = {}
    recipe: ClassVar[Mapping[str, Any]] = {}
    presets: ClassVar[Mapping[str, Preset]] = {}
    assumed: tuple[str, ...] = ()

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
        """
        if noise is not None and len(examples) != 1:
            raise ModelError(f"Noise replaces the draws of one bag; {len(examples)} bags were given.")
        studies = [
            self.study(self.check(x), cells, progress, generator=generator, noise=noise)
            for x, cells, _ in examples
        ]
        targets = [t for _, _, t in examples]
        losses = self.slide_losses(studies, targets, progress, weights)
        for name in dict.fromkeys(n for s in studies for n in s.extra):
            losses[name] = torch.stack([s.extra[name] for s in studies if name in s.extra]).mean()
        if tile_weight > 0:
            tiles = self._tile_loss(studies, examples)
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
        """−log of the probability under the slide label's node, mean over labelled bags."""
        known = [i for i, t in enumerate(targets) if t.slide]
        if not known:
            return {}
        nll = self.node_nll(
            torch.stack([studies[i].logits[-1] for i in known]), [targets[i].slide for i in known]
        )
        if weights is not None:
            nll = nll * nll.new_tensor([weights[i] for i in known])
        return {"slide": nll.mean()}

    def _tile_loss(self, studies: Sequence[Study], examples: Sequence[Example]) -> Tensor | None:
        """Mean over nodes present of the mean over their tiles of −log Σ_{leaf under node} softmax(t_i)."""
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
        _, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
        share = (1 / (counts * len(counts)))[inverse]
        nll = self.node_nll(torch.cat(logits), labels)
        return (nll * torch.as_tensor(share, dtype=nll.dtype, device=nll.device)).sum()

    def node_nll(
        self, logits: Tensor, nodes: Sequence[int] | NDArray[np.int32], *, level: int = -1
    ) -> Tensor:
        """(B,) −log Σ softmax(logits (B, C_level)) over the classes of `level` under, or above, each node."""
        at = torch.as_tensor(nodes, dtype=torch.long, device=logits.device)
        under: Tensor = getattr(self, f"under_{level % self.tree.levels}")
        return -torch.logsumexp(torch.log_softmax(logits, -1) + under[at], -1)

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
        return {f"{stem}/{c}": values[:, k] for k, c in enumerate(class_names(self.tree, at))}

    def check(self, features: Tensor) -> Tensor:
        """Features (N, D) as float32 or wider; ModelError when they are empty or of another width."""
        if features.ndim != 2 or features.shape[1] != self.in_features:
            raise ModelError(
                f"{self.name} reads bags of shape (tiles, {self.in_features}), not {tuple(features.shape)}."
            )
        if not len(features):
            raise ModelError(f"{self.name}: the bag is empty; a bag needs at least one tile.")
        return features.float() if features.dtype in (torch.float16, torch.bfloat16) else features

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

        index, row, col, attention (N,) or (N, C), lift (N·attention), tile_probability (N, C), and every
        map and further column of the method under its name.
        """
        with answering(self):
            out = self(as_tensor(self, bag))
        attention = out.attention.squeeze(1) if out.attention.shape[1] == 1 else out.attention
        columns = {
            "attention": attention,
            "lift": attention * len(bag),
            "tile_probability": torch.softmax(out.tile_logits, -1),
            **out.maps,
            **out.columns,
        }
        return {**places(bag), **{k: v.cpu().numpy() for k, v in columns.items()}}


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
