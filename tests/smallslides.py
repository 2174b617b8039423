"""Cohorts of small slides."""

from __future__ import annotations

from dataclasses import replace

import pytest


def draw_small_slides(patch: pytest.MonkeyPatch) -> None:
    """From now on the slides of a cohort have 7 × 8 tiles."""
    from napari_mil.samples.cohort import Row, plan_cohort

    def small(**about: object) -> list[Row]:
        return [replace(row, shape_px=(7 * 256, 8 * 256)) for row in plan_cohort(**about)]

    patch.setattr("napari_mil.samples.cohort.plan_cohort", small)
