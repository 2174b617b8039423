"""train, retrain, evaluate."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from napari_mil.cli.running import (
    AsJson,
    ExistingProject,
    ModelName,
    metric_lines,
    opened,
    settings,
    show,
)
from napari_mil.cli.studies import grid_of, numbers, study
from napari_mil.errors import MILError

app = typer.Typer()

Setting = Annotated[
    list[str] | None, typer.Option("--set", "-s", help="Option of the method, KEY=VALUE; repeat for more.")
]
RecipeSetting = Annotated[
    list[str] | None,
    typer.Option("--recipe", "-r", help="Option of the training, KEY=VALUE; repeat for more."),
]
Told = Annotated[
    bool, typer.Option("--until-told", hidden=True, help="End early when standard input says stop or ends.")
]


def _stop(*, until_told: bool) -> Callable[[], bool] | None:
    if not until_told:
        return None
    from napari_mil.workflow import told_to_stop

    return told_to_stop(sys.stdin)


@app.command(
    epilog="Example: `napari-mil train study/ --method mhim -s mask_ratio=0.05 -r epochs=60 --name mhim-1`, "
    "`napari-mil train study/ --method mhim --preset v2-command --folds 5 --seeds 0,1,2` or "
    "`napari-mil train study/ --method mhim --grid published`"
)
def train(
    project: ExistingProject,
    method: Annotated[str, typer.Option(help="Name of a method; `doctor` lists them.")] = "mhim",
    setting: Setting = None,
    recipe: RecipeSetting = None,
    name: Annotated[str | None, typer.Option(help="What to call the model; default METHOD-NUMBER.")] = None,
    preset: Annotated[
        str | None, typer.Option(help="Settings of a paper, such as v2-command; -s and -r go before them.")
    ] = None,
    folds: Annotated[int, typer.Option(help="Cross-validate: that many folds by case; 0: one split.")] = 0,
    seeds: Annotated[
        str | None, typer.Option(help="Seeds of a cross-validation, such as 0,1,2; default: the recipe's.")
    ] = None,
    grid: Annotated[
        list[str] | None,
        typer.Option(help="Search: `published`, or OPTION=[VALUES]; repeat for more options."),
    ] = None,
    record: Annotated[
        list[str] | None,
        typer.Option(help="Record this slide's hidden tiles in every epoch (MHIM); repeat for more."),
    ] = None,
    bins: Annotated[int, typer.Option(help="Intervals of time, with --survival.", min=2, max=20)] = 4,
    unit: Annotated[
        str,
        typer.Option(help="What the times are counted in, with --survival: days, weeks, months or years."),
    ] = "",
    encoder: Annotated[str, typer.Option(help="Encoder whose features it reads.")] = "builtin",
    *,
    survival: Annotated[
        bool, typer.Option("--survival", help="Learn follow-up times instead of labels.")
    ] = False,
    keep_models: Annotated[
        bool, typer.Option("--keep-models", help="Store the model of every fold, not only its figures.")
    ] = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write TensorBoard files beside runs/NAME/history.csv.")
    ] = False,
    as_json: AsJson = False,
    until_told: Told = False,
) -> None:
    """Train a model on the project's labelled slides, split by case; its card tells how good it is on
    held-out cases. With --folds a study: the figures of every fold's held-out cases, and no model.
    """
    given = {**settings(recipe), **({"record": record} if record else {})}
    shared: dict[str, Any] = {"config": settings(setting), "recipe": given, "preset": preset, "name": name}
    shared["tensorboard"] = tensorboard
    shared |= {"survival": survival, "bins": bins, "unit": unit, "encoder": encoder}
    if folds:
        shared["keep_models"] = keep_models
        if seeds and "seed" in given:
            raise MILError("Seeds were given twice, by --seeds and by -r seed; give them by --seeds.")
        each = numbers(seeds) if seeds else None
        study(project, method, folds, each, grid, as_json=as_json, **shared)
        return
    if seeds or keep_models:
        raise MILError(
            "--seeds and --keep-models belong to --folds; for one model give its seed by -r seed=1."
        )
    from napari_mil.workflow import search_model_steps, train_model_steps
    from napari_mil.workflow.figures import held_out_lines

    with opened(project) as p:
        if grid:
            steps = search_model_steps(p, method, grid_of(method, grid), **shared)
        else:
            stop = _stop(until_told=until_told)
            steps = train_model_steps(p, method, stop=stop, **shared)
        card = show(steps, as_json=as_json)
        lines = [f"{card.name} ({card.method}, {card.id})", *held_out_lines(p, card)]
        if name and name != card.name:
            lines.append(
                f"These are the weights of {card.name} to the bit, so no second model {name} was made."
            )
        if others := [c.id for c in p.cards if c.name == card.name and c.id != card.id]:
            lines.append(
                f"The name {card.name} means this model from now on; {', '.join(others)} had it before and "
                "is found by its id."
            )
    print(json.dumps({"result": json.loads(card.to_json())}) if as_json else "\n".join(lines), flush=True)


@app.command(epilog="Example: `napari-mil retrain study/ --model mhim-sample`")
def retrain(
    project: ExistingProject,
    model: ModelName,
    recipe: RecipeSetting = None,
    seed: Annotated[int, typer.Option(help="The same ledger and seed give the same weights on a CPU.")] = 0,
    head: Annotated[
        str | None,
        typer.Option(help="Learn from the ledger as it stood at this event: its number, or its hash."),
    ] = None,
    *,
    as_json: AsJson = False,
    until_told: Told = False,
) -> None:
    """Train a child of a model on everything the ledger knows, and compare both; nothing is adopted."""
    from napari_mil.workflow import retrain_here_steps

    with opened(project) as p:
        stop = _stop(until_told=until_told)
        steps = retrain_here_steps(p, model, recipe=settings(recipe), seed=seed, head=head, stop=stop)
        done = show(steps, as_json=as_json)
    print(done.to_json() if as_json else done.in_words(), flush=True)


@app.command(epilog="Example: `napari-mil evaluate study/ --model mhim-sample --split test`")
def evaluate(
    project: ExistingProject,
    model: ModelName,
    split: Annotated[
        str, typer.Option(help="test, validation, train or all, as in the model's card.")
    ] = "test",
    *,
    as_json: AsJson = False,
) -> None:
    """Compare a model's answers with the labels, with bootstrap intervals by case.

    Names of figures: `coarse/…` and `fine/…` are the levels of the label tree; `auc` is the macro area under
    the ROC curve, each class against the rest; `balanced_accuracy` the mean recall; `macro_f1` the mean F1;
    `lesion/auc` lesion against normal; `hierarchy` the share of answers whose fine label lies under the
    coarse one; `tile/…` and `calls/…` are of labelled tiles. The engineer's guide explains each.
    """
    from napari_mil.workflow import evaluate_steps

    with opened(project) as p:
        metrics = show(evaluate_steps(p, model, split=split), as_json=as_json)
    if as_json:
        print(json.dumps({"result": metrics}))
    else:
        cases = metrics.pop("cases")
        print("\n".join(metric_lines(metrics, cases=cases)))
