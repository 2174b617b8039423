"""A project: a folder with slides, labels, bags and models, and the verbs on it."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np

from napari_mil.correction import Cells, Correction, Place, WholeSlide
from napari_mil.errors import LabelError, ModelError, ProjectError, SlideError, printable
from napari_mil.labeltree import LabelTree
from napari_mil.ledger import SlideRecord
from napari_mil.steps import Progress, drain
from napari_mil.store import Store
from napari_mil.store.disk import folder_of
from napari_mil.workflow.manifest import follow_up, part_of_split
from napari_mil.workflow.naming import called, shown_names
from napari_mil.workflow.pool import SlidePool

if TYPE_CHECKING:
    from napari_mil.bag import Bag
    from napari_mil.card import ModelCard
    from napari_mil.ledger import Ledger
    from napari_mil.mil import MILModel
    from napari_mil.prediction import Prediction
    from napari_mil.slides import Slide
    from napari_mil.slides.address import SlidePath

Watch = Callable[[Progress], None] | None
Box = tuple[float, float, float, float]


class Project:
    """Opens a project folder, or makes one; a context manager.

    Parameters
    ----------
    path : the project's folder
    tree : the label tree of a new project, or None: the seven-leaf breast tree of `samples.SAMPLE_TREE`; a
        project that stands keeps its own
    by : who speaks, kept with every correction

    Raises
    ------
    ProjectError : the folder is no project, is damaged, or comes from a newer version

    Examples
    --------
    >>> with Project("study/") as project:  # doctest: +SKIP
    ...     slide = project.add("case.svs", case="P017", label="Malignant/DCIS")
    ...     prediction = project.analyse(slide, model="mhim-sample")
    ...     project.export("labels.geojson", slide=slide)
    """

    def __init__(self, path: str | Path, *, tree: LabelTree | None = None, by: str = "") -> None:
        self.path = folder_of(path)
        self.store = Store(self.path, tree=tree or default_tree)
        self.tree, self.ledger, self.by = self.store.tree, self.store.ledger, by
        self.pool = SlidePool()
        self._models: dict[str, MILModel] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the slides and the ledger. Everything is kept already: there is nothing to save."""
        self.pool.close()
        self._models.clear()
        self.store.close()

    @property
    def slides(self) -> tuple[SlideRecord, ...]:
        """What is known of every slide, in the order they were added."""
        return tuple(self.ledger.slides())

    @property
    def cards(self) -> tuple[ModelCard, ...]:
        """The cards of the project's models, oldest first."""
        return self.store.cards()

    def add(
        self,
        path: str | SlidePath,
        *,
        case: str | None = None,
        label: str | None = None,
        mpp: float | tuple[float, float] | None = None,
        mpp_if_unsaid: float | tuple[float, float] | None = None,
        survival: tuple[float, bool] | None = None,
        split: str = "",
    ) -> Slide:
        """Take a slide into the project; a slide that is there already keeps its labels and follows its file.

        Parameters
        ----------
        path : the slide's file, folder or address
        case : patient or specimen; None: the slide is its own case
        label : label text of the whole slide, as a manifest gives it
        mpp : µm per pixel, whatever the file says; kept, until another one is given
        mpp_if_unsaid : µm per pixel if the file says none, or none that can be; kept
        survival : follow-up time of the case, and whether the event was observed
        split : "train", "validation" or "test" where that is fixed
        """
        from napari_mil.slides.address import slide_path
        from napari_mil.workflow.colours import open_in

        text = self.tree.path(self.tree.node(label)) or None
        slide = open_in(self, path, mpp)
        known = next((r for r in self.slides if r.id == slide.fingerprint), None)
        if mpp is None and mpp_if_unsaid is not None and slide.stated_mpp is None:
            slide = slide.with_mpp(mpp_if_unsaid)
        elif mpp is None and known and known.mpp:
            slide = slide.with_mpp(known.mpp)
        kept = (known.time, known.event) if known else (None, None)
        time, event = follow_up(survival) if survival is not None else kept
        self.ledger.add_slide(
            SlideRecord(
                id=slide.fingerprint,
                path=str(slide_path(path).absolute()),
                name=printable(slide.name),
                case=str(case or "") or (known.case if known else self._own_case(slide)),
                label=text or (known.label if known else None),
                mpp=slide.mpp,
                split=part_of_split(split) or (known.split if known else ""),
                time=time,
                event=event,
            )
        )
        return self.pool.keep(slide)

    def _own_case(self, slide: Slide) -> str:
        """A case for a slide of which nobody said one: its name, unless another slide's case is called so."""
        taken = {r.case for r in self.slides}
        names = (slide.name, f"{slide.path.absolute().parent.name}/{slide.name}", slide.fingerprint)
        return next(name for name in map(printable, names) if name not in taken)

    def slide(self, which: str | Slide | SlideRecord) -> Slide:
        """The opened slide of an id, a name or a record; ProjectError naming the slides there are.

        It stays open while somebody holds it, and the last few in any case: a project of a thousand slides
        does not hold a thousand files open.
        """
        from napari_mil.slides import Slide
        from napari_mil.workflow.colours import open_in

        if isinstance(which, Slide):
            return which
        record = find_record(self, which)
        slide = self.pool.get(record.id)
        if slide is None:
            slide = open_in(self, record.path, record.mpp)
            if slide.fingerprint != record.id:
                slide.close()
                raise SlideError(
                    f"{record.path} is no longer the slide added as {record.name}: its content changed; "
                    "put the file back, or add the new one as a slide of its own."
                )
            if record.mpp is None and slide.mpp is not None:  # said since, outside of the project
                with contextlib.suppress(ProjectError):  # it may be read alone
                    self.ledger.add_slide(replace(record, mpp=slide.mpp))
        return self.pool.keep(slide)

    def _record(self, slide: str | Slide) -> SlideRecord:
        """What is known of a slide; its file is not needed."""
        return find_record(self, slide if isinstance(slide, str) else slide.fingerprint)

    def bag(self, slide: str | Slide, *, encoder: str = "builtin", progress: Watch = None) -> Bag:
        """Features of the slide's tissue tiles; kept in the project and never computed twice."""
        from napari_mil.workflow.analyse import bag_steps

        return drain(bag_steps(self, self.slide(slide), encoder=encoder), progress)

    def model(self, which: str) -> MILModel:
        """The model of an id or a name, in evaluation mode; ModelError naming the models there are."""
        card = find_card(self, which)
        if card.id not in self._models:
            from napari_mil.workflow.models import load_model

            self._models[card.id] = load_model(card, self.store.model_bytes(card.id))
        return self._models[card.id]

    def analyse(
        self, slide: str | Slide, *, model: str, region: Box | None = None, progress: Watch = None
    ) -> Prediction:
        """Tissue → tiles → features → answer with all maps; runs to the end.

        region : y0, x0, y1, x1 in level-0 pixels; the answer is then marked as a region's and is not kept
            as the slide's
        """
        from napari_mil.workflow.analyse import analyse_steps

        return drain(analyse_steps(self, self.slide(slide), model=model, region=region), progress)

    def correct(self, slide: str | Slide, place: Place, label: str | None, **about: Any) -> Correction:
        """State a label for a place; it is in the ledger when this returns.

        about : further fields of Correction, such as tool, note, model_id, model_said, model_confidence,
            visible
        """
        record = self._record(slide)
        slide_id = record.id
        if not isinstance(place, Place):
            raise LabelError(f"{place!r} is no place; give WholeSlide(), Polygon(…) or Cells(…).")
        text = self.tree.path(self.tree.node(label)) or None
        if "was" not in about:
            about["was"] = label_before(self, record, place)
        correction = Correction(slide_id, place, text, by=about.pop("by", self.by), **about)
        self.ledger.correct(correction)
        return correction

    def undo(self, slide: str | Slide) -> bool:
        """Take back the latest act on a slide; False when there is none. Never forgets: undo is an event
        too.
        """
        return self.ledger.undo(self._record(slide).id, self.by) is not None

    def redo(self, slide: str | Slide) -> bool:
        """Restore what was undone last on a slide; False when there is nothing."""
        return self.ledger.redo(self._record(slide).id, self.by) is not None

    def retrain(self, model: str, *, seed: int = 0, progress: Watch = None) -> ModelCard:
        """Train a child of `model` on everything the ledger knows; it is stored, not adopted."""
        from napari_mil.workflow.retrain import retrain_steps

        return drain(retrain_steps(self, model, seed=seed), progress).card

    def export(
        self, path: str | Path, *, slide: str | Slide | None = None, format: str | None = None
    ) -> Path:
        """Write labels as GeoJSON or CSV (by suffix, or `format`): of one slide, or of all into one CSV."""
        from napari_mil.workflow.labels import export

        return export(self, Path(path), None if slide is None else self.slide(slide), format)

    def import_labels(
        self,
        path: str | Path,
        slide: str | Slide | None = None,
        *,
        mapping: Mapping[str, str | None] | None = None,
        remark: Callable[[str], None] | None = None,
    ) -> list[Correction]:
        """Read a label file into the ledger, all of it or nothing; a correction that is there already is
        not doubled.

        Parameters
        ----------
        slide : whose labels they are; None: a CSV that names the slide of each row
        mapping : label of the file -> label of the tree, or None: leave such areas aside
        remark : told what was left aside
        """
        from napari_mil.workflow.labels import import_labels

        which = None if slide is None else self.slide(slide)
        return import_labels(self, Path(path), which, mapping=mapping, remark=remark)


