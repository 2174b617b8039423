"""The current state as a replay of the events, brought forward event by event."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from napari_mil.correction import Correction, from_record, place_record
from napari_mil.ledger.events import GENESIS, Event, SlideRecord


@dataclass(slots=True)
class Act:
    """What one undo takes back: the corrections of one stroke, or of one import."""

    id: str
    corrections: list[tuple[int, Correction]] = field(default_factory=list)


@dataclass(slots=True)
class Stacks:
    """The acts on one slide that are in force, and those that were undone, the latest last.

    `known` holds the corrections in force by their ids.
    """

    done: list[Act] = field(default_factory=list)
    undone: list[Act] = field(default_factory=list)
    known: dict[str, Correction] = field(default_factory=dict)
    in_force: tuple[tuple[int, Correction], ...] | None = None


class State:
    """What the events up to `seq` amount to."""

    def __init__(self) -> None:
        self.seq = 0
        self.head = GENESIS
        self.slides: dict[str, SlideRecord] = {}
        self._stacks: dict[str, Stacks] = {}
        self._kinds: dict[str, Callable[[Event], None]] = {
            "slide": self._slide,
            "correct": self._correct,
            "undo": self._undo,
            "redo": self._redo,
        }

    def apply(self, event: Event) -> None:
        """Bring the state forward by the next event; kinds that change no state only move the head."""
        if event.kind in self._kinds:
            self._kinds[event.kind](event)
        self.seq, self.head = event.seq, event.hash

    def stacks(self, slide_id: str) -> Stacks:
        """Undo and redo stacks of a slide."""
        return self._stacks.setdefault(slide_id, Stacks())

    def unsaid(self, corrections: Iterable[Correction]) -> list[Correction]:
        """Those that are not in force already; one whose id stands for something else gets another id."""
        fresh: dict[tuple[str, str], Correction] = {}
        for c in corrections:
            known = self.stacks(c.slide_id).known
            if c.id in known and not _same(c, known[c.id]):
                content = json.dumps([c.id, c.label, place_record(c.place)])
                c = replace(c, id=str(uuid.uuid5(uuid.NAMESPACE_OID, content)))  # noqa: PLW2901
            if c.id not in known:
                fresh.setdefault((c.slide_id, c.id), c)
        return list(fresh.values())

    def corrections(self, slide_id: str | None) -> tuple[Correction, ...]:
        """Corrections in force in the order in which they were stated, of a slide or of all slides."""
        slides = [slide_id] if slide_id is not None else list(self._stacks)
        found = [entry for s in slides for entry in self._in_force(self.stacks(s))]
        if len(slides) > 1:
            found.sort(key=lambda entry: entry[0])
        return tuple(correction for _, correction in found)

    @staticmethod
    def _in_force(stacks: Stacks) -> tuple[tuple[int, Correction], ...]:
        if stacks.in_force is None:
            stacks.in_force = tuple(entry for act in stacks.done for entry in act.corrections)
        return stacks.in_force

    def _slide(self, event: Event) -> None:
        record: dict[str, Any] = dict(event.payload)
        self.slides[event.slide_id] = SlideRecord(**record)

    def _correct(self, event: Event) -> None:
        stacks, act = self.stacks(event.slide_id), str(event.payload["act"])
        correction = from_record(event.payload["correction"])
        if not stacks.done or stacks.done[-1].id != act:
            stacks.done.append(Act(act))
        stacks.done[-1].corrections.append((event.seq, correction))
        stacks.known[correction.id] = correction
        stacks.undone.clear()
        stacks.in_force = None

    def _undo(self, event: Event) -> None:
        stacks = self.stacks(event.slide_id)
        act = _take(stacks.done, event.payload["act"])
        stacks.undone.append(act)
        for _, correction in act.corrections:
            stacks.known.pop(correction.id, None)
        stacks.in_force = None

    def _redo(self, event: Event) -> None:
        stacks = self.stacks(event.slide_id)
        act = _take(stacks.undone, event.payload["act"])
        stacks.done.append(act)
        stacks.known |= {c.id: c for _, c in act.corrections}
        stacks.in_force = None


def _same(a: Correction, b: Correction) -> bool:
    return a.label == b.label and place_record(a.place) == place_record(b.place)


def _take(acts: list[Act], wanted: str) -> Act:
    """Remove and return the act called `wanted`; KeyError when it is not there."""
    for at in range(len(acts) - 1, -1, -1):
        if acts[at].id == wanted:
            return acts.pop(at)
    raise KeyError(wanted)
