"""Other people at the same project: what they say appears by itself, and contradictions are told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from qtpy.QtCore import QObject, QTimer

from napari_mil.errors import MILError, ProjectError
from napari_mil.ui import acts
from napari_mil.ui.desk import Desk
from napari_mil.ui.state import State
from napari_mil.ui.writing import show

if TYPE_CHECKING:
    from napari_mil.workflow import Project

#: How often the ledger is asked whether somebody said more.
LOOK_MS = 2000
#: So many sentences about what others said are shown at once.
MOST = 3


class Company(QObject):
    """Looks for news of the project in front, in a lane of its own, and brings them to the desk.

    The answers of the window's ledger are as of the last look, so what a person has on screen is what their
    next act is known to have seen.
    """

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        self._desk = desk
        self._seen = -1
        self._told: set[tuple[str, int, int]] = set()
        self._silent = False
        self._timer = QTimer(self)
        self._timer.setInterval(LOOK_MS)
        self._timer.timeout.connect(self.look)
        acts.whenever(desk, ("project",), self._arrive)

    def look(self) -> None:
        """Ask once; what is new is shown when the answer comes."""
        project = self._desk.state.project
        if project is None:
            return
        seen = self._seen
        self._desk.news.ask("news", lambda: news(project, seen), lambda found: self._show(project, found))

    def stop(self) -> None:
        """Look no more."""
        self._timer.stop()

    def _arrive(self, state: State) -> None:
        self._seen, self._silent = -1, False
        self._told.clear()
        if state.project is None:
            self._timer.stop()
            return
        self._timer.start()
        self.look()

    def _show(self, project: Project, found: News) -> None:
        if self._desk.state.project is not project:
            return
        if found.problem is not None:
            if not self._silent:
                self._desk.tell(found.problem)
            self._silent = True
            return
        if self._silent:
            self._desk.said.emit("The ledger answers again.")
        self._silent = False
        self._seen = found.seq
        if found.seq > self._desk.state.heard:
            show(self._desk)
        if self._desk.state.second:
            return  # what others say is not for who reads a second time
        if found.sentences:
            more = len(found.sentences) - MOST
            rest = f" And {more} more." if more > 0 else ""
            self._desk.said.emit(" ".join(found.sentences[-MOST:]) + rest)
        for row in found.conflicts:
            key = (row["slide"], row["earlier_event"], row["later_event"])
            if key not in self._told:
                self._told.add(key)
                self._desk.tell(f"Not agreed upon: {row['words']}. Say what it is to settle it.")


class News(NamedTuple):
    """What is new in a ledger.

    Attributes
    ----------
    seq : number of its last event
    sentences : what other people labelled
    conflicts : the unsettled ones, where anything is new
    problem : why the ledger cannot be asked, or None
    """

    seq: int
    sentences: list[str]
    conflicts: list[dict[str, Any]]
    problem: MILError | None = None


def news(project: Project, seen: int) -> News:
    """What came after event `seen` (−1: nothing was looked at yet). It waits for a disk or a network, so it
    is not for the GUI thread.
    """
    from napari_mil.workflow import conflict_rows, conflict_words, news_of_others

    ledger = project.ledger
    try:
        _ = ledger.head
        if ledger.moved_to:
            moved = f"The ledger {ledger.place} was moved to {ledger.moved_to}; open the project again."
            return News(seen, [], [], ProjectError(moved))
        if ledger.seq == seen:
            return News(seen, [], [])
        sentences = [] if seen < 0 else news_of_others(project, seen)
        conflicts = [row | {"words": conflict_words(row)} for row in conflict_rows(project)]
        return News(ledger.seq, sentences, conflicts)
    except MILError as error:
        return News(seen, [], [], error)
