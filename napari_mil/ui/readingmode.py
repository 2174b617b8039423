"""How one reads: blind first, or a second time; and how far two readers agree."""

from __future__ import annotations

from collections.abc import Callable

from qtpy.QtWidgets import QCheckBox, QWidget

from napari_mil.ui.agreement import AgreementReport
from napari_mil.ui.desk import Desk
from napari_mil.ui.widgets import button, column, row


class ReadingMode(QWidget):
    """Two switches, and the button that opens the report.

    put_down : lets go of the brush and the pen
    """

    def __init__(self, desk: Desk, put_down: Callable[[], None]) -> None:
        super().__init__()
        self.desk, self._put_down = desk, put_down
        self.blind = QCheckBox("Read blind first")
        self.blind.setToolTip(
            "Hide maps, answer and known label until you have given the slide's first label"
        )
        self.blind.toggled.connect(lambda on: desk.apply(blind=on))
        self.second = QCheckBox("Second reading")
        self.second.setToolTip(
            "Read places that others have labelled, blind: what was said of them, and what the model says, "
            "stays hidden, and your readings take the place of nothing (Alt+Shift+N)"
        )
        self.second.toggled.connect(self.read_again)
        self.agreement_button = button(
            "Agreement…", self.compare, "How far two readers agree, and where not", key="Alt+Shift+A"
        )
        column(self, row(self.blind, self.second, None), margins=(0, 0, 0, 0))
        desk.key("Alt+Shift+N", self.second.toggle, "Begin or end a second reading, blind")
        desk.key("Alt+Shift+A", self.compare, "Show how far two readers agree")

    def read_again(self, on: bool) -> None:
        """Begin or end a second reading."""
        self._put_down()
        self.desk.apply(second=on)

    def compare(self) -> AgreementReport | None:
        """Open the report of the agreement of two readers; not while one reads a second time."""
        if self.desk.state.second:
            self.desk.tell("The report shows what others said; end the second reading first.")
            return None
        if self.desk.state.project is None:
            self.desk.tell("Open a project first.")
            return None
        report = AgreementReport(self.desk)
        report.show()
        return report
