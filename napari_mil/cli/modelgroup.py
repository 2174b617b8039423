"""models list, show, compare, adopt, rollback, import."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from napari_mil.cli.cards import card_lines, recording_lines
from napari_mil.cli.running import AsJson, By, ExistingProject, opened, say_error, settings
from napari_mil.cli.running import show as show_progress
from napari_mil.errors import MILError, ModelError

app = typer.Typer(
    help="The project's models: list, show, compare, adopt, go back, and take in published checkpoints.",
    epilog="Example: `napari-mil models list study/` or `napari-mil models import study/ published.pth`",
    no_args_is_help=True,
)

Name = Annotated[str, typer.Argument(help="Name or id of a model of the project.", show_default=False)]


@app.command("list", epilog="Example: `napari-mil models list study/`")
def list_(project: ExistingProject, *, as_json: AsJson = False) -> None:
    """List the project's models, newest last; an asterisk marks the one that answers where none is named: the
    adopted one, or, as long as none was adopted, the newest that is not worse than its parent.
    """
    from napari_mil.workflow import current_card

    with opened(project) as p:
        current = current_card(p)
        if not p.cards:
            say_error(f"{project} has no models yet; napari-mil train makes one.")
        for card in p.cards:
            answers = current is not None and card.id == current.id
            row = {"name": card.name, "method": card.method, "id": card.id, "answers": answers}
            row["adopted"] = card.id == p.store.current
            row |= {"parent": card.parent, "created": card.created}
            about = f"{card.name}  {card.method}  {card.id}  parent {card.parent or 'none'}  {card.created}"
            print(json.dumps(row) if as_json else f"{'*' if answers else ' '} {about}")


@app.command(epilog="Example: `napari-mil models show study/ mhim-sample`")
def show(project: ExistingProject, model: Name, *, as_json: AsJson = False) -> None:
    """Show a model's card: what it reads, what it answers, what was assumed, how good it is."""
    from napari_mil.workflow import find_card

    with opened(project) as p:
        card = find_card(p, model)
        lines = [*card_lines(p, card), *recording_lines(p, card)]
    print(json.dumps(json.loads(card.to_json())) if as_json else "\n".join(lines))


