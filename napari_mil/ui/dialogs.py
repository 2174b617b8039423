"""Small dialogs. They have the main window as parent and never wait: their answer arrives as a signal."""

from __future__ import annotations

from collections.abc import Mapping

from qtpy.QtWidgets import QComboBox, QDialog, QDialogButtonBox, QLineEdit, QWidget

from napari_mil.errors import MILError
from napari_mil.labeltree import LabelTree
from napari_mil.slides.address import Address, SlidePath, slide_path
from napari_mil.ui.labelfile import likely
from napari_mil.ui.widgets import colour_icon, column, hint, row, text

#: What is known of the size of a pixel, of slides and of photographs.
SCANNED = "Scanned at 40× it is about 0.25, at 20× about 0.5."
PHOTOGRAPHED = "Microscope and camera settle it; a scale bar in a photograph tells."


class MppDialog(QDialog):
    """Asks once how many µm a pixel of some slides is wide; `after` says what comes of the answer,
    `known` what helps to find it.
    """

    def __init__(self, names: list[str], parent: QWidget, *, after: str, known: str = SCANNED) -> None:
        super().__init__(parent)
        self.setWindowTitle("How large is a pixel?")
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        self.field = QLineEdit()  # empty: what nobody said is not said by Enter
        self.field.setPlaceholderText("such as 0.25")
        self.wrong = hint()
        box = QDialogButtonBox(QDialogButtonBox.StandardButton.Ok | QDialogButtonBox.StandardButton.Cancel)
        box.accepted.connect(self._check)
        box.rejected.connect(self.reject)
        ask = text(
            f"{shown} {'does' if len(names) == 1 else 'do'} not say how many µm a pixel is wide. "
            f"{known} {after}"
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


class AddressDialog(QDialog):
    """Asks where a slide on a server lies."""

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self.setWindowTitle("Open a slide from a server")
        self.field, self.wrong = QLineEdit(), hint()
        self.field.setPlaceholderText("https://host/slide.svs or s3://bucket/slide.zarr")
        box = QDialogButtonBox(QDialogButtonBox.StandardButton.Ok | QDialogButtonBox.StandardButton.Cancel)
        box.accepted.connect(self._check)
        box.rejected.connect(self.reject)
        ask = text(
            "Address of an SVS, OME-TIFF, tiled TIFF, OME-Zarr, photograph or folder of photographs on a web "
            "server or in an S3 bucket:"
        )
        column(self, ask, self.field, self.wrong, box, margins=(10, 10, 10, 10))
        self.setMinimumWidth(460)

    def value(self) -> SlidePath:
        """What was typed, as an address where it is one."""
        return slide_path(self.field.text().strip())

    def _check(self) -> None:
        if isinstance(self.value(), Address):
            self.accept()
        else:
            self.wrong.setText("An address begins with https://, http:// or s3://.")


class MappingDialog(QDialog):
    """Asks which label of the tree each unknown class of a file means; areas of some may be left out."""

    def __init__(self, file: str, classes: Mapping[str, int], tree: LabelTree, parent: QWidget) -> None:
        super().__init__(parent)
        self.setWindowTitle("Which labels are these?")
        self.choices = {name: _label_choice(name, tree) for name in sorted(classes)}
        rows = [
            row(text(f"<b>{name}</b> ({n:,} area{'' if n == 1 else 's'})"), None, self.choices[name])
            for name, n in sorted(classes.items())
        ]
        box = QDialogButtonBox(QDialogButtonBox.StandardButton.Ok | QDialogButtonBox.StandardButton.Cancel)
        box.accepted.connect(self.accept)
        box.rejected.connect(self.reject)
        ask = text(f"{file} names classes that this project's label tree lacks. What do they mean here?")
        column(self, ask, *rows, box, margins=(10, 10, 10, 10))

    def value(self) -> dict[str, str | None]:
        """Class text of the file -> label text of the tree, or None: leave such areas out."""
        return {name: choice.currentData() for name, choice in self.choices.items()}


def _label_choice(name: str, tree: LabelTree) -> QComboBox:
    choice = QComboBox()
    choice.addItem("leave out", None)
    for node in range(1, len(tree)):
        choice.addItem(colour_icon(tree.colours[node]), tree.path(node), tree.path(node))
    choice.setCurrentIndex(max(choice.findData(likely(name, tree)), 0))
    return choice
