"""Which slide a person looks at, and where: layers that show a slide, whoever opened them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_mil.slides.mpp import plausible
from napari_mil.slides.slide import Level
from napari_mil.ui import compat
from napari_mil.ui.layers import OURS, LayerData, opened_path, slide_layer

if TYPE_CHECKING:
    from napari_mil.slides import Slide

#: Keys of slides beside the one in front begin so; so many widths lie between the left borders of two.
BESIDE, GAP = "beside/", 1.04
#: A view is of one slide when the others take at most this share of what is seen of slides.
LITTLE = 0.25
#: µm per screen pixel at 1×.
UM_AT_ONE = 10.0


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """A slide on the canvas.

    Attributes
    ----------
    layer : napari's layer of it
    """

    layer: Any

    @property
    def levels(self) -> list[Level]:
        """What the layer draws, largest first."""
        return list(self.layer.data)

    @property
    def fingerprint(self) -> str:
        """Of the slide."""
        return str(self.layer.metadata[OURS]["slide"])

    @property
    def in_um(self) -> bool:
        """Whether the size of a pixel is known."""
        return str(self.layer.units[-1]) != "pixel"

    @property
    def stated_mpp(self) -> tuple[float, float] | None:
        """(y, x) µm per level-0 pixel that the file itself says, or None."""
        return plausible(self.levels[0].engine.source.info.mpp)

    @property
    def said(self) -> str:
        """Where the size of a pixel comes from, in words, when it is not the file that says it."""
        if not self.in_um or tuple(self.scale) == self.stated_mpp:
            return ""
        return "said in this project" if opened_path(self.layer) is None else "said by you"

    @property
    def scale(self) -> np.ndarray:
        """(2,) world units per level-0 pixel, y and x."""
        return np.asarray(self.layer.scale, float)[-2:]

    def px(self, y: float, x: float) -> np.ndarray:
        """(2,) level-0 pixels y, x of a world position, the slide's corner being 0, 0."""
        return (np.array([y, x]) - np.asarray(self.layer.translate)[-2:]) / self.scale + 0.5

    def world(self, y_px: float, x_px: float) -> np.ndarray:
        """(2,) world position of level-0 pixels."""
        return (np.array([y_px, x_px]) - 0.5) * self.scale + np.asarray(self.layer.translate)[-2:]

    def holds(self, y: float, x: float) -> bool:
        """Whether a world position lies on the slide."""
        at = self.px(y, x)
        return bool((at >= 0).all() and (at < self.levels[0].shape_px).all())

    def seen_in(self, box: np.ndarray) -> float:
        """How much of the slide, in world units squared, lies in a box ((y0, x0), (y1, x1)) of the world."""
        low, high = (np.clip(self.px(*corner), 0, self.levels[0].shape_px) for corner in box)
        return float(np.prod((high - low) * self.scale))


def slides(viewer: Any) -> list[Shown]:
    """Every slide on the canvas, those that are hidden left out, bottom first."""
    return [
        Shown(layer)
        for layer in viewer.layers
        if layer.visible and OURS in layer.metadata and _is_slide(layer)
    ]


def front(viewer: Any) -> Shown | None:
    """The slide under the middle of the view, else the first, or None where there is none."""
    found = slides(viewer)
    middle = compat.camera(viewer).center[-2:]
    under = [one for one in found if one.holds(*middle)]
    return (under or found or [None])[-1 if under else 0]


def looked_at(viewer: Any) -> Shown | None:
    """The slide that the view is of: the only one, or, of several, that under the middle of the view when the
    others take little of what is seen of slides; None where the view is of more than one.
    """
    found, shown = slides(viewer), front(viewer)
    if len(found) < 2 or shown is None:
        return shown
    box = np.reshape(compat.visible_box(viewer), (2, 2))
    middle = compat.camera(viewer).center[-2:]
    others = sum(one.seen_in(box) for one in found if one.layer is not shown.layer)
    mine = shown.seen_in(box)
    return shown if shown.holds(*middle) and others <= LITTLE * (mine + others) else None


def side_by_side(slide: Slide, others: Iterable[Slide]) -> list[LayerData]:
    """Other slides, to the right of one."""
    made, left = [], 0.0
    for before, one in pairwise((slide, *others)):
        left += before.shape_px[1] * (before.mpp or (1.0, 1.0))[1] * GAP
        levels, options, kind = slide_layer(one, key=f"{BESIDE}{one.fingerprint}")
        made.append((levels, {**options, "translate": (0.0, left)}, kind))
    return made


def _is_slide(layer: Any) -> bool:
    return bool(getattr(layer, "multiscale", False)) and isinstance(layer.data[0], Level)
