"""Several slides selected in the list get the chosen label at once."""

from __future__ import annotations

from qtpy.QtWidgets import QWidget

from napari_mil.ui import acts, writing
from napari_mil.ui.desk import Desk
from napari_mil.ui.slidelist import SlideList
from napari_mil.ui.state import State
from napari_mil.ui.widgets import button, column, hint, row


class SelectedSlides(QWidget):
    """Seen while several slides are selected, and after they were labelled, so that it can be taken back."""

    def __init__(self, desk: Desk, slides: SlideList) -> None:
        super().__init__()
        self.desk, self._slides = desk, slides
        self._labelled: list[str] = []
        self.words = hint()
        self.label_button = button("", self.label, "Give all of them the chosen label", key="Alt+Shift+G")
        self.back_button = button(
            "Take back", self.take_back, "Undo your latest act on the first of them, on all that it labelled"
        )
        column(
            self, self.words, row(self.label_button, self.back_button, None), margins=(0, 0, 0, 0), spacing=3
        )
        slides.selected.connect(self._selected)
        acts.whenever(desk, ("node", "project"), lambda _state: self._say(desk.state))

    def label(self) -> None:
        """Label the slides that are selected."""
        state, ids = self.desk.state, self._slides.ids
        if state.project is None or len(ids) < 2:
            self.desk.tell("Select several slides in the list first: Ctrl+click, Shift+click or Ctrl+A.")
            return
        if state.node is None:
            self.desk.tell("Choose a label first: a click in the list of labels, or the key beside it.")
            return
        self._labelled = ids
        writing.label_slides(self.desk, ids, state.project.tree.path(state.node) or None)
        self._say(state)

    def take_back(self) -> None:
        """Undo the act that labelled them."""
        if self._labelled:
            writing.undo(self.desk, self._labelled[0])
            self._labelled = []
            self._say(self.desk.state)

    def _selected(self) -> None:
        self._labelled = []
        self._say(self.desk.state)

    def _say(self, state: State) -> None:
        n = len(self._slides.ids)
        self.setVisible(n > 1)
        self.back_button.setVisible(bool(self._labelled))
        if state.project is None or n < 2:
            return
        label = state.project.tree.path(state.node) if state.node else "no label any more"
        if state.node is None:
            self.words.setText(f"{n:,} slides are selected; choose their label in section 4.")
        else:
            self.words.setText(f"{n:,} slides are selected; all of them will be {label}.")
        self.label_button.setText(f"Label {n:,} slides")
        self.label_button.setEnabled(state.node is not None)