def default_tree() -> LabelTree:
    """The seven-leaf breast tree that a new project starts with."""
    from napari_mil.samples import SAMPLE_TREE

    return SAMPLE_TREE


def as_of(project: Project, head: str) -> Project:
    """The project as its ledger stood at an event (number or hash), to be read only: its slides, labels and
    corrections are those of then. ProjectError when no event is called so.
    """
    then = copy.copy(project)
    then.ledger = cast("Ledger", project.ledger.at(head))
    return then


def find_record(project: Project, which: str | SlideRecord) -> SlideRecord:
    """The record of a slide id, path or name; ProjectError naming the slides there are, or those that a name
    may mean.
    """
    if isinstance(which, SlideRecord):
        return which
    which = str(which)
    found = called(project.slides, which)
    if len(found) > 1:
        paths = ", ".join(r.path for r in found)
        raise ProjectError(f"{which!r} may be any of {paths}; give the path of the one you mean.")
    if found:
        return found[0]
    names = list(shown_names(project.slides).values())
    more = f" and {len(names) - 8:,} more" if len(names) > 8 else ""
    there = f"its slides are {', '.join(names[:8])}{more}" if names else "it has no slides yet"
    raise ProjectError(f"{which!r} is no slide of {project.path.name}; {there}; add it first.")


