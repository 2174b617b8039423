"""The ledger as it stood at an earlier event."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from napari_mil.correction import Correction
from napari_mil.errors import ProjectError
from napari_mil.ledger.events import Event, SlideRecord
from napari_mil.ledger.replay import State

#: characters of a hash that are enough to name an event
SHORT = 8


class Past:
    """What the ledger said at one of its events; it can be read and not written.

    Raises
    ------
    ProjectError : no event is called `head`, or several are
    """

    def __init__(self, events: Iterable[Event], head: str) -> None:
        known = tuple(events)
        last = _called(known, head.strip())
        self._events = known[: last.seq]
        self._state = State()
        for event in self._events:
            self._state.apply(event)

    @property
    def head(self) -> str:
        """Hash of the last event that counts."""
        return self._state.head

    @property
    def seq(self) -> int:
        """Number of the last event that counts."""
        return self._state.seq

    def at(self, head: str) -> Past:
        """The ledger as it stood at an event that was still earlier, or at this one."""
        return Past(self._events, head)

    @property
    def of_project(self) -> dict[str, Event]:
        """Kind → the last event of it about the project as a whole."""
        return dict(self._state.of_project)

    def events(self, *, kind: str | None = None, slide_id: str | None = None) -> tuple[Event, ...]:
        """All events until then in their order, or those of a kind or of a slide."""
        return tuple(e for e in self._events if kind in {None, e.kind} and slide_id in {None, e.slide_id})

    def slides(self) -> tuple[SlideRecord, ...]:
        """The slides there were."""
        return tuple(self._state.slides.values())

    def add_slide(self, record: SlideRecord) -> None:
        """ProjectError: what was then can only be read."""
        raise ProjectError(f"{record.name} cannot be changed in the ledger as it stood at an earlier event.")

    def corrections(self, slide_id: str | None = None) -> tuple[Correction, ...]:
        """Corrections in force then, on a slide or on all."""
        return self._state.corrections(slide_id)


def _called(events: Sequence[Event], head: str) -> Event:
    """The event of a number, a hash, or the first characters of one."""
    if head.isdigit() and len(head) < SHORT:
        found = [e for e in events if e.seq == int(head)]
    else:
        found = [e for e in events if len(head) >= SHORT and e.hash.startswith(head.lower())]
    if len(found) != 1:
        n, which = len(events), "more than one" if found else "no"
        raise ProjectError(
            f"{head!r} names {which} event of the ledger; give a number from 1 to {n}, as `napari-mil "
            f"labels log` shows them, or at least {SHORT} characters of a hash."
        )
    return found[0]
