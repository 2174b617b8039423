"""The sample slides: a few larger slides that everybody meets first, always the same."""

from __future__ import annotations

import os
from dataclasses import dataclass

from napari_mil.samples.scene import Difficulty
from napari_mil.samples.slide import make_slide
from napari_mil.samples.writing import SampleTruth

#: Pinned, so that the sample slides stay as they are when the cohort's defaults are tuned.
_MIXED = Difficulty(
    lesion_fraction=(0.05, 0.07), hard_slides=0.0, hard_tiles=0.3, hard_expression=(0.2, 0.5), look_alikes=0.0
)


@dataclass(frozen=True, slots=True)
class SampleSlide:
    """One sample slide: its name (the file is `name.tif`), label, what makes it, and one line about it."""

    name: str
    label: str
    seed: int
    shape_px: tuple[int, int]
    pen: bool
    fold: bool
    about: str


SAMPLE_SLIDES = (
    SampleSlide(
        "sample-dcis",
        "Malignant/DCIS",
        seed=13,
        shape_px=(3500, 3800),
        pen=True,
        fold=True,
        about="distended ducts with necrosis in normal breast tissue; a pen's line and a fold",
    ),
    SampleSlide(
        "sample-adh",
        "Atypical/ADH",
        seed=24,
        shape_px=(3600, 3800),
        pen=False,
        fold=False,
        about="small foci of monotonous cells around punched-out spaces, some weakly expressed",
    ),
    SampleSlide(
        "sample-normal",
        "Benign/N",
        seed=37,
        shape_px=(3500, 3700),
        pen=False,
        fold=False,
        about="normal ducts, lobules, fat, vessels, some inflammation; no lesion",
    ),
)


def make_sample_slide(path: str | os.PathLike[str], sample: SampleSlide) -> SampleTruth:
    """Draw one of SAMPLE_SLIDES to `path`; returns its truth."""
    return make_slide(
        path,
        seed=sample.seed,
        label=sample.label,
        shape_px=sample.shape_px,
        difficulty=_MIXED,
        hard=False,
        pen=sample.pen,
        fold=sample.fold,
    )
