"""Small dialogs. They have the main window as parent and never wait: their answer arrives as a signal."""

from __future__ import annotations

from qtpy.QtWidgets import QDialog, QDialogButtonBox, QLineEdit, QWidget

from napari_mil.errors import MILError
from napari_mil.ui.widgets import column, hint, row, text


class MppDialog(QDialog):
    """Asks once how many µm a pixel of some slides is wide; `after` says what comes of the answer."""

    def __init__(self, names: list[str], parent: QWidget, *, after: str) -> None:
        super().__init__(parent)
        self.setWindowTitle("How large is a pixel?")
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        self.field = QLineEdit("0.25")
        self.wrong = hint()
        box = QDialogButtonBox(QDialogButtonBox.StandardButton.Ok | QDialogButtonBox.StandardButton.Cancel)
        box.accepted.connect(self._check)
        box.rejected.connect(self.reject)
        ask = text(
            f"{shown} {'does' if len(names) == 1 else 'do'} not say how many µm a pixel is wide. "
            f"Scanned at 40× it is about 0.25, at 20× about 0.5. {after}"
        )
        column(self, ask, row(text("µm per pixel"), self.field), self.wrong, box, margins=(10, 10, 10, 10))

    def value(self) -> float:
        """What was typed; LabelError when it cannot be a pixel size."""
        from napari_mil.workflow import parse_mpp

        return parse_mpp(self.field.text())

    def _check(self) -> None:
        try:
            self.value()
        except MILError as error:
            self.wrong.setText(str(error))
            return
        self.accept()
