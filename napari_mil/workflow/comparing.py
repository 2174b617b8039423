"""Two models side by side: what their cards say, and what both answer for the same held-out cases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from napari_mil.card import ModelCard
from napari_mil.correction import WholeSlide
from napari_mil.errors import BagError, ModelError, ProjectError
from napari_mil.labeltree import Survival
from napari_mil.steps import Progress, Steps
from napari_mil.workflow.cases import cases_steps
from napari_mil.workflow.figures import (
    INTERVAL_FROM,
    figure_words,
    figures_in,
    stands_on,
    told_value,
    value_words,
)
from napari_mil.workflow.naming import shown_names
from napari_mil.workflow.project import Project, as_of, find_card, slide_label


@dataclass(frozen=True, slots=True, eq=False)
class Compared:
    """Two models judged on the same cases.

    Attributes
    ----------
    one, other : their cards
    mine, its : the figures of both, {name: (value, low, high)}
    changes : the other's figures less the one's, with paired 95 % intervals; {} where they answer with other
        classes or intervals of time
    cases : how many cases all figures stand on
    untold : names of models that do not say what they learned from
    """

    one: ModelCard
    other: ModelCard
    mine: Mapping[str, Any]
    its: Mapping[str, Any]
    changes: Mapping[str, Any]
    cases: int
    untold: tuple[str, ...] = ()

    def in_words(self) -> str:
        """A line for each figure, and what must be known to read them."""
        many = f"{self.cases} case{'' if self.cases == 1 else 's'}"
        learned = "is known to have learned" if self.untold else "learned"
        lines = [f"{self.one.name} | {self.other.name}, both on the same {many} that neither {learned} from:"]
        for key in dict.fromkeys(figures_in({**self.mine, **self.its})):
            words = [self._said(key, figures) for figures in (self.mine, self.its)]
            n = self._on(key)
            fewer = "" if n == self.cases else f", on {n} of the cases"
            lines.append(f"  {key}: {' | '.join(words)}{self._by(key)}{fewer}")
        return "\n".join([*lines, *(f"  {name} does not say what it learned from." for name in self.untold)])

    def to_record(self) -> dict[str, Any]:
        """The same as plain values."""
        figures = {self.one.id: dict(self.mine), self.other.id: dict(self.its)}
        return {"cases": self.cases, "figures": figures, "changes": dict(self.changes)} | {
            "learned_from_unknown": list(self.untold)
        }

    def _said(self, key: str, figures: Mapping[str, Any]) -> str:
        if key not in figures:
            return "none"
        few = self._on(key) < INTERVAL_FROM
        return value_words(key, figures[key]) if few else figure_words(told_value(key, figures[key]))

    def _on(self, key: str) -> int:
        """How many cases a figure stands on; both models have the same."""
        return stands_on(key, {**self.its, **self.mine}, self.cases) or 0

    def _by(self, key: str) -> str:
        if key not in self.changes or not np.isfinite(self.changes[key]).all():
            return ""
        value, low, high = self.changes[key]
        between = f" (95 % {low:+.3f} to {high:+.3f})" if self._on(key) >= INTERVAL_FROM else ""
        return f", difference {value:+.3f}{between}"


def held_out(card: ModelCard) -> frozenset[str]:
    """The slides that the figures on a card are of: its test part, or where it has none its validation."""
    return frozenset(card.slides.get("test", ()) or card.slides.get("validation", ()))


def not_alike(one: ModelCard, other: ModelCard) -> str:
    """The sentence that says why the figures on two cards do not compare, or "" where nothing is known
    against it.
    """
    if not (one.metrics and other.metrics) or (mine := held_out(one)) == (its := held_out(other)):
        return ""
    return (
        f"The figures on these cards were measured on different slides ({len(mine)} and {len(its)}, "
        f"{len(mine & its)} of them the same) and do not compare; --evaluate asks both about the same ones."
    )


def labels_apart(project: Project, one: ModelCard, other: ModelCard) -> str:
    """The sentence that says of which slides on both cards the labels, or the follow-up times, changed
    between the two trainings, or "" where none did, the ledger does not know both, or one learned labels and
    the other times.
    """
    if isinstance(one.tree, Survival) != isinstance(other.tree, Survival):
        return ""
    mine, its = (_labels_of(project, card) for card in (one, other))
    names = shown_names(project.slides)
    apart = [slide for slide in mine if slide in its and mine[slide] != its[slide]]
    if not apart:
        return ""
    many = f"{len(apart)} slide{'' if len(apart) == 1 else 's'}"
    more = f" and {len(apart) - 8:,} more" if len(apart) > 8 else ""
    listed = ", ".join(names.get(slide, slide) for slide in apart[:8])
    measured = held_out(one) & held_out(other) & set(apart)
    if not measured:
        held = "None of them is held out from both."
    else:
        held = (
            f"{len(measured)} of them {'is' if len(measured) == 1 else 'are'} held out from both, so the "
            "figures on the cards do not compare; --evaluate goes by the labels of now."
        )
    return f"Between the two trainings the labels of {many} on both cards changed: {listed}{more}. {held}"


def _labels_of(project: Project, card: ModelCard) -> dict[str, tuple[Any, ...]]:
    """What was known of every slide on a card when its model learned; {} where the ledger does not tell."""
    try:
        then = as_of(project, card.ledger_head or "")
    except ProjectError:  # of another project, or taken in from a file
        return {}
    used, survival = {s for part in card.slides.values() for s in part}, isinstance(card.tree, Survival)
    known: dict[str, tuple[Any, ...]] = {}
    for record in (r for r in then.slides if r.id in used):
        said = [c.id for c in then.ledger.corrections(record.id) if not isinstance(c.place, WholeSlide)]
        labels = (slide_label(then, record), *said)
        known[record.id] = (record.time, record.event) if survival else labels
    return known


def compare_steps(project: Project, model: str, other: str) -> Steps[Compared]:
    """Judge two models of a project on all its labelled cases that neither learned from nor was chosen by.

    ModelError when one answers with time and the other with classes; BagError when there is no such case.
    """
    cards = find_card(project, model), find_card(project, other)
    survival = [isinstance(card.tree, Survival) for card in cards]
    if survival[0] != survival[1]:
        raise ModelError(f"Of {cards[0].name} and {cards[1].name} one answers with time, the other not.")
    seen = {s for card in cards for part in ("train", "validation") for s in card.slides.get(part, ())}
    found = []
    for card in cards:
        known = yield from cases_steps(project, card.encoder, survival=survival[0])
        found.append({c.case: c for c in known if not any(b.slide_id in seen for b in c.bags)})
    for card, held in zip(cards, found, strict=True):
        for bag in (bag for case in held.values() for bag in case.bags):
            card.check(bag)
    names = [name for name in found[0] if name in found[1]]
    if not names:
        raise BagError(
            f"No labelled case here was held out from both {cards[0].name} and {cards[1].name}; "
            "label slides that neither has seen."
        )
    yield Progress("comparing", 0, 1)
    compared = _judged(project, cards, [[cases[name] for name in names] for cases in found])
    yield Progress("comparing", 1, 1)
    return compared


def _judged(project: Project, cards: tuple[ModelCard, ModelCard], cases: list[list[Any]]) -> Compared:
    from napari_mil.evaluate import answers, changes, evaluate

    said, figures = [], []
    for card, mine in zip(cards, cases, strict=True):
        network = project.model(card.id)
        said.append(answers(network, mine))
        warm = card.temperature if card.calibrated else None
        figures.append(evaluate(network, mine, said=said[-1], temperature=warm))
    alike = cards[0].tree == cards[1].tree
    differ = changes(cases[0], said[0], said[1], cards[0].tree) if alike else {}
    untold = tuple(card.name for card in cards if not card.slides)
    return Compared(*cards, figures[0], figures[1], differ, len(cases[0]), untold)
