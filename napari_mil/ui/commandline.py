"""What was done in the window as a command line, which the clipboard takes. Pure but for the clipboard."""

from __future__ import annotations

import os
import shlex
import subprocess
from typing import TYPE_CHECKING

from qtpy.QtWidgets import QApplication

from napari_mil.errors import MILError
from napari_mil.labeltree import Survival

if TYPE_CHECKING:
    from napari_mil.card import ModelCard
    from napari_mil.ledger import SlideRecord
    from napari_mil.ui.desk import Desk
    from napari_mil.workflow import Project


def predict_line(
    project: Project, card: ModelCard, record: SlideRecord | None = None, *, again: bool = False
) -> str:
    """The line that asks a model about a slide, or about all of them."""
    words = ["napari-mil", "predict", str(project.path)]
    words += [] if record is None else [slide_word(project, record)]
    words += ["--model", model_word(project, card)]
    words += ["--by", "slide"] if isinstance(card.tree, Survival) else []  # the window answers for slides
    return line_of([*words, *(["--again"] if again else [])])


def line_of(words: list[str]) -> str:
    """Words as the shell of this machine takes them."""
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


def model_word(project: Project, card: ModelCard) -> str:
    """A model's name, or its id where the name means another one by now."""
    from napari_mil.workflow import find_card

    return card.name if find_card(project, card.name).id == card.id else card.id


def slide_word(project: Project, record: SlideRecord) -> str:
    """A slide's name as shown, or its id where several are called so."""
    from napari_mil.workflow import find_record, shown_names

    name = shown_names(project.slides)[record.id]
    try:
        return name if find_record(project, name).id == record.id else record.id
    except MILError:
        return record.id


def copy(desk: Desk, line: str, remark: str = "") -> None:
    """Put a line on the clipboard, and say which."""
    QApplication.clipboard().setText(line)
    desk.said.emit(f"Copied: {line}" + (f" {remark}" if remark else ""))
