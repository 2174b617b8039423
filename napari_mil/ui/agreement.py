"""How far two people agree: Cohen's κ per label, and the places they call differently, gone to one by one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QComboBox,
    QDialog,
    QFileDialog,
    QListWidget,
    QShortcut,
    QTableWidget,
    QTableWidgetItem,
)

from napari_mil.errors import MILError
from napari_mil.ui import acts, compat
from napari_mil.ui.desk import Desk
from napari_mil.ui.state import State
from napari_mil.ui.widgets import button, column, hint, row, text

if TYPE_CHECKING:
    from napari_mil.workflow import Project

HEADS = ("", "places", "agreed", "κ", "95 % interval")


class AgreementReport(QDialog):
    """A window beside the slide; it asks the ledger when it is opened and when other people are chosen.

    Attributes
    ----------
    report : a `workflow` Report, or None while nothing is labelled by two people
    """

    def __init__(self, desk: Desk) -> None:
        super().__init__(compat.main_window(desk.viewer))
        self.setWindowTitle("Agreement of two readers")
        self.desk = desk
        self.report: Any = None
        self.first, self.second = QComboBox(), QComboBox()
        for choice in (self.first, self.second):
            choice.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToContents)
            choice.activated.connect(lambda _i: self.ask(self.first.currentText(), self.second.currentText()))
        self.table = _table()
        self.heading, self.note = text(), hint()
        self.heading.setWordWrap(False)
        self.list = QListWidget()
        self.list.setWordWrap(True)
        for signal in (self.list.itemClicked, self.list.itemActivated):
            signal.connect(lambda _item: self.go(self.list.currentRow()))
        self.previous = button("▲ Previous", lambda: self.step(-1), "The place before", key="Alt+Shift+D")
        self.next = button("Next ▼", lambda: self.step(1), "Go to the next place", key="Alt+D")
        self.save_button = button("Save…", self.choose_target, "Write the report as CSV or JSON")
        close = button("Close", self.close, "Close the report", key="Esc")
        column(
            self,
            row(self.first, text("and"), self.second, None),
            self.table,
            row(self.heading, None, self.previous, self.next),
            self.list,
            self.note,
            row(self.save_button, None, close),
            margins=(10, 10, 10, 10),
        )
        for key, by in (("Alt+D", 1), ("Alt+Shift+D", -1)):
            QShortcut(key, self).activated.connect(lambda by=by: self.step(by))
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.resize(560, 620)
        self._show(None, [], "")
        desk.changed.connect(self._changed)
        self.ask()

    def ask(self, first: str | None = None, second: str | None = None) -> None:
        """Compare two people, by default those who share most places; in the interactive lane."""
        project = self.desk.state.project
        if project is None or (first is not None and first == second):
            self._show(self.report, [], "Choose two people.")
            return
        self.desk.asks.ask("agreement", lambda: _compared(project, first, second), lambda f: self._show(*f))

    def step(self, by: int) -> None:
        """Go to the next (1) or the previous (−1) place that is called differently."""
        n, at = self.list.count(), self.list.currentRow()
        if n:
            self.go((at + by) % n if at >= 0 or by > 0 else n - 1)

    def go(self, number: int) -> None:
        """Bring a place that is called differently to the front."""
        if self.report is not None and 0 <= number < len(self.report.disagreements):
            self.list.setCurrentRow(number)
            apart = self.report.disagreements[number]
            acts.visit(self.desk, apart.record, apart.place)
            self._count()

    def choose_target(self) -> None:
        """Let the person choose the file to write."""
        path, _ = QFileDialog.getSaveFileName(self, "Save the agreement", "agreement.csv", "*.csv *.json")
        if path:
            self.save(Path(path))

    def save(self, path: Path) -> None:
        """Write the report."""
        from napari_mil.workflow import write_report

        report = self.report
        self.desk.asks.ask(
            "save agreement",
            lambda: write_report(report, path),
            lambda written: self.note.setText(f"Written: {written}."),
        )

    def _changed(self, before: State, after: State) -> None:
        """It speaks of one project, and is not for who reads a second time."""
        if before.project is not after.project or after.second:
            self.close()

    def _show(self, report: Any, people: list[str], problem: str) -> None:
        """Show a report; who can be compared; or why there is none."""
        if people:
            for choice, who in ((self.first, "first"), (self.second, "second")):
                choice.clear()
                choice.addItems(people)
                choice.setCurrentText(getattr(report, who, ""))
        self.report = report
        rows = [] if report is None else [("slides", a) for a in report.slides]
        rows += [] if report is None else [("tiles", a) for a in report.tiles]
        self.table.setRowCount(len(rows))
        for i, (places, one) in enumerate(rows):
            for k, words in enumerate(_cells(places, one)):
                self.table.setItem(i, k, QTableWidgetItem(words))
        self.table.resizeColumnsToContents()
        self.list.clear()
        self.list.addItems(
            [] if report is None else [_words(report, apart) for apart in report.disagreements]
        )
        self.note.setText(problem)
        self.save_button.setEnabled(report is not None)
        self._count()

    def _count(self) -> None:
        n, at = self.list.count(), self.list.currentRow()
        where = f" · {at + 1} of {n}" if at >= 0 else ""
        self.heading.setText(f"<b>{n:,} place{'' if n == 1 else 's'} called differently</b>{where}")
        for part in (self.previous, self.next):
            part.setEnabled(bool(n))


def _table() -> QTableWidget:
    made = QTableWidget(0, len(HEADS))
    made.setHorizontalHeaderLabels(HEADS)
    made.verticalHeader().hide()
    made.horizontalHeader().setStretchLastSection(True)
    made.setMinimumHeight(260)
    made.setEditTriggers(QTableWidget.EditTrigger.NoEditTriggers)
    return made


def _compared(project: Project, first: str | None, second: str | None) -> tuple[Any, list[str], str]:
    """The report, who has labelled anything, and a sentence where there is nothing to compare."""
    from napari_mil.workflow import agreement_report, readers

    people = readers(project)
    try:
        return agreement_report(project, first, second), people, ""
    except MILError as error:
        return None, people if len(people) > 1 else [], str(error)


def _cells(places: str, one: Any) -> tuple[str, ...]:
    value, low, high = one.kappa
    kappa = f"{value:.2f}" if np.isfinite(value) else "not defined"
    reach = f"{low:.2f} to {high:.2f}" if np.isfinite(low) and np.isfinite(value) else ""
    return (f"{one.what}, {places}", f"{one.n:,}", f"{one.agreed:.0%}", kappa, reach)


def _words(report: Any, apart: Any) -> str:
    where = "the whole slide" if apart.cell is None else "tile {}, {}".format(*apart.cell)
    return f"{apart.slide}, {where}: {report.first} says {apart.first}, {report.second} {apart.second}"
