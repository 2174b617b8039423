"""review: what to look at next, and a person's answers; second readings, and how far two people agree."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from napari_mil.cli.running import AsJson, By, ExistingProject, opened, show
from napari_mil.errors import MILError, ProjectError

app = typer.Typer()

Keys = list[str] | None


@app.command(
    epilog="Example: `napari-mil review study/ -n 10`, `napari-mil review study/ --accept case-17@12,40 "
    "--relabel case-3=Benign/UDH`, `napari-mil review study/ --second --by Reader-B` or "
    "`napari-mil review study/ --agreement --output kappa.csv`"
)
def review(
    project: ExistingProject,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="Model whose answers are looked at; default: the adopted."),
    ] = None,
    n: Annotated[int, typer.Option("-n", help="How many places.", min=1)] = 20,
    slide: Annotated[list[str] | None, typer.Option(help="Only this slide; repeat for more.")] = None,
    criterion: Annotated[
        list[str] | None,
        typer.Option(help="Only this criterion: label, alike, rests, unsure, teacher, levels, far, random."),
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same order.")] = 0,
    accept: Annotated[Keys, typer.Option(help="SLIDE or SLIDE@ROW,COL: the model is right there.")] = None,
    relabel: Annotated[Keys, typer.Option(help="SLIDE=LABEL or SLIDE@ROW,COL=LABEL: it is this.")] = None,
    skip: Annotated[Keys, typer.Option(help="SLIDE or SLIDE@ROW,COL: do not ask me again.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write --agreement as .csv or .json.")
    ] = None,
    *,
    again: Annotated[bool, typer.Option("--again", help="Ask also what you have skipped.")] = False,
    second: Annotated[
        bool,
        typer.Option(
            "--second", help="Places that others labelled, to be read blind; --relabel keeps a reading."
        ),
    ] = False,
    agreement: Annotated[
        bool, typer.Option("--agreement", help="How far two people agree, with Cohen's κ.")
    ] = False,
    as_json: AsJson = False,
    by: By = "",
) -> None:
    """Say what to look at next, and why; take answers to it; compare two readers."""
    if second and (accept or skip):
        raise MILError("A second reading is blind: say what you see with --relabel PLACE=LABEL.")
    with opened(project, by=by) as p:
        if agreement:
            _agreement(p, output, as_json=as_json)
        elif second and relabel:
            _read(_named(p), relabel, as_json=as_json)
        elif second:
            _second(_named(p), n, seed, as_json=as_json)
        elif accept or relabel or skip:
            _answer(p, model, accept or [], relabel or [], skip or [], as_json=as_json)
        else:
            about: dict[str, Any] = {"model": model, "n": n, "seed": seed, "again": again}
            _next(p, slide, criterion, about, as_json=as_json)


def _next(
    p: Any, slide: list[str] | None, criterion: list[str] | None, about: dict[str, Any], *, as_json: bool
) -> None:
    from napari_mil.workflow import find_record, review_steps

    if slide:
        about["slides"] = {find_record(p, name).id for name in slide}
    if criterion:
        about["criteria"] = criterion
    found = show(review_steps(p, **about), as_json=as_json)
    for question in found:
        text = f"{question.key}: {question.label} ({question.sure:.0%})? {question.item.reason}"
        print(json.dumps(question.to_record()) if as_json else text)
    if not found and not as_json:
        print("Nothing is left to ask; --again shows what you have skipped.")


def _answer(
    p: Any, model: str | None, accept: list[str], relabel: list[str], skip: list[str], *, as_json: bool
) -> None:
    """Keep the answers; none of them where one cannot be understood."""
    from napari_mil.workflow import answer_question, question_at, skip_question

    pairs = [_pair(p, text) for text in relabel]
    asked = {key: question_at(p, key, model=model) for key in (*accept, *(k for k, _ in pairs), *skip)}
    said = {key: answer_question(p, asked[key]).label for key in accept}
    said |= {key: answer_question(p, asked[key], label).label for key, label in pairs}
    for key in skip:
        skip_question(p, asked[key])
    _tell(said | dict.fromkeys(skip), as_json=as_json)


def _read(p: Any, relabel: list[str], *, as_json: bool) -> None:
    """Keep second readings; none of them where one cannot be understood."""
    from napari_mil.workflow import labelled_place, read_again

    pairs = [_pair(p, text) for text in relabel]
    places = [labelled_place(p, key) for key, _ in pairs]
    said = {
        key: read_again(p, record.id, place, label).label
        for (key, label), (record, place) in zip(pairs, places, strict=True)
    }
    _tell(said, as_json=as_json)


def _tell(said: dict[str, str | None], *, as_json: bool) -> None:
    for key, label in said.items():
        print(json.dumps({"key": key, "label": label}) if as_json else f"{key}: {label or 'skipped'}")


def _pair(p: Any, text: str) -> tuple[str, str]:
    """A place and its label, which the project's tree must have."""
    key, sign, label = text.rpartition("=")
    if not sign or not key or not label:
        raise MILError(f"{text!r} says no label; write PLACE=LABEL, such as case-17@12,40=Malignant/DCIS.")
    p.tree.node(label)
    return key, label


def _named(p: Any) -> Any:
    """The project, which knows who speaks; ProjectError where it does not."""
    if not p.by:
        raise ProjectError("A second reading needs to know who reads; say it with --by NAME.")
    return p


def _second(p: Any, n: int, seed: int, *, as_json: bool) -> None:
    from napari_mil.workflow import place_key, second_places

    keys = [place_key(p, record, place) for record, place in second_places(p, n=n, seed=seed)]
    for key in keys:
        print(json.dumps({"key": key}) if as_json else key)
    if not keys and not as_json:
        print(f"Nothing was labelled by others that {p.by} has not read.")


def _agreement(p: Any, output: Path | None, *, as_json: bool) -> None:
    from napari_mil.workflow import agreement_report, report_lines, report_rows, write_report

    report = agreement_report(p)
    lines = [json.dumps(row) for row in report_rows(report)] if as_json else report_lines(report)
    print("\n".join(lines))
    if output is not None:
        print(f"Wrote {write_report(report, output)}.", flush=True)
