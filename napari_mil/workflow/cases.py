"""The project's cases: what is known of each, with the features of its slides, how they are split, and what a
model says of one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from napari_mil.bag import PHOTOGRAPH
from napari_mil.card import ModelCard, tiles_words
from napari_mil.correction import Correction, Target, tile_nodes
from napari_mil.errors import LabelError, SlideError, TissueError
from napari_mil.ledger import SlideRecord
from napari_mil.prediction import Prediction
from napari_mil.steps import ASIDE, Progress, Steps
from napari_mil.workflow.analyse import slide_bag_steps
from napari_mil.workflow.manifest import PARTS
from napari_mil.workflow.naming import shown_names
from napari_mil.workflow.project import Project, as_of, find_card, slide_label

if TYPE_CHECKING:
    from napari_mil.bag import Bag
    from napari_mil.evaluate import Split, TrainingCase


#: encoder of the features, side of the tiles in px, µm per pixel: no model reads two kinds of bags
Kind = tuple[str, int, float | None]


def as_it_stands(project: Project) -> Project:
    """The project as its ledger stands now, whatever is said while slides are read and a model learns: a card
    names the last event that its model learned from.
    """
    return as_of(project, project.ledger.head) if project.ledger.seq else project


def cases_steps(
    project: Project,
    encoder: str,
    *,
    survival: bool = False,
    aside: list[str] | None = None,
    card: ModelCard | None = None,
) -> Steps[list[TrainingCase]]:
    """The project's cases with a label of the slide or of tiles, embedding what is not yet embedded.

    When the slides of a case are labelled differently, the label that stands last in the tree counts for
    the case. For `survival` it is the cases with a follow-up time; labels of tiles say nothing of it. A slide
    without features that cannot be read, or has no tissue, is set aside: Progress of the stage ASIDE says
    so, and its sentence is added to `aside`. So are slides whose tiles are of another kind (µm per pixel,
    photographs) than those that the model of a `card` reads, or than most, since no model reads both.
    """
    from napari_mil.evaluate import TrainingCase

    found, made, tree, names = [], [], project.tree, shown_names(project.slides)
    by_case = _by_case(project)
    for n, (case, records) in enumerate(by_case.items()):
        said = _said(project, records, survival=survival)
        if not _teaches(project, records, survival=survival):
            continue
        target = _known(project, case, records, survival=survival)
        bags = yield from _case_bags_steps(project, records, encoder, names, aside)
        found.append((case, target, bags, said))
        yield Progress("cases", n + 1, len(by_case), case)
    kind, others = of_one_kind([bag for _, _, bags, _ in found for bag in bags], names, card)
    for sentence in others:
        yield Progress(ASIDE, len(found), len(found), sentence)
        if aside is not None:
            aside.append(sentence)
    for case, target, bags, said in found:
        alike = tuple(bag for bag in bags if kind_of(bag) == kind)
        nodes = [tile_nodes(said[bag.slide_id], bag.grid, tree) for bag in alike]
        if alike:
            tiles = tuple(known if known.any() else None for known in nodes)
            made.append(TrainingCase(case, alike, target, tiles))
    return made


def kind_of(bag: Bag) -> Kind:
    """What a model must have been trained on to read a bag."""
    return bag.encoder, bag.grid.tile_px, bag.grid.mpp


def of_one_kind(
    bags: Sequence[Bag], names: Mapping[str, str], card: ModelCard | None
) -> tuple[Kind | None, list[str]]:
    """The kind of bags that the model of a card reads, where there are any, else that of most; and a sentence
    for each other kind.
    """
    kinds: dict[Kind, list[str]] = {}
    for bag in bags:
        kinds.setdefault(kind_of(bag), []).append(names[bag.slide_id])
    kind = max(kinds, key=lambda one: len(kinds[one]), default=None)
    if card is not None and (wanted := (card.encoder, card.tile_px, card.mpp)) in kinds:
        kind = wanted
    return kind, [_other_kind(one, them, kind) for one, them in kinds.items() if kind and one != kind]


def _other_kind(other: Kind, names: Sequence[str], kind: Kind) -> str:
    more = f" and {len(names) - 8:,} more" if len(names) > 8 else ""
    many = f"{', '.join(names[:8])}{more} {'is' if len(names) == 1 else 'are'}"
    theirs, those = (
        f"tiles of {tiles_words(px, mpp)}{', of photographs' if PHOTOGRAPH in encoder else ''}"
        for encoder, px, mpp in (other, kind)
    )
    mend = "; `napari-mil mpp` says how many" if other[2] is None and kind[2] is not None else ""
    return f"{many} set aside: {theirs}, where a model is to read {those}{mend}."


def answer_case_steps(
    project: Project, case: str, *, model: str, aside: list[str] | None = None
) -> Steps[Prediction]:
    """A model's answer for a case, whose slides are asked as one bag, as they are when models are trained and
    evaluated. It has no maps, belongs to no slide, and is not kept.

    Slides that cannot be read, have no tissue, or tiles that the model does not read, are set aside as in
    `cases_steps`.

    SlideError when none is left.
    """
    from napari_mil.evaluate import TrainingCase, answers

    card, names = find_card(project, model), shown_names(project.slides)
    network = project.model(card.id)
    missed: list[str] = []
    records = [record for record in project.slides if record.case == case]
    found = yield from _case_bags_steps(project, records, card.encoder, names, missed)
    bags = tuple(bag for bag in found if card.why_not(bag) is None)
    for bag in found:
        if why := card.why_not(bag):
            missed.append(f"{names[bag.slide_id]} is set aside: {why}")
            yield Progress(ASIDE, len(found), len(found), missed[-1])
    if aside is not None:
        aside += missed
    if not bags:
        raise SlideError(f"The case {case!r} has no slide that can be asked: {' '.join(missed)}")
    yield Progress("answer", 0, 1)
    said = answers(network, [TrainingCase(case, bags)], temperature=card.temperature)[case]
    yield Progress("answer", 1, 1)
    told = (said.probabilities, (), card.calibrated, said.hazards)
    return Prediction("", "", card.id, "case", *told, heads=said.heads)


def _case_bags_steps(
    project: Project,
    records: Sequence[SlideRecord],
    encoder: str,
    names: Mapping[str, str],
    aside: list[str] | None,
) -> Steps[tuple[Bag, ...]]:
    """The features of a case's slides; of those set aside it is said, and added to `aside`."""
    bags = []
    for n, record in enumerate(records):
        bag = yield from _bag_steps(project, record, encoder)
        if isinstance(bag, str):
            sentence = f"{names[record.id]} is set aside: {bag}"
            yield Progress(ASIDE, n, len(records), sentence)
            if aside is not None:
                aside.append(sentence)
        else:
            bags.append(bag)
    return tuple(bags)


