"""mpp: what a person says of the size of a slide's pixels, outside of any project."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from napari_mil.cli.running import AsJson
from napari_mil.errors import SlideError

app = typer.Typer()


@app.command(
    epilog="Example: `napari-mil mpp case.tif 0.25`, `napari-mil mpp case.tif` or "
    "`napari-mil mpp case.tif --forget`"
)
def mpp(
    slide: Annotated[Path, typer.Argument(help="A slide, or its address.", show_default=False)],
    um: Annotated[
        str | None, typer.Argument(metavar="[UM]", help="µm per pixel, to be kept.", show_default=False)
    ] = None,
    *,
    forget: Annotated[bool, typer.Option("--forget", help="Forget what you said of the slide.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say how many µm a pixel of a slide is wide that does not say it itself, or forget it; without a number,
    show what is known. It is kept for you, and counts wherever that slide is opened; what a project keeps
    comes before it.
    """
    from napari_mil.slides import open_slide
    from napari_mil.slides.address import slide_path
    from napari_mil.slides.mpp import forget_mpp, say_mpp
    from napari_mil.workflow import parse_mpp

    if forget and um is not None:
        raise SlideError(f"Give either {um}, to be kept, or --forget.")
    said = None if um is None else parse_mpp(um)
    with open_slide(slide_path(slide)) as found:
        stated, known = found.stated_mpp, found.mpp
        if stated is not None and (said is not None or forget):
            raise SlideError(f"{slide.name} says itself that a pixel is {stated[1]:g} µm wide; that counts.")
        if said is not None:
            known = say_mpp(found.fingerprint, said)
        elif forget:
            forget_mpp(found.fingerprint)
            known = None
    by = "file" if stated else "you" if known else None
    if as_json:
        print(json.dumps({"result": {"slide": slide.name, "mpp": known, "by": by}}))
    elif known is None:
        print(f"{slide.name}: nobody has said how many µm a pixel is wide")
    else:
        size = f"{known[1]:g}" if known[0] == known[1] else f"{known[1]:g} × {known[0]:g}"
        print(f"{slide.name}: {size} µm per pixel, said by {'the file' if stated else 'you'}")
