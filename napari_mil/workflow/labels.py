"""Labels out of a project and into it, and what the command line shows of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_mil.correction import Cells, Correction, Polygon, WholeSlide, from_record
from napari_mil.errors import LabelError, ProjectError
from napari_mil.workflow.project import Project, find_record, slide_label

if TYPE_CHECKING:
    from napari_mil.slides import Slide

LABEL_SUFFIXES = (".geojson", ".geojson.gz", ".json", ".csv")


def export(project: Project, path: Path, slide: Slide | None, format: str | None) -> Path:
    """Write one slide's labels as GeoJSON or CSV, or every slide's as one CSV; atomic. LabelError on
    another suffix.
    """
    kind = format or ("csv" if path.name.endswith(".csv") else "geojson")
    if kind not in ("geojson", "csv") or (format is None and not path.name.lower().endswith(LABEL_SUFFIXES)):
        raise LabelError(
            f"{path.name}: labels are written as .geojson, .geojson.gz or .csv; choose one of them."
        )
    if kind == "geojson" and slide is None:
        raise LabelError("A GeoJSON file speaks of one slide; say which, or export all slides as .csv.")
    if kind == "geojson" and slide is not None:
        from napari_mil.interop import geojson

        geojson.write(path, slide, _labels_of(project, slide.fingerprint), project.tree)
        return path
    from napari_mil.interop import csv_labels

    ids = [slide.fingerprint] if slide is not None else [r.id for r in project.slides]
    csv_labels.write(path, [c for i in ids for c in _labels_of(project, i)], project.tree)
    return path


def _labels_of(project: Project, slide_id: str) -> list[Correction]:
    """Corrections in force; a manifest's label goes first, as a correction, where nobody has said
    otherwise.
    """
    said = list(project.ledger.corrections(slide_id))
    record = find_record(project, slide_id)
    if record.label and not any(isinstance(c.place, WholeSlide) for c in said):
        said.insert(
            0, Correction(slide_id, WholeSlide(), record.label, tool="manifest", id=_manifest_id(slide_id))
        )
    return said


def _manifest_id(slide_id: str) -> str:
    import uuid

    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"napari-mil:manifest:{slide_id}"))


def import_labels(project: Project, path: Path, slide: Slide) -> list[Correction]:
    """Read a label file into the ledger as one act, all or nothing; what is in force already is not doubled,
    and what was changed elsewhere is stated anew. Returns what was new.
    """
    from napari_mil.interop import csv_labels, geojson

    if not path.exists():
        raise LabelError(f"{path} does not exist; give a .geojson, .geojson.gz or .csv label file.")
    if path.name.lower().endswith(".csv"):
        read = csv_labels.read(path, project.tree, slide_id=slide.fingerprint, by=project.by)
    else:
        read = geojson.read(path, slide, project.tree, by=project.by)
    return [from_record(event.payload["correction"]) for event in project.ledger.correct(*read)]


def label_rows(
    project: Project, *, slide: str | None = None, log: bool = False, undo: bool = False, verify: bool = False
) -> list[dict[str, Any]]:
    """What `napari-mil labels` prints: labels in force, the log, one undo, or the state of the hash chain."""
    if verify:
        report = project.ledger.verify()
        return [{"ledger": str(report)}]
    if undo:
        if slide is None:
            raise ProjectError("Undo takes back the latest act on one slide; say which with --slide NAME.")
        done = project.undo(find_record(project, slide).id)
        return [{"undo": "done" if done else "there is nothing to undo on this slide"}]
    records = [find_record(project, slide)] if slide else list(project.slides)
    if log:
        names = {r.id: r.name for r in records}
        return [
            {
                "seq": e.seq,
                "at": str(e.at),
                "by": e.by,
                "kind": e.kind,
                "slide": names.get(e.slide_id or "", ""),
            }
            for e in project.ledger.events()
            if not slide or e.slide_id in names
        ]
    return [row for r in records for row in _in_force(project, r)]


def _in_force(project: Project, record: Any) -> Iterator[dict[str, Any]]:
    yield {"slide": record.name, "place": "whole slide", "label": slide_label(project, record) or "no label"}
    for c in project.ledger.corrections(record.id):
        if isinstance(c.place, Cells):
            yield {"slide": record.name, "place": f"{len(c.place.cells)} tiles", "label": c.label, "by": c.by}
        elif isinstance(c.place, Polygon):
            yield {"slide": record.name, "place": "region", "label": c.label, "by": c.by}
