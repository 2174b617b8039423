"""project info, share, unshare: where what people said is kept, and who may say it together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from napari_mil.cli.running import AsJson, By, ExistingProject, opened

app = typer.Typer(
    help="The project itself: what it holds, and whether a team shares what is said.",
    epilog="Example: `napari-mil project info study/` or `napari-mil project share study/ postgresql://lab/study`",
    no_args_is_help=True,
)


@app.command(epilog="Example: `napari-mil project info study/`")
def info(project: ExistingProject, *, as_json: AsJson = False) -> None:
    """Say where the ledger is, its schema and head, how many slides and models there are, and who said how
    much.
    """
    from napari_mil.workflow import project_info

    with opened(project) as p:
        row = project_info(p)
    if as_json:
        print(json.dumps(row))
        return
    said = ", ".join(f"{who} {n}" for who, n in row["corrections"].items()) or "none"
    print(f"{row['project']}: {row['slides']} slides, {row['models']} models")
    print(
        f"ledger: {row['ledger']} ({'shared' if row['shared'] else 'in the folder'}), schema {row['schema']}"
    )
    print(f"colours: {row['colours']}")
    print(f"events: {row['events']}, head {row['head']}")
    print(f"corrections in force: {said}")


@app.command(
    epilog="Example: `napari-mil project colours study/ --srgb`, or `--stored` to have them as they are"
)
def colours(
    project: ExistingProject,
    *,
    srgb: Annotated[
        bool, typer.Option("--srgb/--stored", help="By the scanner's profile, or as they are stored.")
    ],
    as_json: AsJson = False,
    by: By = "",
) -> None:
    """Show, and compute from, colours as the scanner's profile means them, or as they are stored; an event of
    the ledger. Features are kept apart, and a model is refused slides in the colours it was not trained on.
    """
    from napari_mil.workflow import project_info, set_colours

    with opened(project, by=by) as p:
        set_colours(p, srgb=srgb)
        colours = project_info(p)["colours"]
    words = f"Colours of {project} are {colours} from now on."
    print(json.dumps({"project": str(project.absolute()), "colours": colours}) if as_json else words)


@app.command(
    epilog="Example: `napari-mil project share study/ postgresql://lab-server/study`, with the password in "
    "`~/.pgpass` or PGPASSWORD; make the empty database with `createdb study`."
)
def share(
    project: ExistingProject,
    address: Annotated[str, typer.Argument(help="postgresql://[USER@]SERVER/DATABASE", show_default=False)],
    *,
    as_json: AsJson = False,
    by: By = "",
) -> None:
    """Move what was said into a PostgreSQL database, whole and with the same head, so that several people can
    work on the project at once. The folder keeps the address, never a password.
    """
    from napari_mil.workflow import share as share_ledger

    share_ledger(project, address, by=by)
    words = f"What is said of {project} is kept at {address} from now on; whoever has the folder works on it."
    print(_where(project) if as_json else words)


@app.command(epilog="Example: `napari-mil project unshare study/`")
def unshare(project: ExistingProject, *, as_json: AsJson = False, by: By = "") -> None:
    """Bring what was said back into the project's folder, whole and with the same head."""
    from napari_mil.workflow import unshare as unshare_ledger

    unshare_ledger(project, by=by)
    words = f"What is said of {project} is kept in its folder from now on."
    print(_where(project) if as_json else words)


def _where(project: Path) -> str:
    """Where a project's ledger is now, as a line for machines."""
    from napari_mil.workflow import project_info

    with opened(project) as p:
        row = project_info(p)
    return json.dumps({key: row[key] for key in ("project", "ledger", "shared", "events", "head")})
