"""Slides and label files into a project, labels out of it."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_mil.correction import Cells, Correction, Polygon, WholeSlide, from_record
from napari_mil.errors import LabelError, MILError, ProjectError, reason
from napari_mil.labeltree import LabelTree
from napari_mil.steps import Progress, Steps
from napari_mil.workflow.checkpoints import import_model
from napari_mil.workflow.project import Project, find_record, parse_mpp, slide_label

if TYPE_CHECKING:
    from napari_mil.slides import Slide

LABEL_SUFFIXES = (".geojson", ".geojson.gz", ".json", ".csv")
PARTS = ("train", "validation", "test")
_EVENT = {"1": True, "0": False, "true": True, "false": False, "yes": True, "no": False}
MODEL_SUFFIXES = (".pt", ".pth", ".safetensors", ".bin", ".ckpt")


def import_paths_steps(
    folder: Path,
    paths: Sequence[Path],
    *,
    manifest: Path | None = None,
    slide: str | None = None,
    tree: Path | None = None,
    mpp: str | None = None,
    encoder: str | None = None,
    by: str = "",
) -> Steps[list[dict[str, Any]]]:
    """Take slides, folders of slides or of photographs (each folder one slide), label files and checkpoints
    into the project at `folder`; made if missing.

    Each file succeeds or fails alone: one row per file, {"slide", "ok", "error"}. The inputs that concern
    every file (manifest, tree, mpp) are checked before anything is written.
    """
    for path in paths:
        if not path.exists():
            raise ProjectError(
                f"{path} does not exist; give slides, folders of slides or label files that do."
            )
    entries = read_manifest(manifest) if manifest else {}
    resolution = parse_mpp(mpp) if mpp else None
    chosen = LabelTree.from_json(tree.read_bytes()) if tree else None
    files = [f for path in paths for f in _files(path)]
    if not files:
        raise ProjectError(
            f"There are no slides in {', '.join(map(str, paths))}; expected files such as .svs or .tif, "
            "or folders of photographs."
        )
    rows = []
    with Project(folder, tree=chosen, by=by) as project:
        for n, file in enumerate(files):
            yield Progress("import", n, len(files), file.name)
            try:
                taken = _take(project, file, entries, slide, resolution, encoder)
                rows.append({"slide": file.name, "ok": True, **taken})
            except MILError as error:
                rows.append({"slide": file.name, "ok": False, "error": str(error)})
        yield Progress("import", len(files), len(files))
    return rows


def _files(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    from napari_mil.slides import find_slides

    yield from find_slides(path)


def _take(
    project: Project,
    file: Path,
    entries: Mapping[str, Mapping[str, str]],
    slide: str | None,
    mpp: float | None,
    encoder: str | None,
) -> dict[str, Any]:
    if file.name.lower().endswith(MODEL_SUFFIXES):
        card = import_model(project, file, {"encoder": encoder} if encoder else None)
        return {"model": card.name, "method": card.method, "assumed": "; ".join(card.assumed)}
    if file.name.lower().endswith(LABEL_SUFFIXES):
        if slide is None:
            raise LabelError(f"{file.name} holds labels; say of which slide with --slide NAME.")
        return {"labels": len(project.import_labels(file, slide))}
    entry = entries.get(file.name) or entries.get(file.stem) or entries.get(file.name.split(".")[0]) or {}
    added = project.add(
        file,
        case=entry.get("case"),
        label=entry.get("label"),
        mpp=mpp,
        survival=_follow_up(entry),
        split=entry.get("split", ""),
    )
    note = {} if added.mpp else {"note": "says no µm per pixel: give --mpp"}
    if added.montage is not None:
        return {"photographs": len(added.montage.photographs), **note}
    return {"size": f"{added.shape_px[1]} × {added.shape_px[0]} px", **note}


def _follow_up(entry: Mapping[str, str]) -> tuple[float, bool] | None:
    """Time and event of a manifest's row, or None."""
    time, event = entry.get("time"), entry.get("event", "").strip().lower()
    if not time and not event:
        return None
    try:
        return float(time or ""), _EVENT[event]
    except (ValueError, KeyError):
        raise LabelError(
            f"The manifest says time {time!r} and event {event!r} of {entry['slide']}; "
            "a number and 1 (observed) or 0 (censored) are expected."
        ) from None


def read_manifest(path: Path) -> dict[str, dict[str, str]]:
    """A manifest CSV `slide, case, label[, time, event, split]` by slide name; LabelError when a needed
    column is missing or a split is none.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            names = set(reader.fieldnames or [])
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise LabelError(
            f"The manifest {path} cannot be read ({reason(error)}); expected a CSV file in UTF-8."
        ) from error
    if "slide" not in names:
        raise LabelError(
            f"The manifest {path.name} has the columns {', '.join(sorted(names)) or 'none'}; "
            "it needs `slide`, and may have `case`, `label`, `time`, `event` and `split`."
        )
    for row in rows:
        if row.get("split") and row["split"] not in PARTS:
            raise LabelError(
                f"The manifest {path.name} gives {row['slide']} the split {row['split']!r}; "
                f"expected one of {', '.join(PARTS)}."
            )
    return {
        Path(row["slide"]).name: {k: v for k, v in row.items() if k and v} for row in rows if row["slide"]
    }


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


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows of plain values as CSV, written whole or not at all."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        writer.writerows(rows)
    temporary.replace(path)
