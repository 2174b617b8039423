"""Labels out of a project and into it."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_mil.correction import Correction, WholeSlide, from_record
from napari_mil.errors import LabelError
from napari_mil.workflow.naming import ids_by_name, shown_names
from napari_mil.workflow.project import Project, find_record, slide_label

if TYPE_CHECKING:
    from napari_mil.slides import Slide

LABEL_SUFFIXES = (".geojson", ".geojson.gz", ".json", ".csv")
#: the tool of a correction that states what a manifest says, and nobody else
MANIFEST = "manifest"


def export(project: Project, path: Path, slide: Slide | None, format: str | None) -> Path:
    """Write one slide's labels as GeoJSON or CSV, or every slide's as one CSV; atomic. LabelError on
    another suffix.
    """
    kind = file_kind(path, format, "labels")
    if kind == "geojson" and slide is None:
        raise LabelError("A GeoJSON file speaks of one slide; say which, or export all slides as .csv.")
    if kind == "geojson" and slide is not None:
        from napari_mil.interop import geojson

        said, acts = _labels_of(project, slide.fingerprint), project.ledger.acts(slide.fingerprint)
        locked = {c.id for event, c in acts.in_force if event in acts.locked}
        geojson.write(path, slide, said, project.tree, locked=locked)
        return path
    from napari_mil.interop import csv_labels

    ids = [slide.fingerprint] if slide is not None else [r.id for r in project.slides]
    said = [c for i in ids for c in _labels_of(project, i)]
    csv_labels.write(path, said, project.tree, names=shown_names(project.slides))
    return path


def file_kind(path: Path, format: str | None, what: str) -> str:
    """Either geojson or csv: as `format` says, else by the suffix; LabelError when it is another."""
    kind = format or ("csv" if path.name.lower().endswith(".csv") else "geojson")
    if kind not in ("geojson", "csv") or (format is None and not path.name.lower().endswith(LABEL_SUFFIXES)):
        raise LabelError(
            f"{path.name}: {what} are written as .geojson, .geojson.gz or .csv; choose one of them."
        )
    return kind


def _labels_of(project: Project, slide_id: str) -> list[Correction]:
    """Corrections in force; a manifest's label goes first, as a correction of no time, where nobody has said
    otherwise.
    """
    said = list(project.ledger.corrections(slide_id))
    record = find_record(project, slide_id)
    if record.label and not any(isinstance(c.place, WholeSlide) for c in said):
        name = str(uuid.uuid5(uuid.NAMESPACE_URL, f"napari-mil:manifest:{slide_id}"))
        said.insert(0, Correction(slide_id, WholeSlide(), record.label, tool=MANIFEST, at=None, id=name))
    return said


def import_labels(
    project: Project,
    path: Path,
    slide: Slide | None,
    *,
    mapping: Mapping[str, str | None] | None = None,
    remark: Callable[[str], None] | None = None,
) -> list[Correction]:
    """Read a label file into the ledger as one act, all or nothing; what is in force already is not doubled,
    and what was changed elsewhere is stated anew. Returns what was new.

    A label that a manifest gave there is what the manifest says here: nobody states it, so undo does not
    take it back.
    """
    from napari_mil.interop import csv_labels, geojson

    if not path.exists():
        raise LabelError(f"{path} does not exist; give a .geojson, .geojson.gz or .csv label file.")
    about: dict[str, Any] = {"mapping": mapping, "by": project.by, "remark": remark}
    if path.name.lower().endswith(".csv"):
        which = None if slide is None else slide.fingerprint
        read = csv_labels.read(path, project.tree, slide_id=which, ids=ids_by_name(project.slides), **about)
    elif slide is None:
        raise LabelError(f"{path.name} holds labels of one slide; say of which with --slide NAME.")
    else:
        read = geojson.read(path, slide, project.tree, **about)
    whole = {i: c for i, c in enumerate(read) if isinstance(c.place, WholeSlide)}
    given = [c for c in whole.values() if c.tool == MANIFEST and _give(project, c)]
    known = {i for i, c in whole.items() if c.tool == MANIFEST or _in_force_already(project, c)}
    stated = project.ledger.correct(*(c for i, c in enumerate(read) if i not in known), by=project.by)
    return given + [from_record(event.payload["correction"]) for event in stated]


def _give(project: Project, said: Correction) -> bool:
    """Take over what a manifest says of a slide; False when it is known."""
    record = find_record(project, said.slide_id)
    told = dataclasses.replace(record, label=said.label)
    if told != record:
        project.ledger.add_slide(told, by=project.by)
    return told != record


def _in_force_already(project: Project, said: Correction) -> bool:
    """Whether a label that no person stated, but a file, is the slide's already."""
    return said.tool == "import" and slide_label(project, find_record(project, said.slide_id)) == said.label
