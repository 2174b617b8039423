"""How large a pixel of a project's slide is: said in the project, whatever the file says, or forgotten."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from napari_mil.errors import SlideError
from napari_mil.workflow.colours import open_in
from napari_mil.workflow.project import find_record

if TYPE_CHECKING:
    from napari_mil.workflow.project import Project


class PixelSize(NamedTuple):
    """Of a slide: its name, (y, x) µm per pixel that count in a project, and that its file says; or None."""

    name: str
    mpp: tuple[float, float] | None
    stated: tuple[float, float] | None


def pixel_size(project: Project, which: str) -> PixelSize:
    """How large a pixel of a slide is in a project."""
    slide = project.slide(which)
    return PixelSize(slide.name, slide.mpp, slide.stated_mpp)


def say_pixel_size(project: Project, which: str, mpp: float | None) -> PixelSize:
    """Keep µm per pixel of a slide in the project; None forgets them, and what its file says counts again, or
    what this user once said of it.

    Slides that are open are closed: open them again. Features of the size before are not used any more.
    """
    record = find_record(project, which)
    with open_in(project, record.path, mpp) as slide:
        if slide.fingerprint != record.id:
            raise SlideError(
                f"{record.path} is no longer the slide added as {record.name}; put its file back."
            )
        found = PixelSize(record.name, slide.mpp, slide.stated_mpp)
    project.ledger.add_slide(replace(record, mpp=found.mpp))
    project.pool.close()
    return found
