"""The current state as a replay of the events, brought forward event by event."""

from __future__ import annotations

import json
import uuid
from bisect import insort
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from operator import itemgetter
from typing import Any, NamedTuple

from napari_mil.correction import Correction, from_record, place_record
from napari_mil.errors import ProjectError
from napari_mil.ledger.events import GENESIS, Event, SlideRecord


@dataclass(slots=True)
class Act:
    """What one undo takes back: the corrections of one stroke or of one import, or a withdrawal.

    Attributes
    ----------
    seq : number of its first event
    by : who acted
    seen : number of the last event that was known where it was said; those after it were not
    corrections : (number of the event, what it states)
    withdraws : numbers of events that it takes out of force
    """

    id: str
    seq: int
    by: str
    seen: int
    corrections: list[tuple[int, Correction]] = field(default_factory=list)
    withdraws: frozenset[int] = frozenset()


class Acts(NamedTuple):
    """The acts on a slide.

    Attributes
    ----------
    done : that can be undone, in their order
    undone : that can be redone, the latest last
    in_force : (number of the event, what it states), in the order in which they count
    locked : numbers of events that count whatever is said later
    """

    done: tuple[Act, ...]
    undone: tuple[Act, ...]
    in_force: tuple[tuple[int, Correction], ...]
    locked: frozenset[int]


@dataclass(slots=True)
class Stacks:
    """The acts on one slide: in force in their order, and undone, the latest last; which events are locked.

    `in_force` is remembered until an act goes or comes back, and so is in whose `turn` an event counts that
    replaces another.
    """

    done: list[Act] = field(default_factory=list)
    undone: list[Act] = field(default_factory=list)
    locked: set[int] = field(default_factory=set)
    in_force: list[tuple[int, Correction]] | None = None
    known: dict[str, Correction] = field(default_factory=dict)
    turn: dict[int, int] = field(default_factory=dict)

    def entries(self) -> list[tuple[int, Correction]]:
        """Corrections in force with the numbers of their events; what replaces another counts in its turn,
        what is locked counts last.
        """
        if self.in_force is None:
            said = [entry for act in self.done for entry in act.corrections]
            gone, self.turn = _replaced(said)
            gone.update(seq for act in self.done for seq in act.withdraws)
            found = [entry for entry in said if entry[0] not in gone]
            plain = not self.locked and not self.turn
            self.in_force = sorted(found, key=itemgetter(0) if plain else self.order)
            self.known = {c.id: c for _, c in found}
        return self.in_force

    def order(self, entry: tuple[int, Correction]) -> tuple[bool, int]:
        """Entries count in rising order."""
        return entry[0] in self.locked, self.turn.get(entry[0], entry[0])


