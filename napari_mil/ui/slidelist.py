"""The project's slides as a list: picture, label, number of corrections, the chosen model's answer."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QSize, Qt, Signal
from qtpy.QtWidgets import QListWidget, QListWidgetItem

from napari_mil.correction import WholeSlide
from napari_mil.errors import MILError
from napari_mil.ui import acts
from napari_mil.ui.desk import Desk, State
from napari_mil.ui.widgets import picture_icon
from napari_mil.ui.words import answer_words

if TYPE_CHECKING:
    from napari_mil.ledger import SlideRecord

THUMBNAIL_PX = 56
_ID = Qt.ItemDataRole.UserRole


class SlideList(QListWidget):
    """One entry per slide; pictures and kept answers are read one after the other in the interactive lane."""

    chosen = Signal(str)

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self._desk = desk
        self._answers: dict[str, str] = {}
        self.setIconSize(QSize(THUMBNAIL_PX, THUMBNAIL_PX))
        self.setFixedHeight(2 * THUMBNAIL_PX + 60)
        self.setUniformItemSizes(True)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.itemClicked.connect(lambda item: self.chosen.emit(item.data(_ID)))
        acts.whenever(desk, ("project", "record", "corrections", "answer", "blind"), self.refresh)
        acts.whenever(desk, ("project", "card"), self._forget_answers)

    def refresh(self, state: State) -> None:
        """Say what is known of every slide now."""
        project = state.project
        if project is None:
            self.clear()
            return
        records = project.slides
        if self._ids() != [r.id for r in records]:
            self._fill(records)
        if _is_whole(state):
            self._answers[state.record.id] = answer_words(project, state.answer)
        corrections = project.ledger.corrections()
        counts = Counter(c.slide_id for c in corrections)
        labels = {c.slide_id: c.label for c in corrections if isinstance(c.place, WholeSlide)}
        for i, record in enumerate(records):
            hidden = state.blind and not counts[record.id]
            label = "label hidden" if hidden else labels.get(record.id, record.label) or "no label"
            self.item(i).setText(self._words(record, label, counts[record.id], hidden=hidden))
            if state.record is not None and record.id == state.record.id:
                self.setCurrentRow(i)

    def _words(self, record: SlideRecord, label: str, corrections: int, *, hidden: bool) -> str:
        said = f" · {corrections} correction{'s' if corrections > 1 else ''}" if corrections else ""
        answer = "hidden" if hidden else self._answers.get(record.id, "not analysed")
        return f"{record.name}\n{label}{said}\nmodel: {answer}"

    def _ids(self) -> list[str]:
        return [self.item(i).data(_ID) for i in range(self.count())]

    def _fill(self, records: tuple[SlideRecord, ...]) -> None:
        self.clear()
        for record in records:
            item = QListWidgetItem(record.name)
            item.setData(_ID, record.id)
            item.setSizeHint(QSize(10, THUMBNAIL_PX + 8))
            self.addItem(item)
        self._ask_picture(0)

    def _ask_picture(self, at: int) -> None:
        project = self._desk.state.project
        if project is None or at >= self.count():
            return
        which = self.item(at).data(_ID)

        def work() -> Any:
            try:
                return project.slide(which).thumbnail(2 * THUMBNAIL_PX)
            except MILError:
                return None  # the list says it when the slide is opened

        def show(pixels: Any) -> None:
            item = self.item(at)
            if item is None or item.data(_ID) != which:
                return  # the list was filled anew and asks again
            if pixels is not None:
                item.setIcon(picture_icon(pixels, THUMBNAIL_PX))
            self._ask_picture(at + 1)

        self._desk.asks.ask("thumbnail", work, show)

    def _forget_answers(self, state: State) -> None:
        """Another model: its kept answers take the place of those of the one before."""
        self._answers = {}
        self.refresh(state)
        if state.project is not None and state.card is not None:
            self._ask_answer(state.project, state.card, 0)

    def _ask_answer(self, project: Any, card: Any, at: int) -> None:
        ids = self._ids()
        if at >= len(ids):
            return

        def work() -> Any:
            return project.store.latest_answer(ids[at], card.id)

        def show(answer: Any) -> None:
            if self._desk.state.card is not card or self._desk.state.project is not project:
                return
            if answer is not None:
                self._answers.setdefault(ids[at], answer_words(project, answer))
                self.refresh(self._desk.state)
            self._ask_answer(project, card, at + 1)

        self._desk.asks.ask("kept answers", work, show)


def _is_whole(state: State) -> bool:
    """Whether the answer on show is the slide's own, and finished."""
    return (
        state.answer is not None
        and state.record is not None
        and state.answer.scope == "slide"
        and not state.partial
    )
