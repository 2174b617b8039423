"""Train on what the project knows; evaluate on what is held out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from napari_mil.card import ModelCard, Recipe
from napari_mil.errors import BagError, LabelError, ModelError
from napari_mil.labeltree import LabelTree, Survival
from napari_mil.steps import Progress, Steps, told_as
from napari_mil.workflow.cases import (
    KnownCase,
    apart,
    as_it_stands,
    cases_steps,
    split_words,
    told_split,
)
from napari_mil.workflow.child import Stop
from napari_mil.workflow.manifest import PARTS
from napari_mil.workflow.project import Project, find_card
from napari_mil.workflow.runs import clear_checkpoints, run_folder, with_recorded_ids

if TYPE_CHECKING:
    from napari_mil.evaluate import Split, TrainingCase
    from napari_mil.train import Trained

#: Fewer cases than this are not trained on.
LEAST_CASES = 3
NOTHING_YET = "Training was stopped before its first epoch ended, so there is no model to keep."
T = TypeVar("T")


def task_of(
    project: Project,
    cases: Sequence[TrainingCase | KnownCase],
    split: Split,
    *,
    survival: bool,
    bins: int,
    unit: str,
) -> LabelTree:
    """What a model answers with: the project's labels, or intervals of the training cases' times."""
    if not survival:
        return project.tree
    learned = [c.target for c in cases if c.case in set(split.train)]
    times, events = [t.time or 0.0 for t in learned], [bool(t.event) for t in learned]
    return Survival.from_times(times, events, bins=bins, unit=unit)


def enough(cases: list[TrainingCase], tree: LabelTree, *, survival: bool = False) -> list[TrainingCase]:
    """The cases; errors as `check_enough`."""
    tiles = (np.unique(t).tolist() for c in cases for t in c.tiles if t is not None)
    said = {c.target.slide for c in cases}.union(*tiles)
    check_enough(len(cases), said, tree, survival=survival)
    return cases


def check_enough(n: int, said: set[int], tree: LabelTree, *, survival: bool = False) -> None:
    """LabelError when `n` cases are too few to train on, or what is `said` of slides and tiles, as nodes of
    the project's labels, is one thing alone.
    """
    if n < LEAST_CASES:
        what = f"case{'' if n == 1 else 's'}" + (" with a follow-up time" if survival else " with a label")
        remedy = "give a manifest with time and event" if survival else "label slides"
        verb = "is" if n == 1 else "are"
        raise LabelError(f"{n} {what} {verb} too few to train on; {remedy} of at least {LEAST_CASES} cases.")
    labels = said - {0}
    if not survival and len(labels) == 1:
        raise LabelError(
            f"All {n} cases are labelled {tree.path(labels.pop())}, so there is nothing to tell apart; label "
            "slides, or tiles, that are something else."
        )


def train_model_steps(
    project: Project,
    method: str,
    *,
    config: Mapping[str, Any] | None = None,
    recipe: Mapping[str, Any] | Recipe | None = None,
    preset: str | None = None,
    name: str | None = None,
    encoder: str = "builtin",
    survival: bool = False,
    bins: int = 4,
    unit: str = "",
    tensorboard: bool = False,
    stop: Stop | None = None,
) -> Steps[ModelCard]:
    """Train a method on the project's labelled cases and store the model with its card.

    With `survival` it learns the follow-up times of the cases instead of their labels, in `bins` intervals;
    `unit` says what the times are counted in, where somebody knows.

    The split is the manifest's where it has one, else by case: about 20 % to report on, 15 % of the rest to
    decide with. With fewer than five cases none is left to report on; the card's note says so, and which
    slides were set aside. Settings of a paper come by `preset`; what `config` and `recipe` say goes before
    them. `stop` is asked after every step: True ends the training early and keeps the best so far. A run that
    was killed goes on from its last epoch when the same line is given again; see `workflow.runs` for its log.
    """
    from napari_mil.train import Log, Training, config_for, recipe_for

    chosen = with_recorded_ids(project, recipe_for(method, recipe, preset=preset))
    options = config_for(method, config, preset=preset)
    aside: list[str] = []
    known = as_it_stands(project)
    reading = cases_steps(known, encoder, survival=survival, aside=aside)
    cases = enough((yield from unless_told(reading, stop)), project.tree, survival=survival)
    split = split_of(known, cases, chosen.seed, aside, survival=survival)
    name = name or next_name(project, method)
    tree = task_of(project, cases, split, survival=survival, bins=bins, unit=unit)
    folder = run_folder(project, name)
    log = Log(folder, tensorboard=tensorboard)
    run = Training(cases, split, method=method, config=options, recipe=chosen, tree=tree, log=log)
    run.resume = folder / f"{run.key[:12]}.ckpt"
    trained = yield from run_steps(run, stop)
    note = "; ".join(aside)
    card = keep_model(
        known, trained, cases, split, run.config, chosen, method, name, preset=preset, note=note
    )
    clear_checkpoints(folder)
    return card


def unless_told(steps: Steps[T], stop: Stop | None) -> Steps[T]:
    """The steps of what comes before a training; ModelError when told to stop meanwhile."""

    def tell(now: Progress) -> Progress:
        if stop is not None and stop():
            raise ModelError(NOTHING_YET)
        return now

    return told_as(steps, tell)


def run_steps(run: Any, stop: Stop | None) -> Steps[Trained]:
    """Drive a training; when told to stop, take the best so far."""
    steps = run.steps()
    try:
        while True:
            try:
                now = next(steps)
            except StopIteration as ended:
                trained: Trained = ended.value
                return trained
            if stop is not None and stop():
                so_far: Trained | None = run.trained()
                if so_far is None:
                    raise ModelError(NOTHING_YET)
                judged: Trained = run.judged(so_far)
                return judged
            yield now
    finally:
        steps.close()


def split_of(
    project: Project, cases: Sequence[TrainingCase], seed: int, aside: list[str], *, survival: bool
) -> Split:
    """The same without what `apart` leaves out."""
    return apart(planned_split(project, cases, seed, survival=survival), cases, aside)


def planned_split(
    project: Project, cases: Sequence[TrainingCase | KnownCase], seed: int, *, survival: bool
) -> Split:
    """The manifest's split where it has one, else one by case."""
    from napari_mil.evaluate import split_by_case, stratum

    told = told_split(project, cases)
    return told or split_by_case({c.case: stratum(c.target, survival=survival) for c in cases}, seed=seed)