class State:
    """What the events up to `seq` amount to.

    Attributes
    ----------
    seq, head : number and hash of the last event
    slides : what is known of each slide, by its id
    last : slide id → number of the last event that changed what answers say of it
    of_project : kind → the last event of it that is about the project as a whole
    """

    def __init__(self) -> None:
        self.seq = 0
        self.head = GENESIS
        self.slides: dict[str, SlideRecord] = {}
        self.last: dict[str, int] = {}
        self.of_project: dict[str, Event] = {}
        self._stacks: dict[str, Stacks] = {}
        self._kinds: dict[str, Callable[[Event], None]] = {
            "slide": self._slide,
            "correct": self._correct,
            "withdraw": self._withdraw,
            "undo": self._undo,
            "redo": self._redo,
            "lock": self._lock,
            "unlock": self._unlock,
        }

    def apply(self, event: Event) -> None:
        """Bring the state forward by the next event; kinds that change no state only move the head."""
        if event.kind in self._kinds:
            self._kinds[event.kind](event)
            self.last[event.slide_id] = event.seq
        if not event.slide_id:
            self.of_project[event.kind] = event
        self.seq, self.head = event.seq, event.hash

    def stacks(self, slide_id: str) -> Stacks:
        """Undo and redo stacks of a slide."""
        return self._stacks.setdefault(slide_id, Stacks())

    def unsaid(self, corrections: Iterable[Correction]) -> list[Correction]:
        """Those that are not in force already; one whose id stands for something else gets another id.
        ProjectError where one replaces what is in force no more, or locked.
        """
        fresh: dict[tuple[str, str], Correction] = {}
        for c in corrections:
            stacks = self.stacks(c.slide_id)
            stacks.entries()
            if c.id in stacks.known and not _same(c, stacks.known[c.id]):
                content = json.dumps([c.id, c.label, place_record(c.place)])
                c = replace(c, id=str(uuid.uuid5(uuid.NAMESPACE_OID, content)))  # noqa: PLW2901
            if c.id not in stacks.known:
                self._check_replaced(stacks, c.replaces)
                fresh.setdefault((c.slide_id, c.id), c)
        return list(fresh.values())

    def acts(self, slide_id: str) -> Acts:
        """The acts on a slide as they are now."""
        s = self.stacks(slide_id)
        return Acts(tuple(s.done), tuple(s.undone), tuple(s.entries()), frozenset(s.locked))

    def corrections(self, slide_id: str | None) -> tuple[Correction, ...]:
        """Corrections in force in the order in which they count, of a slide or of all slides."""
        if slide_id is not None:
            return tuple(c for _, c in self.stacks(slide_id).entries())
        found = [(s.order(entry), entry[1]) for s in self._stacks.values() for entry in s.entries()]
        return tuple(c for _, c in sorted(found, key=lambda both: both[0]))

    def to_undo(self, slide_id: str, by: str) -> Act | None:
        """The latest act of a person on a slide (of anybody for ""); ProjectError when it is locked."""
        stacks = self.stacks(slide_id)
        act = _latest(stacks.done, by)
        if act is not None:
            self._refuse_locked(stacks, [seq for seq, _ in act.corrections])
        return act

    def to_redo(self, slide_id: str, by: str) -> Act | None:
        """The act of a person (of anybody for "") that was undone last."""
        return _latest(self.stacks(slide_id).undone, by)

    def to_undo_too(self, act: Act) -> list[str]:
        """The slides on which an act can be taken back; ProjectError when a part of it is locked."""
        slides = [slide for slide, s in self._stacks.items() if any(one.id == act.id for one in s.done)]
        for slide in slides:
            stacks = self.stacks(slide)
            mine = [seq for one in stacks.done if one.id == act.id for seq, _ in one.corrections]
            self._refuse_locked(stacks, mine)
        return slides

    def to_redo_too(self, act: Act) -> list[str]:
        """The slides on which an act can be restored."""
        return [slide for slide, s in self._stacks.items() if any(one.id == act.id for one in s.undone)]

    def check(self, kind: str, slide_id: str, events: Iterable[int]) -> None:
        """ProjectError unless the corrections of these events are in force, and may be withdrawn."""
        stacks, wanted = self.stacks(slide_id), list(events)
        there = {seq for seq, _ in stacks.entries()}
        for seq in wanted:
            if seq not in there:
                raise ProjectError(
                    f"Event {seq} is no label in force on this slide; `napari-mil labels show` lists them."
                )
        if kind == "withdraw":
            self._refuse_locked(stacks, wanted)

    def _check_replaced(self, stacks: Stacks, wanted: str) -> None:
        """An import may speak of what was never said here."""
        acts = (*stacks.done, *stacks.undone) if wanted else ()
        for seq in (seq for act in acts for seq, c in act.corrections if c.id == wanted):
            if wanted not in stacks.known:
                raise ProjectError(
                    f"What event {seq} says was taken back or changed meanwhile, nothing was said; look at "
                    "what is there now."
                )
            self._refuse_locked(stacks, [seq])

    @staticmethod
    def _refuse_locked(stacks: Stacks, events: Iterable[int]) -> None:
        locked = sorted(stacks.locked.intersection(events))
        if locked:
            raise ProjectError(
                f"What event {locked[0]} says is locked, nothing was changed; unlock it first."
            )

    def _slide(self, event: Event) -> None:
        record: dict[str, Any] = dict(event.payload)
        self.slides[event.slide_id] = SlideRecord(**record)

    def _correct(self, event: Event) -> None:
        stacks, act = self.stacks(event.slide_id), str(event.payload["act"])
        entry = (event.seq, from_record(event.payload["correction"]))
        if not stacks.done or stacks.done[-1].id != act:
            self._begin(stacks, event)
        stacks.done[-1].corrections.append(entry)
        if stacks.locked or entry[1].replaces:
            stacks.in_force = None
        elif stacks.in_force is not None:
            stacks.in_force.append(entry)
            stacks.known[entry[1].id] = entry[1]

    @staticmethod
    def _begin(stacks: Stacks, event: Event) -> None:
        """A new act, which ends what its author could redo on the slide."""
        seen = int(event.payload.get("seen", event.seq - 1))
        stacks.done.append(Act(str(event.payload["act"]), event.seq, event.by, seen))
        stacks.undone = [act for act in stacks.undone if act.by != event.by]

    def _withdraw(self, event: Event) -> None:
        stacks = self.stacks(event.slide_id)
        self._begin(stacks, event)
        stacks.done[-1].withdraws = frozenset(event.payload["events"])
        stacks.in_force = None

    def _undo(self, event: Event) -> None:
        stacks = self.stacks(event.slide_id)
        stacks.undone.append(_take(stacks.done, event.payload["act"]))
        stacks.in_force = None

    def _redo(self, event: Event) -> None:
        stacks = self.stacks(event.slide_id)
        insort(stacks.done, _take(stacks.undone, event.payload["act"]), key=lambda act: act.seq)
        stacks.in_force = None

    def _lock(self, event: Event) -> None:
        stacks = self.stacks(event.slide_id)
        stacks.locked |= set(event.payload["events"])
        stacks.in_force = None

    def _unlock(self, event: Event) -> None:
        stacks = self.stacks(event.slide_id)
        stacks.locked -= set(event.payload["events"])
        stacks.in_force = None


def _replaced(said: Sequence[tuple[int, Correction]]) -> tuple[set[int], dict[int, int]]:
    """Numbers of the events that others replace, and for each of those the one in whose turn it counts."""
    gone, turn = set[int](), dict[int, int]()
    if any(c.replaces for _, c in said):
        numbers = {c.id: seq for seq, c in said}
        for seq, c in said:
            if (before := numbers.get(c.replaces)) is not None:
                gone.add(before)
                turn[seq] = turn.get(before, before)
    return gone, turn


def _same(a: Correction, b: Correction) -> bool:
    return a.label == b.label and place_record(a.place) == place_record(b.place)


def _latest(acts: list[Act], by: str) -> Act | None:
    return next((act for act in reversed(acts) if not by or act.by == by), None)


def _take(acts: list[Act], wanted: str) -> Act:
    """Remove and return the act called `wanted`; KeyError when it is not there."""
    for at in range(len(acts) - 1, -1, -1):
        if acts[at].id == wanted:
            return acts.pop(at)
    raise KeyError(wanted)
