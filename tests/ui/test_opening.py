"""Slides on servers are opened while the window goes on."""

from __future__ import annotations

import os
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
from qtpy.QtCore import QCoreApplication, QEvent
from qtpy.QtWidgets import QProgressDialog, QPushButton, QWidget
from slidefiles import picture, write_svs
from slidefiles import write_pyramid as write_tiled
from slideserver import serving
from vendorslides import write_ndpi

from napari_mil.errors import SlideError
from napari_mil.slides import copies, overview
from napari_mil.slides.tiles import Engine
from napari_mil.ui import compat, fetching, opening, reader
from napari_mil.ui.activation import activate
from napari_mil.ui.front import slides
from napari_mil.ui.job import AskLane
from napari_mil.ui.slicing import sharpening_of
from tests.ui.test_reader import write_pyramid

pytestmark = pytest.mark.skipif(
    os.environ.get("QT_QPA_PLATFORM") == "offscreen", reason="needs a screen, real or virtual (xvfb-run)"
)
IMAGE = picture(1200, 1000)


@pytest.fixture
def viewer(make_napari_viewer, monkeypatch):
    made = make_napari_viewer(show=False)
    monkeypatch.setattr(compat, "current_viewer", lambda: made)
    monkeypatch.setattr(reader, "TAKERS", [])
    activate()
    return made


@pytest.fixture
def server(tmp_path):
    write_svs(tmp_path / "a.svs", IMAGE, "jpeg-ycbcr")
    with serving(tmp_path) as made:
        yield made


def test_a_slow_server_does_not_keep_the_window(viewer, server, qtbot):
    server.latency = 0.3
    began = time.perf_counter()
    viewer.open(f"{server.address}/a.svs", plugin="napari-mil", stack=False)
    assert time.perf_counter() - began < 0.3
    assert not len(viewer.layers)
    qtbot.waitUntil(lambda: len(viewer.layers) == 1, timeout=20_000)
    server.latency = 0.0
    assert viewer.layers[0].name == "a"
    shown = np.asarray(viewer.layers[0].data[0][:256, :256]).astype(int)
    assert abs(shown - IMAGE[:256, :256]).mean() < 8


@pytest.mark.parametrize("cancelled", [False, True])
def test_a_slide_that_has_to_be_copied_shows_how_far_it_is_and_can_be_cancelled(
    viewer, server, qtbot, monkeypatch, own_home, cancelled
):
    told, bars, made = [], [], opening.CopyBar.__init__
    monkeypatch.setattr(copies, "BLOCK", 2**15)
    monkeypatch.setattr(fetching, "PAUSE_S", 0.0)
    monkeypatch.setattr(compat, "tell", lambda what: told.append(str(what)))
    monkeypatch.setattr(
        opening.CopyBar, "__init__", lambda bar, *about: (made(bar, *about), bars.append(bar))[0]
    )
    write_ndpi(server.folder / "a.ndpi", picture(1024, 1360))
    server.latency = 0.05
    viewer.open(f"{server.address}/a.ndpi", plugin="napari-mil", stack=False)
    qtbot.waitUntil(lambda: bars[0].dialog is not None, timeout=20_000)
    assert "a.ndpi: " in bars[0].dialog.labelText()
    assert " of 1 MB from the server" in bars[0].dialog.labelText()
    if cancelled:
        bars[0].dialog.findChild(QPushButton).click()
        qtbot.waitUntil(lambda: len(told) == 2, timeout=20_000)
        assert told[1] == "a.ndpi is not opened: its copying was cancelled."
        assert not list((own_home / "copies").iterdir())
    else:
        qtbot.waitUntil(lambda: len(viewer.layers) == 1, timeout=20_000)
        assert viewer.layers[0].name == "a"
    qtbot.waitUntil(lambda: not compat.main_window(viewer).findChildren(QProgressDialog), timeout=20_000)
    bars.clear()


def test_a_copy_ends_with_the_window(viewer, server, qtbot, monkeypatch, own_home):
    monkeypatch.setattr(copies, "BLOCK", 2**13)
    write_ndpi(server.folder / "a.ndpi", picture(1024, 1360))
    server.latency = 0.05
    viewer.open(f"{server.address}/a.ndpi", plugin="napari-mil", stack=False)
    qtbot.waitUntil(lambda: any((own_home / "copies").rglob("a.ndpi")), timeout=20_000)
    viewer.close()
    qtbot.waitUntil(lambda: not any((own_home / "copies").iterdir()), timeout=20_000)


