"""CLAM, single- and multi-branch (Lu et al. 2021): what attention puts first and last is told apart.

The instance loss needs the class of the slide: a slide labelled at an inner node, or not at all, gives none,
and neither does a follow-up time, whose intervals are no classes of tiles.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from napari_mil.blocks import ACTIVATIONS, Dropout, GatedScores, Pooled, Rows, hiding, part, whole, xavier
from napari_mil.correction import Target
from napari_mil.labeltree import LabelTree, Survival
from napari_mil.mil import MILModel, Noise, Output, Study
from napari_mil.options import option


@dataclass(frozen=True, slots=True)
class CLAMConfig:
    """Options of CLAM; the weights are those of version 1 of MHIM-MIL's baselines, as in the paper."""

    hidden: int = option(512, "width of the projected features", low=8, high=4096)
    attention_width: int = option(256, "width of the two attention layers", low=1, high=4096)
    act: str = option("gelu", "activation after the projection", choices=("gelu", "relu"))
    dropout: float = option(0.25, "share of projected features dropped while training", low=0.0, high=0.9)
    bag_weight: float = option(0.7, "weight of the loss of the bag's answer", low=0.01, high=100.0)
    instance_weight: float = option(0.3, "weight of the instance loss; 0: none", low=0.0, high=100.0)
    instance_tiles: int = option(
        8, "tiles taken from each end of the attention for the instance loss", low=1, high=4096
    )
    subtyping: bool = option(
        False, "the classes exclude each other: tiles that other classes look at are none of theirs"
    )


