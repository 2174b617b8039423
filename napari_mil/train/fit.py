"""One model being fitted to its training cases: visits, steps, judgement, and all that changes on the way."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from napari_mil.blocks import fewer_rows
from napari_mil.card import Recipe
from napari_mil.correction import Target
from napari_mil.device import (
    Memory,
    is_out_of_memory,
    memory_guard,
    random_state,
    set_random_state,
    watching_memory,
)
from napari_mil.errors import ModelError
from napari_mil.evaluate import obeyed, selection, told_temperature
from napari_mil.labeltree import Survival
from napari_mil.mil import MILModel, answering, total
from napari_mil.steps import ASIDE, Progress, Steps
from napari_mil.train.again import Moment, moving, too_much
from napari_mil.train.beside import Beside
from napari_mil.train.cohort import Cohort, Visit, known_at
from napari_mil.train.feeding import Ahead
from napari_mil.train.recording import Recorder
from napari_mil.train.rules import epoch_score, learning_rate, tired

#: more obedience than this to the tile labels trained on is not sought at the price of the validation figures
OBEYED_ENOUGH = 0.95
#: least number of rehearsing visits in an epoch, so that a small study listens too
REHEARSE = 24


class OwnRandom:
    """A stream of random numbers of our own for dropout and initialisation, whatever a consumer draws
    meanwhile.
    """

    def __init__(self, device: torch.device, seed: int) -> None:
        self.device = device
        self.state = {"cpu": torch.Generator().manual_seed(seed).get_state()}
        if device.type != "cpu":
            self.state["device"] = torch.Generator(device).manual_seed(seed).get_state()

    @contextmanager
    def ours(self) -> Iterator[None]:
        """Inside, the global generators are ours; outside, they are as they were."""
        outer = self._swap(self.state)
        try:
            yield
        finally:
            self.state = self._swap(outer)

    def _swap(self, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        devices = {"cpu": torch.device("cpu"), "device": self.device}
        before = {name: random_state(devices[name]) for name in state}
        for name, one in state.items():
            set_random_state(devices[name], one)
        return before


class Fit:
    """One model being fitted: everything that changes from epoch to epoch, and how it is written down."""

    def __init__(
        self, model: MILModel, recipe: Recipe, stage: str, cohort: Cohort, recorder: Recorder | None = None
    ) -> None:
        device = cohort.device
        self.model, self.recipe, self.stage, self.cohort = model.to(device), recipe, stage, cohort
        trainable = [p for p in model.parameters() if p.requires_grad]
        fused = device.type in {"cpu", "cuda"}
        self.optimiser = torch.optim.Adam(trainable, recipe.lr, weight_decay=recipe.weight_decay, fused=fused)
        salt = int.from_bytes(hashlib.sha256(stage.encode()).digest()[:4], "little")
        self.order = torch.Generator().manual_seed(recipe.seed + salt)
        self.draws = torch.Generator(device).manual_seed(recipe.seed + salt + 1)
        self.random = OwnRandom(device, recipe.seed + salt + 2)
        self.moving = moving(model)
        self.recorder = recorder
        self.weights = cohort.weights() if recipe.class_weights else {}
        self.labelled, self.useful = cohort.labelled, cohort.useful
        self.epoch, self.insistence = 0, 1
        self.memory = Memory()
        self._now: Sequence[Visit] = ()
        self._feed = Ahead(cohort.fetch, ())
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Any] = {}
        self.beside = Beside(self.model)
        self.disobeyed = self._disobeyed({case: self._obeyed(case) for case in self.labelled})

    @property
    def finished(self) -> bool:
        """Whether the last epoch is done, or the best one lies too far back."""
        scores = [row["score"] for row in self.history]
        return self.epoch >= self.recipe.epochs or tired(self.recipe, scores)

    def epoch_steps(self) -> Steps[dict[str, Any]]:
        """One pass over the training cases; returns the epoch's figures."""
        lr = self._set_lr()
        visits, size = self._visits(), self.recipe.batch_bags
        batches = [visits[i : i + size] for i in range(0, len(visits), size)]
        terms: dict[str, list[float]] = {}
        told, rows = time.monotonic(), self.memory.rows
        self._feed = Ahead(self.cohort.fetch, visits, early=self.cohort.device.type == "cuda")
        for i, batch in enumerate(batches):
            within = 0.0 if self.model.whole_epochs else i / len(batches)
            for name, value in self._step(batch, (self.epoch + within) / self.recipe.epochs).items():
                terms.setdefault(name, []).append(value)
            if self.memory.rows != rows:
                rows = self.memory.rows
                yield Progress(ASIDE, 1, 1, f"{self.stage}, epoch {self.epoch + 1}: {self.memory.note}.")
            if time.monotonic() - told > 0.2:
                told = time.monotonic()
                note = f"epoch {self.epoch + 1}, step {i + 1} of {len(batches)}"
                yield Progress(self.stage, self.epoch, self.recipe.epochs, note)
        self.epoch += 1
        self._ask_recorded()
        means = {name: sum(values) / len(values) for name, values in terms.items()}
        row = {"stage": self.stage, "epoch": self.epoch, "lr": lr, "loss": sum(means.values())}
        row |= {f"loss/{name}": value for name, value in means.items()} | self._judge()
        row |= {} if self.memory.rows is None else {"tiles_at_a_time": self.memory.rows}
        self.history.append(row)
        if row["score"] > self.best.get("score", -math.inf):
            weights = {k: v.detach().cpu().clone() for k, v in self.model.state_dict().items()}
            best = {"epoch": self.epoch, "score": row["score"], "row": row, "weights": weights}
            self.best = best | {"temperature": self._temperature()}
        return row

    def _set_lr(self) -> float:
        lr = learning_rate(self.recipe, [row["loss"] for row in self.history])
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        return lr

    def _visits(self) -> list[Visit]:
        """The epoch's visits in random order: every case that says anything once.

        Cases whose tile labels the model does not follow yet come back for these labels alone, so often
        that they make up the recipe's share of the visits: among many cases a few corrections would hardly
        be heard. Every epoch that does not suffice doubles them, eightfold at most.
        """
        visits = [(case, False) for case in self.useful]
        if self.disobeyed and self.recipe.tile_share > 0:
            share = self.recipe.tile_share / (1 - self.recipe.tile_share)
            again = math.ceil(max(len(visits) * share, REHEARSE) * self.insistence / len(self.disobeyed))
            visits += [(case, True) for case in self.disobeyed for _ in range(again)]
        return [visits[i] for i in torch.randperm(len(visits), generator=self.order).tolist()]

    def _step(self, batch: Sequence[Visit], progress: float) -> dict[str, float]:
        """One optimiser step on a list of bags; the losses by name."""
        sums = self._gradients(batch, progress)
        if sums:
            with self.random.ours(), memory_guard(f"what is kept beside the weights of {self.model.name}"):
                self.optimiser.step()
                self.model.after_step(progress)
        return sums

    def _gradients(self, batch: Sequence[Visit], progress: float) -> dict[str, float]:
        """Set the gradients of a step; the losses by name. Where memory is short they are asked for again, of
        fewer tiles at a time; DeviceError where that is of no use.
        """
        device, half = self.cohort.device, self.recipe.precision == "bf16"
        before = Moment(self)
        while True:
            try:
                with watching_memory(self.memory):
                    return self._each(batch, progress)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                sizes = [(case, len(self.cohort.data[case])) for case, _ in self._now]
                largest = max(n for _, n in sizes)
                if not fewer_rows(self.memory, largest, device, half=half):
                    raise too_much(sizes, self.memory.rows or largest) from error
            before.come_back()

    def _each(self, batch: Sequence[Visit], progress: float) -> dict[str, float]:
        """The gradients of one bag after the other, unless the method contrasts them: together they are those
        of the whole list, the memory is that of one bag.
        """
        targets = [known_at(visit, self.cohort.target(visit[0])) for visit in batch]
        together = self.model.contrasts_bags
        parts = [range(len(batch))] if together else [range(i, i + 1) for i in range(len(batch))]
        sums: dict[str, float] = {}
        with self.random.ours():
            if not self.model.training:  # walking through all modules costs as much as a small layer
                self.model.train()
            self.optimiser.zero_grad(set_to_none=True)
            for part in parts:
                self._now = [batch[i] for i in part]
                for name, value in self._learn(self._now, targets, progress).items():
                    sums[name] = sums.get(name, 0.0) + value
        return sums

    def _learn(self, part: Sequence[Visit], targets: Sequence[Target], progress: float) -> dict[str, float]:
        """Add the gradients of some of a step's bags, so that no more than these are in memory at once; the
        losses by name, none when there is nothing to learn from.
        """
        device, recipe = self.cohort.device, self.recipe
        examples = [self.cohort.example(self._feed.get(visit)) for visit in part]
        half = torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bf16")
        with half:
            losses = self.model.loss(
                examples,
                progress,
                generator=self.draws,
                tile_weight=recipe.tile_weight,
                weights=[self.weights[case] for case, _ in part] if self.weights else None,
                batch=targets,
                watch=None if self.recorder is None else self.recorder.watching(part, self.epoch + 1),
            )
            loss = total(losses)
        if loss is None or not loss.requires_grad:
            return {}
        if not torch.isfinite(loss):
            raise ModelError(
                f"The loss became {loss.item()} in epoch {self.epoch + 1}; train with a learning rate "
                f"below {recipe.lr}, or look for damaged features."
            )
        loss.backward()  # type: ignore[no-untyped-call]
        return {name: float(value.detach()) for name, value in losses.items()}

    def _ask_recorded(self) -> None:
        """Record the chosen cases that are not learned from."""
        if self.recorder is None:
            return
        share = (self.epoch - 1) / self.recipe.epochs
        for case in (c for c in self.recorder.cases if c not in self.useful):
            with answering(self.model), memory_guard(f"recording {case}"):
                features = self.cohort.data[case].features.to(self.cohort.device, torch.float32)
                self.recorder.ask(case, features, self.epoch, share, self.recipe.seed)

    def _judge(self) -> dict[str, Any]:
        """The epoch's figures, and the score that chooses the best epoch: validation, and by default
        obedience to tile labels.

        Without labelled validation cases there is nothing to decide with, and the last epoch counts.
        """
        cohort, held = self.cohort, self.cohort.split.validation
        figures: dict[str, Any] = {}
        score = float(self.epoch)
        if held:
            said = [cohort.ask(self.model, case) for case in held]
            found = selection([cohort.target(c) for c in held], said, cohort.tree)
            figures = {f"validation/{name}": value for name, value in found.items()}
            chosen = epoch_score(self.recipe, found, cohort.tree)
            score = score if chosen is None else chosen
        follows = {case: self._obeyed(case) for case in self.labelled}
        if follows:
            self.disobeyed = self._disobeyed(follows)
            self.insistence = min(2 * self.insistence, 8) if self.disobeyed else 1
            figures["obeyed"] = sum(yes for yes, _ in follows.values()) / sum(n for _, n in follows.values())
            if self.recipe.select_by == "score":
                score += min(figures["obeyed"], OBEYED_ENOUGH)
        return {**figures, **self.beside.judge(cohort, self.recipe, self.epoch), "score": score}

    @staticmethod
    def _disobeyed(follows: Mapping[str, tuple[int, int]]) -> list[str]:
        """Cases that follow too few of their labelled tiles, and so are rehearsed."""
        return [case for case, (yes, n) in follows.items() if yes < OBEYED_ENOUGH * n]

    def _temperature(self) -> float | None:
        """The temperature that fits the finest level's answers for the validation cases best, or None when
        they do not tell it.
        """
        cohort, held, level = self.cohort, self.cohort.split.validation, self.cohort.tree.levels - 1
        if not held or isinstance(cohort.tree, Survival):  # hazards of few cases say too little of one
            return None
        classes = [cohort.tree.class_index(cohort.target(c).slide, level) for c in held]
        said = [cohort.ask(self.model, c).probabilities[-1] for c in held]
        return told_temperature(np.array(classes), np.stack(said))

    def _obeyed(self, case: str) -> tuple[int, int]:
        """How many of a case's labelled tiles the model answers as labelled, and of how many."""
        tiles = self.cohort.target(case).tiles
        if tiles is None:
            return 0, 0
        follows = obeyed(self.cohort.ask(self.model, case).tile_probability, tiles, self.cohort.tree)
        return int(follows.sum()), len(follows)

    def state(self) -> dict[str, Any]:
        """Everything that changes, as tensors and plain values."""
        return {
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "order": self.order.get_state(),
            "draws": self.draws.get_state(),
            "random": self.random.state,
            "epoch": self.epoch,
            "history": self.history,
            "best": self.best,
            "teacher": self.beside.best,
            "disobeyed": self.disobeyed,
            "insistence": self.insistence,
            "rows": self.memory.rows,
            "recorded": self.recorder.state() if self.recorder is not None else {},
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.order.set_state(state["order"])
        self.draws.set_state(state["draws"])
        self.random.state = state["random"]
        self.epoch, self.history = state["epoch"], list(state["history"])
        self.best, self.disobeyed = dict(state["best"]), list(state["disobeyed"])
        self.beside.best = dict(state.get("teacher", {}))
        self.insistence, self.memory.rows = state["insistence"], state.get("rows")
        if self.recorder is not None:
            self.recorder.load(state["recorded"])
