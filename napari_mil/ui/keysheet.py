"""Every key of the workbench and what it does, made from the keys themselves."""

from __future__ import annotations

from html import escape

from qtpy.QtWidgets import QDialog, QDialogButtonBox, QScrollArea

from napari_mil.ui import compat
from napari_mil.ui.desk import Desk
from napari_mil.ui.widgets import column, text


class KeySheet(QDialog):
    """A table of keys."""

    def __init__(self, desk: Desk) -> None:
        super().__init__(compat.main_window(desk.viewer))
        self.setWindowTitle("Keys of the MIL workbench")
        cells = "".join(
            f"<tr><td><b>{escape(key)}</b>&nbsp;&nbsp;</td><td>{escape(words)}</td></tr>"
            for key, words in keys_of(desk).items()
        )
        self.table = text(f"<table cellspacing=4>{cells}</table>")
        area = QScrollArea()
        area.setWidget(self.table)
        area.setWidgetResizable(True)
        box = QDialogButtonBox(QDialogButtonBox.StandardButton.Close)
        box.rejected.connect(self.reject)
        column(self, area, box, margins=(10, 10, 10, 10))
        self.resize(460, 560)


def keys_of(desk: Desk) -> dict[str, str]:
    """Key → what it does, in the order of the sections; the keys of labels as one line."""
    labels = {key for key, made in desk.keys.items() if made.whatsThis().startswith("Choose label")}
    found: dict[str, str] = {}
    for key, made in desk.keys.items():
        if key not in labels:
            found[key] = made.whatsThis()
        elif "Alt+1 …" not in found:
            found["Alt+1 …"] = "Choose a label: the key stands beside it"
    return found
