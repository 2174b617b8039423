"""Retrain: go on from a model with everything that was said, compare both, and say which is better."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_mil.card import ModelCard, Recipe
from napari_mil.labeltree import Survival
from napari_mil.options import build
from napari_mil.steps import Progress, Steps
from napari_mil.workflow.cases import apart, as_it_stands, cases_steps
from napari_mil.workflow.child import Stop, child_steps
from napari_mil.workflow.figures import (
    figure_words,
    figures_in,
    stands_on,
    told_value,
    too_few,
    value_words,
)
from napari_mil.workflow.learn import keep_model, next_name, run_steps, unless_told
from napari_mil.workflow.manifest import PARTS
from napari_mil.workflow.project import Project, as_of, find_card
from napari_mil.workflow.runs import clear_checkpoints, run_folder, with_recorded_ids

if TYPE_CHECKING:
    from napari_mil.evaluate import Split, TrainingCase
    from napari_mil.mil import MILModel
    from napari_mil.train import Trained


@dataclass(frozen=True, slots=True, eq=False)
class Retrained:
    """What a retraining changed.

    Attributes
    ----------
    card : of the child; it is stored, not adopted
    before, after : held-out figures of parent and child, {name: (value, low, high)}
    changes : after − before of those figures on the same cases, with paired 95 % intervals
    flipped : (case, label before, label after) of every case whose most likely leaf changed
    obeyed : (n, of): corrected tiles that the new weights alone follow
    set_aside : corrected tiles on held-out cases; they are kept, but not learned from
    held : how many cases `before` and `after` stand on
    left_out : sentences: slides without features, cases whose picture is held out under another name
    """

    card: ModelCard
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    changes: Mapping[str, Any]
    flipped: tuple[tuple[str, str, str], ...]
    obeyed: tuple[int, int]
    set_aside: int = 0
    held: int = 0
    left_out: tuple[str, ...] = ()

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
        figures = (d["before"], d["after"], d["changes"])
        return cls(card, *figures, flipped, (n, of), d["set_aside"], d["held"], tuple(d["left_out"]))

    @property
    def worse(self) -> str:
        """The sentence that says the child is worse on held-out cases beyond noise, or ""."""
        return self.card.worse

    def in_words(self) -> str:
        """A few lines for a person."""
        lines = [f"{self.card.name}: stored, not adopted"]
        for key in sorted(set(self.before) & set(figures_in(self.after))):
            was, now = self.before[key], self.after[key]
            if np.isfinite(was[0]) and np.isfinite(now[0]):
                words = figure_words(told_value(key, now), stands_on(key, self.after, self.held))
                lines.append(f"  {key}: {value_words(key, was)} -> {words}{self._by(key)}")
        if self.obeyed[1]:
            lines.append(
                f"  corrected tiles that the new model follows: {self.obeyed[0]} of {self.obeyed[1]}"
            )
        if self.set_aside:
            lines.append(f"  corrected tiles on held-out cases, not learned from: {self.set_aside}")
        lines += [f"  left out: {sentence}" for sentence in self.left_out]
        lines += [f"  {case}: {a} -> {b}" for case, a, b in self.flipped]
        return "\n".join([*lines, *([f"  WORSE: {self.worse}"] if self.worse else [])])

    def _by(self, key: str) -> str:
        """By how much a figure changed, where that is known."""
        if key not in self.changes or not np.isfinite(self.changes[key]).all():
            return ""
        value, low, high = self.changes[key]
        few = too_few(stands_on(key, self.after, self.held))
        between = "" if few else f" (95 % {low:+.3f} to {high:+.3f})"
        return f", change {value:+.3f}{between}"


def retrain_here_steps(
    project: Project,
    model: str,
    *,
    recipe: Mapping[str, Any] | None = None,
    seed: int = 0,
    head: str | None = None,
    stop: Stop | None = None,
) -> Steps[Retrained]:
    """Go on from a model's weights with everything the ledger knows, in this process; store the child.

    `head` names the event of the ledger up to which it counts (number or hash); None is all of it, as it
    stands at the beginning.
    Cases that were held out from the parent stay held out; new cases are learned from. The same ledger head
    and seed give the same weights on a CPU, killed and gone on with or not.
    """
    from napari_mil.train import Log, Training, retrain_recipe

    known = as_it_stands(project) if head is None else as_of(project, head)
    parent, network = find_card(project, model), project.model(model)
    left: list[str] = []
    survival = isinstance(parent.tree, Survival)
    found = cases_steps(known, parent.encoder, survival=survival, aside=left, card=parent)
    cases = yield from unless_told(found, stop)
    for case in cases:
        parent.check(case.bags[0])
    split = apart(_split_like(parent, cases), cases, left)
    gentle = dataclasses.asdict(retrain_recipe(parent.recipe, seed=seed)) | dict(recipe or {})
    chosen = with_recorded_ids(project, build(Recipe, gentle, "the recipe"))
    name = next_name(project, parent.name.split("+")[0], "+")
    folder = run_folder(project, name)
    run = Training(
        cases,
        split,
        method=parent.method,
        config=parent.config,
        recipe=chosen,
        tree=parent.tree,
        start=network.state_dict(),
        log=Log(folder),
    )
    run.resume = folder / f"{run.key[:12]}.ckpt"
    trained = yield from run_steps(run, stop)
    yield Progress("comparing", 0, 1)
    about = _compared(parent, network, trained, cases, split)
    worse = worse_words(about["before"], about["after"], about["changes"], about["held"])
    kept = (trained, cases, split, run.config, chosen, parent.method, name)
    card = keep_model(known, *kept, parent=parent.id, worse=worse, note="; ".join(left))
    clear_checkpoints(folder)
    yield Progress("comparing", 1, 1)
    return Retrained(card=card, left_out=tuple(left), **about)


def _compared(
    parent: ModelCard, network: MILModel, trained: Trained, cases: Sequence[TrainingCase], split: Split
) -> dict[str, Any]:
    """What the two models say differently, as fields of Retrained."""
    from napari_mil.evaluate import answers, changes, evaluate

    held = [c for c in cases if c.case in set(split.test or split.validation)]
    learned = [c for c in cases if c.case in set(split.train)]
    old, new = answers(network, cases), answers(trained.model, cases)
    warm = [parent.temperature if parent.calibrated else None]
    warm.append(trained.temperature if trained.calibrated else None)
    each = zip((network, trained.model), (old, new), warm, strict=True)
    before, after = (evaluate(m, held, said=said, temperature=t) if held else {} for m, said, t in each)
    return {
        "before": before,
        "after": after,
        "changes": changes(held, old, new, parent.tree),
        "flipped": _flipped(parent, old, new),
        "obeyed": _obeyed(learned, new, parent),
        "set_aside": sum(
            int((t > 0).sum()) for c in cases if c not in learned for t in c.tiles if t is not None
        ),
        "held": len(held),
    }


def _split_like(parent: ModelCard, cases: Sequence[TrainingCase]) -> Split:
    """The parent's split, by slide; cases it never saw are learned from."""
    from napari_mil.evaluate import Split, split_by_case, stratum

    held = {s: part for part in ("validation", "test") for s in parent.slides.get(part, ())}
    if not held:
        survival = isinstance(parent.tree, Survival)
        labels = {c.case: stratum(c.target, survival=survival) for c in cases}
        return split_by_case(labels, seed=parent.recipe.seed)
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


def worse_words(
    before: Mapping[str, Any], after: Mapping[str, Any], changed: Mapping[str, Any], held: int
) -> str:
    """The sentence for the figure that fell most beyond noise; "" where none did."""
    from napari_mil.evaluate import worse

    fallen = sorted(worse(changed), key=lambda name: float(changed[name][0]))
    if not fallen:
        return ""
    name = fallen[0]
    _, low, high = changed[name]
    cases = stands_on(name, after, held) or 0
    how = f"which is beyond noise (95 % interval of the change {low:+.3f} to {high:+.3f})"
    if too_few(cases):
        how = f"though on {cases} case{'' if cases == 1 else 's'} alone, too few for an interval"
    return (
        f"{name} on held-out cases fell from {before[name][0]:.3f} to {after[name][0]:.3f}, {how}; "
        "better keep the parent."
    )


def retrain_steps(
    project: Project,
    model: str,
    *,
    recipe: Mapping[str, Any] | None = None,
    seed: int = 0,
    head: str | None = None,
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
    line += ["--head", head] if head else []
    record = yield from child_steps(line)
    return Retrained.from_record(project, record)
