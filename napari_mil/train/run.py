"""A training run: stages, checkpoint, the best so far."""

from __future__ import annotations

import copy
import dataclasses
import io
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from napari_mil import methods
from napari_mil.card import Recipe
from napari_mil.device import pick, surroundings
from napari_mil.errors import BagError, ModelError
from napari_mil.evaluate import Split, TrainingCase, answers, evaluate, reliability, survival_table
from napari_mil.labeltree import LabelTree
from napari_mil.mil import MILModel
from napari_mil.options import check
from napari_mil.steps import Progress, Steps
from napari_mil.train.beside import teacher_figures
from napari_mil.train.cohort import Cohort, prepare
from napari_mil.train.files import replace_whole
from napari_mil.train.fit import Fit, OwnRandom
from napari_mil.train.key import run_key
from napari_mil.train.log import Log
from napari_mil.train.recipes import recipe_for
from napari_mil.train.recording import Recorder, dump

#: the name of the stage whose model is the result
LAST = "training"


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """What a training run made.

    Attributes
    ----------
    model : with the weights of its best epoch, in evaluation mode
    metrics : figures of the test part of the split (of the validation part where there is no test part), each
        (value, low, high); those of the validation part as "validation/…"
    history : one mapping per epoch: stage, epoch, loss and its parts, validation figures, obeyed
    best_epoch : the epoch whose weights these are, counted from 1 within the last stage
    score : what chose that epoch, the larger the better
    temperature : the one that fits the validation answers best; 1 where they do not tell any
    calibrated : whether the validation answers told the temperature
    reliability : the reliability diagram of the figures' cases, see evaluate.reliability; with `part`
    survival : the curves of the figures' cases by risk, see evaluate.survival_table; with `part`
    made_with : versions and device, see device.surroundings
    teacher : the best epoch of a teacher that is judged beside its student, see train.beside, or {}
    recorded : the file that `recording.load` reads, of the slides that the recipe names, or b""
    """

    model: MILModel
    metrics: Mapping[str, Any]
    history: tuple[Mapping[str, Any], ...]
    best_epoch: int
    temperature: float
    score: float = math.nan
    calibrated: bool = False
    reliability: Mapping[str, Any] = field(default_factory=dict)
    survival: Mapping[str, Any] = field(default_factory=dict)
    made_with: Mapping[str, str] = field(default_factory=dict)
    teacher: Mapping[str, Any] = field(default_factory=dict)
    recorded: bytes = b""


