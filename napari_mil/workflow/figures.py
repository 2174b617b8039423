"""Figures as a person reads them: rounded, with their interval and the number of cases they stand on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_mil.labeltree import Survival

if TYPE_CHECKING:
    from napari_mil.card import ModelCard
    from napari_mil.workflow.project import Project

#: An interval by resampling fewer cases than this would only look like one.
INTERVAL_FROM = 5


def figure_words(value: Any, cases: int | None = None) -> str:
    """A figure (value, low, high), or a bare number, in words; `cases` it stands on, None where that is not
    known.

    >>> figure_words((0.91234, 0.85, 0.961), 12)
    '0.912 [0.850, 0.961], 12 cases'
    >>> figure_words((0.91234, 0.85, 0.961), 1)
    '0.912, 1 case: too few for an interval'
    """
    bare = not isinstance(value, list | tuple)
    mean, low, high = (value, value, value) if bare else value
    text = f"{mean:.3f}" if isinstance(mean, float) else str(mean)
    on = "" if cases is None else f", {cases} case{'' if cases == 1 else 's'}"
    if bare:
        return text + on
    if too_few(cases):
        return f"{text}{on}: too few for an interval"
    return f"{text} [{low:.3f}, {high:.3f}]{on}"


def figure_lines(
    metrics: Mapping[str, Any],
    *,
    cases: int | None = None,
    validation: int | None = None,
    called: Mapping[str, str] | None = None,
) -> list[str]:
    """A line for each figure; `cases` they stand on, those named "validation/…" on so many of that part.

    called : the figures to tell, and what to call each; None: all of them by their names
    """
    lines = []
    for key, words in (called or {name: name for name in figures_in(metrics)}).items():
        value = metrics.get(key)
        if value is None or (isinstance(value, float) and math.isnan(value)):
            continue  # NaN on cards of earlier versions
        n = stands_on(key, metrics, cases, validation)
        lines.append(f"  {words}: {figure_words(told_value(key, value), n)}")
    return lines


def figures_in(metrics: Mapping[str, Any]) -> list[str]:
    """The names of the figures among what `evaluate` found."""
    return [name for name in metrics if not name.endswith("/cases")]


def too_few(cases: int | None) -> bool:
    """Whether an interval over so many cases would only look like one; None: nobody knows how many."""
    return cases is not None and cases < INTERVAL_FROM


def stands_on(
    key: str, metrics: Mapping[str, Any], cases: int | None, validation: int | None = None
) -> int | None:
    """How many cases a figure stands on: all, or as many as `evaluate` found for its group; one named
    "validation/…" on those of that part. None where nobody knows.
    """
    if key == "obeyed":  # of tiles that were learned from
        return None
    if key.startswith("validation/"):
        return validation
    fewer: int | None = metrics.get(f"{key.rpartition('/')[0] or key}/cases", cases)
    return fewer


def told_value(key: str, value: Any) -> Any:
    """What is told of a figure: all of it, or of a p-value, which has no interval, the value in words."""
    if not key.endswith("logrank_p"):
        return value
    return p_words(value[0] if isinstance(value, list | tuple) else value)


def value_words(key: str, value: Any) -> str:
    """A figure in words without its interval."""
    told = told_value(key, value)
    return figure_words(told[0] if isinstance(told, list | tuple) else told)


def p_words(p: float) -> str:
    """A p-value, never said to be nothing."""
    return "< 0.001" if p < 0.0005 else f"{p:.3f}"


def held_out_lines(
    project: Project, card: ModelCard, *, called: Mapping[str, str] | None = None
) -> list[str]:
    """The figures on a model's card and what must be known to read them.

    called : the figures to tell, and what to call each; None: all of them by their names
    """
    cases, validation = held_out_cases(project, card)
    lines = figure_lines(card.metrics, cases=cases, validation=validation, called=called)
    lines += [f"  {why}"] if (why := no_c_index(card)) else []
    return lines + [f"  note: {card.note}"] * bool(card.note)


def held_out_cases(project: Project, card: ModelCard) -> tuple[int, int]:
    """How many cases the figures on a card are of, and how many its validation part has."""
    case_of = {record.id: record.case for record in project.slides}
    held = {part: len({case_of.get(s, s) for s in slides}) for part, slides in card.slides.items()}
    validation = held.get("validation", 0)
    return held.get("test") or validation, validation


def no_c_index(card: ModelCard) -> str:
    """Why the card of a model of survival has no c-index, "" where it has one or no case was held out."""
    value = card.metrics.get("survival/c_index")
    known = value is not None and not (isinstance(value, float) and math.isnan(value))
    held = card.slides.get("test") or card.slides.get("validation")
    if known or not held or not isinstance(card.tree, Survival):
        return ""
    return "no c-index: of no two held-out cases is it known whose event came first"


def survival_lines(card: ModelCard) -> list[str]:
    """The Kaplan–Meier curves of the halves by risk, where the model's intervals of time end; [] where the
    card has none.
    """
    table, task = card.survival, card.tree
    if not table or not isinstance(task, Survival):
        return []
    lines = [f"  without the event, halves of the {table.get('part', 'held-out')} cases by risk: "]
    lines[0] += logrank_words(table)
    unit = f" {task.unit}" if task.unit else ""
    for half in ("lower", "higher"):
        cases = table[half]["cases"]
        points = (
            f"{time:.4g}{unit} {share:.2f} ({n})" for time, share, n in _at(table[half], task.edges[1:])
        )
        lines.append(
            f"    {half} risk, {cases} case{'' if cases == 1 else 's'}; share (at risk): {', '.join(points)}"
        )
    return lines


def logrank_words(table: Mapping[str, Any]) -> str:
    """How sure it is that the halves by risk differ."""
    p = table.get("logrank_p")
    if p is None:
        return "no log-rank p, as no event was seen while cases of both were at risk"
    return f"log-rank p {p_words(p)}"


def _at(curve: Mapping[str, Any], times: Sequence[float]) -> list[tuple[float, float, int]]:
    """(time, share still without the event, cases at risk) of a curve at each time."""
    steps = np.asarray(curve["times"], np.float64)
    shares, at_risk = [1.0, *curve["survival"]], [*curve["at_risk"], 0]
    passed, coming = np.searchsorted(steps, times, "right"), np.searchsorted(steps, times, "left")
    return [(t, shares[i], at_risk[j]) for t, i, j in zip(times, passed, coming, strict=True)]
