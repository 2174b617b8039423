"""Places as polygons, and polygons as GeoJSON geometries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from napari_mil.correction import Cells, Place, Polygon, WholeSlide, region
from napari_mil.errors import LabelError, reason
from napari_mil.interop.space import SlideFacts, Space

#: QuPath writes two decimals, so anything finer would not survive a visit there.
DECIMALS = 2
_NEAR_PX = 0.02


def outline(place: Place, slide: SlideFacts) -> Any:
    """The shapely Polygon or MultiPolygon of a place, (y, x) in level-0 pixels; never empty."""
    if isinstance(place, WholeSlide):
        return shapely.box(*(float(v) for v in slide.bounds_px))
    if isinstance(place, Cells):
        return _cells_outline(place, slide)
    mended = region(place)
    return shapely.Polygon(place.rings[0], place.rings[1:]) if mended.is_empty else mended


def _cells_outline(place: Cells, slide: SlideFacts) -> Any:
    """Painted cells merged, cut off at the slide's border."""
    cells = np.unique(place.cells.astype(np.int64), axis=0)
    breaks = np.flatnonzero((np.diff(cells, axis=0) != (0, 1)).any(1))
    first, last = np.r_[0, breaks + 1], np.r_[breaks, len(cells) - 1]
    if len(first) * 4 < len(cells):  # long runs: few boxes
        low, high = cells[first], cells[last] + 1
        merged = shapely.union_all(shapely.box(*low.T, *high.T))
    else:
        merged = shapely.coverage_union_all(shapely.box(*cells.T, *(cells + 1).T))
    merged = shapely.simplify(merged, 0)  # corners only
    whole = shapely.transform(merged, lambda points: points * place.pitch_px)
    cut = shapely.transform(whole, lambda points: np.clip(points, 0, slide.shape_px))
    return cut if cut.is_valid and cut.area > 0 else whole


def to_geometry(shape: Any, space: Space) -> dict[str, Any]:
    """A GeoJSON geometry of a Polygon or MultiPolygon, rounded where rounding keeps it valid."""
    polygons = list(shapely.get_parts(shape))
    rings = [[p.exterior, *p.interiors] for p in polygons]
    exact = [[space.outwards(shapely.get_coordinates(ring)) for ring in polygon] for polygon in rings]
    rounded = [[np.round(ring, DECIMALS) + 0.0 for ring in polygon] for polygon in exact]
    made = shapely.MultiPolygon([(p[0], p[1:]) for p in rounded])
    coordinates = [
        [ring.tolist() for ring in polygon]
        for polygon in (rounded if made.is_valid or not shape.is_valid else exact)
    ]
    if len(coordinates) == 1:
        return {"type": "Polygon", "coordinates": coordinates[0]}
    return {"type": "MultiPolygon", "coordinates": coordinates}


def from_geometry(geometry: Mapping[str, Any], space: Space) -> tuple[Polygon, ...]:
    """The polygons of a GeoJSON Polygon or MultiPolygon; LabelError when its coordinates are none."""
    coordinates: Any = geometry.get("coordinates") or ()
    polygons = [coordinates] if geometry.get("type") == "Polygon" else coordinates
    try:
        return tuple(Polygon(tuple(_ring(ring, space) for ring in polygon)) for polygon in polygons)
    except (TypeError, ValueError, IndexError) as error:
        if isinstance(error, LabelError):
            raise
        raise LabelError(
            f"the coordinates of a {geometry.get('type')} are malformed ({reason(error)})."
        ) from error


def _ring(points: Sequence[Sequence[float]], space: Space) -> NDArray[np.float64]:
    """A ring without its closing point, (n, 2) y, x in level-0 pixels."""
    ring = space.inwards(np.array([point[:2] for point in points], np.float64).reshape(-1, 2))
    return ring[:-1] if len(ring) > 1 and (ring[0] == ring[-1]).all() else ring


def same_area(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether two geometries cover the same area but for rounding and the order of their points."""
    if a == b:
        return True
    space = Space((0.0, 0.0))
    try:
        regions = [[region(p) for p in from_geometry(g, space)] for g in (a, b)]
    except LabelError:
        return False
    with np.errstate(all="ignore"):  # the geometry engine sets floating-point flags on its way
        shapes = [shapely.union_all(parts) for parts in regions]
        differing = shapely.symmetric_difference(*shapes).area
    return bool(differing <= _NEAR_PX * (shapes[0].length + 1))
