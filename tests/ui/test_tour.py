"""The tour that the demo shows: every step, its picture, and the files at the end."""

from __future__ import annotations

import json
import os

import pytest

from napari_mil.errors import MILError
from napari_mil.ui.tour import Guide
from napari_mil.ui.views import keep_view
from napari_mil.ui.workbench import open_workbench
from napari_mil.workflow import Project

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        os.environ.get("QT_QPA_PLATFORM") == "offscreen", reason="needs a screen, real or virtual (xvfb-run)"
    ),
]


@pytest.fixture
def bench(make_napari_viewer, study_folder):
    made = open_workbench(study_folder, viewer=make_napari_viewer(show=True), by="tester")
    made.resize_window(1366, 768)
    yield made
    made.shut()


def test_the_tour_does_the_main_job(bench, study_folder, tmp_path):
    output = tmp_path / "pictures"
    output.mkdir()
    lines = []
    Guide(bench, output, lines.append, recipe={"epochs": 2, "min_epochs": 1}).go()
    pictures = sorted(output.glob("*.png"))
    assert [p.name[:2] for p in pictures] == [f"{n:02d}" for n in range(1, len(lines) + 1)]
    assert len(lines) == 18
    record = bench.desk.state.record
    assert json.loads((output / f"{record.name}.geojson").read_text())["features"]
    assert record.id in (output / "labels.csv").read_text()
    with Project(study_folder) as project:
        assert len(project.cards) == 3
        assert {c.tool for c in project.ledger.corrections()} == {"paint", "slide label", "review"}
        assert [e.kind for e in project.ledger.events(kind="withdraw")] == ["withdraw"]


def test_it_begins_with_the_whole_slide_wherever_one_looked_last(bench, tmp_path):
    for record in bench.desk.state.project.slides:
        keep_view(record.id, (1.0, 2.0, 50.0))
    Guide(bench, tmp_path, print).look()
    y0, x0, y1, x1 = bench.desk.view_box_px()
    assert (y0, x0) == (0, 0)
    assert (y1, x1) == bench.desk.state.slide.shape_px


def test_a_project_without_models_is_one_sentence(make_napari_viewer, tmp_path):
    with Project(tmp_path / "empty"):
        pass
    made = open_workbench(tmp_path / "empty", viewer=make_napari_viewer(show=False))
    assert made.wait(30)
    guide = Guide(made, tmp_path, print)
    with pytest.raises(MILError, match="no mhim model"):
        guide._run("mhim")
    made.shut()
