"""The colours of score maps over stained tissue. Pure.

What says little is transparent, so that the tissue stays as it is. Hues that haematoxylin and eosin have
(pink, violet) are left out. Steps are told apart in every form of colour blindness.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_mil.labeltree import PALETTE
from napari_mil.prediction import TileMap

#: The upper part of matplotlib's viridis, from teal to yellow; low values fade.
SCORE = ("#2a788e", "#21908c", "#22a884", "#43bf71", "#7ad151", "#bcdf27", "#fde725")
#: Below zero from navy to blue, above zero from green to yellow; what lies near zero fades.
SIGNED = ("#08306b", "#1a4f9c", "#3f7fd0", "#43bf71", "#7ad151", "#bcdf27", "#fde725")
#: Names of maps that speak for and against whatever values they have.
BOTH_WAYS = ("evidence/", "difference/")
#: How fast a ramp becomes opaque: opacity is the distance from its transparent value, to this power.
FADE = 0.6
#: Stained tissue as legends paint it under a ramp.
TISSUE = "#e9bcd8"

Rgba = tuple[float, float, float, float]


def score_ramp(steps: int = 33) -> tuple[Rgba, ...]:
    """(red, green, blue, opacity), each 0–1, from the lowest score to the highest."""
    return tuple((*_between(SCORE, at), at**FADE) for at in _places(steps))


def signed_ramp(steps: int = 33) -> tuple[Rgba, ...]:
    """(red, green, blue, opacity) from −1 over a transparent 0 to 1."""
    return tuple((*_between(SIGNED, at), abs(2 * at - 1) ** FADE) for at in _places(steps))


def colormap(*, signed: bool) -> dict[str, Any]:
    """A ramp as napari takes it, under a name of its own in the layer controls."""
    name, ramp = ("MIL signed", signed_ramp()) if signed else ("MIL score", score_ramp())
    return {"name": name, "colors": ramp}


def _places(steps: int) -> list[float]:
    return [i / (steps - 1) for i in range(steps)]


def _between(colours: tuple[str, ...], at: float) -> tuple[float, float, float]:
    """The colour at 0–1 along evenly spaced ones."""
    position = at * (len(colours) - 1)
    left = min(int(position), len(colours) - 2)
    low, high = rgb(colours[left]), rgb(colours[left + 1])
    red, green, blue = (a + (b - a) * (position - left) for a, b in zip(low, high, strict=True))
    return red, green, blue


def rgb(colour: str) -> tuple[float, float, float]:
    """Give "#rrggbb" (an opacity may follow) as red, green, blue, each 0–1."""
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return red, green, blue


def is_dark(colour: str) -> bool:
    """Whether a light line reads better beside a colour than a dark one (luma below the middle)."""
    red, green, blue = rgb(colour)
    return 0.299 * red + 0.587 * green + 0.114 * blue < 0.55


def ranks(values: NDArray[Any]) -> NDArray[np.float32]:
    """(N,) position of every value between the lowest (0) and the highest (1); equal values share the mean
    of theirs.
    """
    if len(values) < 2:
        return np.ones(len(values), np.float32)
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    middle = (last - 1 + last - counts) / 2
    ranked: NDArray[np.float32] = (middle[inverse] / (len(values) - 1)).astype(np.float32)
    return ranked


def limits_of(tile_map: TileMap) -> tuple[float, float]:
    """The range that the colours of a score map span: its own, or that of its finite values, never empty.

    Of a map that speaks for and against it is the same on either side, so that zero is in the middle.
    """
    low, high = _reach(tile_map)
    if is_signed(tile_map):
        far = max(-low, high) or 1e-6
        return -far, far
    return (low, high) if high > low else (low, low + max(abs(low), 1.0) * 1e-6)


def is_signed(tile_map: TileMap) -> bool:
    """Whether a score map speaks for and against: it has values on both sides of zero, or is evidence or a
    difference, of which every tile may speak for the same side: what is least against is not for.
    """
    low, high = _reach(tile_map)
    return tile_map.name.startswith(BOTH_WAYS) or low < 0 < high


def _reach(tile_map: TileMap) -> tuple[float, float]:
    finite = tile_map.values[np.isfinite(tile_map.values)]
    return tile_map.span or ((float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0))


def apart() -> Iterator[str]:
    """Colours that are told apart, without end: those of labels but one that resembles another, then lighter,
    then darker ones.
    """
    plain = [colour for colour in PALETTE if colour != "#66CCEE"]
    for mixed, share in itertools.cycle(((255, 0.0), (255, 0.55), (0, 0.45))):
        for colour in plain:
            parts = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
            yield "#" + "".join(f"{round(p + (mixed - p) * share):02X}" for p in parts)
