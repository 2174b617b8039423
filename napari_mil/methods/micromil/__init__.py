"""MicroMIL: a bag of images without positions, as a graph of the few that stand for the others.

Kim et al., MICCAI 2025 (arXiv 2407.21604). Images are clustered softly, one image is chosen to represent each
cluster, and a small graph network answers from the representatives and their likeness. Shape letters beside
those of the contract: K clusters, which are the nodes of the graph; d width of the projected features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, dropout, leaky_relu

from napari_mil.bag import Bag
from napari_mil.blocks import GraphAttention, draw_gumbel
from napari_mil.errors import ModelError
from napari_mil.labeltree import LabelTree
from napari_mil.methods.micromil.config import COMPAT, PRESETS, SELECT, MicroMILConfig
from napari_mil.methods.micromil.images import SLOPE, Assignment, assign, shares
from napari_mil.mil import (
    MILModel,
    Noise,
    Output,
    Preset,
    Study,
    answered,
    answering,
    as_tensor,
    columns_of,
    mean_answer,
)

#: words of the contract for the ways to choose
MODES = {"clean": "argmax", "official": "stochastic"}
#: scores nearer than this share are equal, and the first of them counts: copies of an image differ by
#: rounding
NEAR = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class ImageGraph:
    """One bag as the graph that answers for it.

    Attributes
    ----------
    assignment : of the images to clusters
    selected : (K,) the image that represents each cluster
    similarity : (K, K) cosines of the representatives
    edges : (K, K) how often there is an edge u → v, the loop of every node included
    attention : per layer (K, K), how much node v takes from u; columns sum to 1
    nodes : (K, hidden) states after the last layer
    logits : (C,)
    contributions : (K, C) what each node adds to the logits, before the published activation
    """

    assignment: Assignment
    selected: Tensor
    similarity: Tensor
    edges: Tensor
    attention: tuple[Tensor, ...]
    nodes: Tensor
    logits: Tensor
    contributions: Tensor


class Centres(nn.Module):
    """Deep cluster embedding (Xie et al. 2016): K trainable centres, Student's t (one degree of freedom)."""

    def __init__(self, clusters: int, width: int) -> None:
        super().__init__()
        self.cluster_centers = nn.Parameter(nn.init.xavier_uniform_(torch.empty(clusters, width)))

    def forward(self, features: Tensor) -> Tensor:
        """(N, d) → (N, K) shares that sum to 1 over the clusters."""
        return shares(features, self.cluster_centers)