def find_card(project: Project, which: str) -> ModelCard:
    """The card of a model id or name (the newest of that name); ModelError naming the models there are."""
    for card in reversed(project.cards):
        if which in (card.id, card.name):
            return card
    names = ", ".join(c.name for c in project.cards)
    there = f"its models are {names}" if names else "it has no models yet"
    broken = len(project.store.damaged_cards())
    more = f" (and {broken} that cannot be read)" if broken else ""
    raise ModelError(
        f"{which!r} is no model of {project.path.name}; {there}{more}; train or import it first."
    )


def current_card(project: Project) -> ModelCard | None:
    """The adopted model, or the newest that is not worse than its parent when none was adopted, or None;
    None also when the adopted one is damaged, since no other was chosen.
    """
    cards, adopted = project.cards, project.store.current
    if adopted is None:
        return next((card for card in reversed(cards) if not card.worse), None)
    return next((card for card in cards if card.id == adopted), None)


def adopt(project: Project, which: str, *, although_worse: bool = False) -> ModelCard:
    """Make a model the one that answers from now on; an event, so that one can go back to any earlier
    model.

    A model that became worse than its parent on held-out cases (`ModelCard.worse`) is refused with a
    ModelError unless `although_worse` says it a second time.
    """
    card = find_card(project, which)
    if card.worse and not although_worse:
        raise ModelError(
            f"{card.name} is not adopted: {card.worse} To adopt it all the same, say so (--although-worse)."
        )
    about = {"model": card.id, "name": card.name} | ({"although_worse": True} if card.worse else {})
    project.ledger.append("adopt", "", about, project.by)
    return card


def earlier_card(project: Project) -> ModelCard | None:
    """The model adopted before the present one, further back after every `roll_back`; None where none is."""
    line: list[str] = []
    for event in project.ledger.events(kind="adopt"):
        if event.payload.get("back"):
            line.pop()
        elif [event.payload["model"]] != line[-1:]:
            line.append(str(event.payload["model"]))
    return next((card for card in project.cards if len(line) > 1 and card.id == line[-2]), None)


def roll_back(project: Project) -> ModelCard:
    """Adopt again the model that was adopted before the present one, further back each time; ModelError when
    there is none.
    """
    card = earlier_card(project)
    if card is None:
        raise ModelError(
            f"No other model of {project.path.name} was adopted before this one; adopt one by its name."
        )
    project.ledger.append("adopt", "", {"model": card.id, "name": card.name, "back": True}, project.by)
    return card


def slide_label(project: Project, record: SlideRecord) -> str | None:
    """The slide's label text: what a person said last, else what the manifest gave."""
    said = [c for c in project.ledger.corrections(record.id) if isinstance(c.place, WholeSlide)]
    return said[-1].label if said else record.label


def label_before(project: Project, record: SlideRecord, place: Place) -> str | None:
    """What a place was called before, where it was called one thing; None when it had no label or several."""
    if isinstance(place, WholeSlide):
        return slide_label(project, record)
    if not isinstance(place, Cells):
        return None
    left, labels = place.keys, set[str | None]()
    for c in reversed(project.ledger.corrections(record.id)):
        if not len(left) or len(labels) > 1:
            break
        if isinstance(c.place, Cells) and c.place.pitch_px == place.pitch_px:
            its = np.isin(left, c.place.keys)
            labels |= {c.label} if its.any() else set()
            left = left[~its]
    labels |= {None} if len(left) else set()
    return labels.pop() if len(labels) == 1 else None


def parse_mpp(text: str) -> float:
    """µm per pixel as typed by a person; LabelError when it cannot be one."""
    try:
        value = float(text.replace(",", "."))
    except ValueError:
        value = 0.0
    if not 0.05 <= value <= 20:
        raise LabelError(
            f"{text!r} is no plausible µm per pixel; slides have 0.05 to 20, most 0.25 (40×) or 0.5 (20×)."
        )
    return value
