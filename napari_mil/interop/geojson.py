"""GeoJSON as QuPath writes and reads it.

Sources: qupath/qupath `QuPathTypeAdapters.java`, `ROITypeAdapters.java` and `GsonTools.java`; RFC 7946.

Everything a person said is an annotation: a region as drawn, painted cells merged into their outline, the
slide's label as a locked annotation over the scanned area. What a polygon and a class cannot hold (who, when,
exact cells and vertices, what the model had said) stands in the annotation's metadata, which QuPath keeps; so
the same file read again gives the same corrections, also after QuPath has rounded and rewritten it. A feature
whose class or shape was changed elsewhere is read as a new correction. Tiles go out as objects of type "tile"
with one measurement per map.
"""

from __future__ import annotations

import json
import math
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from napari_mil.correction import (
    Cells,
    Correction,
    Place,
    WholeSlide,
    from_record,
    place_record,
    to_record,
)
from napari_mil.errors import BagError, LabelError, reason
from napari_mil.grid import TileGrid
from napari_mil.interop.files import AT_ONCE, meant, parsed, text_of, text_to
from napari_mil.interop.shapes import DECIMALS, from_geometry, outline, same_area, to_geometry
from napari_mil.interop.space import SlideFacts, Space
from napari_mil.labeltree import LabelTree
from napari_mil.prediction import Prediction
from napari_mil.steps import Progress, Steps, drain

PREFIX = "mil_"
_AREAS = ("Polygon", "MultiPolygon")
_GEOMETRIES = (*_AREAS, "Point", "MultiPoint", "LineString", "MultiLineString")
_AS_JSON = ("visible", "model_confidence")
_OPTIONAL = ("label", "was", "model_id", "model_said", "model_confidence", "at")
_NAMESPACE = uuid.UUID("6f1c2f4e-6d0b-5c5a-9d42-6b1d0a0e7c11")


def write(
    path: str | Path,
    slide: SlideFacts,
    corrections: Iterable[Correction],
    tree: LabelTree,
    *,
    locked: Collection[str] = (),
    grid: TileGrid | None = None,
    prediction: Prediction | None = None,
) -> None:
    """Write the corrections of a slide, and with `grid` also its tiles with the maps of `prediction`, as
    `write_steps` does.
    """
    drain(write_steps(path, slide, corrections, tree, locked=locked, grid=grid, prediction=prediction))


def write_steps(
    path: str | Path,
    slide: SlideFacts,
    corrections: Iterable[Correction],
    tree: LabelTree,
    *,
    locked: Collection[str] = (),
    grid: TileGrid | None = None,
    prediction: Prediction | None = None,
) -> Steps[None]:
    """Write the corrections of a slide, and with `grid` also its tiles with the maps of `prediction`.

    locked : ids of corrections that are locked, and so are their annotations

    Yields Progress of the stage "writing", which counts tiles. The file is written whole or not at all,
    feature by feature: a million tiles need no more memory than one. A name that ends in .gz is compressed,
    which QuPath opens as well.

    LabelError when a correction belongs to another slide or states a label that `tree` lacks; BagError when
    the prediction belongs to another grid; ProjectError when the file cannot be written.
    """
    said = [_feature(c, slide, tree, locked=c.id in locked) for c in corrections]
    if grid is not None and prediction is not None and prediction.grid_id != grid.id:
        raise BagError(
            f"The answer belongs to grid {prediction.grid_id}, not to {grid.id}; analyse the slide again."
        )
    with text_to(Path(path)) as text:
        text.write('{"type": "FeatureCollection", "features": [')
        lines = (json.dumps(feature, ensure_ascii=False, allow_nan=False) for feature in said)
        _write_lines(text, lines, start="\n")
        if grid is not None:
            tiles = _tiles(slide, grid, prediction, tree)
            for done in range(0, len(grid), AT_ONCE):
                yield Progress("writing", done, len(grid))
                _write_lines(text, islice(tiles, AT_ONCE), start=",\n" if said or done else "\n")
        text.write("\n]}\n")


