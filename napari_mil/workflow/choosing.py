"""A new model: what there is to choose, whether there is enough to learn from, and its training in a process
of its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from napari_mil.card import ModelCard, Recipe
from napari_mil.correction import WholeSlide
from napari_mil.errors import MILError, ModelError
from napari_mil.options import build
from napari_mil.steps import Steps
from napari_mil.store.encoders import kept_encoders
from napari_mil.workflow.cases import KnownCase, known_cases
from napari_mil.workflow.child import child_steps
from napari_mil.workflow.learn import check_enough, planned_split, task_of
from napari_mil.workflow.project import Project, find_card
from napari_mil.workflow.runs import with_recorded_ids

if TYPE_CHECKING:
    from napari_mil.mil import MILModel


@dataclass(frozen=True, slots=True, eq=False)
class MethodChoice:
    """A method as a person chooses it.

    Attributes
    ----------
    name : the registry's
    about : what it does, or why it cannot be used
    paper : where it comes from
    presets : {name: note}, the settings of the papers
    flat : whether it can learn a task of one level, such as follow-up times
    hides : whether it hides tiles while it learns, which can be recorded
    usable : whether it could be loaded
    """

    name: str
    about: str
    paper: str = ""
    presets: Mapping[str, str] = field(default_factory=dict)
    flat: bool = True
    hides: bool = False
    usable: bool = True


def method_choices() -> tuple[MethodChoice, ...]:
    """Every registered method; one of another package that does not load says why."""
    from napari_mil import methods

    return tuple(map(_choice, methods.names()))


def _choice(name: str) -> MethodChoice:
    from napari_mil import methods
    from napari_mil.blocks import HidesTiles

    try:
        kind = methods.get(name)
    except ModelError as error:
        return MethodChoice(name, str(error), usable=False)
    notes = {preset: known.note for preset, known in kind.presets.items()}
    flat, hides = "flat tree" not in kind.exceptions, issubclass(kind, HidesTiles)
    return MethodChoice(name, methods.about(name), kind.paper, notes, flat, hides)


def start_options(method: str, preset: str | None = None) -> tuple[Any, Recipe]:
    """The method's Config and the Recipe that a training begins with: the defaults, or those of a preset."""
    from napari_mil import methods
    from napari_mil.train import config_for, recipe_for

    config: Any = build(methods.get(method).Config, config_for(method, preset=preset), method)
    return config, recipe_for(method, preset=preset)


def known_encoders(project: Project) -> tuple[str, ...]:
    """The encoders that a project can use: those that need no weights, and those whose weights it keeps."""
    from napari_mil import encoders

    return (*(n for n in encoders.names() if not encoders.needs_weights(n)), *kept_encoders(project.path))


def why_not_train(
    project: Project,
    method: str,
    *,
    name: str,
    config: Mapping[str, Any] | None = None,
    recipe: Mapping[str, Any] | None = None,
    preset: str | None = None,
    survival: bool = False,
    bins: int = 4,
    unit: str = "",
) -> str:
    """The sentence that says why a training cannot begin, or "" where nothing is known against it."""
    from napari_mil import methods
    from napari_mil.train import config_for, recipe_for

    try:
        _check_name(project, name)
        known = known_cases(project, survival=survival)
        check_enough(len(known), _said(project, known), project.tree, survival=survival)
        chosen = with_recorded_ids(project, recipe_for(method, recipe, preset=preset))
        split = planned_split(project, known, chosen.seed, survival=survival)
        tree = task_of(project, known, split, survival=survival, bins=bins, unit=unit)
        model = methods.create(method, config_for(method, config, preset=preset), in_features=8, tree=tree)
        _check_recorded(model, chosen, known)
    except MILError as error:
        return str(error)
    return ""


def _said(project: Project, known: Sequence[KnownCase]) -> set[int]:
    """What is said of slides and of places in them, as nodes of the project's labels."""
    corrections = (c for one in known for slide in one.slides for c in project.ledger.corrections(slide))
    places = {c.label for c in corrections if not isinstance(c.place, WholeSlide)}
    return {one.target.slide for one in known} | set(map(project.tree.node, places))


def _check_recorded(model: MILModel, recipe: Recipe, known: Sequence[KnownCase]) -> None:
    """The errors of a training that is to record what it cannot."""
    from napari_mil.train.recording import hides, not_learned

    if recipe.record:
        hides(model)
    among = {name for one in known for name in (one.case, *one.slides)}
    for name in recipe.record:
        if name not in among:
            raise not_learned(name)


def _check_name(project: Project, name: str) -> None:
    """ModelError when a new model cannot be called so."""
    if not name:
        raise ModelError("The model has no name; give it one.")
    if name in {known for card in project.cards for known in (card.name, card.id)}:
        raise ModelError(f"There is a model called {name} already; give the new one another name.")


def train_apart_steps(
    project: Project,
    method: str,
    *,
    name: str,
    config: Mapping[str, Any] | None = None,
    recipe: Mapping[str, Any] | None = None,
    preset: str | None = None,
    encoder: str = "builtin",
    survival: bool = False,
    bins: int = 4,
    unit: str = "",
) -> Steps[ModelCard]:
    """`train_model_steps` in a child process, so that the window stays alive and a crash takes nothing with
    it.

    Closing the generator tells the child to stop; it keeps its best model so far, which is then among the
    cards, where at least one epoch had ended.
    """
    line = ["train", str(project.path), f"--method={method}", f"--name={name}", f"--encoder={encoder}"]
    line += ["--json", "--until-told"]
    line += [f"--preset={preset}"] if preset else []
    line += ["--survival", f"--bins={bins}"] if survival else []
    line += [f"--unit={unit}"] if survival and unit else []
    line += [f"--set={key}={json.dumps(value)}" for key, value in (config or {}).items()]
    line += [f"--recipe={key}={json.dumps(value)}" for key, value in (recipe or {}).items()]
    record = yield from child_steps(line)
    return find_card(project, record["id"])
