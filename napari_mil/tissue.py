"""Where on a slide is tissue: at low resolution, robust to pen, folds, dust and blank glass.

Everything is judged by optical density relative to the slide's own glass. Haematoxylin and eosin absorb green
most; markers do not: green ink absorbs red and blue more, blue ink red, black ink all alike, red ink green
and blue alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_mil.arrays import frozen
from napari_mil.errors import TissueError
from napari_mil.grid import TileGrid
from napari_mil.slides import Slide

_LEAST_SIDE, _MOST_SIDE = 512, 3000
_SMALLEST_PX = 64
_HOLE_UM2 = 200.0**2  # fat cells and lumina belong to the tissue, tears and vessels do not


@dataclass(frozen=True, slots=True, eq=False)
class TissueMask:
    """Tissue at low resolution.

    Attributes
    ----------
    mask : (h, w) bool, True where there is tissue, never under ink
    downsample : (y, x) level-0 pixels per mask pixel, exact
    ink : (h, w) bool, True where a pen has drawn; nowhere when not given
    """

    mask: NDArray[np.bool_]
    downsample: tuple[float, float]
    ink: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        mask = frozen(self.mask, np.bool_, shape=(None, None), name="mask")
        ink = np.zeros_like(mask) if self.ink is None else self.ink
        object.__setattr__(self, "mask", mask)
        object.__setattr__(self, "ink", frozen(ink, np.bool_, shape=mask.shape, name="ink"))

    def share(self, boxes_px: NDArray[np.float64]) -> NDArray[np.float64]:
        """(N,) share of each half-open box y0, x0, y1, x1 (level-0 px) that is tissue; outside is none."""
        return self._share(self.mask, boxes_px)

    def ink_share(self, boxes_px: NDArray[np.float64]) -> NDArray[np.float64]:
        """(N,) share of each half-open box y0, x0, y1, x1 (level-0 px) that a pen has drawn over."""
        return self._share(self.ink, boxes_px)

    def _share(self, mask: NDArray[np.bool_] | None, boxes_px: NDArray[np.float64]) -> NDArray[np.float64]:
        area = np.zeros((self.mask.shape[0] + 1, self.mask.shape[1] + 1))
        np.cumsum(np.cumsum(mask, axis=0, dtype=np.float64), axis=1, out=area[1:, 1:])  # type: ignore[arg-type]
        y0, x0, y1, x1 = (boxes_px / np.array(self.downsample * 2)).T
        sums = _at(area, y1, x1) - _at(area, y0, x1) - _at(area, y1, x0) + _at(area, y0, x0)
        found: NDArray[np.float64] = sums / ((y1 - y0) * (x1 - x0))
        return found


def find_tissue(slide: Slide, *, mpp: float = 8.0) -> TissueMask:
    """Find the tissue of a slide.

    Parameters
    ----------
    slide : read through its dask levels, as a thumbnail
    mpp : µm per mask pixel wanted; small slides are looked at more closely, huge ones less, for a mask of
        512–3000 px; of a slide of unknown pixel size, one pixel in eight is looked at
    """
    longest = max(slide.shape_px)
    wanted = longest * max(slide.mpp) / mpp if slide.mpp else longest / 8
    image = slide.thumbnail(round(min(max(wanted, _LEAST_SIDE), _MOST_SIDE)))
    height, width = image.shape[:2]
    downsample = (slide.shape_px[0] / height, slide.shape_px[1] / width)
    seen = max(slide.mpp) * max(downsample) if slide.mpp else mpp
    tissue, ink = tissue_and_ink(image, mpp=seen)
    return TissueMask(tissue, downsample, ink)


def tissue_grid(
    slide: Slide, *, tile_px: int = 256, mpp: float = 0.5, min_tissue: float = 0.25, max_ink: float = 0.1
) -> TileGrid:
    """Tiles that hold enough tissue and next to no pen: pens go around tumours, and models would learn them.

    Parameters
    ----------
    slide : its pixel size decides the pitch; unknown: tiles are `tile_px` level-0 pixels, `mpp` is ignored
    tile_px, mpp : side of a tile, and the µm per pixel at which a network sees it
    min_tissue : least share of a tile that must be tissue
    max_ink : largest share of a tile that a pen may have drawn over

    A montage's tiles are its photographs, all of them: whoever took them chose what is on them.

    Raises
    ------
    TissueError
        when no tile has that much tissue, or a pen was drawn over all that have
    """
    grid = lattice(slide, tile_px=tile_px, mpp=mpp)
    if slide.montage is not None:
        return grid.with_cells([p.cell for p in slide.montage.photographs])
    found, boxes = find_tissue(slide), grid.boxes_px
    share, ink = found.share(boxes), found.ink_share(boxes)
    full = share >= min_tissue
    if not full.any():
        raise TissueError(
            f"No tissue was found on {slide.name}: of {len(grid)} tiles none holds {min_tissue:.0%} tissue "
            f"(the fullest {share.max():.0%}); check that it is the right slide, and stained."
        )
    if ink[full].min() > max_ink:
        raise TissueError(
            f"No tissue of {slide.name} is free of pen: what looks like ink covers more than {max_ink:.0%} "
            f"of each of the {full.sum()} tiles with tissue (at least {ink[full].min():.0%}); check its "
            "colours, or scan it again without the pen."
        )
    return grid.with_cells(grid.cells[full & (ink <= max_ink)])


def lattice(slide: Slide, *, tile_px: int = 256, mpp: float | None = 0.5) -> TileGrid:
    """Every cell of a slide, tissue or not; of a montage one per photograph, and empty ones at its end."""
    cell = None if slide.montage is None else slide.montage.cell_px
    scale = mpp if slide.mpp else None
    return TileGrid.full(slide.shape_px, slide.mpp, tile_px=tile_px, mpp=scale, cell_px=cell)


def tissue_and_ink(
    image: NDArray[np.uint8], *, mpp: float = 8.0
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Tissue and ink, (h, w) bool each, of an (h, w, 3) uint8 picture of a slide, a few µm per pixel."""
    density = _density(image)
    strength = np.maximum(density[..., 1], density.mean(axis=2))
    chroma = density.max(axis=2) - density.min(axis=2)  # glass, dust and shadows are grey
    ink = _ink(density)
    tissue = (strength > _threshold(strength[~ink])) & (chroma > 0.03) & ~ink
    tissue = _without_small(ndimage.binary_opening(tissue), _SMALLEST_PX)
    # thin walls that hang on tissue enclose fat and lumina; walls that enclose nothing are opened away again
    walls = (ndimage.white_tophat(strength, size=7) > 0.025) & (chroma > 0.02) & ~ink
    walls = ndimage.binary_propagation(tissue, mask=tissue | walls, structure=np.ones((3, 3)))
    hole = _HOLE_UM2 / mpp**2
    filled = ~_without_small(~walls, round(hole), border=True)
    return (tissue | ndimage.binary_opening(filled, iterations=2)) & ~ink, ink


