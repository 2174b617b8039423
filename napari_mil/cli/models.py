"""train, retrain, evaluate, models."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from napari_mil.cli.running import (
    AsJson,
    By,
    ExistingProject,
    ModelName,
    metric_lines,
    opened,
    settings,
    show,
)

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
    epilog="Example: `napari-mil train study/ --method mhim -s init_student=all -r epochs=60 --name mhim-1`"
)
def train(
    project: ExistingProject,
    method: Annotated[str, typer.Option(help="mean, max, abmil, gabmil, transmil, mhim or hmil.")] = "mhim",
    setting: Setting = None,
    recipe: RecipeSetting = None,
    name: Annotated[str | None, typer.Option(help="What to call the model; default METHOD-NUMBER.")] = None,
    *,
    as_json: AsJson = False,
    until_told: Told = False,
) -> None:
    """Train a model on the project's labelled slides, split by case; its card tells how good it is on
    held-out cases.
    """
    from napari_mil.workflow import train_model_steps

    with opened(project) as p:
        steps = train_model_steps(
            p,
            method,
            config=settings(setting),
            recipe=settings(recipe),
            name=name,
            stop=_stop(until_told=until_told),
        )
        card = show(steps, as_json=as_json)
    if as_json:
        print(json.dumps({"result": json.loads(card.to_json())}), flush=True)
    else:
        print("\n".join([f"{card.name} ({card.method}, {card.id})", *metric_lines(dict(card.metrics))]))


@app.command(epilog="Example: `napari-mil retrain study/ --model mhim-sample`")
def retrain(
    project: ExistingProject,
    model: ModelName,
    recipe: RecipeSetting = None,
    seed: Annotated[int, typer.Option(help="The same ledger and seed give the same weights on a CPU.")] = 0,
    *,
    as_json: AsJson = False,
    until_told: Told = False,
) -> None:
    """Train a child of a model on everything the ledger knows, and compare both; nothing is adopted."""
    from napari_mil.workflow import retrain_here_steps

    with opened(project) as p:
        stop = _stop(until_told=until_told)
        done = show(
            retrain_here_steps(p, model, recipe=settings(recipe), seed=seed, stop=stop), as_json=as_json
        )
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
    """Compare a model's answers with the labels, with bootstrap intervals by case."""
    from napari_mil.workflow import evaluate_steps

    with opened(project) as p:
        metrics = show(evaluate_steps(p, model, split=split), as_json=as_json)
    print(json.dumps({"result": metrics}) if as_json else "\n".join(metric_lines(metrics)))


@app.command(epilog="Example: `napari-mil models study/` or `napari-mil models study/ --adopt mhim-sample+1`")
def models(
    project: ExistingProject,
    adopt: Annotated[str | None, typer.Option(help="Make this model the one that answers.")] = None,
    by: By = "",
) -> None:
    """List the project's models, newest last; an asterisk marks the adopted one."""
    from napari_mil.workflow import adopt as adopt_model
    from napari_mil.workflow import current_card

    with opened(project, by=by) as p:
        if adopt:
            adopt_model(p, adopt)
        current = current_card(p)
        for card in p.cards:
            mark = "*" if current and card.id == current.id else " "
            print(
                f"{mark} {card.name}  {card.method}  {card.id}  "
                f"parent {card.parent or 'none'}  {card.created}"
            )
