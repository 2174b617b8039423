"""Synthetic H&E slides with the truth per tile: drawn from a seed, nothing downloaded.

The seven leaves are sketches of what their names mean in breast pathology, good for trying every part of the
programme and for measuring it; they are no substitute for tissue.
"""

from __future__ import annotations

from napari_mil.samples.cohort import make_cohort, plan_cohort
from napari_mil.samples.gallery import SAMPLE_SLIDES, SampleSlide, make_sample_slide
from napari_mil.samples.scene import Difficulty
from napari_mil.samples.slide import SAMPLE_TREE, draw_slide, make_slide, read_truth
from napari_mil.samples.writing import SampleTruth

__all__ = [
    "SAMPLE_SLIDES",
    "SAMPLE_TREE",
    "Difficulty",
    "SampleSlide",
    "SampleTruth",
    "draw_slide",
    "make_cohort",
    "make_sample_slide",
    "make_slide",
    "plan_cohort",
    "read_truth",
]
