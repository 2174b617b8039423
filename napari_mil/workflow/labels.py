"""Labels out of a project and into it, and what the command line shows of them."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_mil.correction import Cells, Correction, WholeSlide, from_record
from napari_mil.errors import LabelError, ProjectError
from napari_mil.ledger import Event, SlideRecord
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
    said = [c for i in ids for c in _labels_of(project, i)]
    csv_labels.write(path, said, project.tree, names=shown_names(project.slides))
    return path


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
    stated = project.ledger.correct(*(c for i, c in enumerate(read) if i not in known))
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


def label_rows(
    project: Project, *, slide: str | None = None, log: bool = False, undo: bool = False
) -> list[dict[str, Any]]:
    """What `napari-mil labels` prints: labels in force, the log, or what an undo took back."""
    if undo:
        if slide is None:
            raise ProjectError("Undo takes back the latest act on one slide; say which with --slide NAME.")
        return [_undone(project, find_record(project, slide))]
    records = [find_record(project, slide)] if slide else list(project.slides)
    names = shown_names(project.slides)
    if log:
        return list(_log(project, {r.id: names[r.id] for r in records}, everything=slide is None))
    return [{"slide": names[r.id], **row} for r in records for row in _in_force(project, r)]


def _undone(project: Project, record: SlideRecord) -> dict[str, Any]:
    event = project.ledger.undo(record.id, project.by)
    about: dict[str, Any] = {"slide": shown_names(project.slides)[record.id]}
    if event is None:
        return about | {"undo": "there is nothing to undo on this slide"}
    act = [e for e in project.ledger.events(kind="correct", slide_id=record.id) if _act(e) == _act(event)]
    said = [from_record(e.payload["correction"]) for e in act]
    return about | {"undo": "; ".join(map(_words, said)), "by": said[0].by, "at": str(act[0].at)}


def _log(project: Project, names: Mapping[str, str], *, everything: bool) -> Iterator[dict[str, Any]]:
    """Every event in its order: who, when, what of which slide."""
    acts: dict[str, list[str]] = {}
    for e in project.ledger.events():
        what: dict[str, Any] = {}
        if e.kind == "correct":
            said = from_record(e.payload["correction"])
            acts.setdefault(_act(e), []).append(_words(said))
            what = {"place": _place(said), "label": said.label or "withdrawn", "was": said.was}
        elif e.kind in ("undo", "redo"):
            what = {"act": "; ".join(acts[_act(e)])}
        elif e.kind == "slide":
            what = {"case": e.payload["case"], "label": e.payload["label"]}
        elif e.kind == "adopt":
            what = {"model": e.payload.get("name") or e.payload["model"]}
        if everything or e.slide_id in names:
            about = {"seq": e.seq, "at": str(e.at), "by": e.by, "kind": e.kind}
            yield about | {"slide": names.get(e.slide_id, "")} | what


def _act(event: Event) -> str:
    return str(event.payload["act"])


def _in_force(project: Project, record: SlideRecord) -> Iterator[dict[str, Any]]:
    yield {"place": "whole slide", "label": slide_label(project, record) or "no label"}
    for c in project.ledger.corrections(record.id):
        if not isinstance(c.place, WholeSlide):
            yield {"place": _place(c), "label": c.label or "withdrawn", "by": c.by}


def _words(said: Correction) -> str:
    return f"{_place(said)} → {said.label or 'label withdrawn'}"


def _place(said: Correction) -> str:
    if isinstance(said.place, WholeSlide):
        return "whole slide"
    n = len(said.place.cells) if isinstance(said.place, Cells) else 0
    return f"{n} tile{'' if n == 1 else 's'}" if n else "region"
