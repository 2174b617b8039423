"""The list of the project's slides: picture, label, corrections, what the chosen model said.

A row is worked out when it is looked at, so that a list of thousands of slides costs as much as what is seen
of it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QAbstractListModel, QModelIndex, QSize, QSortFilterProxyModel, Qt, Signal
from qtpy.QtGui import QCursor, QIcon
from qtpy.QtWidgets import QLineEdit, QListView, QMenu, QWidget

from napari_mil.correction import Correction, WholeSlide
from napari_mil.errors import MILError
from napari_mil.slides.overview import picture
from napari_mil.ui import acts, writing
from napari_mil.ui.desk import Desk
from napari_mil.ui.state import State
from napari_mil.ui.widgets import column, picture_icon
from napari_mil.ui.words import answer_words

if TYPE_CHECKING:
    from napari_mil.ledger import SlideRecord

THUMBNAIL_PX = 56
#: Pictures that are kept, those seen last.
KEPT_PICTURES = 500
#: Kept answers that are looked up at a time.
ANSWERS_AT_ONCE = 16
#: What a row is found by: name, case, label.
_SOUGHT = Qt.ItemDataRole.UserRole + 1
_ID = Qt.ItemDataRole.UserRole


class SlideModel(QAbstractListModel):
    """One row per slide; pictures and kept answers are fetched when a row is seen, in the question lane."""

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self._desk = desk
        self._project: Any = None
        self._records: tuple[SlideRecord, ...] = ()
        self._rows: dict[str, int] = {}
        self._said: dict[str, tuple[Correction, ...]] = {}
        self._heard = 0
        self._pending: frozenset[str] = frozenset()
        self._answers: dict[str, str] = {}
        self._failed: dict[str, str] = {}
        self._pictures: OrderedDict[str, QIcon | None] = OrderedDict()
        self._wanted: dict[str, list[str]] = {"picture": [], "answer": []}

    @property
    def front(self) -> SlideRecord | None:
        """The slide in front."""
        return self._desk.state.record

    def row_of(self, slide_id: str) -> int | None:
        """Where a slide stands, or None."""
        return self._rows.get(slide_id)

    def refresh(self, state: State) -> None:
        """Take over what is new: only slides of which something was said since are looked at."""
        project = state.project
        if project is not self._project:  # what was asked of the one before is not waited for
            self._project = project
            self._answers.clear()
            self._failed.clear()
            self._said, self._heard, self._pending = {}, 0, frozenset()
            for wanted in self._wanted.values():
                wanted.clear()
        records = () if project is None else project.slides
        if [r.id for r in records] != [r.id for r in self._records]:
            self.beginResetModel()
            self._rows = {r.id: i for i, r in enumerate(records)}
            self._records = records
            self.endResetModel()
        self._records = records
        if project is None:
            return
        new = self._hear(project, state.pending)
        if state.record is not None and _is_whole(state):
            answer = answer_words(project, state.answer)
            if self._answers.get(state.record.id) != answer:
                self._answers[state.record.id] = answer
                new.add(state.record.id)
        for slide_id in new:
            self._changed(slide_id)

    def answered(self, slide_id: str, what: Any) -> None:
        """A model said something of a slide, or could not be asked, in front or not."""
        state = self._desk.state
        if state.card is None or state.project is None:
            return
        if isinstance(what, str):
            self._failed[slide_id] = what
            self._answers[slide_id] = "could not be asked"
        elif what.model_id == state.card.id:
            self._failed.pop(slide_id, None)
            self._answers[slide_id] = answer_words(state.project, what)
        self._changed(slide_id)

    def _hear(self, project: Any, pending: Sequence[Correction]) -> set[str]:
        """Read what is new of corrections; the slides they are of."""
        waiting = frozenset(c.slide_id for c in pending)
        last = project.ledger.last
        new = {slide for slide, number in last.items() if number > self._heard}
        new |= waiting | self._pending
        for slide in new:
            kept = project.ledger.corrections(slide)
            ids = {c.id for c in kept}
            more = [c for c in pending if c.slide_id == slide and c.id not in ids]
            self._said[slide] = (*kept, *more)
        self._heard, self._pending = max(last.values(), default=0), waiting
        return new

    def forget_pictures(self) -> None:
        """The slides look different now."""
        self._pictures.clear()

    def look_anew(self, state: State) -> None:
        """Another project or model, or reading blind began or ended: every row says something else."""
        self._answers, self._failed = {}, {}
        self.refresh(state)
        if self._records:
            self.dataChanged.emit(self.index(0), self.index(len(self._records) - 1))

    def rowCount(self, parent: QModelIndex | None = None) -> int:  # noqa: N802 - Qt's name
        """How many slides there are."""
        return 0 if parent is not None and parent.isValid() else len(self._records)

    def data(self, index: QModelIndex, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """What a row shows, is found by, or stands for."""
        record = self._records[index.row()]
        if role == Qt.ItemDataRole.DisplayRole:
            return self._words(record)
        if role == Qt.ItemDataRole.DecorationRole:
            return self._picture(record.id)
        if role == Qt.ItemDataRole.SizeHintRole:
            return QSize(10, THUMBNAIL_PX + 8)
        if role == Qt.ItemDataRole.ToolTipRole:
            return "\n".join(filter(None, (record.path, self._failed.get(record.id))))
        if role == _ID:
            return record.id
        if role == _SOUGHT:
            return f"{record.name}\n{record.case}\n{self._label(record)}"
        return None

    def _hidden(self, record: SlideRecord) -> bool:
        state = self._desk.state
        return state.second or (state.blind and not self._said.get(record.id))

    def _label(self, record: SlideRecord) -> str:
        if self._hidden(record):
            return ""
        said = [c.label for c in self._said.get(record.id, ()) if isinstance(c.place, WholeSlide)]
        return (said[-1] if said else record.label) or ""

    def _words(self, record: SlideRecord) -> str:
        n, hidden = len(self._said.get(record.id, ())), self._hidden(record)
        said = f" · {n} correction{'s' if n > 1 else ''}" if n and not self._desk.state.second else ""
        label = "label hidden" if hidden else self._label(record) or "no label"
        answer = "hidden" if hidden else self._answer(record.id)
        return f"{record.name}\n{label}{said}\nmodel: {answer}"

    def _answer(self, slide_id: str) -> str:
        if slide_id not in self._answers:
            self._want("answer", slide_id)
        return self._answers.get(slide_id) or "not analysed"

    def _picture(self, slide_id: str) -> QIcon | None:
        if slide_id not in self._pictures:
            self._want("picture", slide_id)
            return None
        self._pictures.move_to_end(slide_id)
        return self._pictures[slide_id]

    def _want(self, what: str, slide_id: str) -> None:
        """Ask for what a row that is seen lacks; the rows seen last come first."""
        wanted = self._wanted[what]
        idle = not wanted
        if slide_id in wanted:
            wanted.remove(slide_id)
        wanted.append(slide_id)
        if idle:
            {"picture": self._fetch_picture, "answer": self._fetch_answers}[what]()

    def _fetch_picture(self) -> None:
        wanted, project = self._wanted["picture"], self._desk.state.project
        if not wanted or project is None:
            return
        which = wanted[-1]

        def work() -> Any:
            try:
                return picture(project.slide(which), 2 * THUMBNAIL_PX)
            except MILError:
                return None  # it is said when the slide is opened

        def show(pixels: Any) -> None:
            wanted[:] = [i for i in wanted if i != which]
            self._pictures[which] = None if pixels is None else picture_icon(pixels, THUMBNAIL_PX)
            while len(self._pictures) > KEPT_PICTURES:
                self._pictures.popitem(last=False)
            self._changed(which)
            self._fetch_picture()

        self._desk.asks.ask("thumbnail", work, show)

    def _fetch_answers(self) -> None:
        wanted, state = self._wanted["answer"], self._desk.state
        project, card = state.project, state.card
        if not wanted or project is None:
            return
        if card is None:
            self._answers |= dict.fromkeys(wanted, "")
            wanted.clear()
            return
        ids = wanted[: -ANSWERS_AT_ONCE - 1 : -1]

        def said(slide_id: str) -> str:
            try:
                answer = project.store.latest_answer(slide_id, card.id)
            except MILError as error:
                return str(error)
            return "" if answer is None else answer_words(project, answer)

        def work() -> Any:
            return {i: said(i) for i in ids}

        def show(found: dict[str, str]) -> None:
            wanted[:] = [i for i in wanted if i not in found]
            if self._desk.state.card is card and self._desk.state.project is project:
                self._answers = {**found, **self._answers}
                for i in found:
                    self._changed(i)
            self._fetch_answers()

        self._desk.asks.ask("kept answers", work, show)

    def _changed(self, slide_id: str) -> None:
        row = self._rows.get(slide_id)
        if row is not None:
            self.dataChanged.emit(self.index(row), self.index(row))


class SlideList(QWidget):
    """The slides, one row each; a line above finds them by name, case or label."""

    chosen = Signal(str)
    selected = Signal()

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self._desk = desk
        self.model = SlideModel(desk)
        self.found = QSortFilterProxyModel()
        self.found.setSourceModel(self.model)
        self.found.setFilterRole(_SOUGHT)
        self.found.setFilterCaseSensitivity(Qt.CaseSensitivity.CaseInsensitive)
        self.sought = QLineEdit()
        self.sought.setPlaceholderText("Find a slide by name, case or label")
        self.sought.setClearButtonEnabled(True)
        self.sought.textChanged.connect(self._find)
        self.view = QListView()
        self.view.setModel(self.found)
        self.view.setIconSize(QSize(THUMBNAIL_PX, THUMBNAIL_PX))
        self.view.setFixedHeight(2 * THUMBNAIL_PX + 60)
        self.view.setUniformItemSizes(True)
        self.view.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.view.setSelectionMode(QListView.SelectionMode.ExtendedSelection)
        for signal in (self.view.clicked, self.view.activated):
            signal.connect(self._choose)
        self.view.selectionModel().selectionChanged.connect(lambda _new, _old: self.selected.emit())
        self.view.setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)
        self.view.customContextMenuRequested.connect(
            lambda at: self.menu(self.view.indexAt(at)).popup(QCursor.pos())
        )
        column(self, self.sought, self.view)
        desk.answered.connect(self.model.answered)
        acts.whenever(desk, ("project", "card", "blind", "second"), self.model.look_anew)
        acts.whenever(desk, ("project", "record", "pending", "answer", "blind", "heard"), self.refresh)

    def refresh(self, state: State) -> None:
        """Say what is known of every slide now, and mark the one in front."""
        self.model.refresh(state)
        few = self.model.rowCount() < 8
        self.sought.setVisible(not few or bool(self.sought.text()))
        self._mark()

    @property
    def ids(self) -> list[str]:
        """Ids of the slides that are selected, in their order."""
        return [index.data(_ID) for index in sorted(self.view.selectedIndexes(), key=QModelIndex.row)]

    def _choose(self, index: QModelIndex) -> None:
        """Bring a slide to the front, unless the click added it to a selection of several."""
        if len(self.view.selectedIndexes()) < 2:
            self.chosen.emit(index.data(_ID))

    def menu(self, index: QModelIndex) -> QMenu:
        """What can be done with a slide besides bringing it to the front."""
        from napari_mil.workflow import converts

        made, state = QMenu(self), self._desk.state
        made.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        slide_id = index.data(_ID)
        there = any(one.fingerprint == slide_id for one in state.beside)
        act = made.addAction("Take away from beside" if there else "Show beside the slide in front")
        act.setEnabled(slide_id is not None and state.record is not None and state.record.id != slide_id)
        act.triggered.connect(lambda: self.show_beside(slide_id))
        colours = made.addAction("Colours as the scanner's profile means them, in this project")
        colours.setCheckable(True)
        colours.setEnabled(state.project is not None)
        colours.setChecked(state.project is not None and converts(state.project))
        colours.triggered.connect(self.set_colours)
        return made

    def set_colours(self, srgb: bool) -> None:
        """Convert the colours of the project's slides from now on, or no longer."""
        from napari_mil.workflow import set_colours

        project = self._desk.state.project

        def then(_done: None) -> None:
            self.model.forget_pictures()
            state = self._desk.state
            if state.project is project and state.record is not None:
                acts.open_slide(self._desk, state.record)

        writing.do(self._desk, lambda: set_colours(project, srgb=srgb), then)

    def show_beside(self, slide_id: str) -> None:
        """Show a slide beside the one in front, or take it away again."""
        record = next((r for r in self._desk.state.project.slides if r.id == slide_id), None)
        if record is not None:
            acts.show_beside(self._desk, record)

    def _find(self, words: str) -> None:
        self.found.setFilterFixedString(words)
        self._mark()

    def _mark(self) -> None:
        """Mark the slide in front, where several are selected beside them."""
        index = self._front()
        if index.isValid() and index != self.view.currentIndex() and len(self.ids) < 2:
            self.view.setCurrentIndex(index)

    def _front(self) -> QModelIndex:
        record = self.model.front
        row = None if record is None else self.model.row_of(record.id)
        return QModelIndex() if row is None else self.found.mapFromSource(self.model.index(row))

    @property
    def count(self) -> int:
        """How many slides are listed."""
        return self.found.rowCount()

    def text(self, row: int | None = None) -> str:
        """What a row says, by default that of the slide in front."""
        index = self._front() if row is None else self.found.index(row, 0)
        return str(index.data() or "")


def _is_whole(state: State) -> bool:
    """Whether the answer on show is the slide's own, and finished."""
    return (
        state.answer is not None
        and state.record is not None
        and state.answer.scope == "slide"
        and not state.partial
    )