class Training:
    """A training run: `steps` does it, `trained` is what it has made so far."""

    def __init__(
        self,
        cases: Sequence[TrainingCase],
        split: Split,
        *,
        method: str,
        config: Any = None,
        recipe: Recipe | None = None,
        tree: LabelTree,
        device: str | None = None,
        resume: Path | None = None,
        start: Mapping[str, torch.Tensor] | None = None,
        log: Log | None = None,
    ) -> None:
        self.recipe = recipe or recipe_for(method)
        check(self.recipe, "the recipe")
        self.method, self.resume, self.start, self.log = method, resume, start, log
        self.cohort = Cohort(prepare(_fitting(cases, split)), split, tree, pick(device))
        self.cases = {c.case: c for c in cases}
        if not self.cohort.useful:
            raise BagError("No training case has a label; label some slides or tiles first.")
        self.width = self.cases[split.train[0]].bags[0].width
        with OwnRandom(self.cohort.device, self.recipe.seed).ours():
            self.model = methods.create(method, config, in_features=self.width, tree=tree)
            self.first = None if start is not None else self.model.stage1()
        if self.recipe.precision == "bf16" and not self.model.bf16:
            raise ModelError(f"{method} does not keep its figures in bfloat16; train it with precision fp32.")
        self.config = dataclasses.asdict(self.model.config)
        chosen, known = self.recipe.record, [self.cases[name] for name in self.cohort.data]
        self.recorder = Recorder(chosen, known, self.model) if chosen else None
        self.earlier: list[dict[str, Any]] = []
        self.current: Fit | None = None
        self._saved = (("", 0), -math.inf)

    def steps(self) -> Steps[Trained]:
        """Train; a Progress per epoch carries the epoch's figures as its payload."""
        try:
            yield from self._stages(self._read())
        finally:
            if self.log is not None:
                self.log.close()
        made = self.trained()
        if made is None:
            raise ModelError("Training ended before its first epoch; ask for at least one epoch.")
        return self.judged(made)

    def _stages(self, saved: Mapping[str, Any] | None) -> Steps[None]:
        if self.start is not None:
            _take(self.model, self.start, "the model to start from")
        if self.first is not None and self.recipe.stage1_epochs and (saved or {}).get("stage") != LAST:
            yield from self._stage1(self.first, saved)
        yield from self._run(Fit(self.model, self.recipe, LAST, self.cohort, self.recorder), saved)

    def judged(self, made: Trained) -> Trained:
        """The same with its figures on the cases held out, see `judged`."""
        return judged(made, self.cases, self.cohort.split, self.cohort.device)

    def _stage1(self, first: MILModel, saved: Mapping[str, Any] | None) -> Steps[None]:
        epochs = self.recipe.stage1_epochs
        recipe = dataclasses.replace(
            self.recipe, epochs=epochs, min_epochs=min(self.recipe.min_epochs, epochs)
        )
        fit = Fit(first, recipe, "baseline", self.cohort)
        yield from self._run(fit, saved)
        first.load_state_dict(fit.best["weights"])
        self.model.start_from(first)
        self.earlier = list(fit.history)

    def trained(self) -> Trained | None:
        """The best so far, with its validation figures; None before the first epoch of the last stage."""
        if self.current is None or self.current.stage != LAST or not self.current.best:
            return None
        return _trained(copy.deepcopy(self.model), self.current.state(), self.earlier)

    def _run(self, fit: Fit, saved: Mapping[str, Any] | None) -> Steps[None]:
        if saved and saved["stage"] == fit.stage:
            fit.load(saved["fit"])
            self.earlier = list(saved["earlier"])
        self.current, whole = fit, True
        try:
            while not fit.finished:
                whole = False
                row = yield from fit.epoch_steps()
                whole = True
                if self.log is not None:
                    self.log.write([*self.earlier, *fit.history])
                if fit.best["epoch"] == fit.epoch or time.monotonic() - self._saved[1] > 1:
                    self._save(fit)
                yield Progress(fit.stage, fit.epoch, fit.recipe.epochs, payload=row)
        finally:
            if whole and fit.epoch and self._saved[0] != (fit.stage, fit.epoch):
                self._save(fit)

    def _save(self, fit: Fit) -> None:
        """Replace the checkpoint as a whole: after a crash there is the old one or the new one."""
        self._saved = ((fit.stage, fit.epoch), time.monotonic())
        if self.resume is None:
            return
        about = {
            "method": self.method,
            "config": self.config,
            "width": self.width,
            "tree": self.cohort.tree.to_json(),
        }
        whole = {"run": self.key, **about, "stage": fit.stage, "earlier": self.earlier, "fit": fit.state()}
        buffer = io.BytesIO()
        torch.save(whole, buffer)
        replace_whole(self.resume, buffer.getbuffer(), "The checkpoint")

    def _read(self) -> dict[str, Any] | None:
        if self.resume is None or not self.resume.exists():
            return None
        saved = _checkpoint(self.resume)
        if saved["run"] != self.key:
            raise ModelError(
                f"The checkpoint {self.resume} belongs to another run (other cases, labels, method, recipe); "
                "delete it, or choose another file."
            )
        return saved

    @cached_property
    def key(self) -> str:
        """What a checkpoint must agree on to be gone on from."""
        return run_key(
            self.cases.values(),
            self.cohort.split,
            method=self.method,
            config=self.config,
            recipe=self.recipe,
            tree=self.cohort.tree,
            start=self.start,
        )


def judged(made: Trained, cases: Mapping[str, TrainingCase], split: Split, device: torch.device) -> Trained:
    """The same with its figures on the test part of a split, or the validation part without one."""
    part = "test" if split.test else "validation"
    held = [cases[c] for c in getattr(split, part)]
    made = dataclasses.replace(made, made_with=surroundings(device))
    if not held:
        return made
    temperature = made.temperature if made.calibrated else None
    said = answers(made.model, held, device=device)
    figures = evaluate(made.model, held, temperature=temperature, said=said)
    if made.teacher:
        figures |= teacher_figures(made.model, made.teacher, held, device)
    targets, tree = [c.target for c in held], made.model.tree
    nodes, p = [t.slide for t in targets], [said[c.case].probabilities for c in held]
    hazards = [h for c in held if (h := said[c.case].hazards) is not None]
    tables = (reliability(nodes, p, tree, temperature=temperature), survival_table(targets, hazards, tree))
    sure, alive = ({**table, "part": part} if table else {} for table in tables)
    return dataclasses.replace(made, metrics={**figures, **made.metrics}, reliability=sure, survival=alive)


