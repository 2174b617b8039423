"""Pure: nouns become napari layer tuples (data, options, type), and `sync` makes a viewer match them.

Our layers are found by a key in their metadata, never by their names: people rename layers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_mil.grid import TileGrid
from napari_mil.labeltree import PALETTE, LabelTree
from napari_mil.prediction import TileMap
from napari_mil.ui import ramps
from napari_mil.ui.outlines import line_width, outline

if TYPE_CHECKING:
    from napari_mil.correction import Polygon
    from napari_mil.slides import Slide

OURS = "napari-mil"
#: Key of slides that napari opened through our reader; the workbench takes them into the project.
OPENED = "opened"
LayerData = tuple[Any, dict[str, Any], str]
#: Cells top, left, bottom, right of a lattice, half-open; None: all of them
Near = tuple[int, int, int, int] | None
#: Tiles that are narrower on screen are not outlined: what people said is filled there.
OUTLINED_PX = 4.0

#: Keys of layers of outlines begin so; the key of what they outline follows.
OUTLINES = "outlines/"
#: How opaque maps are at most: scores fade by themselves, the flat colours of codes do not.
SCORE_OPACITY, CODE_OPACITY = 0.75, 0.6
#: Colours of role codes: left to learn from (most tiles, so it is faint and the tissue stays visible), hidden
#: (salient), recycled, hidden (low), hidden (random).
ROLE_COLOURS = {0: "#56B4E966", 1: "#D55E00", 2: "#F0E442", 3: "#882255", 4: "#CC79A7"}
MASK_COLOUR = "#D55E00"


def unit(grid_or_slide: Any) -> str:
    """The unit that everything of this slide is shown in: µm, or pixels when the size of a pixel is
    unknown.
    """
    mpp = getattr(grid_or_slide, "slide_mpp", None) or getattr(grid_or_slide, "mpp", None)
    return "um" if isinstance(mpp, tuple) else "pixel"


def slide_layer(slide: Slide, *, key: str = "slide") -> LayerData:
    """A slide as a multiscale image whose levels are read when they are looked at; a montage says so."""
    montage = slide.montage
    about = "" if montage is None else f" · {len(montage.photographs)} photographs, positions mean nothing"
    options = {
        "name": slide.name + about,
        "rgb": True,
        "multiscale": True,
        "contrast_limits": (0, 255),
        "scale": slide.mpp or (1.0, 1.0),
        "units": (unit(slide),) * 2,
        "metadata": {OURS: {"key": key, "slide": slide.fingerprint, "path": str(slide.path)}},
    }
    return list(slide.drawn_levels), options, "image"


def map_layer(
    tile_map: TileMap, grid: TileGrid, tree: LabelTree | None = None, *, style: str = "raw"
) -> LayerData:
    """One map over its grid: scores as an image, everything else as labels. `style` is "raw" or "rank"
    (scores only).
    """
    key = f"map/{tile_map.name}"
    shared = _placed(grid, key, tile_map.name) | {"opacity": CODE_OPACITY}
    if tile_map.kind == "score":
        values = ramps.ranks(tile_map.values) if style == "rank" else tile_map.values
        limits = (0.0, 1.0) if style == "rank" else ramps.limits_of(tile_map)
        shared |= {
            "opacity": SCORE_OPACITY,
            "colormap": ramps.colormap(signed=style != "rank" and ramps.is_signed(tile_map)),
            "contrast_limits": limits,
            "blending": "translucent",
            "interpolation2d": "nearest",
        }
        return grid.raster(np.asarray(values, np.float32)), shared, "image"
    codes, colours = _codes(tile_map, tree)
    shared["colormap"] = _direct(colours)
    return grid.raster(codes), shared, "labels"


@lru_cache(maxsize=4)  # a stroke on the corrections leaves the map's lines as they are
def map_outlines(
    tile_map: TileMap, grid: TileGrid, tree: LabelTree | None = None, *, tile_screen_px: float
) -> LayerData | None:
    """Thin lines between the colours of a map of codes, so that dark ones read too; None for scores."""
    if tile_map.kind == "score":
        return None
    codes, colours = _codes(tile_map, tree)
    return outlines_layer(codes, grid, colours, of=f"map/{tile_map.name}", tile_screen_px=tile_screen_px)


def _codes(tile_map: TileMap, tree: LabelTree | None) -> tuple[NDArray[np.int32], dict[int, str]]:
    """(N,) codes as layers show them and their colours; 0 is nothing there, so groups move up by one."""
    up = int(tile_map.kind == "groups")
    colours = {code + up: colour for code, colour in colours_of(tile_map, tree).items()}
    return np.asarray(tile_map.values, np.int32) + up, colours


def corrections_layer(nodes: NDArray[np.int32], grid: TileGrid, tree: LabelTree) -> LayerData:
    """What people said, per tile, as labels that can be painted on. nodes: (N,) node of the tree, 0 =
    nothing said.

    It is filled only while somebody paints; `outlines_layer` shows it without hiding what lies under it.
    """
    options = _placed(grid, "corrections", "corrections") | {
        "opacity": 0.0,
        "colormap": _direct(_node_colours(tree)),
    }
    return grid.raster(np.asarray(nodes, np.int32)), options, "labels"


def corrections_outlines(
    nodes: NDArray[np.int32], grid: TileGrid, tree: LabelTree, tile_screen_px: float, near: Near = None
) -> LayerData | None:
    """What people said as bold outlines, of the cells `near`; None while nothing is said, and where tiles are
    so small on screen that lines would be none.
    """
    if tile_screen_px < OUTLINED_PX:
        return None
    about: Any = {"tile_screen_px": tile_screen_px, "bold": True, "near": near}
    return outlines_layer(nodes, grid, _node_colours(tree), of="corrections", **about)


def outlines_layer(
    codes: NDArray[np.int32],
    grid: TileGrid,
    colours: Mapping[int, str],
    *,
    of: str,
    tile_screen_px: float,
    bold: bool = False,
    near: Near = None,
) -> LayerData | None:
    """Lines around the regions of equal code, or None where there are none, or too many to be told apart.

    codes : (N,) one per tile, 0 = none
    of : key of the layer that they belong to, and whose eye they follow
    tile_screen_px : width of a tile on screen
    bold : see `outlines.outline`
    """
    width = line_width(tile_screen_px)
    raster = grid.raster(np.asarray(codes, np.int32))
    top, left, bottom, right = near or (0, 0, *grid.shape)
    found = outline(raster[top:bottom, left:right], colours, width, bold=bold)
    if found is None:
        return None
    lines, rgba = found
    lines[:, 0] += (top, left)
    options = _placed(grid, OUTLINES + of, f"outlines of {of.removeprefix('map/')}") | {
        "edge_width": width if bold else width / 2,
        "edge_color": rgba,
        "vector_style": "line",
    }
    return lines, options, "vectors"


def regions_layer(
    regions: Sequence[tuple[Polygon, str]], slide: Slide, *, colours: Mapping[str, str]
) -> LayerData:
    """Drawn regions with their label texts, a line for each ring; half a pixel less, as napari has pixels."""
    rings = [(ring, label) for polygon, label in regions for ring in polygon.rings]
    options = {
        "name": "regions",
        "shape_type": "polygon",
        "scale": slide.mpp or (1.0, 1.0),
        "units": (unit(slide),) * 2,
        "face_color": [[0.0, 0.0, 0.0, 0.0]] * len(rings),
        "edge_color": [colours.get(label, "#ffffff") for _, label in rings],
        "edge_width": 6.0,
        "metadata": {OURS: {"key": "regions"}},
    }
    if not rings:
        del options["face_color"], options["edge_color"]
    return [np.asarray(ring) - 0.5 for ring, _ in rings], options, "shapes"


def colours_of(tile_map: TileMap, tree: LabelTree | None) -> dict[int, str]:
    """Code → "#rrggbb" for maps of masks, nodes and groups."""
    if tile_map.kind == "mask":
        return {1: MASK_COLOUR}
    if tile_map.kind == "nodes":
        if tree is None:
            raise ValueError(f"the map {tile_map.name} shows labels; it needs the label tree")
        return _node_colours(tree)
    codes = sorted(tile_map.legend) or sorted({int(v) for v in np.unique(tile_map.values)})
    if tile_map.name.startswith("hidden"):
        return {code: ROLE_COLOURS.get(code, PALETTE[code % len(PALETTE)]) for code in codes}
    there = set(np.unique(tile_map.values).tolist())
    return dict(zip([c for c in codes if c in there], ramps.apart(), strict=False))


def title_of(name: str) -> str:
    """A map's path-like name in words: "attention/fine/ADH" → "Attention · fine · ADH"."""
    parts = name.split("/")
    return " · ".join([parts[0][:1].upper() + parts[0][1:], *parts[1:]])


