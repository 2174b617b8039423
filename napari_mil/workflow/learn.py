"""Train and retrain on what the project knows; evaluate on what is held out."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_mil.card import ModelCard, Recipe
from napari_mil.errors import BagError, LabelError, ModelError
from napari_mil.labeltree import LabelTree, Survival
from napari_mil.options import build
from napari_mil.steps import Progress, Steps
from napari_mil.workflow.cases import cases_steps, split_words, told_split
from napari_mil.workflow.child import Stop, child_steps
from napari_mil.workflow.figures import figure_words
from napari_mil.workflow.manifest import PARTS
from napari_mil.workflow.project import Project, find_card
from napari_mil.workflow.runs import clear_checkpoints, run_folder, with_recorded_ids

if TYPE_CHECKING:
    from napari_mil.evaluate import Split, TrainingCase
    from napari_mil.train import Trained

#: A retrained model that loses more lesion AUC (or macro AUC) than this on held-out cases is called worse.
TOLERATED_LOSS = 0.02
#: Fewer cases than this are not trained on.
LEAST_CASES = 3


@dataclass(frozen=True, slots=True, eq=False)
class Retrained:
    """What a retraining changed.

    Attributes
    ----------
    card : of the child; it is stored, not adopted
    before, after : held-out figures of parent and child, {name: (value, low, high)}
    flipped : (case, label before, label after) of every case whose most likely leaf changed
    obeyed : (n, of): corrected tiles that the new weights alone follow
    set_aside : corrected tiles on held-out cases; they are kept, but not learned from
    worse : the sentence that says the child is worse on held-out cases, or None
    held : how many cases `before` and `after` stand on
    """

    card: ModelCard
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    flipped: tuple[tuple[str, str, str], ...]
    obeyed: tuple[int, int]
    worse: str | None
    set_aside: int = 0
    held: int = 0

    def to_json(self) -> str:
        """One JSON line, {"result": …}, as a child process prints it."""
        d = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return json.dumps({"result": {**d, "card": self.card.id}})

    @classmethod
    def from_record(cls, project: Project, d: Mapping[str, Any]) -> Retrained:
        """The inverse of `to_json` in the process that owns the project."""
        flipped = tuple((a, b, c) for a, b, c in d["flipped"])
        n, of = d["obeyed"]
        card = find_card(project, d["card"])
        return cls(card, d["before"], d["after"], flipped, (n, of), d["worse"], d["set_aside"], d["held"])

    def in_words(self) -> str:
        """A few lines for a person."""
        lines = [f"{self.card.name}: stored, not adopted"]
        for key in sorted(set(self.before) & set(self.after)):
            was, now = self.before[key], self.after[key]
            if np.isfinite(was[0]) and np.isfinite(now[0]):
                lines.append(f"  {key}: {was[0]:.3f} -> {figure_words(now, self.held)}")
        lines.append(f"  corrected tiles that the new model follows: {self.obeyed[0]} of {self.obeyed[1]}")
        if self.set_aside:
            lines.append(f"  corrected tiles on held-out cases, not learned from: {self.set_aside}")
        lines += [f"  {case}: {a} -> {b}" for case, a, b in self.flipped]
        return "\n".join([*lines, *([f"  WORSE: {self.worse}"] if self.worse else [])])


def task_of(
    project: Project, cases: Sequence[TrainingCase], split: Split, *, survival: bool, bins: int
) -> LabelTree:
    """What a model answers with: the project's labels, or intervals of the training cases' times."""
    if not survival:
        return project.tree
    learned = [c.target for c in cases if c.case in set(split.train)]
    return Survival.from_times([t.time or 0.0 for t in learned], [bool(t.event) for t in learned], bins=bins)


def enough(cases: list[TrainingCase], *, survival: bool = False) -> list[TrainingCase]:
    """The cases; LabelError when they are too few to train on."""
    if len(cases) >= LEAST_CASES:
        return cases
    n = len(cases)
    what = f"case{'' if n == 1 else 's'}" + (" with a follow-up time" if survival else " with a label")
    remedy = "give a manifest with time and event" if survival else "label slides"
    verb = "is" if n == 1 else "are"
    raise LabelError(f"{n} {what} {verb} too few to train on; {remedy} of at least {LEAST_CASES} cases.")


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
    tensorboard: bool = False,
    stop: Stop | None = None,
) -> Steps[ModelCard]:
    """Train a method on the project's labelled cases and store the model with its card.

    With `survival` it learns the follow-up times of the cases instead of their labels, in `bins` intervals.

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
    cases = enough(
        (yield from cases_steps(project, encoder, survival=survival, aside=aside)), survival=survival
    )
    split, name = split_of(project, cases, chosen.seed), name or next_name(project, method)
    tree = task_of(project, cases, split, survival=survival, bins=bins)
    folder = run_folder(project, name)
    log = Log(folder, tensorboard=tensorboard)
    run = Training(cases, split, method=method, config=options, recipe=chosen, tree=tree, log=log)
    run.resume = folder / f"{run.key[:12]}.ckpt"
    trained = yield from _run(run, stop)
    note = "; ".join(aside)
    card = keep_model(
        project, trained, cases, split, run.config, chosen, method, name, preset=preset, note=note
    )
    clear_checkpoints(folder)
    return card