class SmoothTop1SVM(nn.Module):
    """Smooth top-1 SVM (Berrada 2018), temperature and margin 1: mean of log Σ_j exp(u_j + [j ≠ t] − u_t), or
    of the largest exponent instead where the two largest logits lie ln 1000 or more apart.
    """

    #: gap between the two largest logits from which the loss is hard
    HARD_GAP: ClassVar[float] = math.log(1000)

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.labels: Tensor
        self.register_buffer("labels", torch.arange(classes))

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Logits (n, C) and class indices (n,) → a scalar."""
        d = logits + (self.labels != target[:, None]) - logits.gather(1, target[:, None])
        first, second = logits.detach().topk(2, 1).values.unbind(1)
        return torch.where(first - second >= self.HARD_GAP, d.amax(1), torch.logsumexp(d, 1)).mean()


class _CLAM(MILModel):
    """Gated attention, one row or one per class: logits = Σ_i a_i W h_i + b."""

    paper: ClassVar[str] = (
        "Lu et al.: Data-efficient and weakly supervised computational pathology on whole-slide images. "
        "Nature Biomedical Engineering 2021"
    )
    Config: ClassVar[type] = CLAMConfig

    def __init__(self, config: CLAMConfig, in_features: int, tree: LabelTree, *, rows: int) -> None:
        super().__init__(config, in_features, tree)
        wide, width, p = config.hidden, config.attention_width, config.dropout
        drop = [Dropout(p)] if p else []
        self.attention_net = nn.Sequential(
            *(nn.Linear(in_features, wide), ACTIVATIONS[config.act](), *drop),
            GatedScores(wide, width, rows, "tanh", bias=True, dropout=p),
        )
        self.instance_classifiers = nn.ModuleList(nn.Linear(wide, 2) for _ in tree.leaves)
        self.instance_loss_fn = SmoothTop1SVM(2)
        leaves = () if isinstance(tree, Survival) else tree.leaves
        self._class_of = {leaf: k for k, leaf in enumerate(leaves)}

    @abstractmethod
    def head(self) -> tuple[Tensor, Tensor]:
        """Weight (C, D) and bias (C,) of the classifier."""

    def _look(self, features: Tensor, *, ends: bool) -> tuple[list[tuple[Tensor, ...]], Pooled]:
        """A bag (N, D), a few tiles at a time, and what it is as a whole. Of each chunk scores and vectors as
        `part` says, classes of the tiles, and with `ends` what the instance loss may ask for. More chunks
        than one round, and draw, otherwise.
        """
        layer, act, *drop, attention = self.attention_net

        def head(h: Tensor) -> tuple[Tensor, ...]:
            e, vectors = part(h, attention)
            return e, vectors, linear(h, *self.head()), *(self._ends(e, h) if ends else ())

        rows = Rows(features, None, layer, act, drop[0] if drop else Dropout(0.0))  # type: ignore[arg-type]
        read = [p for name, p in self.named_parameters() if not name.startswith("attention_net.0.")]
        parts = rows.each(head, read)
        return parts, whole(parts)

    def _ends(self, scores: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """Of some tiles, those that each row of attention puts first, and those that it puts last: their
        scores (K, 2, n) and themselves (K, 2, n, D). The ends of the bag are among those of its parts.
        """
        said, count = scores.detach(), min(self.config.instance_tiles, len(h))
        at = torch.stack(
            [
                torch.stack(
                    [hiding.extreme(row, count, largest=first, exact=False) for first in (True, False)]
                )
                for row in said.unbind(1)
            ]
        )
        return said.T[:, None].expand(-1, 2, -1).gather(2, at), h[at]

    def _logits(self, vectors: Tensor) -> Tensor:
        """(C,) of the bag's vectors, (1, D) or (C, D)."""
        weight, bias = self.head()
        return (vectors * weight).sum(1) + bias

    def forward(self, features: Tensor, cells: Tensor | None = None) -> Output:  # noqa: ARG002
        """Answer for one bag (N, D)."""
        parts, pooled = self._look(self.check(features), ends=False)
        tiles = torch.cat([told for *_, told in parts])
        return Output(
            logits=self.lifted(self._logits(pooled.vector)),
            tile_logits=tiles,
            attention=pooled.attention,
            maps=self.named("evidence", pooled.attention * (tiles - self.head()[1])),
            embedding=pooled.vector.flatten(),
        )

    def study(
        self,
        features: Tensor,
        cells: Tensor | None,  # noqa: ARG002
        progress: float,  # noqa: ARG002
        *,
        generator: torch.Generator | None = None,  # noqa: ARG002
        noise: Noise | None = None,  # noqa: ARG002
    ) -> Study:
        """Train as it answers; the tiles at the ends of the attention are kept for the instance loss."""
        ends = bool(self.config.instance_weight and self._class_of)
        parts, pooled = self._look(features, ends=ends)
        return Study(
            (self._logits(pooled.vector),),
            lambda at: torch.cat([told for _, _, told, *_ in parts])[at],
            seen=[p[3:] for p in parts],
        )

    def slide_losses(
        self,
        studies: Sequence[Study],
        targets: Sequence[Target],
        progress: float,
        weights: Sequence[float] | None,
    ) -> dict[str, Tensor]:
        """The loss of the bag's answer, and the instance loss of bags labelled at a leaf: both are parts of a
        mean over all labelled bags, so that a step is the same whether its bags come together or one by one.
        """
        slide = super().slide_losses(studies, targets, progress, weights)
        losses = {name: self.config.bag_weight * loss for name, loss in slide.items()}
        known = [i for i, t in enumerate(targets) if t.slide in self._class_of]
        if known and self.config.instance_weight:
            each = torch.stack([self._instance_loss(studies[i], targets[i].slide) for i in known])
            share = each.new_tensor([1.0 if weights is None else weights[i] for i in known])
            labelled = sum(t.says(self.tree) for t in targets)
            losses["instance"] = self.config.instance_weight * (share * each).sum() / labelled
        return losses

    def _instance_loss(self, study: Study, leaf: int) -> Tensor:
        """Of one bag: the first tiles of its class's attention are tiles of the class, the last are not. With
        `subtyping` the first tiles of every other class are none of that class; the mean over classes is
        taken.
        """
        scores, tiles = (torch.cat(each, 2) for each in zip(*study.seen, strict=True))
        count, label, losses = min(self.config.instance_tiles, scores.shape[2]), self._class_of[leaf], []
        for k in range(self.classes) if self.config.subtyping else (label,):
            row, ends = min(k, len(scores) - 1), (0, 1) if k == label else (0,)
            at = [hiding.extreme(scores[row, e], count, largest=not e, exact=False) for e in ends]
            h = torch.cat([tiles[row, e, some] for e, some in zip(ends, at, strict=True)])
            target = torch.zeros(len(h), dtype=torch.long, device=h.device)
            target[:count] = int(k == label)
            losses.append(self.instance_loss_fn(self.instance_classifiers[k](h), target))
        return torch.stack(losses).mean()


class CLAMSB(_CLAM):
    """CLAM with one branch: one attention for all classes."""

    name: ClassVar[str] = "clam_sb"

    def __init__(self, config: CLAMConfig, in_features: int, tree: LabelTree) -> None:
        super().__init__(config, in_features, tree, rows=1)
        self.classifiers = nn.Linear(config.hidden, self.classes)
        xavier(self)

    def head(self) -> tuple[Tensor, Tensor]:
        """Weight (C, D) and bias (C,) of the classifier."""
        return self.classifiers.weight, self.classifiers.bias


class CLAMMB(_CLAM):
    """CLAM with a branch per class: every class has its own attention and its own classifier."""

    name: ClassVar[str] = "clam_mb"

    def __init__(self, config: CLAMConfig, in_features: int, tree: LabelTree) -> None:
        super().__init__(config, in_features, tree, rows=len(tree.leaves))
        self.classifiers = nn.ModuleList(nn.Linear(config.hidden, 1) for _ in tree.leaves)
        xavier(self)

    def head(self) -> tuple[Tensor, Tensor]:
        """Weights (C, D) and biases (C,) of the classes' own classifiers."""
        weights, biases = zip(*((one.weight, one.bias) for one in self.classifiers), strict=True)
        return torch.cat(weights), torch.cat(biases)