def _placed(grid: TileGrid, key: str, name: str) -> dict[str, Any]:
    scale, translate = grid.placement()
    return {
        "name": title_of(name),
        "scale": scale,
        "translate": translate,
        "units": (unit(grid),) * 2,
        "metadata": {OURS: {"key": key, "grid": grid.id}},
    }


def _node_colours(tree: LabelTree) -> dict[int, str]:
    return {node: tree.colours[node] for node in range(1, len(tree))}


def _direct(colours: Mapping[int, str]) -> dict[int | None, str]:
    return {None: "transparent", 0: "transparent", **colours}


def key_of(layer: Any) -> str | None:
    """Our key of a viewer's layer, or None when `sync` did not make it (a slide opened by File > Open)."""
    ours = layer.metadata.get(OURS)
    return ours.get("key") if isinstance(ours, Mapping) and "wanted" in ours else None


def opened_path(layer: Any) -> str | None:
    """The path of a slide that was opened by napari itself (File > Open, drop, command line), else None."""
    ours = layer.metadata.get(OURS)
    return ours.get("path") if isinstance(ours, Mapping) and ours.get("key") == OPENED else None


def find(viewer: Any, key: str) -> Any:
    """The viewer's layer with our key, or None."""
    return next((layer for layer in viewer.layers if key_of(layer) == key), None)