@dataclass(frozen=True, slots=True)
class KnownCase:
    """A case that can be learned from, before anybody reads its slides.

    Attributes
    ----------
    case, slides : its name, and the ids of its slides
    target : what is known of it as a whole
    """

    case: str
    slides: tuple[str, ...]
    target: Target


def known_cases(project: Project, *, survival: bool = False) -> list[KnownCase]:
    """The cases that can be learned from, as `cases_steps` has them; no features are needed for it.

    LabelError when it is for `survival` and the slides of a case tell different follow-up times.
    """
    return [
        KnownCase(
            case,
            tuple(record.id for record in records),
            _known(project, case, records, survival=survival),
        )
        for case, records in _by_case(project).items()
        if _teaches(project, records, survival=survival)
    ]


def count_cases(project: Project, *, survival: bool = False) -> tuple[int, int]:
    """How many cases can be learned from, and how many there are."""
    by_case = _by_case(project).values()
    return sum(_teaches(project, records, survival=survival) for records in by_case), len(by_case)


def _by_case(project: Project) -> dict[str, list[SlideRecord]]:
    by_case: dict[str, list[SlideRecord]] = {}
    for record in project.slides:
        by_case.setdefault(record.case, []).append(record)
    return by_case


def _said(
    project: Project, records: Sequence[SlideRecord], *, survival: bool
) -> dict[str, Sequence[Correction]]:
    """What people have said of each slide; labels of tiles say nothing of survival."""
    return {r.id: () if survival else project.ledger.corrections(r.id) for r in records}


def _teaches(project: Project, records: Sequence[SlideRecord], *, survival: bool) -> bool:
    """Whether a case has a follow-up time, or a label of the slide or of tiles."""
    if survival:
        return any(r.time is not None and r.event is not None for r in records)
    return any(slide_label(project, r) or project.ledger.corrections(r.id) for r in records)


def _bag_steps(project: Project, record: SlideRecord, encoder: str) -> Steps[Bag | str]:
    """The features of a slide, left on disk, since those of a whole project may be more than memory holds; or
    why there are none.
    """
    try:
        return (yield from slide_bag_steps(project, record, encoder=encoder, mapped=True))
    except (SlideError, TissueError) as error:  # gone, damaged, another one now, or empty
        return str(error)


def _known(project: Project, case: str, records: Sequence[SlideRecord], *, survival: bool) -> Target:
    """What is known of a case as a whole, and its time only for `survival`; LabelError when its slides tell
    different follow-up times.
    """
    node = max(project.tree.node(slide_label(project, r)) for r in records)
    if not survival:
        return Target(node)
    told = {(r.time, r.event) for r in records if r.time is not None and r.event is not None}
    if len(told) > 1:
        raise LabelError(
            f"The slides of case {case!r} tell different follow-up times: {sorted(told)}; mend the manifest."
        )
    time, event = told.pop() if told else (None, None)
    return Target(node, time=time, event=event)


def told_split(project: Project, cases: Sequence[Any]) -> Split | None:
    """The split that manifests fixed, cases without one being learned from; None where none of the cases has
    one. LabelError when the slides of a case stand in different splits.
    """
    from napari_mil.evaluate import Split

    told: dict[str, SlideRecord] = {}
    for record in project.slides:
        other = told.setdefault(record.case, record) if record.split else record
        if other.split != record.split:
            raise LabelError(
                f"The slides of case {record.case!r} stand in different splits, {other.name} in "
                f"{other.split} and {record.name} in {record.split}; mend the manifest and import it again."
            )
    names = [c.case for c in cases]
    if not any(name in told for name in names):
        return None
    parts = {name: told[name].split if name in told else PARTS[0] for name in names}
    return Split(*(tuple(n for n in names if parts[n] == part) for part in PARTS))


def apart(split: Split, cases: Sequence[TrainingCase], aside: list[str]) -> Split:
    """The split without the cases to learn from whose picture is held out under another name; a sentence for
    each is added to `aside`.
    """
    from napari_mil.evaluate import without_leaks

    clean, leaks = without_leaks(split, cases)
    aside += [
        f"case {case!r} shows the same picture as {held!r}, which is held out, so it is not learned from"
        for case, held in leaks
    ]
    return clean


def split_words(split: Split) -> str:
    """What a reader of the figures must know of a split; "" when it has a part to report on."""
    if split.test:
        return ""
    n = len(split.validation)
    if not n:
        return "no case was held out, so there are no figures"
    cases = "1 case" if n == 1 else f"{n} cases"
    return f"no case was left to report on: the figures are of the {cases} that chose the epoch"