def _fitting(cases: Sequence[TrainingCase], split: Split) -> list[TrainingCase]:
    """The cases of a split; errors when one is missing, stands twice, or was embedded otherwise."""
    by_name = {c.case: c for c in cases}
    if len(by_name) < len(cases):
        raise BagError("Two training cases have the same id; join their bags in one case.")
    wanted = (*split.train, *split.validation, *split.test)
    if missing := [c for c in wanted if c not in by_name]:
        raise BagError(f"Case {missing[0]!r} of the split has no bags; embed its slides or leave it out.")
    chosen = [by_name[c] for c in wanted]
    kinds = {(bag.encoder, bag.width) for case in chosen for bag in case.bags}
    if len(kinds) > 1:
        raise BagError(
            f"The bags were made by different encoders: {sorted(kinds)}; embed all slides with one."
        )
    return chosen


def _take(model: MILModel, weights: Mapping[str, torch.Tensor], what: str) -> None:
    try:
        model.load_state_dict(dict(weights))
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise ModelError(f"The weights of {what} do not fit {model.name}: {reason}") from error


def _trained(model: MILModel, fit: Mapping[str, Any], earlier: Sequence[Mapping[str, Any]]) -> Trained:
    best, told = fit["best"], fit["best"]["temperature"]
    _take(model, best["weights"], "the best epoch")
    figures = {k: v for k, v in best["row"].items() if k == "obeyed" or k.startswith("validation/")}
    return Trained(
        model.eval(),
        figures,
        (*earlier, *fit["history"]),
        best["epoch"],
        told or 1.0,
        score=best["score"],
        calibrated=told is not None,
        teacher=fit.get("teacher", {}),
        recorded=dump(fit["recorded"]) if fit["recorded"] else b"",
    )


def _checkpoint(path: Path) -> dict[str, Any]:
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        return {k: saved[k] for k in ("run", "method", "config", "width", "tree", "stage", "earlier", "fit")}
    except Exception as error:
        raise ModelError(f"{path} is no checkpoint of a training run; delete it and train again.") from error


def best_so_far(resume: Path) -> Trained | None:
    """The best model in a checkpoint file, whatever became of the run; None before the first epoch of the
    last stage.
    """
    saved = _checkpoint(resume)
    if saved["stage"] != LAST or not saved["fit"]["best"]:
        return None
    tree = LabelTree.from_json(saved["tree"])
    model = methods.create(saved["method"], saved["config"], in_features=saved["width"], tree=tree)
    return _trained(model, saved["fit"], saved["earlier"])


def train_steps(
    cases: Sequence[TrainingCase],
    split: Split,
    *,
    method: str,
    config: Any = None,
    recipe: Recipe | None = None,
    tree: LabelTree,
    device: str | None = None,
    resume: Path | None = None,
    start: Mapping[str, torch.Tensor] | None = None,
    log: Log | None = None,
) -> Steps[Trained]:
    """Train a method on cases.

    Parameters
    ----------
    cases, split : bags with their targets, and which of them to learn from, decide with, report on
    method, config : registered method and its options
    recipe : epochs, learning rate, weights of the losses, seed
    tree : the labels
    device : as `device.pick`
    resume : checkpoint file; written after epochs, gone on from when it exists and belongs to the same run
    start : weights of a parent model to go on from (retraining); stage 1 is then skipped
    log : where to tell of every epoch

    Yields a Progress per epoch whose payload is the epoch's figures; closing the generator keeps the best
    so far in `resume` (`best_so_far`). BagError or ModelError when cases, options or checkpoint do not fit.
    """
    run = Training(
        cases,
        split,
        method=method,
        config=config,
        recipe=recipe,
        tree=tree,
        device=device,
        resume=resume,
        start=start,
        log=log,
    )
    return (yield from run.steps())
