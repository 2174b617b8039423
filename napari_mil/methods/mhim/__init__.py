"""MHIM-MIL: a teacher hides the salient tiles, so that the student learns from the hard ones.

Version 2: Tang et al., IJCV 2025 (arXiv 2509.11526); version 1: ICCV 2023 (arXiv 2307.15254). At test time
only the student answers, on all tiles, without hiding or recycling any.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from napari_mil.bag import Bag
from napari_mil.blocks import Hiding, Pooled, hiding, soft_cross_entropy
from napari_mil.correction import Target
from napari_mil.device import working
from napari_mil.errors import ModelError
from napari_mil.labeltree import LabelTree
from napari_mil.methods.mhim.config import GRID, PRESETS, MHIMConfig
from napari_mil.methods.mhim.network import Network
from napari_mil.methods.mhim.seen import Look, Step
from napari_mil.mil import MILModel, Noise, Output, Preset, Study, answering, as_tensor, mean_answer

#: bits of the column `flags`; version 1 may hide a tile for several reasons
HIGH_CANDIDATE, HIDDEN_HIGH, HIDDEN_LOW, HIDDEN_RANDOM = 1, 2, 4, 8


class MHIM(MILModel):
    """Masked hard-instance mining over attention-based MIL."""

    name: ClassVar[str] = "mhim"
    paper: ClassVar[str] = (
        "Tang et al.: Multiple instance learning framework with masked hard instance mining. IJCV 2025"
    )
    Config: ClassVar[type] = MHIMConfig
    presets: ClassVar[Mapping[str, Preset]] = PRESETS
    grid: ClassVar[Mapping[str, Sequence[Any]]] = GRID
    bf16: ClassVar[bool] = True

    def __init__(self, config: MHIMConfig, in_features: int, tree: LabelTree) -> None:
        super().__init__(config, in_features, tree)
        if config.compat == "official" and not config.pure and config.mask_ratio <= 0:
            raise ModelError(
                f"mhim: mask_ratio is {config.mask_ratio}, which the published code cannot train with; "
                "use compat 'clean' or a positive ratio."
            )
        self.student = Network(config, in_features, self.classes)
        self.exceptions = self.student.online_encoder.exceptions
        self.notes = self.student.online_encoder.notes
        if config.teacher and not config.pure:
            self.teacher = copy.deepcopy(self.student).requires_grad_(requires_grad=False)
            self.train(self.training)

    def forward(self, features: Tensor, cells: Tensor | None = None) -> Output:  # noqa: ARG002
        """Answer of the student for one bag (N, D), on all tiles."""
        net = self.student
        pooler = net.online_encoder
        pooled = pooler.survey(net.rows(self.check(features)), net.predictor)
        evidence = pooler.evidence(pooled, net.predictor)
        return Output(
            logits=self.lifted(self._answer(pooled)),
            tile_logits=pooler.tiles(pooled, net.predictor),
            attention=pooled.attention,
            maps=pooler.maps(pooled)
            | ({} if evidence is None else self.named(pooler.evidence_name, evidence)),
            embedding=pooled.vector.flatten(),
            columns=pooler.columns(pooled),
        )

    def _answer(self, pooled: Pooled) -> Tensor:
        """(C,) the mean of the encoder's voices: of their logits, in version 1 of their probabilities, or of
        their hazards where the task is time.
        """
        voices = torch.stack(self.student.online_encoder.logits(pooled, self.student.predictor))
        if self.config.version == 1 and len(voices) > 1:
            return mean_answer(voices, self.tree)
        return voices.mean(0)

    def has_teacher(self) -> bool:
        """Whether there is a teacher: not in pure mode, nor in an imported student."""
        return "teacher" in self._modules

    def is_random(self, *, mode: str | None = None) -> bool:
        """Whether dropout acts in the teacher: only as published."""
        net = self.student
        drops = any(isinstance(m, nn.Dropout) and m.p > 0 for m in (net.dp, *net.online_encoder.modules()))
        return (mode or self.config.compat) == "official" and drops

    @torch.no_grad()
    def look(self, features: Tensor) -> Look:
        """What the teacher sees in a bag (N, D), in the mode it is in. Under autocast its projections are in
        bfloat16, unless they are as published; scores of tiles never, which it does not tell apart.
        """
        net = self._teacher()
        pooler, bias = net.online_encoder, net.predictor.bias if self.config.score_bias else None
        device, clean = features.device.type, self.config.compat == "clean"
        with torch.autocast(device, enabled=clean and torch.is_autocast_enabled(device)):
            pooled = pooler.survey(net.rows(features), net.predictor, maps=False)
        with torch.autocast(device, enabled=False):
            scores = pooler.confidence(pooled, net.predictor, bias)
        if clean and device != "mps":
            scores = scores.double()  # in a large bag they differ by less than float32 resolves near 1 / C
        score = pooler.salience(scores) if self._by_class else pooler.looks(pooled)
        return Look(score, pooled.attention.mean(1), torch.softmax(scores, -1), pooled.vector)

    @property
    def _by_class(self) -> bool:
        """Whether tiles are ranked by their class: version 1 does so only where there is no other score."""
        config: MHIMConfig = self.config
        return config.score == "class" if config.version == 2 else config.encoder == "dsmil"

    @torch.no_grad()
    def salience(self, features: Tensor, *, mode: str | None = None, seed: int = 0) -> Tensor:
        """(N,) or (H, N) the teacher's score, outside training: see HidesTiles."""
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
        """Part the tiles by a score (N,) or (H, N): the most salient hidden, of the rest a share kept, the
        others recycled. Version 1 hides low and random ones as well, and recycles none.

        Parameters
        ----------
        mask_ratio, keep_ratio : instead of the configured ones, which follow the schedule at `progress`
        generator : source of the draws
        noise : instead of the draws: "random" (N,), "high" (candidates,) and "grn" (tiles left,), ordered by
            argsort
        """
        config, noise, n = self.config, noise or {}, score.shape[-1]
        exact = config.compat == "official"
        ratio = self._ratio_at(progress) if mask_ratio is None else mask_ratio
        draw: dict[str, Any] = {"generator": generator, "exact": exact}
        random = low = torch.empty(0, dtype=torch.long, device=score.device)
        if config.version == 1:
            random = hiding.at_random(
                n, config.random_mask_ratio, score.device, noise=noise.get("random"), **draw
            )
            low = hiding.low(score, config.low_mask_ratio, exact=exact, fusion=config.fusion)
        candidates, hidden = hiding.high(
            score, ratio, config.hidden_ratio_random, noise=noise.get("high"), fusion=config.fusion, **draw
        )
        left = hiding.remaining(n, [random, low, hidden], exact=exact)
        if not len(left):  # the student must see something: the last that any mask hid
            left = torch.cat([random, low, hidden])[-1:]
            random, low, hidden = (mask[mask != left] for mask in (random, low, hidden))
        keep = config.keep_ratio if keep_ratio is None else keep_ratio
        kept, recycled = left, left[:0]
        if n > 1 and config.version == 2 and config.recycle_tokens:
            kept, recycled = hiding.split(left, keep, noise=noise.get("grn"), **draw)
        tokens = config.recycle_tokens if len(recycled) else 0
        return Hiding(hidden, kept, recycled, candidates, tokens, low, random)

    def _ratio_at(self, progress: float) -> float:
        """The share hidden for a high score at a progress in [0, 1]."""
        ratio: float = self.config.mask_ratio
        if not 0 <= progress <= 1:
            raise ModelError(f"progress is {progress}; it is the share of a training and must lie in [0, 1].")
        steady = self.config.mask_schedule == "none"
        return ratio if steady else ratio * (1 + math.cos(math.pi * progress)) / 2

    def _teacher(self) -> Network:
        if not self.has_teacher():
            raise ModelError(
                "mhim: this model has no teacher, so it hides no tiles and cannot be trained further; "
                "load a checkpoint that holds one, or train a new model."
            )
        return self.teacher

    def taught(self) -> MHIM | None:
        """The same model with the teacher answering in its student's place, the weights shared, where both
        are judged as published (methods.md §3.8); else None.
        """
        if not self.has_teacher() or self.config.compat != "official":
            return None
        twin = copy.copy(self)
        vars(twin)["_modules"] = {"student": self.teacher}  # a copy shares the table of its parts
        return twin

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
        net, pooler = self.student, self.student.online_encoder
        if self.config.compat == "clean":
            features = working(features)  # rounded once, in place of at every look
        if self.config.pure:
            pooled = pooler.stream(net.rows(features))
            voices = pooler.logits(pooled, net.predictor)
            return Study(
                (torch.stack(voices).mean(0),),
                lambda at: (
                    net.tiles(features, at) if pooler.alone else pooler.tiles(pooled, net.predictor)[at]
                ),
                seen=Step(voices),
            )
        seen = self.look(features)
        part = self.hide(seen.score, progress=progress, generator=generator, noise=noise)
        pooled = self._student(features, part)
        voices, extra = pooler.logits(pooled, net.predictor), {}
        if self.config.consistency:
            agree = soft_cross_entropy(pooled.vector, seen.embedding, self.config.temperature)
            extra["consistency"] = self.config.consistency * agree
        return Study(
            (torch.stack(voices).mean(0),),
            lambda at: net.tiles(features, at),
            extra,
            Step(voices, seen, part),
        )

    def _student(self, features: Tensor, part: Hiding) -> Pooled:
        """What the student makes of the kept tiles, and of tokens of the recycled ones where there are some.

        The published code projects all tiles, then hides. What is hidden needs no projection, and what is
        seen is projected a few tiles at a time: the answers and gradients are the same.
        """
        net, tokens = self.student, None
        if part.tokens:
            tokens = net.merge(net.rows(features, part.recycled).all(), follow=self.training)
        return net.online_encoder.stream(net.rows(features, part.kept), tokens)

    def slide_losses(
        self,
        studies: Sequence[Study],
        targets: Sequence[Target],
        progress: float,
        weights: Sequence[float] | None,
    ) -> dict[str, Tensor]:
        """The loss of the mean of the encoder's voices; in version 1 the mean of their losses."""
        if self.config.version == 2:
            return super().slide_losses(studies, targets, progress, weights)
        each = [
            super(MHIM, self).slide_losses(
                [replace(s, logits=(s.seen.voices[k],)) for s in studies], targets, progress, weights
            )
            for k in range(len(studies[0].seen.voices))
        ]
        return {name: torch.stack([losses[name] for losses in each]).mean() for name in each[0]}

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
        """The teacher takes the stage-1 weights, the student what `init_student` says."""
        if not (isinstance(trained, MHIM) and trained.config.encoder == self.config.encoder):
            raise ModelError(f"mhim starts from its own stage 1, not from {trained.name}.")
        weights = trained.student.state_dict()
        self._teacher().load_state_dict(weights, strict=False)
        if self.config.init_student == "all":
            self.student.load_state_dict(weights, strict=False)
        elif self.config.init_student == "projection":
            self.student.feature.load_state_dict(trained.student.feature.state_dict())

    @torch.no_grad()
    def explain(
        self, bag: Bag, *, seed: int = 0, mode: str = "clean", progress: float = 0.0
    ) -> dict[str, NDArray[Any]]:
        """What training would hide of this bag, and why: columns over the tiles; see docs/methods.md.

        Beside the columns of every method: teacher_score, score_rank (0 the highest), teacher_attention,
        student_attention, p (N, C), flags (1 candidate, 2 hidden, 4 low, 8 random), role (masks.ROLES); where
        tiles can be recycled token_attention (N, k), how strongly a tile feeds each recycled token, and
        recycle_attention (N,), the sum over the tokens, 0 where it is not recycled. Mode "official" lets the
        teacher's dropout act, drawn from `seed`. A scheduled mask_ratio is that at `progress`, the share of
        the training that is done. Without a teacher only the student speaks.
        """
        columns = super().explain(bag, seed=seed, mode=mode)
        columns["student_attention"] = columns["attention"]
        if not self.has_teacher():
            return columns
        x = as_tensor(self, bag)
        with answering(self), self._teacher_mode(seed, random=self.is_random(mode=mode)):
            seen = self.look(x)
        part = self.hide(seen.score, progress=progress, generator=torch.Generator().manual_seed(seed))
        score = seen.score if seen.score.ndim == 1 else seen.score.mean(0)
        rank = torch.empty(len(bag), dtype=torch.int32)
        order = torch.sort(score, descending=True, stable=True).indices.cpu()
        rank[order] = torch.arange(len(bag), dtype=torch.int32)
        table = {
            "teacher_score": score.float(),
            "score_rank": rank,
            "teacher_attention": seen.attention,
            "p": seen.probability.float(),
            "flags": _flags(part, len(bag)),
            "role": part.roles(len(bag)),
            **self._recycled(x, part),
        }
        return {**columns, **{k: np.asarray(v.cpu()) for k, v in table.items()}}

    def _recycled(self, features: Tensor, part: Hiding) -> dict[str, Tensor]:
        """How strongly the tiles of a bag feed the recycled tokens; {} where there never are tokens."""
        net = self.student
        if not hasattr(net, "merge"):
            return {}
        fed = features.new_zeros(len(features), self.config.recycle_tokens)
        if part.tokens:
            with answering(self):
                fed[part.recycled] = net.merge.attention(net.rows(features, part.recycled).all()).T
        return {"token_attention": fed, "recycle_attention": fed.sum(1)}


def _flags(part: Hiding, tiles: int) -> Tensor:
    """(N,) int32 every reason for which a tile is hidden, as bits."""
    flags = torch.zeros(tiles, dtype=torch.int32)
    reasons = (
        (part.candidates, HIGH_CANDIDATE),
        (part.hidden, HIDDEN_HIGH),
        (part.low, HIDDEN_LOW),
        (part.random, HIDDEN_RANDOM),
    )
    for at, bit in reasons:
        flags[at.cpu()] |= bit
    return flags