def _run(run: Any, stop: Stop | None) -> Steps[Trained]:
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
                    raise ModelError(
                        "Training was stopped before its first epoch ended, so there is no model to keep."
                    )
                judged: Trained = run.judged(so_far)
                return judged
            yield now
    finally:
        steps.close()


def split_of(project: Project, cases: Sequence[TrainingCase], seed: int) -> Split:
    """The manifest's split where it has one, else one by case."""
    from napari_mil.evaluate import split_by_case, stratum

    told = told_split(project, cases)
    return told or split_by_case({c.case: stratum(c.target) for c in cases}, seed=seed)


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
    note: str = "",
) -> ModelCard:
    """Store a trained model with its card, and its recording where there is one; the card that stands.

    The same weights are one model: trained again under another name, they stay under the name that they have.
    """
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
        made_with=dict(trained.made_with),
        note="; ".join(filter(None, (f"preset {preset}" if preset else "", note, split_words(split)))),
    )
    extra = {FILE: trained.recorded} if trained.recorded else None
    project.store.save_model(card, weights, extra=extra)
    return next((known for known in project.cards if known.id == card.id), card)


def next_name(project: Project, stem: str, sign: str = "-") -> str:
    """The first name of a numbered row that no model has: mhim-1, mhim-2."""
    taken, n = {card.name for card in project.cards}, 1
    while f"{stem}{sign}{n}" in taken:
        n += 1
    return f"{stem}{sign}{n}"


def retrain_here_steps(
    project: Project,
    model: str,
    *,
    recipe: Mapping[str, Any] | None = None,
    seed: int = 0,
    stop: Stop | None = None,
) -> Steps[Retrained]:
    """Go on from a model's weights with everything the ledger knows now, in this process; store the child.

    Cases that were held out from the parent stay held out; new cases are learned from. The same ledger head
    and seed give the same weights on a CPU, killed and gone on with or not.
    """
    from napari_mil.evaluate import answers, evaluate
    from napari_mil.train import Log, Training, retrain_recipe

    parent, network = find_card(project, model), project.model(model)
    survival = isinstance(parent.tree, Survival)
    left: list[str] = []
    cases = yield from cases_steps(project, parent.encoder, survival=survival, aside=left)
    for case in cases:
        parent.check(case.bags[0])
    split = _split_like(parent, cases)
    gentle = dataclasses.asdict(retrain_recipe(parent.recipe, seed=seed)) | dict(recipe or {})
    chosen = with_recorded_ids(project, build(Recipe, gentle, "the recipe"))
    name = next_name(project, parent.name.split("+")[0], "+")
    about: dict[str, Any] = {
        "method": parent.method,
        "config": parent.config,
        "recipe": chosen,
        "tree": parent.tree,
    }
    folder = run_folder(project, name)
    run = Training(cases, split, **about, start=network.state_dict(), log=Log(folder))
    run.resume = folder / f"{run.key[:12]}.ckpt"
    trained = yield from _run(run, stop)
    yield Progress("comparing", 0, 1)
    held = [c for c in cases if c.case in set(split.test or split.validation)]
    warm = [parent.temperature if parent.calibrated else None]
    warm.append(trained.temperature if trained.calibrated else None)
    pairs = zip((network, trained.model), warm, strict=True)
    before, after = (evaluate(m, held, temperature=t) if held else {} for m, t in pairs)
    old, new = answers(network, cases), answers(trained.model, cases)
    learned = [c for c in cases if c.case in set(split.train)]
    note = "; ".join(left)
    card = keep_model(
        project, trained, cases, split, run.config, chosen, parent.method, name, parent=parent.id, note=note
    )
    clear_checkpoints(folder)
    yield Progress("comparing", 1, 1)
    aside = sum(int((t > 0).sum()) for c in cases if c not in learned for t in c.tiles if t is not None)
    return Retrained(
        card=card,
        before=before,
        after=after,
        flipped=_flipped(parent, old, new),
        obeyed=_obeyed(learned, new, parent),
        worse=_worse(before, after),
        set_aside=aside,
        held=len(held),
    )


