"""A slide on show is drawn from its sidecar as soon as there is one, which is made while one looks."""

from __future__ import annotations

import time

import numpy as np
import pytest
from slidefiles import picture, write_pyramid

from napari_mil.slides import open_slide, sidecar
from napari_mil.ui import sidecars
from napari_mil.ui.sidecars import Companion

IMAGE = np.tile(picture(1024, 1024), (5, 5, 1))


@pytest.fixture
def slide(tmp_path, monkeypatch):
    monkeypatch.setenv("NAPARI_MIL_SIDECAR_GB", "1")
    monkeypatch.setattr(sidecars, "PATIENCE_S", 0.0)
    path = write_pyramid(tmp_path / "a.tif", IMAGE, "jpeg-ycbcr", levels=2, step=4)
    with open_slide(path) as made:
        yield made


@pytest.mark.slow
def test_it_is_made_attached_and_found_again(slide):
    told = []
    made = Companion(slide.engine, str(slide.path), told.append)
    made.join(60)
    assert told == []
    assert slide.engine.sketch.has(2)
    with open_slide(slide.path) as again:
        Companion(again.engine, str(slide.path), told.append).join(10)
        assert again.engine.sketch.has(2)


@pytest.mark.slow
def test_a_slide_that_is_left_stops_it(slide, own_home, monkeypatch):
    monkeypatch.setattr(sidecars, "PATIENCE_S", 30.0)
    made = Companion(slide.engine, str(slide.path), print)
    made.leave()
    made.join(10)
    assert not made._thread.is_alive()
    assert not (own_home / "sidecars").exists()


@pytest.mark.slow
def test_a_slide_that_is_closed_ends_the_child(slide, own_home):
    made = Companion(slide.engine, str(slide.path), print)
    end = time.monotonic() + 30
    while not list((own_home / "sidecars").rglob("*.part")) and slide.engine.sketch is None:
        assert time.monotonic() < end
        time.sleep(0.002)
    slide.close()
    made.join(20)
    assert not made._thread.is_alive()
    assert not list((own_home / "sidecars").rglob("*.part"))


@pytest.mark.slow
def test_why_there_is_none_is_told(slide, monkeypatch):
    monkeypatch.setenv("NAPARI_MIL_SIDECAR_GB", "0.0000001")
    assert sidecar.wanted(slide)
    told = []
    Companion(slide.engine, str(slide.path), told.append).join(60)
    assert len(told) == 1
    assert "no room" in told[0]
    assert slide.engine.sketch is None
