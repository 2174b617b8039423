"""import, embed, predict, explain: slides in, answers out."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from napari_mil.cli.running import (
    AsJson,
    By,
    ExistingProject,
    ModelName,
    SlideNames,
    chosen,
    each,
    each_of,
    ended_gently,
    label_mapping,
    line,
    opened,
    say_error,
    say_failed,
    show,
)
from napari_mil.errors import MILError
from napari_mil.steps import Progress

app = typer.Typer()


@app.command("import", epilog="Example: `napari-mil import study/ slides/ --manifest manifest.csv`")
def import_(
    project: Annotated[
        Path, typer.Argument(help="The project's folder; made when missing.", show_default=False)
    ],
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Slides or their addresses, folders of slides or photographs, label files, or checkpoints.",
            show_default=False,
        ),
    ] = None,
    manifest: Annotated[
        Path | None,
        typer.Option(
            help="CSV: slide (path, address, name or stem), and maybe case, label, time, event, split."
        ),
    ] = None,
    slide: Annotated[str | None, typer.Option(help="The slide that a label file speaks of.")] = None,
    tree: Annotated[Path | None, typer.Option(help="labeltree.json for a new project.")] = None,
    mpp: Annotated[str | None, typer.Option(help="µm per pixel, for slides that do not say.")] = None,
    encoder: Annotated[str | None, typer.Option(help="Encoder whose features a checkpoint reads.")] = None,
    encoder_weights: Annotated[
        Path | None,
        typer.Option(help="That encoder's file of weights, where it needs one; the project keeps them."),
    ] = None,
    map_: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            help="A label of a label file as one of ours, THEIRS=OURS; THEIRS= leaves it aside; repeat.",
        ),
    ] = None,
    by: By = "",
    *,
    as_json: AsJson = False,
) -> None:
    """Take slides, label files or published checkpoints into a project; each file succeeds or fails alone."""
    from napari_mil.workflow import import_paths_steps

    about: dict[str, Any] = {"manifest": manifest, "slide": slide, "tree": tree, "mpp": mpp}
    about |= {"encoder": encoder, "encoder_weights": encoder_weights, "mapping": label_mapping(map_)}
    told: list[dict[str, Any]] = []

    def tell(row: dict[str, Any]) -> None:
        told.append(row)
        print(json.dumps(row) if as_json else line(row), flush=True)

    def heard(now: Progress) -> None:  # in a log, and to machines, each file is told of as it comes
        if now.payload is not None:
            tell(now.payload)

    with ended_gently():
        rows = show(import_paths_steps(project, paths or [], by=by, **about), as_json=as_json, heard=heard)
    for row in rows[len(told) :]:
        tell(row)
    failed = sum(not row["ok"] for row in rows)
    say_failed(failed, len(rows), "file")
    if failed:
        raise typer.Exit(1)


@app.command(epilog="Example: `napari-mil embed study/`")
def embed(
    project: ExistingProject,
    slides: SlideNames = None,
    encoder: Annotated[str, typer.Option(help="Name of the encoder, or its id.")] = "builtin",
    encoder_weights: Annotated[
        Path | None, typer.Option(help="Its file of weights, where it needs one; the project keeps them.")
    ] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Find tissue, cut tiles and compute features; bags that are there already are not computed again."""
    from napari_mil.workflow import add_encoder, find_encoder, slide_bag_steps

    with opened(project) as p:
        if encoder_weights is not None:
            encoder = add_encoder(p, encoder, encoder_weights).id
        find_encoder(p, encoder)  # a name that is none is said once, before any slide

        def act(record: Any, name: str) -> dict[str, Any]:
            bag = show(slide_bag_steps(p, record, encoder=encoder), as_json=as_json, slide=name)
            return {"tiles": len(bag), "features": bag.width}

        if each(p, slides, act, as_json=as_json):
            raise typer.Exit(1)


