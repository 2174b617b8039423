"""Label files as text, so that a change of a format is seen and decided."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
from places import CROPPED, TREE, box

from napari_mil.correction import Cells, Correction, Polygon, WholeSlide
from napari_mil.grid import TileGrid
from napari_mil.interop import csv_labels, geojson
from napari_mil.prediction import Prediction, TileMap

GRID = TileGrid(CROPPED.shape_px, (0.25, 0.25), 256, 0.5, [[1, 2], [5, 7]])
AT = datetime(2026, 3, 4, 5, 6, 7, 890123, tzinfo=UTC)
STATE = [
    Correction(
        CROPPED.fingerprint, place, label, by="A. Reader", at=AT,
        id=f"{n}0000000-0000-4000-8000-000000000000", **more,
    )
    for n, (place, label, more) in enumerate([
        (WholeSlide(), "Malignant/IC", {"was": "Benign", "note": "sure"}),
        (
            Polygon((box(1000.123456, 1500, 1200, 1700.5), box(1050, 1550, 1060, 1560))),
            "Atypical/ADH",
            {"model_id": "m-1", "model_said": "Benign", "model_confidence": 0.75, "visible": ("hidden",)},
        ),
        (Cells(np.array([[1, 2], [1, 3], [2, 3]]), GRID.pitch_px), "Benign", {"tool": "brush"}),
        (Cells(np.array([[1, 3]]), GRID.pitch_px), None, {}),
    ])
]  # fmt: skip
ANSWER = Prediction(
    CROPPED.fingerprint, GRID.id, "m-1", "slide", (np.ones(1),),
    (
        TileMap("attention/fine/ADH", "score", [0.1, np.nan]),
        TileMap("class/fine", "nodes", [TREE.node("ADH"), 0]),
    ),
)  # fmt: skip


def test_geojson(tmp_path, snapshot):
    geojson.write(tmp_path / "x.geojson", CROPPED, STATE, TREE, grid=GRID, prediction=ANSWER)
    assert (tmp_path / "x.geojson").read_text() == snapshot


def test_csv(tmp_path, snapshot):
    csv_labels.write(tmp_path / "x.csv", STATE, TREE)
    assert (tmp_path / "x.csv").read_text() == snapshot


def test_csv_of_tiles(tmp_path, snapshot):
    csv_labels.write_tiles(tmp_path / "x.csv", "s", GRID, [4, 0], TREE, prediction=ANSWER)
    assert (tmp_path / "x.csv").read_text() == snapshot