def _split_like(parent: ModelCard, cases: Sequence[TrainingCase]) -> Split:
    """The parent's split, by slide; cases it never saw are learned from."""
    from napari_mil.evaluate import Split, split_by_case, stratum

    held = {s: part for part in ("validation", "test") for s in parent.slides.get(part, ())}
    if not held:
        return split_by_case({c.case: stratum(c.target) for c in cases}, seed=parent.recipe.seed)
    parts: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    for case in cases:
        where = {held[b.slide_id] for b in case.bags if b.slide_id in held}
        parts["test" if "test" in where else where.pop() if where else "train"].append(case.case)
    return Split(*(tuple(parts[p]) for p in PARTS))


def _flipped(
    card: ModelCard, old: Mapping[str, Any], new: Mapping[str, Any]
) -> tuple[tuple[str, str, str], ...]:
    if isinstance(card.tree, Survival):
        return ()

    def best(answer: Any) -> str:
        return card.tree.path(card.tree.leaves[int(answer.probabilities[-1].argmax())])

    pairs = ((case, best(old[case]), best(new[case])) for case in old)
    return tuple((case, a, b) for case, a, b in pairs if a != b)


def _obeyed(cases: Sequence[TrainingCase], said: Mapping[str, Any], card: ModelCard) -> tuple[int, int]:
    from napari_mil.evaluate import obeyed

    follows = [
        obeyed(said[c.case].tile_probability, tiles, card.tree)
        for c in cases
        if (tiles := c.joined()[2].tiles) is not None
    ]
    every = np.concatenate(follows) if follows else np.zeros(0, bool)
    return int(every.sum()), len(every)


def _worse(before: Mapping[str, Any], after: Mapping[str, Any]) -> str | None:
    """Say it when held-out discrimination fell by more than `TOLERATED_LOSS`."""
    for key in ("lesion/auc", "fine/auc", "survival/c_index"):
        if key in before and key in after and np.isfinite(before[key][0]) and np.isfinite(after[key][0]):
            loss = before[key][0] - after[key][0]
            if loss > TOLERATED_LOSS:
                return (
                    f"{key} on held-out cases fell from {before[key][0]:.3f} to {after[key][0]:.3f}; "
                    "better keep the parent."
                )
            return None
    return None


def evaluate_steps(project: Project, model: str, *, split: str = "test") -> Steps[dict[str, Any]]:
    """Figures of a model on a part of its own split, or on every labelled case ("all"); `cases` says on how
    many.
    """
    from napari_mil.evaluate import evaluate

    card = find_card(project, model)
    if split not in ("train", "validation", "test", "all"):
        raise LabelError(f"{split!r} is no split; choose test, validation, train or all.")
    survival = isinstance(card.tree, Survival)
    cases = yield from cases_steps(project, card.encoder, survival=survival)
    chosen = set(card.slides.get(split, ()))
    kept = [c for c in cases if split == "all" or any(b.slide_id in chosen for b in c.bags)]
    if not kept:
        raise BagError(
            f"No labelled case here belongs to the split {split!r} of {card.name}; try --split all."
        )
    temperature = card.temperature if card.calibrated else None
    found = evaluate(project.model(card.id), kept, temperature=temperature)
    return {"cases": len(kept), **found}


def retrain_steps(
    project: Project, model: str, *, recipe: Mapping[str, Any] | None = None, seed: int = 0
) -> Steps[Retrained]:
    """`retrain_here_steps` in a child process, so that the window stays alive and a crash takes nothing
    with it.

    Closing the generator tells the child to stop; it keeps its best model so far, which is then among the
    cards.
    """
    card = find_card(project, model)
    line = ["retrain", str(project.path), "--model", card.id, "--seed", str(seed), "--json", "--until-told"]
    line += [
        part for key, value in (recipe or {}).items() for part in ("--recipe", f"{key}={json.dumps(value)}")
    ]
    record = yield from child_steps(line)
    return Retrained.from_record(project, record)