@app.command(
    epilog="Example: `napari-mil predict study/ --model mhim-sample --csv predictions.csv` or "
    "`napari-mil predict study/ --model mhim-sample --by case --csv cases.csv`"
)
def predict(
    project: ExistingProject,
    model: ModelName,
    slides: SlideNames = None,
    csv: Annotated[Path | None, typer.Option(help="Write one row per slide or case to this file.")] = None,
    by: Annotated[
        str | None,
        typer.Option(
            help="slide, or case: its slides as one; default: case where a model answers with time."
        ),
    ] = None,
    *,
    again: Annotated[
        bool, typer.Option("--again", help="Ask anew about slides that this model has answered already.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Answer for every slide, or for those named; maps are kept in the project.

    With `--by case` the slides of a case are asked as one bag, as `train` and `evaluate` do; without maps.
    """
    from napari_mil.labeltree import Survival
    from napari_mil.workflow import (
        Table,
        about_slide,
        analyse_steps,
        answer_columns,
        answer_numbers,
        find_card,
        find_encoder,
    )

    if by not in (None, "slide", "case"):
        raise MILError(f"{by!r} is nothing to answer for; say --by slide or --by case.")
    with opened(project) as p, ExitStack() as stack:
        card = find_card(p, model)
        p.model(card.id)  # weights that are damaged are said once, before any slide
        find_encoder(p, card.encoder)  # and an encoder that is not there
        by = by or ("case" if isinstance(card.tree, Survival) else "slide")
        table = stack.enter_context(Table(csv, answer_columns(card, by))) if csv else None
        if by == "case":
            _predict_cases(p, card, slides, table, as_json=as_json)
            return

        def act(record: Any, name: str) -> dict[str, Any]:
            alone: dict[str, Any] = {"again": again, "watched": lambda: False}
            steps = analyse_steps(p, record, model=card.id, **alone)
            said = show(steps, as_json=as_json, slide=name)
            return {**answer_numbers(said, card), "model": card.name}

        def keep(record: Any, row: dict[str, Any]) -> None:
            if table is not None:
                table.add(about_slide(record, card) | row)

        said = ("label", "probability", "risk", "disagreement", "model")
        if each(p, slides, act, as_json=as_json, done=keep, said=said):
            raise typer.Exit(1)


def _predict_cases(p: Any, card: Any, slides: list[str] | None, table: Any, *, as_json: bool) -> None:
    """An answer for every case, or for those of the slides named."""
    from napari_mil.workflow import answer_case_steps, answer_numbers

    cases = dict.fromkeys(record.case for record in chosen(p, slides))
    missed: list[str] = []

    def act(case: str, _name: str) -> dict[str, Any]:
        aside: list[str] = []
        of = sum(record.case == case for record in p.slides)
        said = show(answer_case_steps(p, case, model=card.id, aside=aside), as_json=as_json, case=case)
        missed.extend(aside)
        about = {"slides": of - len(aside), "of": of, "model": card.name}
        return {**answer_numbers(said, card), **about, **({"error": " ".join(aside)} if aside else {})}

    def keep(_case: str, row: dict[str, Any]) -> None:
        if table is not None:
            table.add({"model": card.name, **row})

    said, things = ("label", "probability", "risk", "slides", "model"), [(case, case) for case in cases]
    failed = each_of(things, act, as_json=as_json, done=keep, said=said, what="case")
    if missed:
        many = "1 slide was" if len(missed) == 1 else f"{len(missed)} slides were"
        say_error(f"{many} set aside, as said above; the answers for their cases are without them.")
    if failed or missed:
        raise typer.Exit(1)


@app.command(
    epilog="Example: `napari-mil explain study/ case-17 --csv tiles.csv` or "
    "`napari-mil explain study/ case-17 --model micromil-1 --mode mc --seed 1 --csv images.csv`"
)
def explain(
    project: ExistingProject,
    slide: Annotated[str, typer.Argument(help="Name or id of a slide.", show_default=False)],
    csv: Annotated[Path, typer.Option(help="File to write, one row per tile.", show_default=False)],
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Name or id of a model; default: the adopted.")
    ] = None,
    mode: Annotated[
        str, typer.Option(help="clean, official; of MicroMIL also argmax, stochastic, mc.")
    ] = "clean",
    seed: Annotated[int, typer.Option(help="The same seed gives the same table.")] = 0,
    progress: Annotated[
        float | None,
        typer.Option(help="With a mask_schedule: the share of the training at which tiles are hidden."),
    ] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Write all that a model says of every tile of a slide: where it lies (level-0 pixels), its attention,
    its probabilities, and what the method has of its own, such as the tiles that MHIM would hide.
    """
    from napari_mil.workflow import explain_table_steps, find_record

    with opened(project) as p:
        record = find_record(p, slide)
        steps = explain_table_steps(p, record, csv, model=model, mode=mode, seed=seed, progress=progress)
        columns = show(steps, as_json=as_json, slide=record.name)
    row = {"slide": record.name, "tiles": len(columns["index"]), "columns": len(columns), "file": str(csv)}
    words = f"Wrote {row['tiles']} tiles of {record.name} in {row['columns']} columns to {csv}."
    print(json.dumps({"result": row}) if as_json else words)
