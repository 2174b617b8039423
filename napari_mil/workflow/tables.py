"""Answers as rows of a CSV file that grows as they come."""

from __future__ import annotations

import csv
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from napari_mil.card import ModelCard
from napari_mil.interop.cells import cells, row_of_cells
from napari_mil.interop.files import text_to
from napari_mil.labeltree import Survival, class_names
from napari_mil.ledger import SlideRecord
from napari_mil.prediction import Prediction

#: Seconds between two times that a growing table is written; a killed program loses the rows of no more.
PAUSE_S = 2.0


class Table:
    """A CSV file of rows that come one after the other; whatever happens, it holds whole rows.

    It is written at once, with its header: a place that cannot be written is a ProjectError before any work
    is done. Rows follow every `PAUSE_S` seconds and at the end; what a row has besides the columns is left
    out. Texts that a spreadsheet would take for formulas have an apostrophe before them.
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path, self.columns = path, list(columns)
        self.rows: list[dict[str, Any]] = []
        self._write()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._write()

    def add(self, row: Mapping[str, Any]) -> None:
        """Take a row."""
        self.rows.append(dict(row))
        if time.monotonic() - self._written > PAUSE_S:
            self._write()

    def _write(self) -> None:
        with text_to(self.path) as stream:
            table = csv.DictWriter(stream, cells(self.columns), extrasaction="ignore")
            table.writeheader()
            table.writerows(map(row_of_cells, self.rows))
        self._written = time.monotonic()


def answer_columns(card: ModelCard, by: str = "slide") -> tuple[str, ...]:
    """The columns of a table of a model's answers, one row per slide, or per "case": how many of its slides
    could be asked, and of how many.
    """
    tree = card.tree
    about = ("case", "slides", "of", "model") if by == "case" else ("slide", "slide_id", "case", "model")
    if isinstance(tree, Survival):
        said = ("risk", *(f"S {name}" for name in class_names(tree, 0)))
    else:
        nodes = [node for level in range(tree.levels) for node in tree.nodes_at(level)]
        said = ("label", "probability", *(f"p {tree.path(node)}" for node in nodes))
        said += ("disagreement",) if tree.levels > 1 else ()
    return (*about, *said, "calibrated", "error")


def about_slide(record: SlideRecord, card: ModelCard) -> dict[str, Any]:
    """The columns of a slide's row that stand there whatever the model says of it."""
    return {"slide_id": record.id, "case": record.case, "model": card.name}


def answer_numbers(said: Prediction, card: ModelCard) -> dict[str, Any]:
    """All that a model says of a slide or a case, by column: the finest label with its probability and that
    of every label of every level, or risk and survival. `disagreement` says where the coarse head of a method
    and its fine answer contradict each other, and is left out where they do not.
    """
    tree = card.tree
    about: dict[str, Any] = {"calibrated": said.calibrated}
    if said.survival is not None and said.risk is not None:
        curve = zip(class_names(tree, 0), said.survival, strict=True)
        return {
            "risk": _exact(said.risk),
            **{f"S {name}": _exact(s) for name, s in curve},
            **about,
        }
    if (apart := said.heads_apart(tree)) is not None:
        own, sums = map(tree.path, apart)
        about["disagreement"] = f"coarse head {own}, fine answer {sums}"
    node, probability = said.best(tree)[-1]
    every = {
        f"p {tree.path(n)}": _exact(p)
        for level, answers in enumerate(said.probabilities)
        for n, p in zip(tree.nodes_at(level), answers, strict=True)
    }
    return {"label": tree.path(node), "probability": _exact(probability), **every, **about}


def _exact(value: float) -> float:
    """A number to nine significant digits, which tell all of float32 apart: figures computed from a table are
    those on the card, however sure the answers are.
    """
    return float(f"{value:.9g}")