def _density(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(h, w, 3) optical density against the slide's glass, a little smoothed."""
    pixels = ndimage.gaussian_filter(image.astype(np.float32), (0.7, 0.7, 0))
    bright = pixels[pixels.min(axis=2) > 200]
    glass = (
        np.percentile(bright, 70, axis=0)
        if len(bright) > 0.001 * pixels.shape[0] * pixels.shape[1]
        else 245.0
    )
    density: NDArray[np.float32] = np.log((glass + 1) / (pixels + 1)).astype(np.float32).clip(0)
    return density


def _threshold(strength: NDArray[np.float32]) -> float:
    """Otsu on density, within what thin tissue and dirty glass allow (blank glass has no peak)."""
    counts, edges = np.histogram(strength, bins=128, range=(0.0, 1.5))
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    weighted = np.cumsum(counts * centres)
    with np.errstate(invalid="ignore", divide="ignore"):
        between = below * above * (weighted / below - (weighted[-1] - weighted) / above) ** 2
    best = float(centres[int(np.argmax(np.nan_to_num(between)))])
    return min(max(best, 0.06), 0.12)


def _ink(density: NDArray[np.float32]) -> NDArray[np.bool_]:
    """(h, w) marker of any colour: surely inked pixels and the fainter ones that touch them."""
    red, green, blue = (density[..., i] for i in range(3))
    most = density.max(axis=2)
    black = (density.min(axis=2) > 1.1) & (density.min(axis=2) > 0.75 * most)
    redder = (blue > 0.72 * green) & (blue < 1.3 * green) & (red < 0.25 * green) & (green > 0.9)
    reddish = (blue > 0.65 * green) & (blue < 1.3 * green) & (red < 0.35 * green)
    sure = (
        ((red > green + 0.15) & (most > 0.25))
        | ((red > 0.97 * green) & (green > 0.4) & (red > blue + 0.3))
        | black
        | _without_small(redder, 300)  # blood is as red, but lies in small pools
    )
    faint = (
        ((red > 0.83 * green) & (most > 0.3))
        | ((red > 0.88 * green) & (most > 0.15))
        | (density.min(axis=2) > 0.9)
        | (reddish & (green > 0.5))
    )
    sure = _without_small(ndimage.binary_opening(sure), 12)
    grown = ndimage.binary_propagation(sure, mask=sure | faint)
    inked: NDArray[np.bool_] = ndimage.binary_dilation(_closed(grown, 4), iterations=2)
    return inked


def _closed(mask: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    closed: NDArray[np.bool_] = ndimage.binary_closing(np.pad(mask, width), iterations=width)
    return closed[width:-width, width:-width]


def _without_small(mask: NDArray[np.bool_], least: int, *, border: bool = False) -> NDArray[np.bool_]:
    """Without pieces of fewer than `least` pixels; with `border`, pieces at the image's border stay."""
    labels, count = ndimage.label(mask)
    keep = np.bincount(labels.ravel(), minlength=count + 1) >= least
    if border:
        for rim in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
            keep[rim] = True
    keep[0] = False
    kept: NDArray[np.bool_] = keep[labels]
    return kept


def _at(area: NDArray[np.float64], y: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Summed areas at float corners, linear between pixel corners: exact shares of partly covered pixels."""
    y, x = y.clip(0, area.shape[0] - 1), x.clip(0, area.shape[1] - 1)
    i, j = np.minimum(y.astype(int), area.shape[0] - 2), np.minimum(x.astype(int), area.shape[1] - 2)
    v, u = y - i, x - j
    value: NDArray[np.float64] = (area[i, j] * (1 - u) + area[i, j + 1] * u) * (1 - v) + (
        area[i + 1, j] * (1 - u) + area[i + 1, j + 1] * u
    ) * v
    return value