class MicroMIL(MILModel):
    """Cluster the images, choose one of each cluster, connect them by likeness, and answer from the graph."""

    name: ClassVar[str] = "micromil"
    paper: ClassVar[str] = (
        "Kim et al.: MicroMIL: graph-based contextual MIL for microscopy images. MICCAI 2025"
    )
    Config: ClassVar[type] = MicroMILConfig
    exceptions: Mapping[str, str] = {
        "tile labels": "images of one cluster answer alike (Answers: class of a tile), so that labels which "
        "part them cannot all be followed"
    }
    notes: Mapping[str, str] = dict.fromkeys(
        ("probability", "class", "lesion"),
        "approximate: every image of a cluster answers as its representative in the graph",
    )
    modes: ClassVar[tuple[str, ...]] = (*MODES, *SELECT)
    parts: ClassVar[Mapping[str, str]] = {"z": "cluster", "score": "cluster"}
    #: the rate in print: at 1e-4, as in code, it does not learn on redundant photographs (docs/benchmarks.md)
    recipe: ClassVar[Mapping[str, Any]] = {"lr": 1e-3, "weight_decay": 1e-6, "epochs": 30, "patience": 10}
    presets: ClassVar[Mapping[str, Preset]] = PRESETS

    def __init__(self, config: MicroMILConfig, in_features: int, tree: LabelTree) -> None:
        super().__init__(config, in_features, tree)
        if config.compat != "clean":
            self.exceptions = {
                **self.exceptions,
                "evidence": "published logits go through an activation, so that they are no sum over images",
            }
        self.whole_epochs = config.compat == "official"
        self._drops = True
        width = config.width or in_features
        self.image_feature = nn.Linear(in_features, width)
        self.dec = Centres(config.clusters, width)
        self.attn = nn.Linear(width, 1)
        widths = [width, *[config.hidden] * config.layers]
        self.layers = nn.ModuleList(map(GraphAttention, widths, widths[1:]))
        self.classify = nn.Linear(config.hidden, self.classes)

    def setting(self, name: str) -> Any:
        """What `compat` stands for; `select` may be set by itself."""
        given = getattr(self.config, name, "preset")
        return COMPAT[self.config.compat][name] if given == "preset" else given

    def assign(self, features: Tensor) -> Assignment:
        """Clusters of a bag (N, D)."""
        return assign(features, self.image_feature, self.dec.cluster_centers, self.attn)

    def graph(
        self,
        features: Tensor,
        *,
        mode: str | None = None,
        seed: int | None = None,
        noise: Noise | None = None,
    ) -> ImageGraph:
        """The graph of a bag (N, D).

        Parameters
        ----------
        mode : argmax, or stochastic: one draw; None: as the model answers, for mc its argmax
        seed : of the draw; None: the configured one
        noise : instead of a draw, {"select": (K, N), "edge": (K, K)} of Gumbel noise
        """
        how = self._mode(mode)
        if how == "stochastic" and noise is None:
            noise = self.draw(len(features), torch.Generator().manual_seed(self._seed(seed)))
        return self._connect(self.assign(self.check(features)), noise)

    def draw(self, images: int, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Noise of one look at a bag, in the published order: K times over the images, then the edges.

        The published code doubles an image that is alone; the second draw is made and not used.
        """
        k, device = self.config.clusters, self.classify.weight.device
        select = draw_gumbel(k, max(images, 2), device, generator)[:, :images]
        return {"select": select, "edge": draw_gumbel(k, k, device, generator)}

    def _connect(self, assigned: Assignment, noise: Noise | None) -> ImageGraph:
        """Choose, connect, pass messages and answer; without noise the best are chosen."""
        selected, q = self._represent(assigned, noise)
        similarity = cosine_similarity(q.detach()[:, None], q.detach()[None], dim=2)
        edges = self._edges(similarity, noise)
        h, attention = q, []
        for layer in self.layers:
            h, weights = layer(h, edges)
            h = leaky_relu(dropout(h, self.config.dropout, self.training and self._drops), SLOPE)
            attention.append(weights)
        logits = self.classify(h.mean(0))
        if self.setting("activate"):
            logits = leaky_relu(logits, SLOPE)
        contributions = h @ self.classify.weight.T / len(h)
        return ImageGraph(assigned, selected, similarity, edges, tuple(attention), h, logits, contributions)

    def _represent(self, assigned: Assignment, noise: Noise | None) -> tuple[Tensor, Tensor]:
        """(K,) images and their (K, d) features, with the gradient of the softmax (straight-through)."""
        score = _noisy(assigned.score.T, noise, "select")
        selected = _first_largest(score)
        return selected, assigned.choice(selected, lambda: torch.softmax(score / self.config.tau, 1))

    def _edges(self, similarity: Tensor, noise: Noise | None) -> Tensor:
        """(K, K) one edge from every node to a neighbour, and every node's loop."""
        k, neighbours = len(similarity), self.setting("neighbours")
        edges = torch.eye(k, device=similarity.device)
        allowed = torch.ones_like(edges, dtype=torch.bool)
        if neighbours != "all":
            allowed = allowed.triu(1) if neighbours == "later" else ~edges.bool()
        liking = _noisy(similarity, noise, "edge").masked_fill(~allowed, -torch.inf)
        to = _first_largest(liking)
        return edges + torch.zeros_like(edges).scatter_(1, to[:, None], 1.0) * allowed.any(1, keepdim=True)

    def forward(self, features: Tensor, cells: Tensor | None = None) -> Output:  # noqa: ARG002
        """Answer for one bag (N, D)."""
        return self._answer(self.check(features), self._mode(None), self.config.seed)

    def _answer(self, x: Tensor, mode: str, seed: int) -> Output:
        assigned = self.assign(x)
        plain = seen = self._connect(assigned, None)
        logits = seen.logits
        if mode == "stochastic":
            seen = self._connect(assigned, self.draw(len(x), torch.Generator().manual_seed(seed)))
            logits = seen.logits
        elif mode == "mc":
            logits = mean_answer(self._vary(assigned, self.config.draws, seed), self.tree)
        cluster = assigned.z.argmax(1)
        counts = torch.bincount(seen.selected, minlength=len(x))
        sums = mode != "mc" and not self.setting("activate")
        return Output(
            logits=self.lifted(logits),
            tile_logits=self.classify(plain.nodes)[cluster],
            attention=self._attention(assigned)[:, None],
            maps={
                "cluster": cluster.int(),
                "representative": counts > 0,
                **(self.named("evidence", _gathered(seen, len(x))) if sums else {}),
            },
            embedding=seen.nodes.mean(0),
        )

    def _attention(self, assigned: Assignment) -> Tensor:
        """(N,) the chance of being chosen, mean over the clusters."""
        return torch.softmax(assigned.score / self.config.tau, 0).mean(1)

    @torch.no_grad()
    def vary(self, features: Tensor, *, draws: int | None = None, seed: int = 0) -> Tensor:
        """(R, C) the answers of R draws of representatives and edges: probabilities, or hazards where the
        task is time.
        """
        with answering(self):
            each = self._vary(self.assign(self.check(features)), draws or self.config.draws, seed)
            return answered(each, self.tree)

    def _vary(self, assigned: Assignment, draws: int, seed: int) -> Tensor:
        """(R, C) logits of R draws."""
        generator, n = torch.Generator().manual_seed(seed), len(assigned.z)
        each = (self._connect(assigned, self.draw(n, generator)).logits for _ in range(draws))
        return torch.stack(list(each))

    def study(
        self,
        features: Tensor,
        cells: Tensor | None,  # noqa: ARG002
        progress: float,
        *,
        generator: torch.Generator | None = None,
        noise: Noise | None = None,
    ) -> Study:
        """Answer from one draw; labels of tiles speak of the graph without noise, which will answer later."""
        self._drops = self.setting("drops_on") or progress == 0
        assigned = self.assign(features)
        seen = self._connect(assigned, self.draw(len(features), generator) if noise is None else noise)
        extra = {}
        if self.config.dec_weight:
            extra["clustering"] = self.config.dec_weight * _clustering(assigned.z)
        return Study((seen.logits,), lambda at: self._tiles(assigned, at), extra, seen)

    def _tiles(self, assigned: Assignment, at: Tensor) -> Tensor:
        """(n, C) t_i: what the node of the most probable cluster says, with the gradient of all clusters'."""
        said = self.classify(self._connect(assigned, None).nodes)
        z = assigned.z[at]
        tiles: Tensor = said[z.argmax(1)] + (z - z.detach()) @ said
        return tiles

    def _mode(self, mode: str | None) -> str:
        how: str = self.setting("select") if mode is None else MODES.get(mode, mode)
        if how not in SELECT:
            raise ModelError(f"micromil chooses images by {', '.join(SELECT)}, not by {mode!r}.")
        return how

    def _seed(self, seed: int | None) -> int:
        return int(self.config.seed if seed is None else seed)

    @torch.no_grad()
    def explain(self, bag: Bag, *, seed: int = 0, mode: str = "clean") -> dict[str, NDArray[Any]]:
        """Which images stand for which, and why: columns over the images; see docs/methods.md.

        Beside the columns of every method, cluster and representative among them: z (N, K), score (N, K),
        selection_probability (N,), selected (N,): the number of clusters represented, in mode mc its mean
        over the draws. Mode mc adds p_mean and p_sd (N, C), mean and standard deviation over the draws of
        the bag's answer, the same in every row. Modes: argmax (clean), stochastic (official), mc, drawn from
        `seed`.
        """
        how, x = self._mode(mode), self.check(as_tensor(self, bag))
        with answering(self):
            out = self._answer(x, how, seed)
            assigned = self.assign(x)
            looks = self.config.draws if how == "mc" else 1
            generator = torch.Generator().manual_seed(seed)
            noises = [None if how == "argmax" else self.draw(len(x), generator) for _ in range(looks)]
            chosen = torch.cat([self._represent(assigned, noise)[0] for noise in noises])
        table = {
            "z": assigned.z,
            "score": assigned.score,
            "selection_probability": out.attention[:, 0],
            "selected": torch.bincount(chosen, minlength=len(x)).float() / looks,
        }
        if how == "mc":
            each = self.vary(x, seed=seed)
            spread = {"p_mean": each.mean(0), "p_sd": each.std(0, correction=0)}
            table |= {name: p.expand(len(x), -1) for name, p in spread.items()}
        return {**columns_of(out, bag, self.tree), **{k: np.asarray(v.cpu()) for k, v in table.items()}}


def _noisy(values: Tensor, noise: Noise | None, name: str) -> Tensor:
    given = (noise or {}).get(name)
    if given is None:
        return values
    if given.shape != values.shape:
        raise ModelError(
            f"micromil: the noise {name!r} has shape {tuple(given.shape)}; {tuple(values.shape)} is expected."
        )
    return values + given.to(values)


def _first_largest(values: Tensor) -> Tensor:
    """(K,) per row the first entry that is the largest, or as large but for rounding."""
    top = values.amax(1, keepdim=True)
    return (values >= top - NEAR * top.abs().clamp_min(1)).int().argmax(1)


def _gathered(seen: ImageGraph, images: int) -> Tensor:
    """(N, C) the contributions of the nodes, at the images that they are."""
    told = seen.contributions
    return told.new_zeros(images, told.shape[1]).index_add(0, seen.selected, told)


def _clustering(z: Tensor) -> Tensor:
    """KL divergence from the sharpened assignment to the assignment (Xie et al. 2016), mean over images."""
    sharp = z.detach().square() / z.detach().sum(0)
    p = sharp / sharp.sum(1, keepdim=True)
    return (p * (p / z).log()).sum(1).mean()