def remove(viewer: Any, layers: Iterable[Any]) -> None:
    """Take layers away, all at once where napari can (0.9): it collects garbage after each removal, which
    blocks the window for a third of a second.
    """
    unwanted = list(layers)
    if not unwanted:
        return
    with getattr(viewer.layers, "batched_update", contextlib.nullcontext)():
        for layer in unwanted:
            viewer.layers.remove(layer)


#: Options that belong to the person once a layer is there: `sync` never sets them again.
_THEIRS = ("opacity", "multiscale", "rgb", "shape_type", "metadata", "units")


def sync(viewer: Any, wanted: Sequence[LayerData]) -> None:
    """Make the viewer's layers of ours be exactly `wanted`, bottom first; other people's layers are left
    alone.

    A layer stays where it can take what is wanted, also of another slide: a new one costs the window a fifth
    of a second. It keeps what the person set on it (opacity, visibility, and its name as long as it shows the
    same); only data and options that are wanted differently from the last time are set.
    """
    keys = [options["metadata"][OURS]["key"] for _, options, _ in wanted]
    spare = [layer for layer in viewer.layers if key_of(layer) is not None and key_of(layer) not in keys]
    spare += _left_behind(viewer, wanted, spare)
    there: dict[str, Any] = {}
    for key, (data, options, kind) in zip(keys, wanted, strict=True):
        layer = find(viewer, key)
        if layer is not None and not _takes(layer, data, options, kind):
            spare.append(layer)
            layer = None
        there[key] = layer or _recycled(spare, key, data, options, kind)
    remove(viewer, spare)  # before others are added, which may bear the same names
    for key, (data, options, kind) in zip(keys, wanted, strict=True):
        if there[key] is None:
            _add(viewer, data, options, kind)
        else:
            _update(there[key], data, options)
    _order(viewer, keys)