def _write_lines(text: TextIO, lines: Iterable[str], *, start: str) -> None:
    for line in lines:
        text.write(start)
        text.write(line)
        start = ",\n"


def _feature(correction: Correction, slide: SlideFacts, tree: LabelTree, *, locked: bool) -> dict[str, Any]:
    c = correction
    if c.slide_id != slide.fingerprint:
        raise LabelError(f"The correction {c.id} is of slide {c.slide_id}, not of {slide.fingerprint}.")
    properties: dict[str, Any] = {"objectType": "annotation", "name": _title(c)}
    if node := tree.node(c.label):
        properties["classification"] = _classification(node, tree)
    if locked or isinstance(c.place, WholeSlide):
        properties["isLocked"] = True
    record = to_record(c)
    record["place"] = json.dumps(place_record(c.place), separators=(",", ":"))
    record |= {key: json.dumps(record[key]) for key in _AS_JSON if record[key] is not None}
    properties["metadata"] = {PREFIX + key: text for key, text in record.items() if text is not None}
    geometry = to_geometry(outline(c.place, slide), Space.of(slide))
    name = c.id if _is_uuid(c.id) else str(uuid.uuid5(_NAMESPACE, c.id))
    return {"type": "Feature", "id": name, "geometry": geometry, "properties": properties}


def _title(c: Correction) -> str:
    if isinstance(c.place, WholeSlide):
        title = "slide label"
    elif isinstance(c.place, Cells):
        n = len(np.unique(c.place.cells, axis=0))
        title = f"{n} painted tile{'s' if n > 1 else ''}"
    else:
        title = "region"
    return title if c.label else f"{title}, withdrawn"


def _classification(node: int, tree: LabelTree) -> dict[str, Any]:
    colour = tree.colours[node].lstrip("#")
    return {
        "names": tree.path(node).split("/"),
        "color": [int(colour[i : i + 2], 16) for i in (0, 2, 4)],
    }


