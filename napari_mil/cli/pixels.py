"""mpp: what a person says of the size of a slide's pixels, outside of any project or in one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from napari_mil.cli.running import AsJson, By, opened, show
from napari_mil.errors import SlideError
from napari_mil.steps import Steps

T = TypeVar("T")

app = typer.Typer()


@app.command(
    epilog="Example: `napari-mil mpp case.tif 0.25`, `napari-mil mpp case.tif` or "
    "`napari-mil mpp case.tif --forget`"
)
def mpp(
    slide: Annotated[
        Path,
        typer.Argument(help="A slide, or its address; with --project its name or id.", show_default=False),
    ],
    um: Annotated[
        str | None, typer.Argument(metavar="[UM]", help="µm per pixel, to be kept.", show_default=False)
    ] = None,
    *,
    forget: Annotated[bool, typer.Option("--forget", help="Forget what you said of the slide.")] = False,
    project: Annotated[
        Path | None,
        typer.Option("--project", help="Say it in this project, whatever the file says, or forget it there."),
    ] = None,
    by: By = "",
    as_json: AsJson = False,
) -> None:
    """Say how many µm a pixel of a slide is wide that does not say it itself, or forget it; without a number,
    show what is known. It is kept for you, and counts wherever that slide is opened; what a project keeps
    comes before it, and is said, shown and forgotten with --project.
    """
    from napari_mil.slides import open_slide
    from napari_mil.slides.address import slide_path
    from napari_mil.slides.mpp import forget_mpp, say_mpp
    from napari_mil.workflow import parse_mpp
    from napari_mil.workflow.pixelsize import pixel_size, say_pixel_size

    if forget and um is not None:
        raise SlideError(f"Give either {um}, to be kept, or --forget.")
    said = None if um is None else parse_mpp(um)
    if project is not None:
        with opened(project, by=by) as p:
            change = said is not None or forget
            look = (say_pixel_size, p, str(slide), said) if change else (pixel_size, p, str(slide))
            size = show(_alone(*look), as_json=as_json)
        who = "the file" if size.mpp == size.stated else "the project"
        _tell(size.name, size.mpp, who, as_json=as_json)
        return
    with show(_alone(open_slide, slide_path(slide)), as_json=as_json) as found:
        stated, known = found.stated_mpp, found.mpp
        if stated is not None and (said is not None or forget):
            raise SlideError(f"{slide.name} says itself that a pixel is {stated[1]:g} µm wide; that counts.")
        if said is not None:
            known = say_mpp(found.fingerprint, said)
        elif forget:
            forget_mpp(found.fingerprint)
            known = None
    _tell(slide.name, known, "the file" if stated else "you", as_json=as_json)


def _alone(act: Callable[..., T], *about: object) -> Steps[T]:
    """An act as steps: what is copied from a server on its way tells of itself."""
    yield from ()
    return act(*about)


def _tell(name: str, mpp: tuple[float, float] | None, by: str, *, as_json: bool) -> None:
    if as_json:
        who = None if mpp is None else by.rsplit(maxsplit=1)[-1]
        print(json.dumps({"result": {"slide": name, "mpp": mpp, "by": who}}))
    elif mpp is None:
        print(f"{name}: nobody has said how many µm a pixel is wide")
    else:
        size = f"{mpp[1]:g}" if mpp[0] == mpp[1] else f"{mpp[1]:g} × {mpp[0]:g}"
        print(f"{name}: {size} µm per pixel, said by {by}")