def _left_behind(viewer: Any, wanted: Sequence[LayerData], spare: list[Any]) -> list[Any]:
    """Copies that a person made of our layers ("Duplicate layer"), once another slide is wanted: they would
    lie over it and show the one before.
    """
    before = find(viewer, "slide")
    now = [o["metadata"][OURS]["slide"] for _, o, _ in wanted if o["metadata"][OURS]["key"] == "slide"]
    if before is None or [before.metadata[OURS]["slide"]] == now:
        return []
    ours = (layer for layer in viewer.layers if key_of(layer) is not None and layer not in spare)
    return [layer for layer in ours if layer is not find(viewer, str(key_of(layer)))]


def _recycled(spare: list[Any], key: str, data: Any, options: Mapping[str, Any], kind: str) -> Any:
    """A map's layer that is no longer wanted becomes the next map's."""
    for layer in spare:
        was = str(key_of(layer))
        if key.startswith("map/") and was.startswith("map/") and _takes(layer, data, options, kind):
            spare.remove(layer)
            layer.visible = True
            return layer
    return None


def _takes(layer: Any, data: Any, options: Mapping[str, Any], kind: str) -> bool:
    """Whether a layer can be made to show something else of its kind."""
    ours = layer.metadata[OURS]
    if _kind(layer) != kind or ours["wanted"].get("units") != options.get("units"):
        return False
    if kind == "shapes" or (options.get("multiscale") and not _takes_levels(layer)):
        return _same(ours.get("wanted_data"), data)
    return True


def _takes_levels(layer: Any) -> bool:
    """Whether this napari copes with other levels on a layer: since 0.9 it begins with their coarsest."""
    return hasattr(layer, "_reset_data_level")


def _kind(layer: Any) -> str:
    return type(layer).__name__.lower()


def _add(viewer: Any, data: Any, options: Mapping[str, Any], kind: str) -> None:
    ours = {**options["metadata"][OURS], "wanted": dict(options), "wanted_data": data}
    given = {**options, "metadata": {OURS: ours}}
    if kind == "labels":
        data = np.array(data)
    getattr(viewer, f"add_{kind}")(data, **given)


def _update(layer: Any, data: Any, options: Mapping[str, Any]) -> None:
    ours, now = layer.metadata[OURS], options["metadata"][OURS]
    before = ours["wanted"]
    layer.metadata[OURS] = {**now, "wanted": dict(options), "wanted_data": data}
    if _kind(layer) == "labels":  # a person may have painted on it meanwhile
        _relabel(layer, data)
    elif not _same(ours.get("wanted_data"), data):
        layer.data = data
    if ours.get("slide") != now.get("slide"):
        layer.visible = True
    for name, value in options.items():
        if name not in _THEIRS and not _same(before.get(name), value):
            setattr(layer, name, value)


def _relabel(layer: Any, raster: NDArray[np.int32]) -> None:
    """Make a Labels layer hold a raster; where few cells differ, these alone are drawn anew. What was painted
    before is not to come back by napari's own undo.
    """
    from napari_mil.ui.compat import forget_history  # needs Qt

    held = layer.data
    flat = np.flatnonzero(held != raster) if held.shape == raster.shape else None  # of few, fast when flat
    if flat is None or len(flat) > raster.size // 8:
        layer.data = np.array(raster)
    elif len(flat):
        differ = np.unravel_index(flat, raster.shape)
        with layer.events.paint.blocker():
            layer.data_setitem(differ, raster[differ])
    forget_history(layer)


def _same(one: Any, other: Any) -> bool:
    if one is other:
        return True
    if one is None or other is None or type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray):
        return one.shape == other.shape and bool(np.array_equal(one, other, equal_nan=one.dtype.kind == "f"))
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(_same(a, b) for a, b in zip(one, other, strict=True))
    return bool(one == other)


def _order(viewer: Any, keys: Iterable[str]) -> None:
    """Ours in the wanted order among themselves, each in a place that one of ours already has."""
    ours = [find(viewer, key) for key in keys]
    places = sorted(viewer.layers.index(layer) for layer in ours)
    for layer, place in zip(ours, places, strict=True):
        at = viewer.layers.index(layer)
        if at != place:
            viewer.layers.move(at, place)
