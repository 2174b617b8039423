"""What the colours of maps mean, as plain data. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_mil.labeltree import LabelTree
from napari_mil.prediction import TileMap
from napari_mil.ui import ramps
from napari_mil.ui.layers import colours_of, title_of
from napari_mil.ui.ramps import is_signed, limits_of
from napari_mil.ui.words import minus

ALL_ALIKE = "the same for every tile"
NOTHING_CALLED = "No tile is called: the model is not sure enough of any."


@dataclass(frozen=True, slots=True)
class Legend:
    """What the colours of one map mean.

    Attributes
    ----------
    title : the map's name in words
    low, high : ends of the ramp of a score map as text, or None for maps of codes
    ramp : (red, green, blue, opacity) along the ramp of a score map
    entries : (colour, words, number of tiles) of maps of codes
    note : what a reader must know ("simulated", "this region only")
    outlined : the colours are those of lines, not of areas
    """

    title: str
    low: str | None = None
    high: str | None = None
    ramp: tuple[ramps.Rgba, ...] = ()
    entries: tuple[tuple[str, str, int], ...] = ()
    note: str = ""
    outlined: bool = False


def legend(tile_map: TileMap, tree: LabelTree | None = None, *, style: str = "raw") -> Legend:
    """The legend of a map as it is on show; codes that no tile has are left out, "no call" is counted."""
    title = title_of(tile_map.name)
    if tile_map.kind == "score":
        alike = len(tile_map.values) > 1 and np.ptp(tile_map.values) == 0
        note = "; ".join(filter(None, (tile_map.note, ALL_ALIKE if alike else "")))
        if style == "rank":
            words, ramp = ("lowest tile", "highest tile"), ramps.score_ramp()
            return Legend(f"{title} (rank)", *words, ramp, note=note)
        low, high = limits_of(tile_map)
        if is_signed(tile_map):
            less, more = ("less", "more") if tile_map.name.startswith("difference") else ("against", "for")
            words, ramp = (f"{minus(f'{low:.3g}')} {less}", f"{high:.3g} {more}"), ramps.signed_ramp()
        else:
            words, ramp = (minus(f"{low:.3g}"), minus(f"{high:.3g}")), ramps.score_ramp()
        return Legend(title, *words, ramp, note=note)
    values = np.asarray(tile_map.values, np.int64)
    entries = []
    for code, colour in colours_of(tile_map, tree).items():
        count = int((values == code).sum())
        if count:
            entries.append((colour, _meaning(tile_map, code, tree), count))
    note = tile_map.note
    if tile_map.kind == "nodes" and (none := int((values == 0).sum())):
        note = note if entries else f"{note} {NOTHING_CALLED}".strip()
        entries.append(("", "no call", none))
    return Legend(title, entries=tuple(entries), note=note)


def corrections_legend(nodes: NDArray[np.int32], tree: LabelTree) -> Legend:
    """The labels that people gave, as they are outlined. nodes: (N,) node per tile, 0 = nothing said."""
    counts = np.bincount(nodes, minlength=len(tree))
    given = [node for node in range(1, len(tree)) if counts[node]]
    entries = tuple((tree.colours[node], tree.path(node), int(counts[node])) for node in given)
    return Legend("Corrections", entries=entries, outlined=True)


def _meaning(tile_map: TileMap, code: int, tree: LabelTree | None) -> str:
    if tile_map.kind == "nodes" and tree is not None:
        return tree.path(code)
    if tile_map.kind == "mask":
        return tile_map.legend.get(1, "yes")
    return tile_map.legend.get(code, f"group {code}")
