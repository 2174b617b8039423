"""Slides: the project's slides with what is known of each; open, add, next, previous."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QSize, Qt
from qtpy.QtWidgets import QFileDialog, QListWidget, QListWidgetItem, QWidget

from napari_mil.correction import WholeSlide
from napari_mil.errors import MILError
from napari_mil.ui import acts, compat
from napari_mil.ui.desk import Desk, State
from napari_mil.ui.dialogs import MppDialog
from napari_mil.ui.thumbnails import Thumbnails
from napari_mil.ui.widgets import button, column, row, shortcut, text
from napari_mil.ui.words import answer_words

if TYPE_CHECKING:
    from napari_mil.ledger import SlideRecord

THUMBNAIL_PX = 56
_ID = Qt.ItemDataRole.UserRole


class SlidesSection(QWidget):
    """The project's slides. One click brings a slide to the front; files can be dropped here."""

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self.desk = desk
        self.setAcceptDrops(True)
        self.project = text("No project is open. A project is a folder that keeps slides, labels and models.")
        self.list = QListWidget()
        self.list.setIconSize(QSize(THUMBNAIL_PX, THUMBNAIL_PX))
        self.list.setFixedHeight(2 * THUMBNAIL_PX + 60)
        self.list.setUniformItemSizes(True)
        self.list.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.list.itemClicked.connect(lambda item: self.open(item.data(_ID)))
        self.add_button = button("Add slides…", self.choose_slides, "Take slide files into the project")
        self.previous = button("◀ Previous", lambda: self.step(-1), "The slide before", key="Page Up")
        self.next = button("Next ▶", lambda: self.step(1), "The slide after", key="Page Down")
        open_button = button("Open project…", self.choose_project, "Open a project folder, or make a new one")
        column(
            self,
            self.project,
            row(open_button, self.add_button),
            self.list,
            row(self.previous, self.next),
        )
        window = compat.main_window(desk.viewer)
        self._keys = [
            shortcut(window, "PgUp", lambda: self.step(-1)),
            shortcut(window, "PgDown", lambda: self.step(1)),
        ]
        self._answers: dict[str, str] = {}
        self._pictures = Thumbnails(desk, self.list, THUMBNAIL_PX)
        acts.whenever(desk, ("project", "record", "corrections", "answer", "card"), self._show)
        acts.whenever(desk, ("project", "card"), self._read_answers)

    def open(self, which: str) -> None:
        """Bring the slide with this id or name to the front."""
        from napari_mil.workflow import find_record

        if self.desk.state.project is None:
            return
        try:
            acts.open_slide(self.desk, find_record(self.desk.state.project, which))
        except MILError as error:
            self.desk.tell(error)

    def step(self, by: int) -> None:
        """The next (1) or previous (−1) slide."""
        if self.desk.state.project is not None:
            acts.step_slide(self.desk, by)

    def add(self, paths: list[str | Path], *, mpp: float | None = None) -> None:
        """Take files into the project; the first of them comes to the front. Asks for µm per pixel where
        unknown.
        """
        project = self.desk.state.project
        if project is None:
            self.desk.tell("Open a project first: a folder that keeps slides, labels and models.")
            return

        def work() -> Any:
            found, sentences = [], []
            for path in paths:
                try:
                    found.append(project.add(path, mpp=mpp))
                except MILError as error:
                    sentences.append(error)
            return found, sentences

        def show(done: Any) -> None:
            found, sentences = done
            for sentence in sentences:
                self.desk.tell(sentence)
            self._show(self.desk.state)
            unknown = [slide for slide in found if slide.mpp is None]
            if unknown:
                self.ask_mpp([slide.path for slide in unknown])
            elif found:
                self.open(found[0].fingerprint)

        self.desk.asks.ask("add slides", work, show)

    def ask_mpp(self, paths: list[Path]) -> MppDialog:
        """Ask once how large a pixel is; the answer is kept in the project."""
        dialog = MppDialog([p.name for p in paths], compat.main_window(self.desk.viewer))
        dialog.accepted.connect(lambda: self.add(list(paths), mpp=dialog.value()))
        dialog.rejected.connect(lambda: self.open(paths[0].name.rsplit(".", 1)[0]))
        dialog.open()
        return dialog

    def choose_project(self) -> None:
        """Let the person choose a project folder."""
        window = compat.main_window(self.desk.viewer)
        if folder := QFileDialog.getExistingDirectory(window, "Open or make a project folder"):
            acts.open_project(self.desk, folder)

    def choose_slides(self) -> None:
        """Let the person choose slide files."""
        window = compat.main_window(self.desk.viewer)
        files, _ = QFileDialog.getOpenFileNames(window, "Add slides to the project")
        if files:
            self.add(list(files))

    def dragEnterEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Files may be dropped here."""
        if event.mimeData().hasUrls():
            event.acceptProposedAction()

    def dropEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """A folder that is a project is opened, anything else is taken into the project."""
        paths = [Path(url.toLocalFile()) for url in event.mimeData().urls()]
        if len(paths) == 1 and (paths[0] / "ledger.sqlite").exists():
            acts.open_project(self.desk, paths[0])
        else:
            files = [f for p in paths for f in (sorted(p.iterdir()) if p.is_dir() else [p]) if f.is_file()]
            self.add(files)

    def _show(self, state: State) -> None:
        for part in (self.add_button, self.previous, self.next):
            part.setEnabled(state.project is not None)
        if state.project is None:
            self.list.clear()
            return
        records = state.project.slides
        self.project.setText(f"<b>{state.project.path.name}</b> · {len(records)} slides")
        corrections = state.project.ledger.corrections()
        counts = Counter(c.slide_id for c in corrections)
        labels = {c.slide_id: c.label for c in corrections if isinstance(c.place, WholeSlide)}
        if [self.list.item(i).data(_ID) for i in range(self.list.count())] != [r.id for r in records]:
            self._fill(records)
        if (
            state.answer is not None
            and state.record is not None
            and state.answer.scope == "slide"
            and not state.partial
        ):
            self._answers[state.record.id] = answer_words(state.project, state.answer)
        for i, record in enumerate(records):
            label = labels.get(record.id, record.label) or "no label"
            said = f" · {counts[record.id]} corrections" if counts[record.id] else ""
            model = self._answers.get(record.id, "not analysed")
            self.list.item(i).setText(f"{record.name}\n{label}{said}\nmodel: {model}")
            if state.record is not None and record.id == state.record.id:
                self.list.setCurrentRow(i)

    def _fill(self, records: tuple[SlideRecord, ...]) -> None:
        self.list.clear()
        for record in records:
            item = QListWidgetItem(record.name)
            item.setData(_ID, record.id)
            item.setSizeHint(QSize(10, THUMBNAIL_PX + 8))
            self.list.addItem(item)
        self._pictures.start()

    def _read_answers(self, state: State) -> None:
        """Answers that the chosen model gave earlier, read in the interactive lane."""
        project, card = state.project, state.card
        self._answers = {}
        if project is None or card is None:
            return
        records = project.slides

        def work() -> dict[str, str]:
            kept = {r.id: project.store.latest_answer(r.id, card.id) for r in records}
            return {
                slide: answer_words(project, answer) for slide, answer in kept.items() if answer is not None
            }

        def show(words: dict[str, str]) -> None:
            if self.desk.state.card is card:
                self._answers = words | self._answers
                self._show(self.desk.state)

        self.desk.asks.ask("kept answers", work, show)
