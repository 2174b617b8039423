"""A slide that goes, comes back or is replaced while a window shows it: one sentence, a window that lives."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
from napari.utils.notifications import notification_manager
from slidefiles import picture, write_pyramid
from slideserver import serving

from napari_mil.correction import WholeSlide
from napari_mil.slides import remote
from napari_mil.ui import compat
from napari_mil.ui.slicing import sharpening_of
from napari_mil.workflow import Project
from tests.ui.test_alive import Heartbeat

pytestmark = pytest.mark.skipif(
    os.environ.get("QT_QPA_PLATFORM") == "offscreen", reason="needs a screen, real or virtual (xvfb-run)"
)
IMAGE = picture(1700, 2300)
OTHER = np.broadcast_to(np.array((20, 200, 20), np.uint8), IMAGE.shape)
HATCH = (214, 0, 110)


def written(path, image=IMAGE):
    return write_pyramid(path, image, "raw", levels=3, tile=(128, 128), mpp=(0.5, 0.5))


@pytest.fixture
def window(viewer, docked, tmp_path, qtbot):
    """Opens a project with the slide of a path or address in the file's viewer, on screen."""

    def opened(slide):
        with Project(tmp_path / "study", by="tester") as project:
            project.add(slide, label="ADH")
        compat.main_window(viewer).resize(1100, 800)
        compat.main_window(viewer).show()
        return Watched(docked(tmp_path / "study", by="tester"), qtbot)

    return opened


class Watched:
    """A window, and what one sees in it."""

    def __init__(self, bench, qtbot):
        self.bench, self._qtbot = bench, qtbot
        self._before = len(notification_manager.records)

    @property
    def layer(self):
        return self.bench.desk.layer("slide")

    @property
    def told(self):
        return [str(one.message) for one in list(notification_manager.records)[self._before :]]

    @property
    def requests(self):
        return self.layer.data[0].engine.source._file.requests

    @property
    def sharp(self):
        return sharpening_of(self.layer).picture.sharp

    def open_again(self):
        self.bench.open_project(self.bench.desk.state.project.path, by="tester")
        assert self.bench.wait(60)

    def look(self, y, x):
        """Look at a place of level 0, given in its pixels."""
        camera = compat.camera(self.bench.viewer)
        camera.zoom, camera.center = 2.2, (0, y / 2, x / 2)
        self.until(lambda: self.layer.data_level == 0 and self._holds(y, x))

    def _holds(self, y, x):
        (y0, x0), (y1, x1) = self.layer.corner_pixels[:, :2]
        return y0 <= y <= y1 and x0 <= x <= x1

    def until(self, condition, seconds=20):
        self._qtbot.waitUntil(condition, timeout=int(seconds * 1000))

    def seen(self):
        """What is drawn, and the pixels of the slide in its place."""
        (y0, x0), (y1, x1) = self.layer.corner_pixels[:, :2]
        return np.asarray(self.layer._slice.image.view), IMAGE[y0 : y1 + 1, x0 : x1 + 1]

    def hatched(self):
        return (self.seen()[0] == HATCH).all(axis=-1).mean()


def intact(shown):
    """The project is whole, and goes on being written to."""
    project = shown.bench.desk.state.project
    [record] = project.slides
    assert record.label == "Atypical/ADH"
    project.correct(record.id, WholeSlide(), "IC")
    assert project.ledger.verify().ok


def test_a_server_that_goes_mid_view_is_told_once_and_the_view_sharpens_when_it_is_back(
    window, tmp_path, monkeypatch
):
    monkeypatch.setattr(remote, "PAUSES_S", (0.7, 0.8))  # whoever waited for the server would wait for these
    monkeypatch.setattr("napari_mil.slides.faults.RETRY_S", 0.5)
    monkeypatch.setattr("napari_mil.slides.faults.LONGEST_ABSENCE_S", 1.0)
    (tmp_path / "www").mkdir()
    written(tmp_path / "www" / "a.tif")
    with serving(tmp_path / "www") as server:
        shown = window(f"{server.address}/a.tif")
        shown.look(400, 500)
        shown.until(lambda: shown.sharp)
        assert np.array_equal(*shown.seen())
        for times, places in enumerate((((1300, 1800), (1300, 1100), (1200, 600)), ((500, 2000),)), 1):
            server.stop()
            beat = Heartbeat()
            for place in places:
                shown.look(*place)
                shown.until(lambda: shown.hatched() > 0.05)
            asked = shown.requests
            shown.until(lambda asked=asked: shown.requests > asked + 3)  # it is asked again and again
            beat.stop()
            assert max(beat.gaps) < 1500
            assert len(shown.told) == times
            assert shown.told[-1].startswith(f"a.tif: {server.address} does not answer")
            server.start()
            shown.until(lambda: shown.sharp)
            assert np.array_equal(*shown.seen())
        assert len(shown.told) == 2
    intact(shown)


def deleted(path):
    path.unlink()


def replaced(path):
    written(path.with_name("other.tif"), OTHER).replace(path)


def written_over(path):
    """By a file of the same length and layout, which would be decoded without an error."""
    content = written(path.with_name("other.tif"), OTHER).read_bytes()
    assert len(content) == path.stat().st_size
    with path.open("r+b") as out:
        out.write(content)


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (deleted, "a.tif: the file a.tif cannot be read any more (No such file or directory); put it back"),
        (replaced, "a.tif: another program has changed the file a.tif; open the slide again."),
        (written_over, "a.tif: another program has changed the file a.tif; open the slide again."),
    ],
    ids=["deleted", "replaced", "written over"],
)
def test_a_file_that_goes_or_becomes_another_mid_view(window, tmp_path, monkeypatch, fault, sentence):
    monkeypatch.setattr("napari_mil.slides.faults.RETRY_S", 0.5)
    path = written(tmp_path / "a.tif")
    before = tmp_path / "before.tif"
    shutil.copy2(path, before)
    shown = window(path)
    shown.look(400, 500)
    shown.until(lambda: shown.sharp)
    fault(path)
    for place in ((1300, 1800), (1300, 1100), (1200, 600)):
        shown.look(*place)
        shown.until(lambda: shown.hatched() > 0.05)
        drawn, expected = shown.seen()
        plain = (drawn != HATCH).any(axis=-1)
        assert not (drawn == OTHER[0, 0]).all(axis=-1).any()
        assert abs(drawn[plain].astype(int) - expected[plain]).mean() < 30
    assert len(shown.told) == 1
    assert shown.told[0].startswith(sentence)
    intact(shown)
    shutil.copy2(before, path)  # its time as well
    if fault is not deleted:
        shown.open_again()
        shown.look(500, 2000)
    shown.until(lambda: shown.sharp)
    assert np.array_equal(*shown.seen())
    assert len(shown.told) == 1
