"""Sentences and short texts."""

from __future__ import annotations

from napari_mil.ui.words import percent


def test_percent_never_claims_certainty():
    assert [percent(p) for p in (1.0, 0.997, 0.994, 0.5, 0.004, 0.0)] == [
        ">99%", ">99%", "99%", "50%", "<1%", "<1%",
    ]  # fmt: skip
