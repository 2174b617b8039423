"""What can be written to a file from the window: of which state, in which words, by which steps.

Each kind does what one command line does, through the same functions of the workflow.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from napari_mil.steps import Progress, Steps
from napari_mil.ui import commandline
from napari_mil.ui.state import State
from napari_mil.ui.widgets import tiles
from napari_mil.ui.words import PROJECT_FIRST, amounts_by_label, hidden_words, is_whole, why_no_model

SLIDE_FIRST = "Choose a slide first (1 Slides)."
NO_SLIDES = "The project has no slides yet; add some first (1 Slides)."
SUFFIXES = {"geojson": (".geojson", ".geojson.gz"), "csv": (".csv",)}
FORMATS = {"geojson": "GeoJSON", "csv": "CSV"}
#: So many maps are named in the preview.
NAMED = 3


@dataclass(frozen=True, slots=True)
class Kind:
    """One thing that can be written.

    Attributes
    ----------
    words : what it is called in the list
    format : "geojson" or "csv"; the name of a file decides nothing
    one : whether it is of the slide in front, else of all slides
    """

    words: str
    format: str
    one: bool = True
    about: ClassVar[str] = ""

    @property
    def suffixes(self) -> tuple[str, ...]:
        """How the name of such a file may end; the first is the usual one."""
        return SUFFIXES[self.format]

    @property
    def filter(self) -> str:
        """The same as a file dialog shows it."""
        return f"{FORMATS[self.format]} (*{' *'.join(self.suffixes)})"

    def name(self, state: State) -> str:
        """What a file is called unless somebody says otherwise: what it is of, by which model, what."""
        project, record, card = state.project, state.record, state.card
        of = "" if project is None else record.name if self.one and record else project.path.name
        parts = [of, card.name, self.about] if self.about and card else [of]
        return re.sub(r'[\\/:*?"<>|]', "_", "-".join(parts)) + self.suffixes[0]

    def complete(self, path: str) -> str:
        """The name that a file gets when somebody chose `path`."""
        return path if path.lower().endswith(self.suffixes) else path + self.suffixes[0]

    def why_not(self, state: State) -> str:
        """Why it cannot be written now, "" where it can."""
        if state.project is None:
            return PROJECT_FIRST
        if self.one:
            return "" if state.record else SLIDE_FIRST
        return "" if state.project.slides else NO_SLIDES

    def preview(self, state: State) -> str:
        """What the file would hold."""
        raise NotImplementedError

    def line(self, state: State) -> str:
        """The command line that does the same."""
        raise NotImplementedError

    def steps(self, state: State, path: Path) -> Steps[Any]:
        """Write it."""
        raise NotImplementedError

    def asks_model(self, state: State) -> bool:  # noqa: ARG002
        """Whether a model may have work with it, so that it waits for its turn."""
        return False

    def said(self, state: State, found: Any) -> str:  # noqa: ARG002
        """What a reader should know of what was written: `found` is what the steps gave."""
        return ""

    def stopped(self, path: Path, last: Progress) -> str:  # noqa: ARG002
        """What became of the file where the work was cancelled, after its `last` step."""
        return f"Stopped; {path} was not written."


class Labels(Kind):
    """What people said."""

    __slots__ = ()

    def preview(self, state: State) -> str:
        """Slide label, and labels by place; or how many there are."""
        return labels_of_slide(state) if self.one else labels_of_all(state)

    def line(self, state: State) -> str:
        """`napari-mil export`."""
        return commandline.export_line(state.project, state.record if self.one else None, self.name(state))

    def steps(self, state: State, path: Path) -> Steps[Path]:
        """Write the labels."""
        yield Progress("writing", 0, 1)
        return state.project.export(path, slide=state.slide if self.one else None, format=self.format)


class Maps(Kind):
    """Every map of the answer in front."""

    __slots__ = ()
    about = "maps"

    def why_not(self, state: State) -> str:
        """It takes the kept answer of the chosen model for the whole slide."""
        if why := Kind.why_not(self, state) or why_no_model(state):
            return why
        if state.answer is None:
            return f"{state.card.name} has not answered for this slide yet; run it first (2 Model)."
        if state.partial:
            return "The answer is on its way; its maps can be written when it is whole."
        if state.answer.scope != "slide":
            return "The answer in front is of this region only; run the whole slide to write its maps."
        return ""

    def preview(self, state: State) -> str:
        """How many maps on how many tiles."""
        maps, n = state.answer.maps, len(state.answer_grid)
        names = ", ".join(m.name for m in maps[:NAMED])
        more = f" and {len(maps) - NAMED:,} more" if len(maps) > NAMED else ""
        labels = "" if self.format == "geojson" else "; and the label that people gave it"
        return (
            f"<b>{state.record.name}</b>: {tiles(n)}, each with {len(maps):,} maps of {state.card.name}: "
            f"{names}{more}{labels}."
        )

    def line(self, state: State) -> str:
        """`napari-mil export --maps`."""
        return commandline.maps_line(state.project, state.record, state.card, self.name(state))

    def steps(self, state: State, path: Path) -> Steps[Any]:
        """Write the maps."""
        from napari_mil.workflow import export_maps_steps

        about = {"model": state.card.id, "format": self.format}
        return export_maps_steps(state.project, state.record, path, **about)


class Answers(Kind):
    """What the chosen model says of every slide."""

    __slots__ = ()
    about = "answers"

    def why_not(self, state: State) -> str:
        """It takes slides and a model."""
        return Kind.why_not(self, state) or why_no_model(state)

    def preview(self, state: State) -> str:
        """How many rows, and what is asked for them."""
        n = len(state.project.slides)
        rows = "One row" if n == 1 else f"{n:,} rows, one for each slide"
        return (
            f"{rows}: what {state.card.name} answers, with every probability. Slides that it has not "
            "answered yet are asked first, which can take a while; Cancel keeps the rows that are done."
        )

    def line(self, state: State) -> str:
        """`napari-mil predict --csv`."""
        return commandline.predict_line(state.project, state.card, table=self.name(state))

    def steps(self, state: State, path: Path) -> Steps[Any]:
        """Ask for the answers that are missing, and write all."""
        from napari_mil.workflow import answer_table_steps

        return answer_table_steps(state.project, path, model=state.card.id)

    def asks_model(self, state: State) -> bool:  # noqa: ARG002
        """Of slides that it has not answered yet."""
        return True

    def said(self, state: State, found: Any) -> str:  # noqa: ARG002
        """How many slides failed."""
        n = len(found.failed)
        many = "1 slide" if n == 1 else f"{n:,} slides"
        return f"{many} could not be asked: the column error says why." if n else ""

    def stopped(self, path: Path, last: Progress) -> str:
        """The rows that are done are there, once it has begun."""
        from napari_mil.workflow.answering import STAGE

        if last.stage != STAGE:
            return Kind.stopped(self, path, last)
        return f"Stopped; {path} holds the slides that were done. Export again to go on."


class Tiles(Kind):
    """Every number that the chosen model has of every tile."""

    __slots__ = ()
    about = "tiles"

    def why_not(self, state: State) -> str:
        """It takes a slide and a model."""
        return Kind.why_not(self, state) or why_no_model(state)

    def preview(self, state: State) -> str:
        """What the columns are."""
        rows = "one row for each tile" if state.bag is None else f"{len(state.bag):,} rows, one for each tile"
        hidden = ", and what its teacher would hide from the student (simulated)" if _may_hide(state) else ""
        first = " Its features are computed first, which can take a while." if state.bag is None else ""
        return (
            f"<b>{state.record.name}</b>: {rows}: its place, and attention, evidence and probabilities by "
            f"{state.card.name}{hidden}.{first}"
        )

    def line(self, state: State) -> str:
        """`napari-mil explain`."""
        return commandline.explain_line(state.project, state.record, state.card, self.name(state))

    def steps(self, state: State, path: Path) -> Steps[Any]:
        """Compute the columns, and write them."""
        from napari_mil.workflow import explain_table_steps

        return explain_table_steps(state.project, state.record, path, model=state.card.id)

    def asks_model(self, state: State) -> bool:
        """The features may have to be computed."""
        return state.bag is None

    def said(self, state: State, found: Any) -> str:
        """How many columns there are, and whether there are those of a teacher that there could be."""
        none = " The model has no teacher: no column says what would be hidden."
        return f"{len(found):,} columns.{none if _may_hide(state) and 'role' not in found else ''}"


def _may_hide(state: State) -> bool:
    """Whether the chosen model may have a teacher that hides tiles."""
    return state.card is not None and state.card.method == "mhim"


KINDS: tuple[Kind, ...] = (
    Labels("Labels of this slide for QuPath (GeoJSON)", "geojson"),
    Labels("Labels of this slide as a table (CSV)", "csv"),
    Labels("Labels of all slides as a table (CSV)", "csv", one=False),
    Maps("Maps of this slide for QuPath (GeoJSON)", "geojson"),
    Maps("Maps of this slide as a table (CSV)", "csv"),
    Answers("Answers for all slides as a table (CSV)", "csv", one=False),
    Tiles("Every number of this slide's tiles (CSV)", "csv"),
)


def labels_of_slide(state: State) -> str:
    """The slide's label, and labels by place."""
    name = state.record.name
    if state.veiled:
        return f"<b>{name}</b>: {hidden_words(state, 'what it is labelled')}"
    lines = [f"<b>{name}</b>: slide label {state.slide_label or 'none'}"]
    said = amounts_by_label(c for c in state.corrections if not is_whole(c))
    lines += [f"{amount} → {label}" for label, amount in said.items()]
    return "<br>".join(lines if len(lines) > 1 else [*lines, "no tiles or regions are labelled yet"])


def labels_of_all(state: State) -> str:
    """How many labels there are."""
    from napari_mil.workflow import slide_label

    project, slides = state.project, state.project.slides
    labelled = sum(slide_label(project, r) is not None for r in slides)
    corrections = len(project.ledger.corrections())
    return f"{labelled:,} slide labels and {corrections:,} corrections of {len(slides):,} slides."
