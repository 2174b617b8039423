"""The review queue of a project: the next places with their reasons, and a person's answers to them."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_mil.correction import (
    Cells,
    Correction,
    Place,
    WholeSlide,
    place_from,
    place_record,
    slide_node,
    tile_nodes,
)
from napari_mil.errors import LabelError, ModelError
from napari_mil.labeltree import LabelTree
from napari_mil.ledger import SlideRecord
from napari_mil.review import (
    CRITERIA,
    RANDOM_SHARE,
    Item,
    Places,
    Seen,
    queue,
    refuse_risk,
    shortlist,
    thinned,
)
from napari_mil.review.places import WHOLE
from napari_mil.steps import ASIDE, Progress, Steps
from napari_mil.store.shortlists import load_shortlist, save_shortlist
from napari_mil.workflow.analyse import kept_bag
from napari_mil.workflow.naming import Asked, place_of, shown_names
from napari_mil.workflow.project import Project, current_card, find_card, find_record

if TYPE_CHECKING:
    from napari_mil.bag import Bag
    from napari_mil.card import ModelCard
    from napari_mil.prediction import Prediction

#: the tool of a correction that answers the queue
TOOL = "review"
#: the kind of event that sets a place aside: a person said that they will not answer here
SKIP = "skip"
#: tools of slide labels that files brought, which nobody has looked at here
UNSEEN = ("import", "manifest")
#: tiles of all shortlists together that are held in memory, and of a slide at least
PLACES, LEAST = 16_384, 8
#: counts up when shortlists hold something else than before
_EDITION = 2


@dataclass(frozen=True, slots=True, eq=False)
class Question(Asked):
    """A place to look at next.

    Attributes
    ----------
    label, sure : what the model says there, and its probability; to accept is to state this label
    model_id : the model that was asked
    item : of the queue, with the reasons
    """

    label: str
    sure: float
    model_id: str
    item: Item

    def to_record(self) -> dict[str, Any]:
        """The question as a JSON-ready mapping."""
        about = {"key": self.key, "slide": self.name, "slide_id": self.record.id, "cell": self.item.cell}
        said = {"label": self.label, "probability": round(self.sure, 4), "model": self.model_id}
        return {**about, **said, "why": dict(self.item.why), "reason": self.item.reason}


def review_steps(
    project: Project,
    *,
    model: str | None = None,
    n: int = 20,
    slides: Collection[str] | None = None,
    criteria: Collection[str] = tuple(CRITERIA),
    random_share: float = RANDOM_SHARE,
    seed: int = 0,
    again: bool = False,
) -> Steps[tuple[Question, ...]]:
    """The next n places of a project to look at, with the reason of each.

    Only stored answers and features are read; what is found of a slide is kept until its answer or its labels
    change. The teacher of a model that has one is asked once per slide. Of slides that the model was held out
    from only the label is asked: what is said of their tiles is not learned from. Progress of the stage ASIDE
    names the slides that have no answer yet.

    Parameters
    ----------
    model : name or id; None: the adopted one, else the newest
    slides : ids of the slides to ask about; None: all of them
    criteria, random_share, seed : see `review.queue`
    again : also what this person has skipped
    """
    card = _card(project, model)
    skipped = {} if again else _skipped(project)
    records = [r for r in project.slides if slides is None or r.id in slides]
    names, found, missing = shown_names(project.slides), [], []
    pitches: dict[str, tuple[float, float]] = {}
    few = max(LEAST, PLACES // max(len(records), 1))
    held = {s for part in ("validation", "test") for s in card.slides.get(part, ())}
    for at, record in enumerate(records):
        yield Progress("shortlists", at, len(records), names[record.id])
        listed = _shortlist(project, card, record, skipped.get(record.id, ()), seed)
        if listed is None:
            missing.append(names[record.id])
        else:
            places, pitches[record.id] = listed
            found.append(places.take(places.whole) if record.id in held else thinned(places, few))
    if missing and found:
        yield Progress(ASIDE, len(records), len(records), _missing_words(card, missing))
    if not found:
        raise ModelError(
            f"No slide has an answer of {card.name} yet, so there is nothing to order; run it first with "
            f"`napari-mil predict {project.path} --model {card.name}`."
        )
    yield Progress("shortlists", len(records), len(records))
    items = queue(Places.join(found), card.tree, n, criteria=criteria, random_share=random_share, seed=seed)
    by_id = {record.id: record for record in records}
    return tuple(_question(by_id[i.slide_id], names[i.slide_id], i, card, pitches[i.slide_id]) for i in items)


def question_at(project: Project, key: str, *, model: str | None = None) -> Question:
    """The question that a key names: SLIDE, or SLIDE@ROW,COL; its model's answer is read anew.

    LabelError when the key names no tile of the answer, ModelError when there is no answer, or it is a risk.
    """
    card = _card(project, model)
    name, cell = place_of(project.slides, key)
    record = find_record(project, name)
    kept = _kept(project, card, record)
    if kept is None:
        raise ModelError(_missing_words(card, [record.name]))
    answer, bag = kept
    refuse_risk(answer)
    node, sure = answer.best(card.tree)[-1]
    if cell is not None:
        row = np.flatnonzero((bag.grid.cells == cell).all(1))
        if not len(row):
            raise LabelError(f"{key!r} names no tile of {record.name}: there is no tissue, or no such cell.")
        node, sure = _best_of_tile(answer, card.tree, int(row[0]))
    item = Item(record.id, cell, node, sure, (), 0.0)
    return _question(record, shown_names(project.slides)[record.id], item, card, bag.grid.pitch_px)


def answer_question(
    project: Project, question: Question, label: str | None = None, *, note: str = ""
) -> Correction:
    """Accept what the model says of a place, or relabel it; a correction like any other, in the ledger when
    this returns.
    """
    return project.correct(
        question.record.id,
        question.place,
        label or question.label,
        tool=TOOL,
        note=note,
        model_id=question.model_id,
        model_said=question.label,
        model_confidence=question.sure,
    )


def skip_question(project: Project, question: Question, *, note: str = "") -> None:
    """Set a place aside: it is not asked of this person again. A person said so, so it is an event; others
    are still asked.
    """
    said = {"place": place_record(question.place), "model": question.model_id, "note": note}
    project.ledger.append(SKIP, question.record.id, said, project.by)


def _card(project: Project, model: str | None) -> ModelCard:
    if model is not None:
        return find_card(project, model)
    card = current_card(project)
    if card is None:
        raise ModelError(f"{project.path.name} has no model that could be asked; train or import one first.")
    return card


def _question(
    record: SlideRecord, name: str, item: Item, card: ModelCard, pitch_px: tuple[float, float]
) -> Question:
    place = WholeSlide() if item.cell is None else Cells(np.array([item.cell], np.int32), pitch_px)
    return Question(record, name, place, card.tree.path(item.node), item.sure, card.id, item)


def _missing_words(card: ModelCard, names: Sequence[str]) -> str:
    few = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    verb = "has" if len(names) == 1 else "have"
    return f"{few} {verb} no answer of {card.name} yet; `napari-mil predict` gives it."


def _shortlist(
    project: Project, card: ModelCard, record: SlideRecord, aside: Collection[Place], seed: int
) -> tuple[Places, tuple[float, float]] | None:
    """The places of a slide and the pitch of its tiles, kept or made; None without an answer."""
    latest = project.store.latest_answer(record.id, card.id)
    if latest is None:
        return None
    said = project.ledger.corrections(record.id)
    places = json.dumps(sorted(json.dumps(place_record(p)) for p in aside))
    state = [
        _EDITION,
        latest.grid_id,
        latest.at.isoformat(),
        record.label,
        [c.id for c in said],
        places,
        seed,
    ]
    made_from = hashlib.sha256(json.dumps(state).encode()).hexdigest()
    kept = load_shortlist(project.path, record.id, card.id, made_from)
    if kept is not None:
        pitch = kept.pop("pitch_px")
        return Places.from_arrays(kept), (float(pitch[0]), float(pitch[1]))
    read = _kept(project, card, record)
    if read is None:
        return None
    answer, bag = read
    made = shortlist(_seen(project, card, record, answer, bag, said, aside), card.tree, seed=seed)
    pitch_px = bag.grid.pitch_px
    arrays = {**made.to_arrays(), "pitch_px": np.array(pitch_px)}
    save_shortlist(project.path, record.id, card.id, made_from, arrays)
    return made, pitch_px


def _kept(project: Project, card: ModelCard, record: SlideRecord) -> tuple[Prediction, Bag] | None:
    """The kept answer of a model for a slide, with its maps, and the features it was made from."""
    bag = kept_bag(project, record, encoder=card.encoder)
    if bag is None:
        return None
    answer = project.store.load_prediction(record.id, bag.grid.id, card.id)
    return None if answer is None else (answer, bag)


def _seen(
    project: Project,
    card: ModelCard,
    record: SlideRecord,
    answer: Prediction,
    bag: Bag,
    said: Sequence[Correction],
    aside: Collection[Place],
) -> Seen:
    own, tree = project.tree, card.tree
    told = [_in_tree(own, tree, node) for node in range(len(own))]
    whole = [c for c in said if isinstance(c.place, WholeSlide)]
    cells = {WHOLE for p in aside if isinstance(p, WholeSlide)}
    for place in aside:
        if isinstance(place, Cells) and np.allclose(place.pitch_px, bag.grid.pitch_px):
            cells |= {(int(r), int(c)) for r, c in place.cells}
    given = told[slide_node(said, own, record.label)]
    return Seen(
        answer=answer,
        bag=bag,
        tiles=np.array(told, np.int32)[tile_nodes(said, bag.grid, own)],
        given=given,
        confirmed=bool(whole and whole[-1].tool not in UNSEEN and given),
        aside=frozenset(cells),
        teacher=_teacher(project, card, bag),
    )


def _in_tree(own: LabelTree, other: LabelTree, node: int) -> int:
    """A node of one tree in another, by its path; 0 where that has no such label."""
    path = own.path(node)
    return next((n for n in range(1, len(other)) if path and other.path(n) == path), 0)


def _teacher(project: Project, card: ModelCard, bag: Bag) -> NDArray[np.float32] | None:
    """(N,) the score that the model's teacher gives each tile, or None without a teacher."""
    from napari_mil import masks, methods
    from napari_mil.blocks import HidesTiles

    if not hasattr(methods.get(card.method), "salience"):
        return None
    network = project.model(card.id)
    if not isinstance(network, HidesTiles) or not network.has_teacher():
        return None
    return masks.simulate(network, bag).score


def _skipped(project: Project) -> Mapping[str, list[Place]]:
    """Slide → the places that this person has set aside."""
    found: dict[str, list[Place]] = defaultdict(list)
    for event in project.ledger.events(kind=SKIP):
        if event.by == project.by:
            found[event.slide_id].append(place_from(event.payload["place"]))
    return found


def _best_of_tile(answer: Prediction, tree: LabelTree, row: int) -> tuple[int, float]:
    """The most likely leaf of a tile and its probability."""
    level = tree.levels - 1
    chances = [float(p) for p in _leaf_chances(answer, tree, row)]
    k = int(np.argmax(chances))
    return tree.nodes_at(level)[k], chances[k]


def _leaf_chances(answer: Prediction, tree: LabelTree, row: int) -> Iterator[float]:
    from napari_mil.labeltree import class_names, level_names

    name = level_names(tree)[-1]
    for label in class_names(tree, tree.levels - 1):
        yield answer.map(f"probability/{name}/{label}").values[row]