@app.command(epilog="Example: `napari-mil models compare study/ mhim-1 mhim-1+1`")
def compare(
    project: ExistingProject,
    model: Name,
    other: Name,
    *,
    evaluate: Annotated[
        bool,
        typer.Option("--evaluate", help="Ask both about the same labelled cases that neither learned from."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Say where two cards differ, and their held-out figures side by side; with --evaluate the figures of
    both on the same cases, and their differences.
    """
    from napari_mil.workflow import compare_cards, compare_steps, find_card, labels_apart, not_alike

    with opened(project) as p:
        one, two = find_card(p, model), find_card(p, other)
        if evaluate:
            found = show_progress(compare_steps(p, one.id, two.id), as_json=as_json)
            print(json.dumps({"result": found.to_record()}) if as_json else found.in_words())
            return
        rows, sentences = compare_cards(one, two, p), (not_alike(one, two), labels_apart(p, one, two))
    for what, mine, its in rows:
        row = {"what": what, one.id: mine, two.id: its}
        print(json.dumps(row) if as_json else f"{what}: {mine or 'none'} | {its or 'none'}")
    for sentence in filter(None, sentences):
        say_error(sentence)


@app.command(epilog="Example: `napari-mil models adopt study/ mhim-1+1`")
def adopt(
    project: ExistingProject,
    model: Name,
    *,
    although_worse: Annotated[
        bool, typer.Option("--although-worse", help="Adopt a model that became worse on held-out cases.")
    ] = False,
    as_json: AsJson = False,
    by: By = "",
) -> None:
    """Make a model the one that answers from now on; one that became worse must be asked for twice."""
    from napari_mil.workflow import adopt as adopt_model

    with opened(project, by=by) as p:
        card = adopt_model(p, model, although_worse=although_worse)
    _say_answering(card, f"{card.name} answers from now on.", as_json=as_json)


@app.command(epilog="Example: `napari-mil models rollback study/`")
def rollback(project: ExistingProject, by: By = "", *, as_json: AsJson = False) -> None:
    """Go back to the model that was adopted before, further back each time."""
    from napari_mil.workflow import roll_back

    with opened(project, by=by) as p:
        card = roll_back(p)
    _say_answering(card, f"{card.name} answers again.", as_json=as_json)


def _say_answering(card: Any, words: str, *, as_json: bool) -> None:
    print(json.dumps({"id": card.id, "name": card.name, "adopted": True}) if as_json else words)


@app.command(
    "import",
    epilog="Example: `napari-mil models import study/ published.pth --classes LUAD,LUSC -s act=relu` or "
    "`napari-mil models import study/ survival.pth --edges 12,24,36 --unit months`",
)
def import_(
    project: Annotated[
        Path, typer.Argument(help="The project's folder; made when missing.", show_default=False)
    ],
    file: Annotated[Path, typer.Argument(help="PyTorch or safetensors file.", show_default=False)],
    classes: Annotated[
        str | None,
        typer.Option(help="Its classes, in its order, with commas: leaves of the project's label tree."),
    ] = None,
    edges: Annotated[
        str | None,
        typer.Option(help="Where it answers with time: the times between its intervals, or with both ends."),
    ] = None,
    unit: Annotated[
        str | None, typer.Option(help="What these times are counted in: days, weeks, months or years.")
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(help="Encoder whose features it reads, by name or id; default: the one in the file."),
    ] = None,
    encoder_weights: Annotated[
        Path | None,
        typer.Option(help="The encoder's file of weights, where it needs one; the project keeps them."),
    ] = None,
    tile_px: Annotated[int | None, typer.Option(help="Side of its tiles in pixels.", min=16)] = None,
    mpp: Annotated[str | None, typer.Option(help="µm per pixel of its tiles, or none.")] = None,
    method: Annotated[str | None, typer.Option(help="mean or max, whose files look the same.")] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", "-s", help="Option of the method, KEY=VALUE.")
    ] = None,
    part: Annotated[str, typer.Option(help="student or teacher: whose weights answer.")] = "student",
    name: Annotated[
        str | None, typer.Option(help="What to call the model; default: the file's name.")
    ] = None,
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing: assume what is not said.")] = False,
    by: By = "",
) -> None:
    """Take a published checkpoint into a project, strictly and as weights only; what the file does not say is
    asked, and what nobody knows is assumed and marked so on the model's card.
    """
    from napari_mil.workflow import take_checkpoint

    told: dict[str, Any] = {
        "classes": classes,
        "edges": edges,
        "unit": unit,
        "encoder": encoder,
        "encoder_weights": encoder_weights,
        "tile_px": tile_px,
        "mpp": mpp,
        "method": method,
    }
    said = {k: v for k, v in told.items() if v is not None} | settings(setting)
    said = _answers(project, file, said, yes=yes)
    card = take_checkpoint(project, file, said, part=part, name=name, by=by)
    print(f"{card.name} ({card.method}, {card.id})")
    print("\n".join(f"  assumed: {sentence}" for sentence in card.assumed) or "  nothing was assumed")


def _answers(folder: Path, file: Path, said: dict[str, Any], *, yes: bool) -> dict[str, Any]:
    """What is said of a checkpoint, the rest asked on a terminal; ModelError where nobody can be asked."""
    from napari_mil.workflow import Project, questions

    tree = None
    if (folder / "project.json").exists():
        with Project(folder) as p:
            tree = p.tree
    asked = questions(file, tree, method=said.get("method"))
    known = {q.name: q.read(str(said[q.name])) for q in asked if q.name in said}
    said = said | known
    rest = [q for q in asked if q.due(said)]
    if yes or not rest:
        return said
    if not sys.stdin.isatty():
        names = ", ".join(f"{q.name} ({q.default or 'nothing to assume'})" for q in rest)
        raise ModelError(
            f"{file.name} does not say {names}: give them as options (-s KEY=VALUE for those of the method), "
            "or --yes to assume what stands in brackets."
        )
    for question in asked:
        if question.due(said) and (answer := _ask(question)) is not None:
            said = said | {question.name: answer}
    return said


def _ask(question: Any) -> Any:
    """The answer to a question, or None where nobody knows it."""
    choices = f" ({', '.join(question.choices)})" if question.choices else ""
    unknown = f"Enter assumes {question.default}" if question.default else "needed"
    while True:
        text = typer.prompt(
            f"{question.name}: {question.words}{choices}; {unknown}", default="", show_default=False
        )
        if not text.strip():
            return None
        try:
            if question.choices and text.strip() not in question.choices:
                raise ModelError(f"{text.strip()!r} is none of {', '.join(question.choices)}.")
            return question.read(text.strip())
        except MILError as error:
            say_error(str(error))
