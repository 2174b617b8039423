"""MHIM-MIL, version 2: a teacher hides the salient tiles, so that the student learns from the hard ones.

Tang et al., IJCV 2025 (arXiv 2509.11526); version 1 in ICCV 2023 (arXiv 2307.15254). At test time only the
student answers, on all tiles, without hiding or recycling any.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.optim.swa_utils import get_ema_multi_avg_fn

from napari_mil.bag import Bag
from napari_mil.blocks import (
    ACTIVATIONS,
    AttentionScores,
    GatedScores,
    GlobalRecycle,
    ceil_count,
    draw_uniform,
    floor_count,
    soft_cross_entropy,
    xavier,
)
from napari_mil.errors import ModelError
from napari_mil.labeltree import LabelTree
from napari_mil.mil import Hiding, MILModel, Noise, Output, Study, answering, as_tensor
from napari_mil.options import option

#: bits of the column `flags`
HIGH_CANDIDATE, HIDDEN_HIGH = 1, 2
INIT = ("none", "projection", "all")


@dataclass(frozen=True, slots=True)
class MHIMConfig:
    """Options of MHIM; the defaults are those of the published commands, in clean numerics."""

    version: int = option(2, "2: class-aware scores and recycling (IJCV 2025)", choices=(2,))
    encoder: str = option("attn", "how tiles are pooled: AB-MIL, plain or gated", choices=("attn", "gated"))
    compat: str = option(
        "clean", "clean: defects mended; official: as published", choices=("clean", "official")
    )
    pure: bool = option(False, "the encoder alone, without teacher, hiding and recycling (stage 1)")
    teacher: bool = option(True, "keep a teacher; without one the model can only answer")
    hidden: int = option(512, "width of the projected features", low=8, high=4096)
    attention_width: int = option(128, "width of the attention layer", low=1, high=4096)
    act: str = option("gelu", "activation after the projection", choices=("gelu", "relu"))
    da_act: str = option("relu", "activation of the attention layer", choices=("relu", "tanh", "gelu"))
    dropout: float = option(0.25, "share of projected features dropped while training", low=0.0, high=0.9)
    heads: int = option(8, "heads of the recycling attention", low=1, high=64)
    mask_ratio: float = option(0.03, "share of tiles hidden for their high score", low=0.0, high=0.95)
    hidden_ratio_random: float = option(
        1.0, "of that many more candidates, the share hidden at random; 1: all", low=0.01, high=1.0
    )
    mask_schedule: str = option("none", "cosine: the hidden share decays to 0", choices=("none", "cosine"))
    keep_ratio: float = option(0.8, "share of the rest seen directly; others are recycled", low=0.0, high=1.0)
    recycle_tokens: int = option(5, "tokens made of recycled tiles; 0: no recycling", low=0, high=64)
    query_momentum: float = option(0.9999, "momentum of the recycling queries", low=0.0, high=1.0)
    ema: float = option(0.9997, "momentum of the teacher", low=0.0, high=1.0)
    ema_schedule: str = option("none", "cosine: the momentum rises to 1", choices=("none", "cosine"))
    consistency: float = option(0.5, "weight of the consistency loss with the teacher", low=0.0, high=100.0)
    temperature: float = option(0.1, "temperature of the teacher's bag vector", low=0.001, high=10.0)
    score: str = option(
        "class",
        "what salience means: confidence of the tile's class, or attention",
        choices=("class", "attention"),
    )
    score_bias: bool = option(False, "add the classifier's bias to the tile's class scores")
    init_student: str = option(
        "none", "what the student takes from stage 1; all suits short trainings", choices=INIT
    )


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """What the teacher sees: score and attention (N,), probability (N, C) of weighted tiles, vector (D,)."""

    score: Tensor
    attention: Tensor
    probability: Tensor
    embedding: Tensor


class _Encoder(nn.Module):
    """Attention pooling: h (N, D) → bag vector (D,) and attention (N, 1)."""

    def __init__(self, config: MHIMConfig) -> None:
        super().__init__()
        width, act = config.attention_width, config.da_act
        self.attention = (
            GatedScores(config.hidden, width, 1, act, bias=False)
            if config.encoder == "gated"
            else AttentionScores(config.hidden, width, act)
        )

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Bag vector and attention."""
        attention = torch.softmax(self.attention(h), 0)
        return (attention.T @ h)[0], attention


