"""What was done in the window as a command line, which the clipboard takes. Pure but for the clipboard."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from qtpy.QtWidgets import QApplication, QPushButton

from napari_mil.errors import MILError
from napari_mil.labeltree import Survival
from napari_mil.ui.widgets import button

if TYPE_CHECKING:
    from napari_mil.card import ModelCard
    from napari_mil.ledger import SlideRecord
    from napari_mil.ui.desk import Desk
    from napari_mil.workflow import Project


def predict_line(
    project: Project,
    card: ModelCard,
    record: SlideRecord | None = None,
    *,
    again: bool = False,
    table: str = "",
) -> str:
    """The line that asks a model about a slide, or about all of them; `table`: a CSV file of what it says."""
    words = ["napari-mil", "predict", str(project.path)]
    words += [] if record is None else [slide_word(project, record)]
    words += ["--model", model_word(project, card)]
    words += ["--by", "slide"] if isinstance(card.tree, Survival) else []  # the window answers for slides
    words += ["--again"] if again else []
    return line_of([*words, *(["--csv", table] if table else [])])


def retrain_line(project: Project, card: ModelCard) -> str:
    """The line that trains a child of a model on everything that was said."""
    return line_of(["napari-mil", "retrain", str(project.path), "--model", model_word(project, card)])


def train_line(project: Project, about: Mapping[str, Any]) -> str:
    """The line that trains a new model; `about` holds the keywords of `workflow.train_apart_steps`."""
    words = ["napari-mil", "train", str(project.path), "--method", about["method"], "--name", about["name"]]
    words += ["--preset", about["preset"]] if about["preset"] else []
    words += ["--encoder", about["encoder"]] if about["encoder"] != "builtin" else []
    if about["survival"]:
        words += ["--survival", "--bins", str(about["bins"])]
        words += ["--unit", about["unit"]] if about["unit"] else []
    recipe = dict(about["recipe"])
    for name in recipe.pop("record", ()):
        words += ["--record", name]
    for option, values in (("-s", about["config"]), ("-r", recipe)):
        for key, value in values.items():
            words += [option, f"{key}={value if isinstance(value, str) else json.dumps(value)}"]
    return line_of(words)


def export_line(project: Project, record: SlideRecord | None, file: str) -> str:
    """The line that writes the labels of a slide, or of all of them, to a file."""
    which = [] if record is None else ["--slide", slide_word(project, record)]
    return line_of(["napari-mil", "export", str(project.path), file, *which])


def maps_line(project: Project, record: SlideRecord, card: ModelCard, file: str) -> str:
    """The line that writes the maps of a model's answer for a slide to a file."""
    words = ["napari-mil", "export", str(project.path), file, "--slide", slide_word(project, record)]
    return line_of([*words, "--maps", "--model", model_word(project, card)])


def explain_line(project: Project, record: SlideRecord, card: ModelCard, file: str) -> str:
    """The line that writes all that a model says of every tile of a slide to a file."""
    words = ["napari-mil", "explain", str(project.path), slide_word(project, record)]
    return line_of([*words, "--model", model_word(project, card), "--csv", file])


def copier(desk: Desk, make: Callable[[], str], why_not: Callable[[], str]) -> QPushButton:
    """A button that puts the line of `make()` on the clipboard, or says why there is none."""

    def act() -> None:
        if why := why_not():
            desk.tell(why)
        else:
            copy(desk, make())

    return button("Copy as a command line", act, "Put the line that does the same on the clipboard")


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