def keep_model(
    project: Project,
    trained: Trained,
    cases: Sequence[TrainingCase],
    split: Split,
    config: Mapping[str, Any],
    recipe: Recipe,
    method: str,
    name: str,
    *,
    parent: str | None = None,
    preset: str | None = None,
    worse: str = "",
    note: str = "",
) -> ModelCard:
    """Store a trained model with its card, and its recording and its best teacher where there are; the card
    that stands. `project` is as its ledger stood when the cases were read.

    The same weights are one model: trained again under another name, they stay under the name that they have.
    """
    from safetensors.torch import save

    from napari_mil.methods import official
    from napari_mil.train.beside import BEST_TEACHER, best_teacher
    from napari_mil.train.recording import FILE
    from napari_mil.workflow.models import model_id, weight_bytes

    bag = cases[0].bags[0]
    weights = weight_bytes(trained.model)
    slides = {c.case: tuple(b.slide_id for b in c.bags) for c in cases}
    card = ModelCard(
        id=model_id(weights, method),
        name=name,
        method=method,
        config=dict(config),
        encoder=bag.encoder,
        in_features=bag.width,
        tile_px=bag.grid.tile_px,
        mpp=bag.grid.mpp,
        tree=trained.model.tree,
        recipe=recipe,
        parent=parent,
        ledger_head=project.ledger.head,
        slides={part: tuple(s for c in getattr(split, part) for s in slides[c]) for part in PARTS},
        metrics=dict(trained.metrics),
        calibrated=trained.calibrated,
        temperature=trained.temperature,
        reliability=dict(trained.reliability),
        survival=dict(trained.survival),
        made_with=dict(trained.made_with),
        worse=worse,
        note="; ".join(filter(None, (f"preset {preset}" if preset else "", note, split_words(split)))),
    )
    extra = {FILE: trained.recorded} if trained.recorded else {}
    if trained.teacher:
        extra[BEST_TEACHER] = save(official.dump(best_teacher(trained.model, trained.teacher)))
    project.store.save_model(card, weights, extra=extra)
    return next((known for known in project.cards if known.id == card.id), card)


def next_name(project: Project, stem: str, sign: str = "-") -> str:
    """The first name of a numbered row that no model has: mhim-1, mhim-2."""
    taken, n = {card.name for card in project.cards}, 1
    while f"{stem}{sign}{n}" in taken:
        n += 1
    return f"{stem}{sign}{n}"


def evaluate_steps(project: Project, model: str, *, split: str = "test") -> Steps[dict[str, Any]]:
    """Figures of a model on a part of its own split, or on every labelled case ("all"); `cases` says on how
    many.
    """
    from napari_mil.evaluate import evaluate

    card = find_card(project, model)
    if split not in ("train", "validation", "test", "all"):
        raise LabelError(f"{split!r} is no split; choose test, validation, train or all.")
    survival = isinstance(card.tree, Survival)
    cases = yield from cases_steps(project, card.encoder, survival=survival, card=card)
    chosen = set(card.slides.get(split, ()))
    kept = [c for c in cases if split == "all" or any(b.slide_id in chosen for b in c.bags)]
    if not kept:
        raise BagError(
            f"No labelled case here belongs to the split {split!r} of {card.name}; try --split all."
        )
    for bag in (bag for case in kept for bag in case.bags):
        card.check(bag)
    temperature = card.temperature if card.calibrated else None
    found = evaluate(project.model(card.id), kept, temperature=temperature)
    return {"cases": len(kept), **found}
