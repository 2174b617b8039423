"""Places, corrections and slides for the tests of label files."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from hypothesis import strategies as st

from napari_mil.correction import Cells, Correction, Polygon, WholeSlide
from napari_mil.labeltree import LabelTree

TREE = LabelTree.from_paths(["Benign/N", "Benign/UDH", "Atypical/ADH", "Malignant/IC"], normal=["Benign/N"])
LABELS = [TREE.path(n) for n in range(1, len(TREE))]


@dataclass(frozen=True)
class SomeSlide:
    """What a label file needs to know of a slide."""

    fingerprint: str = "f" * 64
    shape_px: tuple[int, int] = (3001, 4003)
    bounds_px: tuple[int, int, int, int] = (0, 0, 3001, 4003)


PLAIN = SomeSlide()
CROPPED = SomeSlide(bounds_px=(257, 1031, 2900, 3900))


def box(y0, x0, y1, x1):
    return np.array([[y0, x0], [y0, x1], [y1, x1], [y1, x0]], float)


text = st.text(max_size=12)
point = st.tuples(st.floats(-50, 3100), st.floats(-50, 4100))
ring = st.lists(point, min_size=3, max_size=9).map(np.array)
polygons = st.lists(ring, min_size=1, max_size=3).map(lambda rings: Polygon(tuple(rings)))
cells = st.builds(
    Cells,
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 16)), min_size=1, max_size=25).map(np.array),
    st.tuples(st.floats(1, 600), st.floats(1, 600)),
)
corrections = st.builds(
    Correction,
    st.just(PLAIN.fingerprint),
    st.one_of(st.just(WholeSlide()), polygons, cells),
    st.one_of(st.none(), st.sampled_from(LABELS)),
    was=st.one_of(st.none(), text),
    model_id=st.one_of(st.none(), text),
    model_said=st.one_of(st.none(), text),
    model_confidence=st.one_of(st.none(), st.floats(0, 1)),
    visible=st.lists(text, max_size=3).map(tuple),
    by=text,
    tool=text,
    note=text,
    at=st.none() | st.datetimes(datetime(1990, 1, 1), datetime(2090, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    id=st.uuids().map(str),
)
states = st.lists(corrections, max_size=5, unique_by=lambda c: c.id)
