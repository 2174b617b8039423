"""HMIL: coarse and fine answers from one bag, aligned with each other.

Jin et al., IEEE TMI 2025 (arXiv 2411.07660). One scalar head per level is shared by all classes of the
level: class identity enters through class-wise attention alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, linear, normalize

from napari_mil.blocks import Dropout, GatedScores, Head, Rows, kaiming, part, whole
from napari_mil.correction import Target
from napari_mil.errors import ModelError
from napari_mil.labeltree import LabelTree, Survival
from napari_mil.methods.hmil.config import COMPAT, PRESETS, HMILConfig
from napari_mil.mil import MILModel, Noise, Output, Preset, Study


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """One bag seen once.

    Attributes
    ----------
    coarse_attention, fine_attention, fine_scores : (N, K_c), (N, K_f), its scores before the softmax
    coarse_told, fine_told : (N, 1) what the heads say of each tile, the fine one without its bias
    coarse_logits, fine_logits : (K_c,), (K_f,)
    coarse_presence, fine_presence : (K_c,), (K_f,) log of the mean over tiles of exp(attention score)
    z : (K_f, 256) normalised class vectors
    """

    coarse_attention: Tensor
    fine_attention: Tensor
    coarse_told: Tensor
    fine_told: Tensor
    coarse_logits: Tensor
    fine_logits: Tensor
    z: Tensor
    fine_scores: Tensor
    coarse_presence: Tensor
    fine_presence: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Terms:
    """The unweighted losses of a batch; None where no label speaks for one."""

    coarse: Tensor | None
    fine: Tensor | None
    bag_alignment: Tensor | None
    instance_alignment: Tensor | None
    contrast: Tensor | None
    presence: Tensor | None


class HMIL(MILModel):
    """Hierarchical MIL with class-wise attention at the two finest levels of the tree."""

    name: ClassVar[str] = "hmil"
    paper: ClassVar[str] = (
        "Jin et al.: HMIL: hierarchical multi-instance learning for fine-grained WSI. TMI 2025"
    )
    Config: ClassVar[type] = HMILConfig
    exceptions: Mapping[str, str] = {
        "flat tree": "each fine class needs a coarse parent; a flat tree is refused with a ModelError"
    }
    contrasts_bags: ClassVar[bool] = True
    #: the published rate, one bag per step: 64 would be one or two steps per epoch in a small study, and with
    #: higher rates or larger batches the classes share their attention, so that few tiles are called
    recipe: ClassVar[Mapping[str, Any]] = {
        "lr": 1e-4,
        "weight_decay": 0.0,
        "batch_bags": 1,
        "epochs": 25,
        "patience": 25,
    }

    presets: ClassVar[Mapping[str, Preset]] = PRESETS
    #: no grid was published; these are the values that methods.md §4.7 suggests
    grid: ClassVar[Mapping[str, Sequence[Any]]] = {
        "lr": (5e-5, 1e-4, 2e-4),
        "epochs": (100, 200),
        "batch_bags": (16, 32, 64),
    }

    def __init__(self, config: HMILConfig, in_features: int, tree: LabelTree) -> None:
        super().__init__(config, in_features, tree)
        if isinstance(tree, Survival):
            raise ModelError(
                "hmil learns labels of two levels, and intervals of time have one; choose abmil or mhim."
            )
        if tree.levels < 2:
            raise ModelError(
                "hmil learns a coarse and a fine level, and this label tree has one; "
                "group its labels under coarser ones, or choose abmil or mhim."
            )
        self.whole_epochs = config.compat == "official"
        wide, small, tiny = config.hidden, config.hidden // 4, config.hidden // 16
        coarse, fine = len(tree.nodes_at(tree.levels - 2)), self.classes
        self.feature_extractor = nn.Sequential(
            nn.Linear(in_features, small), nn.ReLU(), nn.Linear(small, wide)
        )
        self.feature_reducer = nn.Sequential(nn.Linear(wide, small))
        drop = config.dropout
        self.coarse_attention = nn.Sequential(
            GatedScores(wide, small, coarse, "tanh", bias=True, dropout=drop)
        )
        self.fine_attention = nn.Sequential(GatedScores(small, tiny, fine, "tanh", bias=True, dropout=drop))
        self.coarse_classifier = nn.Linear(wide, 1)
        self.fine_classifier = nn.Linear(small, 1)
        self.lift: Tensor
        self.register_buffer("lift", torch.from_numpy(tree.lift_matrix(tree.levels - 2)), persistent=False)
        self._fine_class = {leaf: k for k, leaf in enumerate(tree.leaves)}
        kaiming(self)

    def setting(self, name: str) -> str:
        """The value of an option, from the preset of `compat` where it is left to that."""
        value: str = getattr(self.config, name)
        return COMPAT[self.config.compat][name] if value == "preset" else value

    def look(self, features: Tensor) -> Look:
        """Both levels of a bag (N, D), its attention computed once, a few tiles at a time.

        The coarse features h1 = W r + b are read by linear layers and sums alone: r, a quarter as wide, is
        all that is made of a tile, and of many tiles these layers are joined with W. Both are the same but
        for rounding, which the sum over chunks changes as well.
        """
        layer, act, _ = self.feature_extractor
        rows = Rows(features, None, layer, act, Dropout(0.0))  # type: ignore[arg-type]
        parts = rows.each(*self._head(joined=len(features) > self.config.hidden))
        coarse, fine = whole([p[:2] for p in parts]), whole([p[2:4] for p in parts])
        coarse_scores, fine_scores = (torch.cat([p[k] for p in parts]) for k in (0, 2))
        n = math.log(len(features))
        return Look(
            coarse_attention=coarse.attention,
            fine_attention=fine.attention,
            coarse_told=torch.cat([p[4] for p in parts]),
            fine_told=torch.cat([p[5] for p in parts]),
            coarse_logits=self.coarse_classifier(self.feature_extractor[2](coarse.vector))[:, 0],
            fine_logits=self.fine_classifier(fine.vector)[:, 0],
            z=normalize(fine.vector, dim=1),
            fine_scores=fine_scores,
            coarse_presence=torch.logsumexp(coarse_scores, 0) - n,
            fine_presence=torch.logsumexp(fine_scores, 0) - n,
        )

    def _head(self, *, joined: bool) -> tuple[Head, list[Tensor]]:
        """What tells of r (n, 256) scores and vectors of both levels, and what the heads say of each tile;
        and the tensors that it reads.
        """
        attend: GatedScores = self.coarse_attention[0]  # type: ignore[assignment]
        extend: nn.Linear = self.feature_extractor[2]  # type: ignore[assignment]
        readers: list[Any] = [self.feature_reducer[0], attend.attention_a[0], attend.attention_b[0]]
        readers.append(self.coarse_classifier)
        layers = [_joined(one, extend) if joined else (one.weight, one.bias) for one in readers]

        def head(r: Tensor) -> tuple[Tensor, ...]:
            h1 = r if joined else extend(r)
            h2, a, b, told = (linear(h1, *layer) for layer in layers)
            coarse = part(r, lambda _: attend.gated(a, b))
            fine = part(h2, self.fine_attention)
            return *coarse, *fine, told, linear(h2, self.fine_classifier.weight)

        alone = [self.fine_attention, self.fine_classifier, attend.attention_c, *([] if joined else [extend])]
        return head, [*chain(*layers), *(p for module in alone for p in module.parameters())]

    def forward(self, features: Tensor, cells: Tensor | None = None) -> Output:  # noqa: ARG002
        """Answer for one bag (N, D): the two finest levels by their own heads, coarser ones lifted."""
        seen = self.look(self.check(features))
        bias = self.coarse_classifier.bias
        return Output(
            logits=(*self.lifted(seen.coarse_logits, level=-2), seen.fine_logits),
            tile_logits=seen.fine_scores - seen.fine_presence,
            attention=seen.fine_attention,
            maps={
                **self.named("attention", seen.coarse_attention, level=-2),
                **self.named("evidence", seen.coarse_attention * (seen.coarse_told - bias), level=-2),
                **self.named("evidence", seen.fine_attention * seen.fine_told),
                "disagreement": 1 - self._consistency(seen),
            },
            embedding=seen.z.flatten(),
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
        """Look once; the losses are taken over the batch.

        t_i is a tile's score less the log of the mean of its exponentials over the bag. When labels of tiles
        are learned, that term moves as the plain mean of the scores: its true gradient takes attention from
        the other tiles that have it, and tiles of the same kind that nobody labelled would lose their class
        for the sake of those that somebody did.
        """
        seen = self.look(features)
        plain = seen.fine_scores.mean(0)
        mean = plain + (seen.fine_presence - plain).detach()
        return Study(
            (seen.coarse_logits, seen.fine_logits), lambda at: seen.fine_scores[at] - mean, seen=seen
        )

    def slide_losses(
        self,
        studies: Sequence[Study],
        targets: Sequence[Target],
        progress: float,
        weights: Sequence[float] | None,
    ) -> dict[str, Tensor]:
        """The five terms of HMIL, weighted by the curriculum, and presence; none of weight 0."""
        terms = self.terms(studies, targets, progress, weights)
        alpha = self.alpha(progress)
        share = {
            "coarse": alpha,
            "fine": 1.0,
            "bag_alignment": alpha if self.config.compat == "paper" else 1.0,
            "instance_alignment": alpha if self.setting("use_instance_alignment") == "yes" else 0.0,
            "contrast": 1 - alpha,
            "presence": self.config.presence_weight,
        }
        values = {name: getattr(terms, name) for name in share}
        return {n: w * values[n] for n, w in share.items() if w > 0 and values[n] is not None}

    def alpha(self, progress: float) -> float:
        """Weight of the coarse terms: 1 − e² as in the code, 1 − e as in print, e the progress in [0, 1]."""
        return 1 - progress if self.setting("alpha_schedule") == "linear" else 1 - progress**2

    def temperature(self, progress: float) -> float:
        """τ of the contrast: 0.1, or falling from 1 to 0.1 and back as in the code."""
        if self.setting("tau") == "const":
            return 0.1
        return 0.1 + 0.9 * (1 + math.cos(2 * math.pi * progress)) / 2

    def terms(
        self,
        studies: Sequence[Study],
        targets: Sequence[Target],
        progress: float,
        weights: Sequence[float] | None = None,
    ) -> Terms:
        """The unweighted losses of a batch of bags that `study` has seen."""
        nodes = [t.slide for t in targets]
        factor = studies[0].logits[0].new_tensor(weights or [1.0] * len(nodes))
        known = [i for i, node in enumerate(nodes) if node]
        leaves = [i for i in known if nodes[i] in self._fine_class]
        labels, fine_labels = [nodes[i] for i in known], [nodes[i] for i in leaves]
        coarse = fine = bag_alignment = contrast = None
        if known:
            coarse_logits = torch.stack([studies[i].logits[0] for i in known])
            fine_logits = torch.stack([studies[i].logits[1] for i in known])
            coarse = (self.node_nll(coarse_logits, labels, level=-2) * factor[known]).mean()
            bag_alignment = (self._alignment(fine_logits, labels) * factor[known]).mean()
        if leaves:
            fine_logits = torch.stack([studies[i].logits[1] for i in leaves])
            fine = (self.node_nll(fine_logits, fine_labels) * factor[leaves]).mean()
            vectors = torch.stack([studies[i].seen.z for i in leaves])
            contrast = self._contrast(vectors, fine_labels, self.temperature(progress))
        instance = torch.stack([(1 - self._consistency(s.seen)).mean() for s in studies]).mean()
        presence = self._presence(studies, nodes, factor) if known else None
        return Terms(coarse, fine, bag_alignment, instance, contrast, presence)

    def _presence(self, studies: Sequence[Study], nodes: Sequence[int], factor: Tensor) -> Tensor:
        """Cross-entropy of what the rows of each level say of how much there is of their classes, summed."""
        told = []
        for level, name in ((-2, "coarse_presence"), (-1, "fine_presence")):
            known = [i for i, node in enumerate(nodes) if (node in self._fine_class if level == -1 else node)]
            if known:
                said = torch.stack([getattr(studies[i].seen, name) for i in known])
                nll = self.node_nll(said, [nodes[i] for i in known], level=level)
                told.append((nll * factor[known]).mean())
        return torch.stack(told).sum()

    def _consistency(self, seen: Look) -> Tensor:
        """(N,) cosine of a tile's coarse attention with its lifted fine attention; in [0, 1]."""
        n = len(
            seen.coarse_attention
        )  # a factor of N keeps the tiny numbers of large bags above the cosine's ε
        return cosine_similarity(n * seen.coarse_attention, n * seen.fine_attention @ self.lift, dim=1)

    def _alignment(self, fine: Tensor, nodes: Sequence[int]) -> Tensor:
        """(B,) how badly the lifted fine answers (B, K_f) meet the coarse labels.

        The published code takes the lifted probabilities for logits, so that its minimum is not 0; clean is
        the negative logarithm of the mass under the label's coarse node.
        """
        if self.setting("align_form") == "double_softmax":
            return self.node_nll(torch.softmax(fine, -1) @ self.lift, nodes, level=-2)
        level = self.tree.levels - 2
        return self.node_nll(fine, [self.tree.at_level(n, level) or n for n in nodes])

    def _contrast(self, vectors: Tensor, nodes: Sequence[int], tau: float) -> Tensor:
        """Supervised contrast of class vectors (B, K_f, D): those of bags with one fine label attract."""
        bags = len(vectors)
        label = torch.tensor([self._fine_class[n] for n in nodes], device=vectors.device)
        if self.setting("scl_views") == "true_class":
            z = vectors[torch.arange(bags, device=vectors.device), label]
        else:
            z, label = vectors.flatten(0, 1), label.repeat_interleave(vectors.shape[1])
        likeness = z @ z.T / tau
        likeness = likeness - likeness.amax(1, keepdim=True).detach()
        others = ~torch.eye(len(z), dtype=torch.bool, device=z.device)
        log_share = likeness - torch.log((likeness.exp() * others).sum(1, keepdim=True) + 1e-6)
        alike = (label[:, None] == label) & others
        anchors = -(log_share * alike).sum(1) / (alike.sum(1) + 1e-6) * (tau / 0.1)
        return anchors.mean() / (bags if self.config.compat == "official" else 1)


def _joined(one: nn.Linear, extend: nn.Linear) -> tuple[Tensor, Tensor]:
    """Weight and bias of a linear layer behind another one."""
    with torch.autocast(one.weight.device.type, enabled=False):
        return one.weight @ extend.weight, linear(extend.bias, one.weight, one.bias)
