"""Slides, label files and models into a project."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from napari_mil.correction import Cells
from napari_mil.errors import LabelError, MILError, ProjectError
from napari_mil.labeltree import LabelTree, Survival
from napari_mil.ledger import SlideRecord
from napari_mil.slides.address import Address, SlidePath, slide_path
from napari_mil.steps import Progress, Steps
from napari_mil.workflow.checkpoints import import_model
from napari_mil.workflow.labels import LABEL_SUFFIXES
from napari_mil.workflow.manifest import COLUMNS, Matched, Row, match, read_manifest, unused_columns
from napari_mil.workflow.naming import shown_names, told_apart
from napari_mil.workflow.project import Project, default_tree, parse_mpp
from napari_mil.workflow.travel import model_folder, read_card, take_model

MODEL_SUFFIXES = (".pt", ".pth", ".safetensors", ".bin", ".ckpt")


def import_paths_steps(
    folder: Path,
    paths: Sequence[SlidePath],
    *,
    manifest: Path | None = None,
    slide: str | None = None,
    tree: Path | None = None,
    mpp: str | None = None,
    encoder: str | None = None,
    encoder_weights: Path | None = None,
    mapping: Mapping[str, str | None] | None = None,
    by: str = "",
) -> Steps[list[dict[str, Any]]]:
    """Take slides, folders of slides or of photographs (each folder one slide), label files and checkpoints
    into the project at `folder`; made if missing. Slides may be addresses, those of the manifest come by
    themselves.

    Each file succeeds or fails alone: one row per file, {"slide", "ok", "error"}, which is also the payload
    of the progress after it. Slides of the project that the manifest names follow it too, and rows of it that
    name no slide are said. The inputs that concern every file (manifest, tree, mpp, mapping) are checked
    before anything is written.

    mpp : µm per pixel of slides that do not say theirs
    encoder, encoder_weights : of a checkpoint, see `import_model`
    mapping : label of a label file -> label of the tree, or None: leave it aside
    """
    said = read_manifest(manifest) if manifest else ()
    resolution = parse_mpp(mpp) if mpp else None
    told = {"encoder": encoder, "encoder_weights": encoder_weights}
    reads = {key: value for key, value in told.items() if value}
    there = [row.address for row in said if row.address is not None]
    files = _found([*map(slide_path, paths), *there], needed=manifest is None)
    chosen = _tree_for(folder, tree, files)
    for label in (mapping or {}).values():
        chosen.node(label)
    with Project(folder, tree=chosen, by=by) as project:
        folders = [
            *([manifest.parent] if manifest else []),
            *(p for p in paths if isinstance(p, Path) and p.is_dir()),
        ]
        matched = _matched(project, said, files, folders)
        rows: list[dict[str, Any]] = []
        for n, (file, name) in enumerate(zip(files, told_apart(files, [f.name for f in files]), strict=True)):
            yield Progress("import", n, len(files), name, rows[-1] if rows else None)
            try:
                about = (slide, resolution, reads, dict(mapping or {}))
                taken = _take(project, file, matched if manifest else None, *about)
                rows.append({"slide": name, "ok": True, **taken})
            except (MILError, OSError) as error:
                rows.append({"slide": name, "ok": False, "error": str(error)})
        yield Progress("import", len(files), len(files), payload=rows[-1] if rows else None)
        return rows + _follow(project, matched, files) + _columns_aside(manifest, said)


def _found(paths: Sequence[SlidePath], *, needed: bool) -> list[SlidePath]:
    """The files meant; ProjectError when a path does not exist, or when there are none although `needed`."""
    for path in paths:
        if isinstance(path, Path) and not path.exists():
            raise ProjectError(
                f"{path} does not exist; give slides, folders of slides or label files that do."
            )
    files = list(dict.fromkeys(f for path in paths for f in _files(path)))
    if not files and (paths or needed):
        where = ", ".join(map(str, paths)) or "what was given"
        raise ProjectError(
            f"There are no slides in {where}; expected files such as .svs or .tif, or folders of photographs."
        )
    return files


def _files(path: SlidePath) -> Iterator[SlidePath]:
    if isinstance(path, Address) or not path.is_dir() or model_folder(path):
        yield path
        return
    from napari_mil.slides import find_slides

    yield from find_slides(path)


def _tree_for(folder: Path, tree: Path | None, files: Sequence[SlidePath]) -> LabelTree:
    """The label tree of the project at `folder`, or that a new one gets: `tree`, or that of a model that
    comes along. ProjectError when the project has another one than `tree`.
    """
    chosen = None if tree is None else _read_tree(tree)
    if not (folder / "labeltree.json").exists():
        theirs = (read_card(f).tree for f in map(_model_folder, files) if f is not None)
        first = next((t for t in theirs if not isinstance(t, Survival)), None)
        return chosen or first or default_tree()
    kept = _read_tree(folder / "labeltree.json")
    if chosen is not None and chosen != kept:
        labels = ", ".join(kept.path(leaf) for leaf in kept.leaves)
        raise ProjectError(
            f"{folder} keeps its own label tree ({labels}), and {tree} is another; leave --tree out, or make "
            "a new project."
        )
    return kept


def _model_folder(file: SlidePath) -> Path | None:
    return None if isinstance(file, Address) else model_folder(file)


def _read_tree(path: Path) -> LabelTree:
    try:
        return LabelTree.from_json(path.read_bytes())
    except OSError as error:
        raise LabelError(
            f"The label tree {path} cannot be read ({error.strerror}); give a file such as labeltree.json."
        ) from error


def _take(
    project: Project,
    file: SlidePath,
    matched: Matched | None,
    slide: str | None,
    mpp: float | None,
    reads: Mapping[str, Any],
    mapping: Mapping[str, str | None],
) -> dict[str, Any]:
    if isinstance(file, Address):
        return _take_slide(project, file, matched, mpp)
    if (whole := model_folder(file)) is not None:
        card = take_model(project, whole)
        return {"model": card.name, "method": card.method, "id": card.id}
    if file.name.lower().endswith(MODEL_SUFFIXES):
        card = import_model(project, file, reads)
        return {"model": card.name, "method": card.method, "assumed": "; ".join(card.assumed)}
    if file.name.lower().endswith(LABEL_SUFFIXES):
        remarks: list[str] = []
        read = project.import_labels(file, slide, mapping=mapping, remark=remarks.append)
        tiles = sum(len(c.place.cells) for c in read if isinstance(c.place, Cells))
        about = {"labels": len(read)} | ({"tiles": tiles} if tiles else {})
        return about | ({"note": " ".join(remarks)} if remarks else {})
    return _take_slide(project, file, matched, mpp)


def _take_slide(
    project: Project, file: SlidePath, matched: Matched | None, mpp: float | None
) -> dict[str, Any]:
    """Add a slide with what its row of the manifest says; what a reader should know as the note."""
    notes = []
    row = Row(0, file.name, {})
    if matched is not None:
        if file in matched.refused:
            raise LabelError(matched.refused[file])
        row = matched.rows.get(file, row)
        if file not in matched.rows:
            notes.append("no row of the manifest names it")
        elif file in matched.by_name:
            notes.append(f"taken for {row.slide} (row {row.number} of the manifest) by its name")
    added = project.add(
        file,
        case=row.get("case"),
        label=row.get("label"),
        mpp_if_unsaid=mpp,
        survival=row.follow_up,
        split=row.get("split") or "",
    )
    said, used = added.stated_mpp, added.mpp
    if used is None:
        notes.append("says no µm per pixel: give --mpp")
    elif used != said:
        stated = f"; the file says {said[0]:g}" if said else ""
        notes.append(f"µm per pixel {used[0]:g} as given{stated}")
    size: dict[str, Any] = {"size": f"{added.shape_px[1]} × {added.shape_px[0]} px"}
    if added.montage is not None:
        size = {"photographs": len(added.montage.photographs)}
    return size | ({"note": "; ".join(notes)} if notes else {})


def _matched(
    project: Project, rows: Sequence[Row], files: Sequence[SlidePath], folders: Sequence[Path]
) -> Matched:
    """Rows of a manifest and the slides they speak of: those that come, and those that are here already."""
    from napari_mil.slides import SUFFIXES

    other = (*MODEL_SUFFIXES, *LABEL_SUFFIXES)
    coming = [f for f in files if not f.name.lower().endswith(other) and not _model_folder(f)]
    by_name: dict[str, list[SlidePath]] = {}
    for file in coming:
        by_name.setdefault(file.name, []).append(file)
    here = [slide_path(r.path) for r in project.slides]
    here = [path for path in here if not any(_copied(path, file) for file in by_name.get(path.name, ()))]
    return match(rows, [*coming, *here], folders=folders, suffixes=SUFFIXES)


def _copied(path: SlidePath, file: SlidePath) -> bool:
    """Whether a file is the slide at `path` again, or takes its place, as far as the file system knows."""
    if isinstance(path, Address) or isinstance(file, Address):
        return path == file
    return not path.exists() or (file.exists() and path.stat().st_size == file.stat().st_size)


def _follow(project: Project, matched: Matched, files: Sequence[SlidePath]) -> list[dict[str, Any]]:
    """Let slides that were here before follow the manifest; a row for each that changed, and for what is
    left of the manifest.
    """
    rows, names = [], shown_names(project.slides)
    for record in project.slides:
        path = slide_path(record.path)
        if path in files or path not in matched.rows | matched.refused:
            continue
        about: dict[str, Any] = {"slide": names[record.id], "ok": True}
        try:
            if path in matched.refused:
                raise LabelError(matched.refused[path])
            told = _told(project, record, matched.rows[path])
            if told == record:
                continue
            project.ledger.add_slide(told, by=project.by)
            about["note"] = f"follows row {matched.rows[path].number} of the manifest now"
        except MILError as error:
            about |= {"ok": False, "error": str(error)}
        rows.append(about)
    for row, better in matched.unused:
        why = "names no slide that is here"
        if better is not None:
            why = f"is not used: row {better.number} names that slide more exactly"
        note = f"row {row.number} of the manifest {why}"
        rows.append({"slide": row.slide, "ok": True, "note": note})
    return rows


def _columns_aside(manifest: Path | None, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """A row that tells which columns of a manifest nobody reads, where there are some."""
    aside = unused_columns(rows)
    if manifest is None or not aside:
        return []
    many = f"column {aside[0]} is" if len(aside) == 1 else f"columns {', '.join(aside)} are"
    note = f"its {many} not used; a manifest has {', '.join(COLUMNS)}"
    return [{"slide": manifest.name, "ok": True, "note": note}]


def _told(project: Project, record: SlideRecord, row: Row) -> SlideRecord:
    """A record with what a row of a manifest says of it."""
    time, event = row.follow_up or (record.time, record.event)
    return dataclasses.replace(
        record,
        case=row.get("case") or record.case,
        label=project.tree.path(project.tree.node(row.get("label"))) or record.label,
        split=row.get("split") or record.split,
        time=time,
        event=event,
    )