class Network(nn.Module):
    """The network that student and teacher share, with the key names of the published checkpoints."""

    def __init__(self, config: MHIMConfig, in_features: int, classes: int) -> None:
        super().__init__()
        self.feature = nn.Sequential(nn.Linear(in_features, config.hidden), ACTIVATIONS[config.act]())
        self.dp = nn.Dropout(config.dropout)
        if config.recycle_tokens and not config.pure:
            self.merge = GlobalRecycle(
                config.hidden,
                config.recycle_tokens,
                heads=config.heads,
                head_width=max(1, config.hidden // 8),
                momentum=config.query_momentum,
                exact=config.compat == "official",
            )
        self.online_encoder = _Encoder(config)
        self.predictor = nn.Linear(config.hidden, classes)
        xavier(self)

    def embed(self, features: Tensor) -> Tensor:
        """(N, D_in) → (N, D) projected features."""
        h: Tensor = self.dp(self.feature(features))
        return h


class MHIM(MILModel):
    """Masked hard-instance mining over attention-based MIL."""

    name: ClassVar[str] = "mhim"
    paper: ClassVar[str] = (
        "Tang et al.: Multiple instance learning framework with masked hard instance mining. IJCV 2025"
    )
    Config: ClassVar[type] = MHIMConfig

    def __init__(self, config: MHIMConfig, in_features: int, tree: LabelTree) -> None:
        super().__init__(config, in_features, tree)
        if config.compat == "official" and not config.pure and config.mask_ratio <= 0:
            raise ModelError(
                f"mhim: mask_ratio is {config.mask_ratio}, which the published code cannot train with; "
                "use compat 'clean' or a positive ratio."
            )
        self.student = Network(config, in_features, self.classes)
        if config.teacher and not config.pure:
            self.teacher = copy.deepcopy(self.student).requires_grad_(requires_grad=False)
            self.train(self.training)

    def forward(self, features: Tensor, cells: Tensor | None = None) -> Output:  # noqa: ARG002
        """Answer of the student for one bag (N, D), on all tiles."""
        h = self.student.embed(self.check(features))
        z, attention = self.student.online_encoder(h)
        classify = self.student.predictor
        tiles = classify(h)
        return Output(
            logits=self.lifted(classify(z)),
            tile_logits=tiles,
            attention=attention,
            maps=self.named("evidence", attention * (tiles - classify.bias)),
            embedding=z,
        )

    def has_teacher(self) -> bool:
        """Whether there is a teacher: not in pure mode, nor in an imported student."""
        return "teacher" in self._modules

    def is_random(self, *, mode: str | None = None) -> bool:
        """Whether dropout acts in the teacher: only as published."""
        return (mode or self.config.compat) == "official" and self.config.dropout > 0

    @torch.no_grad()
    def look(self, features: Tensor) -> Look:
        """What the teacher sees in a bag (N, D), in the mode it is in."""
        net = self._teacher()
        h = net.embed(features)
        z, attention = net.online_encoder(h)
        bias = net.predictor.bias if self.config.score_bias else None
        scores = linear(attention * h, net.predictor.weight, bias)
        if self.config.compat == "clean" and scores.device.type != "mps":
            scores = scores.double()  # in a large bag they differ by less than float32 resolves near 1 / C
        p = torch.softmax(scores, -1)
        salience = p.amax(-1) if self.config.score == "class" else attention[:, 0]
        return Look(salience, attention[:, 0], p, z)

    @torch.no_grad()
    def salience(self, features: Tensor, *, mode: str | None = None, seed: int = 0) -> Tensor:
        """(N,) the teacher's score, outside training: see HidesTiles."""
        with self._teacher_mode(seed, random=self.is_random(mode=mode)):
            return self.look(self.check(features)).score

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
        """Part the tiles by a score (N,): the most salient hidden, of the rest a share kept, the others
        recycled.

        Parameters
        ----------
        mask_ratio, keep_ratio : instead of the configured ones, which follow the schedule at `progress`
        generator : source of the draws
        noise : instead of the draws: "high" (candidates,) and "grn" (tiles left,), ordered by argsort
        """
        noise = noise or {}
        ratio = self._ratio_at(progress) if mask_ratio is None else mask_ratio
        keep = self.config.keep_ratio if keep_ratio is None else keep_ratio
        candidates, hidden = self._high(score, ratio, generator, noise.get("high"))
        shown = torch.ones_like(score, dtype=torch.bool)
        shown[hidden] = False
        left = shown.nonzero()[:, 0]
        if len(score) == 1:  # one tile alone is neither hidden nor recycled
            keep = 1.0
        kept, recycled = self._split(left, keep, generator, noise.get("grn"))
        tokens = self.config.recycle_tokens if len(recycled) else 0
        return Hiding(hidden, kept, recycled, candidates, tokens)

    def _ratio_at(self, progress: float) -> float:
        """The share hidden for a high score at a progress in [0, 1]."""
        ratio: float = self.config.mask_ratio
        steady = self.config.mask_schedule == "none"
        return ratio if steady else ratio * (1 + math.cos(math.pi * progress)) / 2

    def _high(
        self, score: Tensor, ratio: float, generator: torch.Generator | None, noise: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Candidates and, of them, the hidden: most salient first. One tile at least is left."""
        n, exact, rho = len(score), self.config.compat == "official", self.config.hidden_ratio_random
        wide = ratio / rho
        if wide > 1:
            rho, wide = ratio, 1.0
        count = min(n, max(0, ceil_count(n, wide, exact=exact))) if n > 1 else 0
        if exact:
            candidates = torch.topk(score, count).indices
        else:  # equal scores: the lower index first, on every device
            candidates = torch.sort(score, descending=True, stable=True).indices[:count]
        hidden = candidates
        if rho < 1 and count:
            if noise is not None:
                order = torch.argsort(noise.to(score.device))
            else:
                order = _permutation(count, score.device, generator)
            hidden = candidates[order[: ceil_count(count, rho, exact=exact)]]
        return candidates, hidden[: n - 1]

    def _split(
        self, left: Tensor, keep: float, generator: torch.Generator | None, noise: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Of the tiles left, those kept and those recycled."""
        n, exact = len(left), self.config.compat == "official"
        count = min(n, floor_count(n, keep, exact=exact))
        if not self.config.recycle_tokens or count == n:
            return left, left[:0]
        draw = draw_uniform(n, left.device, generator) if noise is None else noise.to(left.device)
        order = torch.argsort(draw)
        kept, recycled = left[order[:count]], left[order[count:]]
        return (kept, recycled) if exact else (kept.sort().values, recycled)

    def _teacher(self) -> Network:
        if not self.has_teacher():
            raise ModelError(
                "mhim: this model has no teacher, so it hides no tiles and cannot be trained further; "
                "load a checkpoint that holds one, or train a new model."
            )
        return self.teacher

    @contextmanager
    def _teacher_mode(self, seed: int, *, random: bool) -> Iterator[None]:
        """The teacher with or without dropout, drawn from `seed`; the global generators stay as they were."""
        net = self._teacher()
        was = net.training
        try:
            net.train(random)
            with torch.random.fork_rng(range(torch.cuda.device_count()), enabled=random):
                if random:
                    torch.manual_seed(seed)
                yield
        finally:
            net.train(was)

    def train(self, mode: bool = True) -> MHIM:
        """Training mode; the teacher takes part in it only as published."""
        super().train(mode)
        if self.has_teacher() and self.config.compat == "clean":
            self.teacher.eval()
        return self

    def study(
        self,
        features: Tensor,
        cells: Tensor | None,  # noqa: ARG002
        progress: float,
        *,
        generator: torch.Generator | None = None,
        noise: Noise | None = None,
    ) -> Study:
        """Teacher on all tiles, student on what is left: classify, and agree with the teacher."""
        net = self.student
        if self.config.pure:
            h = net.embed(features)
            return Study((net.predictor(net.online_encoder(h)[0]),), lambda at: net.predictor(h[at]))
        seen = self.look(features)
        h = net.embed(features)
        part = self.hide(seen.score, progress=progress, generator=generator, noise=noise)
        tokens = h[part.kept]
        if part.tokens:
            tokens = torch.cat([tokens, net.merge(h[part.recycled], follow=self.training)])
        z, _ = net.online_encoder(tokens)
        extra = {}
        if self.config.consistency:
            agree = soft_cross_entropy(z, seen.embedding, self.config.temperature)
            extra["consistency"] = self.config.consistency * agree
        return Study((net.predictor(z),), lambda at: net.predictor(h[at]), extra, part)

    def after_step(self, progress: float) -> None:
        """The teacher follows: θ_t ← m θ_t + (1 − m) θ_s."""
        if not self.has_teacher():
            return
        m = self.config.ema
        if self.config.ema_schedule == "cosine":
            m = 1 + (m - 1) * (1 + math.cos(math.pi * progress)) / 2
        follow = get_ema_multi_avg_fn(m)  # type: ignore[no-untyped-call]
        follow([p.data for p in self.teacher.parameters()], [p.data for p in self.student.parameters()], None)

    def stage1(self) -> MILModel | None:
        """The same encoder, trained plainly; its weights start the teacher."""
        if self.config.pure:
            return None
        return MHIM(replace(self.config, pure=True), self.in_features, self.tree)

    def start_from(self, trained: MILModel) -> None:
        """The teacher takes the stage-1 weights; the student what `init_student` says (as published: no)."""
        if not (isinstance(trained, MHIM) and trained.config.encoder == self.config.encoder):
            raise ModelError(f"mhim starts from its own stage 1, not from {trained.name}.")
        weights = trained.student.state_dict()
        self._teacher().load_state_dict(weights, strict=False)
        if self.config.init_student == "all":
            self.student.load_state_dict(weights, strict=False)
        elif self.config.init_student == "projection":
            self.student.feature.load_state_dict(trained.student.feature.state_dict())

    @torch.no_grad()
    def explain(self, bag: Bag, *, seed: int = 0, mode: str = "clean") -> dict[str, NDArray[Any]]:
        """What training would hide of this bag, and why: columns over the tiles; see docs/methods.md.

        Beside the columns of every method: teacher_score, score_rank (0 the highest), teacher_attention,
        student_attention, p (N, C), flags (1 candidate, 2 hidden), role (0 left, 1 hidden, 2 recycled). Mode
        "official" lets the teacher's dropout act, drawn from `seed`. Without a teacher only the student
        speaks.
        """
        columns = super().explain(bag, seed=seed, mode=mode)
        columns["student_attention"] = columns["attention"]
        if not self.has_teacher():
            return columns
        x = as_tensor(self, bag)
        with answering(self), self._teacher_mode(seed, random=self.is_random(mode=mode)):
            seen = self.look(x)
        part = self.hide(seen.score, generator=torch.Generator().manual_seed(seed))
        flags, role, rank = (torch.zeros(len(bag), dtype=torch.int32) for _ in range(3))
        flags[part.candidates.cpu()] |= HIGH_CANDIDATE
        flags[part.hidden.cpu()] |= HIDDEN_HIGH
        role[part.hidden.cpu()], role[part.recycled.cpu()] = 1, 2
        order = torch.sort(seen.score, descending=True, stable=True).indices.cpu()
        rank[order] = torch.arange(len(bag), dtype=torch.int32)
        table = {
            "teacher_score": seen.score.float(),
            "score_rank": rank,
            "teacher_attention": seen.attention,
            "p": seen.probability.float(),
            "flags": flags,
            "role": role.to(torch.int8),
        }
        return {**columns, **{k: np.asarray(v.cpu()) for k, v in table.items()}}


def _permutation(n: int, device: torch.device, generator: torch.Generator | None) -> Tensor:
    where = generator.device if generator is not None else device
    return torch.randperm(n, device=where, generator=generator).to(device)