def test_a_slide_that_comes_after_its_window_has_gone_is_let_go_of(qtbot, monkeypatch):
    began, gate, late, closed = threading.Event(), threading.Event(), SimpleNamespace(fingerprint="f"), []
    monkeypatch.setattr(opening, "open_slide", lambda _address: (began.set(), gate.wait(5), late)[-1])
    monkeypatch.setattr(opening.overview, "prepare", lambda slide: slide)
    window, lane = QWidget(), AskLane()
    bar = opening.CopyBar(window, lane)
    lane.ask("a", lambda: opening._opened("a", bar), lambda _slide: None, unwanted=closed.append)
    assert began.wait(5)
    lane.close(0.01)
    window.deleteLater()
    QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
    gate.set()
    lane._thread.join(5)
    assert closed == [late]


def test_what_is_not_there_is_told_when_it_is_known(viewer, server, qtbot, monkeypatch):
    told = []
    monkeypatch.setattr(compat, "tell", lambda what: told.append(str(what)))
    viewer.open(f"{server.address}/none.svs", plugin="napari-mil", stack=False)
    qtbot.waitUntil(lambda: len(told) == 2, timeout=20_000)
    assert "is being opened" in told[0]
    assert "there is no file" in told[1]


def test_an_address_is_asked_for_and_checked(viewer, server, qtbot):
    dialog = opening.ask_address()
    dialog.field.setText("a.svs")
    dialog._check()
    assert "https://" in dialog.wrong.text()
    dialog.field.setText(f"{server.address}/a.svs")
    dialog._check()
    assert dialog.result() == 1
    qtbot.waitUntil(lambda: len(viewer.layers) == 1, timeout=20_000)


def test_a_slide_of_one_large_level_is_looked_through_in_a_thread_and_never_read_whole(
    viewer, tmp_path, qtbot, monkeypatch
):
    gate, told, prepare, largest = threading.Event(), [], overview.prepare, []
    box = Engine.box
    path = write_svs(tmp_path / "big.svs", picture(3000, 3000), "jpeg-ycbcr")

    def slowly(slide):
        gate.wait(30)
        return prepare(slide)

    def measured(engine, level, y0, x0, y1, x1, step=(1, 1)):
        largest.append((y1 - y0) * (x1 - x0))
        return box(engine, level, y0, x0, y1, x1, step)

    monkeypatch.setattr(overview, "prepare", slowly)
    monkeypatch.setattr(compat, "tell", lambda what: told.append(str(what)))
    monkeypatch.setattr(Engine, "box", measured)
    viewer.open(str(path), plugin="napari-mil")
    assert not len(viewer.layers)
    assert told == ["big has one large level alone and is looked through once; the window goes on meanwhile."]
    gate.set()
    qtbot.waitUntil(lambda: len(viewer.layers) == 1, timeout=20_000)
    assert [level.shape_px for level in viewer.layers[0].data] == [(3000, 3000), (1500, 1500), (750, 750)]
    assert max(largest) <= 1024 * 1024


def test_a_tile_that_is_damaged_is_told_once_when_the_slide_has_been_looked_through(
    viewer, tmp_path, qtbot, monkeypatch
):
    told = []
    monkeypatch.setattr(compat, "tell", lambda what: told.append(str(what)))
    path = write_tiled(tmp_path / "big.svs", picture(3001, 3107), "zlib", tile=(256, 256))
    with tifffile.TiffFile(path) as tif:
        offset = tif.pages[0].dataoffsets[5 * 13 + 6]
    with path.open("r+b") as stream:
        stream.seek(offset)
        stream.write(b"no tile at all")
    viewer.open(str(path), plugin="napari-mil")
    qtbot.waitUntil(lambda: len(told) == 2, timeout=20_000)
    assert "row 5, column 6" in told[1]
    sharpening = sharpening_of(viewer.layers[0])
    sharpening._complain(SlideError("big.tif: level 0 cannot be read at row 5, column 6."))
    assert len(told) == 2
    whole = viewer.layers[0].data[-1][:]
    assert (whole[320:384, 384:448] == (214, 0, 110)).all(axis=2).any()


def test_slides_that_napari_opens_lie_side_by_side(viewer, tmp_path):
    for name in ("one", "two", "three"):
        viewer.open(str(write_pyramid(tmp_path / f"{name}.tif")), plugin="napari-mil")
    one, two, three = slides(viewer)
    right = [s.world(0, s.levels[0].shape_px[1])[1] for s in (one, two)]
    assert right[0] < two.world(0, 0)[1]
    assert right[1] < three.world(0, 0)[1]
