"""FROC: how many lesions are found at how many false alarms per slide (Ehteshami Bejnordi et al., JAMA 2017).

What counts, on the lattice of tiles: a *lesion* is a group of touching lesion tiles, corners included. A
*detection* is a tile whose score no neighbour exceeds; touching tiles of the same score are one. It finds the
lesions on it or beside it; one on normal tissue elsewhere is a *false alarm*; one where nobody knows is
neither. The score is that of the tile AUC times the probability that the slide has a lesion at all.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_mil.evaluate.figures import Figure, Floats, case_weights, interval

#: mean false alarms per slide at which sensitivity is read, as in CAMELYON16
RATES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
#: share of a slide's tiles that must be known as lesion or normal, else its false alarms cannot be counted
KNOWN = 0.9
_TOUCHING = np.ones((3, 3), bool)


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """One slide's lesions and false alarms.

    Attributes
    ----------
    case : whom the slide belongs to
    found : (n,) highest score of a detection at each lesion, −inf where there is none
    false : (m,) scores of the false alarms
    """

    case: str
    found: NDArray[np.float64]
    false: NDArray[np.float64]

    @classmethod
    def of(
        cls, case: str, cells: NDArray[Any], lesion: NDArray[Any], score: NDArray[Any]
    ) -> Detections | None:
        """From cells (N, 2), truth (N,) 1 lesion, 0 normal, −1 unknown, and score (N,); None when too few
        tiles are known.
        """
        if not len(lesion) or np.mean(lesion >= 0) < KNOWN:
            return None
        at = tuple((cells - cells.min(0)).T)
        shape = tuple(int(line.max()) + 1 for line in at)
        scores, truth = np.full(shape, -np.inf), np.full(shape, -1)
        scores[at], truth[at] = score, lesion
        lesions, n = ndimage.label(truth == 1, _TOUCHING)
        peak = scores == ndimage.maximum_filter(scores, footprint=_TOUCHING, mode="constant", cval=-np.inf)
        peaks, m = ndimage.label(peak & np.isfinite(scores), _TOUCHING)
        heights = np.full(m + 1, -np.inf)
        heights[peaks[peaks > 0]] = scores[peaks > 0]
        near = [peaks[ndimage.binary_dilation(lesions == k, _TOUCHING)] for k in range(1, n + 1)]
        found = np.array([heights[group].max() for group in near], np.float64)
        elsewhere = np.setdiff1d(peaks[truth == 0], np.concatenate([[0], *near]))
        return cls(case, found, heights[elsewhere])


def froc(slides: Iterable[Detections | None], *, resamples: int = 1000, seed: int = 0) -> dict[str, Figure]:
    """`froc/0.25` … `froc/8`: share of lesions found at that many false alarms per slide, and their mean
    `froc`; resampled by case. {} without any lesion.
    """
    rows = [slide for slide in slides if slide is not None]
    if not any(len(row.found) for row in rows):
        return {}
    weights = case_weights([row.case for row in rows], resamples=resamples, seed=seed)
    weights = weights[weights @ np.array([len(row.found) for row in rows]) > 0]
    alarms = max(sum(len(row.false) for row in rows), 1)
    step = max(1, 10_000_000 // alarms)  # bounds the memory that the weights of all alarms take
    parts = [_sensitivity(rows, weights[i : i + step]) for i in range(0, len(weights), step)]
    found = np.concatenate(parts)
    named = {f"froc/{rate:g}": interval(found[:, k]) for k, rate in enumerate(RATES)}
    return {"froc": interval(found.mean(1)), **named}


def _sensitivity(rows: list[Detections], weights: Floats) -> Floats:
    """(R, rates) weighted share of lesions scored above the false alarm that breaks each rate."""
    false, false_of = _pooled([row.false for row in rows])
    found, found_of = _pooled([row.found for row in rows])
    order = np.argsort(-false, kind="stable")
    alarms = np.cumsum(weights[:, false_of[order]], 1) / weights.sum(1, keepdims=True)
    bars = np.append(false[order], -np.inf)
    lesions = weights[:, found_of]
    columns = []
    for rate in RATES:
        first = (alarms <= rate + 1e-9).sum(1)  # cumulative, so this is the place of the first alarm too many
        columns.append((lesions * (found > bars[first][:, None])).sum(1) / lesions.sum(1))
    return np.stack(columns, 1)


def _pooled(parts: list[NDArray[np.float64]]) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """All values, and the slide that each belongs to."""
    return np.concatenate(parts), np.repeat(np.arange(len(parts)), [len(p) for p in parts])
