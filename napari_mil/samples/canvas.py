"""The canvas: amounts of haematoxylin and eosin per pixel, mixed into colours in optical density."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_mil.samples.nuclei import TURNS, VARIANTS, stamps
from napari_mil.samples.textures import Field, textures

#: Pixels around the canvas on which drawings may run out.
MARGIN = 320
#: Amounts are kept in steps of 1 / 110 when they become colours.
STEPS = 110.0

Amount = NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class Stain:
    """How a slide was stained and scanned.

    `haematoxylin`, `eosin`: optical density (3,) of red, green, blue per unit; `glass`: colour (3,).
    """

    haematoxylin: NDArray[np.float64]
    eosin: NDArray[np.float64]
    glass: NDArray[np.float64]

    @classmethod
    def draw(cls, rng: np.random.Generator, variation: float = 1.0) -> Stain:
        """A stain as laboratories differ: hue, strength and glass vary; `variation` 0 gives the mean one."""
        jitter = variation * rng.standard_normal(8)
        h = np.array([0.60, 0.70, 0.36]) + 0.03 * np.array([jitter[0], 0.4 * jitter[1], jitter[2]])
        e = np.array([0.10, 0.90, 0.48]) + 0.03 * np.array([jitter[3], jitter[4], 1.5 * jitter[5]])
        return cls(
            h * np.exp(0.11 * jitter[6]),
            np.clip(e, 0.02, None) * np.exp(0.11 * jitter[7]),
            np.array([243.0, 242.0, 244.0]) - variation * rng.uniform(0, 5, 3),
        )

    def table(self) -> NDArray[np.uint8]:
        """(65536, 4) colour of every pair of amounts: row 256·haematoxylin + eosin."""
        amount = np.arange(256)[:, None] / STEPS
        light = np.exp(-amount * self.haematoxylin)[:, None] * np.exp(-amount * self.eosin)[None]
        colours = np.clip(np.rint(self.glass * light), 0, 255).astype(np.uint8).reshape(-1, 3)
        return np.ascontiguousarray(np.pad(colours, ((0, 0), (0, 1))))


class Canvas:
    """Amounts of haematoxylin (plane 0) and eosin (plane 1) of a slide, with a margin around it.

    Coordinates are level-0 pixels of the slide, y before x; what lies beyond the margin is dropped.
    """

    def __init__(self, shape_px: tuple[int, int]) -> None:
        self.shape_px = shape_px
        self.planes = np.zeros((2, shape_px[0] + 2 * MARGIN, shape_px[1] + 2 * MARGIN), np.float32)

    def patch(
        self, y0: int, x0: int, shape: tuple[int, int]
    ) -> tuple[NDArray[np.float32], tuple[slice, slice]]:
        """The (2, h, w) view of a box and which part of the box it is: the box cut to canvas and margin."""
        height, width = self.planes.shape[1:]
        top, left = y0 + MARGIN, x0 + MARGIN
        rows = slice(max(0, -top), max(0, min(shape[0], height - top)))
        cols = slice(max(0, -left), max(0, min(shape[1], width - left)))
        view = self.planes[:, top + rows.start : top + rows.stop, left + cols.start : left + cols.stop]
        return view, (rows, cols)

    def blend(
        self, y0: int, x0: int, alpha: Amount, haematoxylin: Amount | float, eosin: Amount | float
    ) -> None:
        """Cover a box with other amounts: alpha (h, w) 0 keeps what is there, 1 replaces it."""
        view, cut = self.patch(y0, x0, alpha.shape)
        over = alpha[cut]
        view *= 1 - over
        for plane, amount in enumerate((haematoxylin, eosin)):
            view[plane] += over * (amount if isinstance(amount, float) else amount[cut])

    def nuclei(
        self, rng: np.random.Generator, kind: str, at: NDArray[np.floating], angle: NDArray[np.floating]
    ) -> None:
        """Put down nuclei of a kind: centres `at` (n, 2), long axes at `angle` (n,) radians, x to y."""
        n = len(at)
        turn = np.rint(angle * (TURNS / np.pi)).astype(int) % TURNS
        self._stamp(kind, np.rint(at).astype(int) + MARGIN, turn, rng.integers(0, VARIANTS, n))

    def _stamp(
        self, kind: str, at: NDArray[np.intp], turn: NDArray[np.intp], variant: NDArray[np.integer]
    ) -> None:
        height, width = self.planes.shape[1:]
        drawn, planes = stamps(kind), self.planes
        for (y, x), t, v in zip(at.tolist(), turn.tolist(), variant.tolist(), strict=True):
            half, stays, added = drawn[t][v]
            if half <= y < height - half and half <= x < width - half:
                view = planes[:, y - half : y + half + 1, x - half : x + half + 1]
                view *= stays
                view += added

    def mixed_nuclei(
        self,
        rng: np.random.Generator,
        kinds: Sequence[str],
        share: Sequence[float],
        at: NDArray[np.floating],
        angle: NDArray[np.floating],
    ) -> None:
        """Put down nuclei whose kind is drawn for each of them by `share`."""
        kind = rng.choice(len(kinds), size=len(at), p=np.asarray(share) / np.sum(share))
        for k, name in enumerate(kinds):
            self.nuclei(rng, name, at[kind == k], angle[kind == k])

    def colours(self, stain: Stain) -> NDArray[np.uint8]:
        """(H, W, 3) uint8: the light that comes through."""
        h, w = self.shape_px
        table = stain.table().view(np.uint32).ravel()
        out = np.empty((h, w, 3), np.uint8)
        for y in range(0, h, 128):
            strip = self.planes[:, MARGIN + y : MARGIN + min(y + 128, h), MARGIN : MARGIN + w] * STEPS
            np.clip(strip, 0, 255, out=strip)
            amounts = strip.astype(np.uint8).astype(np.uint16)
            pixels = table[(amounts[0] << 8) | amounts[1]]
            out[y : y + 128] = pixels.view(np.uint8).reshape(*pixels.shape, 4)[..., :3]
        return out


def grain(rng: np.random.Generator, shape: tuple[int, ...], *, coarse: bool = False) -> Field:
    """(h, w) view of fine (or coarse) seamless noise of deviation 1 at a random place."""
    source = textures().mottle if coarse else textures().grain
    h, w = shape
    side = len(source)
    if h > side or w > side:
        return np.resize(np.tile(source, (h // side + 1, w // side + 1))[:h, :w], (h, w))
    y, x = rng.integers(0, side - h + 1), rng.integers(0, side - w + 1)
    return source[y : y + h, x : x + w]
