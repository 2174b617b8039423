"""Whether a project shows, and computes from, colours as they are stored or as the scanner's profile means
them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari_mil.slides import Slide
    from napari_mil.slides.address import SlidePath
    from napari_mil.workflow.project import Project

KIND = "colours"


def converts(project: Project) -> bool:
    """Whether the project converts colours to sRGB; nobody having said so, they are as stored."""
    said = project.ledger.of_project.get(KIND)
    return bool(said and said.payload.get("srgb"))


def set_colours(project: Project, *, srgb: bool) -> None:
    """Convert the colours of the project's slides from now on, or no longer: an event of the ledger.

    Slides that are open are closed: open them again. Features are kept apart, and a model that was trained on
    the other colours is refused with a sentence.
    """
    if converts(project) == srgb:
        return
    project.ledger.append(KIND, "", {"srgb": srgb}, project.by)
    project.pool.close()


def open_in(project: Project, path: str | SlidePath, mpp: float | tuple[float, float] | None) -> Slide:
    """Open a slide in the project's colours."""
    from napari_mil.slides import open_slide

    return open_slide(path, mpp=mpp, srgb=converts(project))