def _is_uuid(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text.lower()
    except ValueError:
        return False


def _tiles(
    slide: SlideFacts, grid: TileGrid, prediction: Prediction | None, tree: LabelTree
) -> Iterator[str]:
    """One line per tile: its square, cut off at the slide's border, its maps, and the finest class called."""
    boxes = np.clip(grid.boxes_px, 0, np.tile(slide.shape_px, 2))
    space = Space.of(slide)
    low, high = (np.round(space.outwards(boxes[:, i : i + 2]), DECIMALS) + 0.0 for i in (0, 2))
    maps = prediction.maps if prediction else ()
    keys = [json.dumps(m.name, ensure_ascii=False) for m in maps]
    called = next((m.values for m in reversed(maps) if m.kind == "nodes" and m.name == "class/fine"), None)
    classes = [
        f', "classification": {json.dumps(_classification(n, tree))}' if n else "" for n in range(len(tree))
    ]
    name = uuid.uuid5(_NAMESPACE, grid.id)
    for i in range(len(grid)):
        (x0, y0), (x1, y1) = low[i].tolist(), high[i].tolist()
        numbers = ", ".join(f"{k}: {_number(m.values[i])}" for k, m in zip(keys, maps, strict=True))
        row, col = grid.cells[i].tolist()
        yield (
            f'{{"type": "Feature", "id": "{uuid.uuid5(name, f"{row} {col}")}", "geometry": '
            f'{{"type": "Polygon", "coordinates": [[[{x0}, {y0}], [{x1}, {y0}], [{x1}, {y1}], [{x0}, {y1}], '
            f'[{x0}, {y0}]]]}}, "properties": {{"objectType": "tile", "name": "row {row}, column {col}"'
            f'{classes[called[i]] if called is not None else ""}, "measurements": {{{numbers}}}}}}}'
        )


def _number(value: Any) -> str:
    """A JSON number that gives a float32 back exactly; as text, as QuPath does, what is not finite."""
    number = float(value)
    if math.isfinite(number):
        return f"{number:.9g}"
    return '"NaN"' if math.isnan(number) else '"Infinity"' if number > 0 else '"-Infinity"'


def read(
    path: str | Path,
    slide: SlideFacts,
    tree: LabelTree,
    *,
    label: str | None = None,
    mapping: Mapping[str, str | None] | None = None,
    by: str = "",
    remark: Callable[[str], None] | None = None,
) -> tuple[Correction, ...]:
    """The corrections that a GeoJSON file states about a slide; nothing is written anywhere.

    Parameters
    ----------
    path : a FeatureCollection, a bare array of features, one Feature or a bare geometry; plain or gzipped
    label : label text of areas that bear no class
    mapping : class text of the file -> label text of the tree, or None: leave such areas aside
    by : who, where the file does not say
    remark : told what was left aside (points, lines, cells, areas without a class)

    Raises
    ------
    LabelError : no such file, no GeoJSON, a class that is no label of the tree (all labels are named), a file
        of another slide, or features of which none states a label
    """
    path = Path(path)
    reader = _Reader(slide, tree, label, dict(mapping or {}), by)
    try:
        for feature in _features(parsed(text_of(path))):
            reader.take(feature)
    except (ValueError, RecursionError) as error:
        what = reason(error) if isinstance(error, LabelError) else f"it is no GeoJSON ({reason(error)})"
        prefix = "" if what.startswith(path.name) else f"{path.name}: "
        raise LabelError(f"{prefix}{what}.") from error
    counts = reader.aside.items()
    left = ", ".join(f"{n} {what}{'' if n == 1 else 's'} {which}" for (what, which), n in counts)
    if left and not reader.found:
        raise LabelError(
            f"{path.name} states no label for an area: it holds {left}; expected annotations with a class of "
            "the label tree, or say which label areas without a class have."
        )
    if left and remark is not None:
        remark(f"{path.name}: {left} left aside.")
    return tuple(reader.found)


def _features(root: Any) -> Iterator[Mapping[str, Any]]:
    """Every feature of a file, those inside others included."""
    waiting = list(reversed(root if isinstance(root, list) else [root]))
    while waiting:
        item = waiting.pop()
        if not isinstance(item, dict):
            raise LabelError(f"it is no GeoJSON: expected a feature, found {type(item).__name__}.")
        kind = item.get("type")
        if kind == "FeatureCollection":
            waiting.extend(reversed(_list(item.get("features"))))
        elif kind in (*_GEOMETRIES, "GeometryCollection"):
            yield {"geometry": item}
        elif kind == "Feature":
            yield item
            inside = _dict(item.get("properties"))
            for key in ("childObjects", "children"):
                waiting.extend(reversed(_list(inside.get(key))))
        else:
            raise LabelError(f"it is no GeoJSON: {kind!r} is no type of a feature.")


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


class _Reader:
    """Turns features into corrections and counts what it leaves aside."""

    def __init__(
        self, slide: SlideFacts, tree: LabelTree, label: str | None, mapping: dict[str, str | None], by: str
    ) -> None:
        self.slide, self.tree, self.by = slide, tree, by
        self.label, self.mapping = label, mapping
        self.space = Space.of(slide)
        self.found: list[Correction] = []
        self.aside: Counter[tuple[str, str]] = Counter()

    def take(self, feature: Mapping[str, Any]) -> None:
        """Add what a feature states."""
        properties, geometry = _dict(feature.get("properties")), _dict(feature.get("geometry"))
        kind = properties.get("objectType") or properties.get("object_type") or properties.get("type")
        kind = str(kind or "annotation").lower()
        if kind not in ("annotation", "pathannotationobject"):
            self.aside["object", f"of type {kind}"] += 1
        elif geometry.get("type") not in _AREAS:
            self.aside[str(geometry.get("type", "feature")), "without an area"] += 1
        elif (stated := self._stated(properties)) is not None:
            self._restate(stated, properties, geometry)
        else:
            self._foreign(feature, properties, geometry)

    def _stated(self, properties: Mapping[str, Any]) -> Correction | None:
        """The correction that our own metadata holds."""
        metadata = properties.get("metadata")
        if not isinstance(metadata, dict) or PREFIX + "place" not in metadata:
            return None
        mine = {k.removeprefix(PREFIX): str(text) for k, text in metadata.items() if k.startswith(PREFIX)}
        record: dict[str, Any] = dict.fromkeys(_OPTIONAL) | mine
        stated = from_record(record | {k: parsed(mine[k]) for k in ("place", *_AS_JSON) if k in mine})
        if stated.slide_id != self.slide.fingerprint:
            raise LabelError(
                f"its labels are of slide {stated.slide_id}, not of {self.slide.fingerprint}; choose the "
                "slide they were given for."
            )
        self.tree.node(stated.label)
        return stated

    def _restate(
        self, stated: Correction, properties: Mapping[str, Any], geometry: Mapping[str, Any]
    ) -> None:
        """A correction of ours: as it was stated, or as somebody changed it elsewhere."""
        label = self._label(properties, None)
        written = to_geometry(outline(stated.place, self.slide), self.space)
        relabelled = self.tree.node(label) != self.tree.node(stated.label)
        moved = not isinstance(stated.place, WholeSlide) and not same_area(written, geometry)
        if not relabelled and not moved:
            self.found.append(stated)
            return
        places: Sequence[Place] = from_geometry(geometry, self.space) if moved else (stated.place,)
        content = json.dumps([label, geometry if moved else None], sort_keys=True)
        base = Correction(
            stated.slide_id, stated.place, label, was=stated.label, by=self.by, tool="import",
            note=f"changed elsewhere after {stated.id}",
        )  # fmt: skip
        self._add(base, places, str(uuid.uuid5(_NAMESPACE, f"{stated.id} {content}")))

    def _foreign(
        self, feature: Mapping[str, Any], properties: Mapping[str, Any], geometry: Mapping[str, Any]
    ) -> None:
        label = self._label(properties, self.label)
        if label is None:
            classed = bool(properties.get("classification"))
            self.aside["area", "whose class is to be" if classed else "without a class"] += 1
            return
        named = str(feature.get("id", ""))
        content = json.dumps([self.slide.fingerprint, label, geometry], sort_keys=True)
        known = named if _is_uuid(named) else str(uuid.uuid5(_NAMESPACE, content))
        base = Correction(
            self.slide.fingerprint, WholeSlide(), label, by=self.by, tool="import",
            note=str(properties.get("name") or ""),
        )  # fmt: skip
        self._add(base, from_geometry(geometry, self.space), known)

    def _add(self, base: Correction, places: Sequence[Place], known: str) -> None:
        for n, place in enumerate(places):
            name = known if not n else str(uuid.uuid5(_NAMESPACE, f"{known} part {n}"))
            self.found.append(replace(base, place=place, id=name, at=datetime.now(UTC)))

    def _label(self, properties: Mapping[str, Any], unclassified: str | None) -> str | None:
        """Label text of the tree for a feature's class; None when it has none, or one to be left aside."""
        said = properties.get("classification")
        parts = said
        if isinstance(said, dict):
            parts = said.get("names") or said.get("name")
        names = parts if isinstance(parts, list) else str(parts).split(": ") if parts else []
        text = ": ".join(map(str, names))
        if not text or text in self.mapping:
            wanted = self.mapping.get(text) if text else unclassified
            return self.tree.path(self.tree.node(wanted)) or None
        path = "/".join(map(str, names))
        whole = [node for node in range(1, len(self.tree)) if self.tree.path(node) == path]
        return self.tree.path(whole[0] if whole else meant(self.tree, text))
