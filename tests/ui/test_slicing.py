"""A slide is drawn at once from what is there and ends exact; whoever reads it gets exact pixels."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
from napari.layers import Image
from qtpy.QtWidgets import QApplication
from slidefiles import picture, write_pyramid
from slowsource import slow_slide

from napari_mil.slides.workers import WAITING_THREADS
from napari_mil.ui import compat, slicing
from napari_mil.ui.layers import slide_layer, sync
from napari_mil.ui.slicing import place_levels, sharpening_of

IMAGE = picture(2000, 2600)


def pyramid(factor=4):
    """Blocks of factor × factor pixels of one value each, and the level of one pixel per block."""
    coarse = np.arange(48, dtype=np.uint8).reshape(6, 8)
    fine = np.kron(coarse, np.ones((factor, factor), np.uint8))
    return [fine, coarse]


@pytest.mark.parametrize("level", [0, 1])
def test_every_level_shows_a_pixel_where_it_lies(level):
    layer = Image(pyramid(), multiscale=True, metadata={"napari-mil": {}})
    place_levels(layer)
    layer.data_level = level
    layer.corner_pixels = np.array([[0, 0], np.array(layer.data[level].shape) - 1])
    layer.refresh()
    fine = layer.data[0]
    for y, x in [(0, 0), (4, 4), (7, 11), (12, 15), (23, 31)]:
        value = layer.get_value((y, x))
        assert (value[1] if isinstance(value, tuple) else value) == fine[y, x]


def test_centring_is_needed_as_long_as_napari_leaves_levels_off_centre():
    layer = Image(pyramid(), multiscale=True, metadata={"napari-mil": {}})
    layer.data_level = 1
    layer.corner_pixels = np.array([[0, 0], [5, 7]])
    layer.refresh()
    assert layer._transforms["tile2data"].translate.tolist() == [0, 0]
    place_levels(layer)
    assert layer._transforms["tile2data"].translate.tolist() == [1.5, 1.5]
    place_levels(layer)  # twice is once
    assert layer._transforms["tile2data"].translate.tolist() == [1.5, 1.5]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_pyramid(tmp_path_factory.mktemp("slow") / "a.tif", IMAGE, levels=3, tile=(128, 128))


@pytest.fixture
def shown(make_napari_viewer, path):
    """A viewer with a slide each of whose tiles takes 80 ms, and its layer."""
    viewer = make_napari_viewer()
    compat.watch_layers(viewer, place_levels)
    with slow_slide(path, 0.0) as slide:
        levels, options, _ = slide_layer(slide)
        layer = viewer.add_image(levels, **options)
        slide.engine.source.seconds = 0.08
        yield viewer, layer, slide
        slide.engine.source.seconds = 0.0


def look(layer, level, y0, x0, y1, x1):
    """Draw a box of a level, as panning and zooming do; the seconds that it took."""
    layer._data_level = level
    layer.corner_pixels = np.array([[y0, x0], [y1 - 1, x1 - 1]])
    began = time.perf_counter()
    layer.refresh(thumbnail=False, extent=False, highlight=False)
    return time.perf_counter() - began


def seen(layer):
    return np.asarray(layer._slice.image.view)


def test_no_step_waits_for_tiles_and_every_view_ends_exact(shown, qtbot):
    _, layer, slide = shown
    spent, computed, rng = [], [], np.random.default_rng(2)
    slide.engine.source.gate.clear()
    for _ in range(12):
        level = int(rng.integers(0, 2))
        h, w = slide.levels[level].shape_px
        y, x = int(rng.integers(0, h - 500)), int(rng.integers(0, w - 600))
        began = time.thread_time()
        spent.append(look(layer, level, y, x, y + 500, x + 600))
        computed.append(time.thread_time() - began)
        assert seen(layer).shape == (500, 600, 3)
    box = (y, x, y + 500, x + 600)
    assert not sharpening_of(layer).picture.sharp
    assert max(spent) < 20  # no tile comes before the gate is opened: who waited for one would still wait
    assert max(computed) < 0.06
    slide.engine.source.gate.set()
    qtbot.waitUntil(lambda: sharpening_of(layer).picture.sharp, timeout=20_000)
    assert np.array_equal(seen(layer), slide.levels[level].read(*box))


def test_a_view_that_rests_looks_ahead(shown, qtbot):
    _, layer, slide = shown
    slide.engine.source.seconds = 0.0
    look(layer, 0, 512, 512, 1024, 1152)
    qtbot.waitUntil(lambda: sharpening_of(layer).picture.sharp)
    beside = [(0, row, 9) for row in range(4, 8)]
    qtbot.waitUntil(lambda: all(slide.engine.cached(*where) is not None for where in beside))
    look(layer, 0, 512, 640, 1024, 1280)
    assert sharpening_of(layer).picture.sharp
    assert np.array_equal(seen(layer), IMAGE[512:1024, 640:1280])


def test_what_is_drawn_first_is_the_coarser_picture_enlarged(shown):
    _, layer, slide = shown
    look(layer, 0, 128, 256, 640, 1024)
    drawn = seen(layer).astype(int)
    assert abs(drawn - IMAGE[128:640, 256:1024]).mean() < 12
    assert (drawn.reshape(-1, 3) != slide.background).any(axis=1).mean() > 0.9


def test_readers_get_exact_pixels_while_a_drawing_is_in_flight(shown, tmp_path):
    _, layer, slide = shown
    part = np.s_[300:420, 700:900]
    look(layer, 0, 0, 0, 1000, 1600)
    assert not np.array_equal(seen(layer)[part], IMAGE[part])
    found = []
    reader = threading.Thread(target=lambda: found.append(np.asarray(layer.data[0][part])))
    reader.start()
    assert np.array_equal(np.asarray(layer.data[0][part]), IMAGE[part])
    reader.join()
    assert np.array_equal(found[0], IMAGE[part])
    look(layer, 0, 900, 900, 1900, 2500)
    assert np.array_equal(slide.levels[0].dask[1500:1700, 2000:2100].compute(), IMAGE[1500:1700, 2000:2100])
    np.save(tmp_path / "saved.npy", layer.data[0][1700:1800, 1000:1200])
    assert np.array_equal(np.load(tmp_path / "saved.npy"), IMAGE[1700:1800, 1000:1200])


def test_a_tile_that_cannot_be_read_is_hatched_told_once_and_tried_again(shown, qtbot, monkeypatch):
    _, layer, slide = shown
    told = []
    monkeypatch.setattr("napari_mil.ui.compat.tell", lambda error: told.append(str(error)))
    monkeypatch.setattr("napari_mil.slides.faults.RETRY_S", 0.3)
    source = slide.engine.source
    source.seconds, source.broken = 0.0, {(0, 2, 3), (0, 3, 3)}
    look(layer, 0, 0, 0, 1000, 1600)
    qtbot.waitUntil(lambda: bool(told), timeout=5000)
    hatched = (seen(layer)[256:384, 384:512] == (214, 0, 110)).all(axis=-1)
    assert 0.05 < hatched.mean() < 0.3
    assert source.asked.count((0, 2, 3)) == 2
    source.broken = set()
    qtbot.waitUntil(lambda: sharpening_of(layer).picture.sharp, timeout=10_000)
    assert np.array_equal(seen(layer), IMAGE[:1000, :1600])
    assert len(told) == 1
    assert "row 2, column 3" in told[0] or "row 3, column 3" in told[0]


def test_tiles_that_fail_are_not_tried_again_while_nobody_sees_them(shown, qtbot, monkeypatch):
    _, layer, slide = shown
    monkeypatch.setattr("napari_mil.ui.compat.tell", lambda _error: None)
    monkeypatch.setattr("napari_mil.slides.faults.RETRY_S", 0.05)
    monkeypatch.setattr(slicing, "SOONEST_S", 0.05)
    sharpening, source, refreshed = sharpening_of(layer), slide.engine.source, []
    source.seconds, source.broken = 0.0, {(0, 2, 3)}
    look(layer, 0, 0, 0, 1000, 1600)
    qtbot.waitUntil(lambda: source.asked.count((0, 2, 3)) >= 4)  # tried twice, and again
    layer.visible = False
    for timer in (sharpening._soon, sharpening._again):
        qtbot.waitUntil(lambda timer=timer: not timer.isActive())
    draw = sharpening.refresh
    monkeypatch.setattr(sharpening, "refresh", lambda: (refreshed.append(1), draw()))
    asked = len(source.asked)
    qtbot.wait(400)
    assert len(refreshed) <= 1
    assert len(source.asked) == asked
    source.broken = set()
    layer.visible = True
    look(layer, 0, 0, 0, 1000, 1600)
    qtbot.waitUntil(lambda: sharpening.picture.sharp, timeout=10_000)
    assert np.array_equal(seen(layer), IMAGE[:1000, :1600])


def test_going_to_the_coarsest_level_ends_what_the_view_before_wanted(shown, qtbot):
    _, layer, slide = shown
    source, picture = slide.engine.source, sharpening_of(layer).picture
    source.gate.clear()
    look(layer, 0, 0, 0, 1900, 2500)
    qtbot.waitUntil(lambda: bool(picture._awaited))
    look(layer, 2, 0, 0, *slide.levels[2].shape_px)
    assert not picture._awaited
    assert picture.sharp
    source.gate.set()
    qtbot.waitUntil(lambda: slide.engine.idle)
    assert len({where for where in source.asked if where[0] == 0}) <= WAITING_THREADS


def test_a_level_that_the_file_lacks_lies_right_at_the_far_corner(make_napari_viewer, tmp_path):
    image = picture(2001, 2601)
    viewer = make_napari_viewer()
    compat.watch_layers(viewer, place_levels)
    with slow_slide(write_pyramid(tmp_path / "b.tif", image, levels=2, step=4), 0.0) as slide:
        levels, options, _ = slide_layer(slide)
        assert [level.shape_px for level in levels] == [(2001, 2601), (1001, 1301), (500, 650)]
        layer = viewer.add_image(levels, **(options | {"scale": (1, 1), "units": ("pixel", "pixel")}))
        look(layer, 1, 900, 1200, 1000, 1300)
        at = layer._transforms["tile2data"]
        assert at.scale.tolist() == [2, 2]
        assert at.translate.tolist() == [1800.5, 2400.5]


def test_what_was_drawn_with_a_view_is_not_drawn_again(shown, qtbot, monkeypatch):
    _, layer, slide = shown
    sharpening, refreshed = sharpening_of(layer), []
    slide.engine.source.gate.clear()
    look(layer, 0, 0, 0, 1000, 1600)
    with monkeypatch.context() as patch:
        patch.setattr(layer, "refresh", lambda **_: refreshed.append(sharpening.picture.behind))
        sharpening._tell(False)  # of a tile of the view before, say
        assert sharpening.pending
        qtbot.waitUntil(lambda: not sharpening.pending, timeout=5000)
        assert not refreshed
        slide.engine.source.gate.set()
        qtbot.waitUntil(lambda: bool(refreshed), timeout=20_000)
    assert all(refreshed)


def test_a_slide_that_was_closed_is_still_drawn(shown):
    _, layer, slide = shown
    slide.close()
    look(layer, 0, 0, 0, 1000, 1600)
    assert seen(layer).shape == (1000, 1600, 3)


def test_a_layer_that_gets_another_slide_draws_that_one(shown, tmp_path, qtbot):
    viewer = shown[0]
    other = picture(900, 1300, seed=5)
    path = write_pyramid(tmp_path / "b.tif", other, "zlib", levels=2, mpp=(0.25, 0.5))
    with slow_slide(path, 0.02) as slide:
        sync(viewer, [slide_layer(shown[2])])
        first = viewer.layers[-1]
        first.name, first.opacity, first.visible = "mine", 0.5, False
        look(first, 0, 0, 0, 900, 1300)
        sync(viewer, [slide_layer(slide)])
        layer = viewer.layers[-1]
        if hasattr(layer, "_reset_data_level"):  # napari 0.9
            assert layer is first
            assert layer.opacity == 0.5
        assert (layer.name, layer.visible, tuple(layer.scale)) == ("b", True, (0.25, 0.5))
        assert layer.metadata["napari-mil"]["slide"] == slide.fingerprint
        look(layer, 0, 0, 0, 900, 1300)
        qtbot.waitUntil(lambda: sharpening_of(layer).picture.sharp, timeout=20_000)
        assert np.array_equal(seen(layer), other)
        sync(viewer, [])


def test_a_napari_that_slices_otherwise_draws_exactly_and_says_why(shown, monkeypatch):
    _, layer, _ = shown
    told = []
    monkeypatch.setattr("napari_mil.ui.compat.tell", told.append)
    slicing.say_unknown.cache_clear()
    unknown = SimpleNamespace(data_of_tomorrow=layer.data)
    assert sharpening_of(layer).drawn(unknown) is unknown
    other = SimpleNamespace(metadata={"napari-mil": {}}, multiscale=True, data=layer.data)
    place_levels(other)
    assert len(told) == 1
    assert "slides are drawn exactly" in told[0]
    slicing.say_unknown.cache_clear()


def paintings(viewer, layer, qtbot, centre):
    """Whether each painting that a moved view leads to begins with the layer holding what is looked at."""
    draw, held = compat.main_window(viewer)._qt_viewer.canvas._scene_canvas.events.draw, []

    def note(_event):
        (y0, x0, y1, x1), (low, high) = compat.visible_box(viewer), layer.corner_pixels[:, :2]
        held.append(bool((low <= (y0, x0)).all() and (high >= (y1 - 1, x1 - 1)).all()))

    for _ in range(5):
        QApplication.processEvents()
    # before the scene is drawn, after what else is called before that
    draw.connect(note, after=[compat._BEFORE] if compat._BEFORE in draw.callback_refs else None)
    compat.camera(viewer).center = (0, *centre)
    qtbot.waitUntil(lambda: bool(held))
    for _ in range(5):
        QApplication.processEvents()
    draw.disconnect(note)
    return held


@pytest.mark.parametrize("ours", [False, True])
def test_a_moved_view_is_painted_once_with_what_is_in_it(make_napari_viewer, path, qtbot, ours):
    viewer = make_napari_viewer(show=True)
    compat.main_window(viewer).resize(900, 700)
    compat.watch_layers(viewer, place_levels)
    for _ in range(2 * ours):  # twice is once
        compat.slice_before_painting(viewer)
    with slow_slide(path, 0.0) as slide:
        slide.levels[0].read(0, 0, *slide.levels[0].shape_px)  # nothing has to come later
        levels, options, _ = slide_layer(slide)
        layer = viewer.add_image(levels, **(options | {"scale": (1, 1), "units": ("pixel", "pixel")}))
        compat.camera(viewer).zoom = 2
        paintings(viewer, layer, qtbot, (600, 700))
        held = paintings(viewer, layer, qtbot, (1300, 1900))
        # napari alone paints the view before, and then again
        assert held == ([True] if ours else [False, True])


def test_what_fails_after_its_layer_has_gone_is_told_to_nobody(path, monkeypatch):
    """A thread may hold what tells of a failure for longer than there is a layer that shows the slide."""
    held, said = [], []

    class Late:
        def __init__(self, engine, path, told):
            held.append(told)

        def leave(self):
            held[0]("while it goes")

    monkeypatch.setattr(slicing, "Companion", Late)
    monkeypatch.setattr(compat, "tell", said.append)
    with slow_slide(path, 0.0) as slide:
        levels, options, _ = slide_layer(slide)
        layer = Image(levels, **options)
        place_levels(layer)
        held[0]("while it is there")
        gone = weakref.ref(sharpening_of(layer))
        del layer
        gc.collect()
        assert gone() is None
        held[0]("after it")
        QApplication.processEvents()
    assert said == ["while it is there"]
