"""Label files of others: classes that the label tree lacks, and reading them under other names. Pure."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_mil.correction import Correction, from_record
from napari_mil.errors import LabelError
from napari_mil.labeltree import LabelTree

if TYPE_CHECKING:
    from napari_mil.slides import Slide
    from napari_mil.workflow import Project


def unknown_classes(path: Path, tree: LabelTree) -> Counter[str]:
    """How many areas of a GeoJSON file bear each class that the tree lacks; empty for other files."""
    from napari_mil.interop.files import text_of

    if not path.name.lower().endswith((".geojson", ".geojson.gz", ".json")):
        return Counter()
    try:
        root = json.loads(text_of(path))
    except ValueError:  # LabelError too: reading the file says what is wrong with it
        return Counter()
    return Counter(text for text in _classes(root) if not is_label(text, tree))


def read_as(
    project: Project, path: Path, slide: Slide, mapping: Mapping[str, str | None]
) -> tuple[list[Correction], list[str]]:
    """Read a GeoJSON file, some of its classes under other names or left aside, into the ledger as one act.

    mapping : class text of the file -> label text of the tree, or None: leave such areas aside

    Returns what was new, and sentences about what was left aside.
    """
    from napari_mil.interop import geojson

    remarks: list[str] = []
    read = geojson.read(path, slide, project.tree, mapping=mapping, by=project.by, remark=remarks.append)
    return [
        from_record(event.payload["correction"]) for event in project.ledger.correct(*read, by=project.by)
    ], remarks


def is_label(text: str, tree: LabelTree) -> bool:
    """Whether a class text, such as "Malignant: IC", names a label of the tree."""
    if any(tree.path(node) == "/".join(text.split(": ")) for node in range(1, len(tree))):
        return True
    try:
        return bool(tree.node(text))
    except LabelError:
        return False


def likely(text: str, tree: LabelTree) -> str | None:
    """The label that a class text probably means: the same name but for case, blanks and signs."""
    hits = [n for n in range(1, len(tree)) if _plain(text) in (_plain(tree.names[n]), _plain(tree.path(n)))]
    return tree.path(hits[0]) if len(hits) == 1 else None


def _plain(text: str) -> str:
    return "".join(c for c in text.casefold() if c.isalnum())


def _classes(root: Any) -> Iterator[str]:
    """The class text of every feature, as QuPath writes it: names one inside the other, with ": " between."""
    waiting = [root]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            if text := _class_text(item.get("classification")):
                yield text
            waiting.extend(value for key, value in item.items() if key != "classification")
        elif isinstance(item, list):
            waiting.extend(part for part in item if isinstance(part, dict | list))


def _class_text(said: Any) -> str:
    parts = (said.get("names") or said.get("name")) if isinstance(said, dict) else said
    return ": ".join(map(str, parts)) if isinstance(parts, list) else str(parts or "")
