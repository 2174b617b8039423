"""The plugin is first used: preferences are followed."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest
from npe2 import PluginManifest
from PIL import Image
from slidefiles import write_pyramid

import napari_mil
from napari_mil.slides import cache
from napari_mil.slides.copies import COPIES
from napari_mil.ui import compat, opening, reader
from napari_mil.ui.activation import activate, follow_preferences
from napari_mil.ui.slicing import sharpening_of


def test_the_preference_bounds_the_cache_of_tiles(request):
    settings = pytest.importorskip("napari.settings")
    if not hasattr(settings, "get_plugin_settings"):
        assert follow_preferences() is False
        return
    manager = request.getfixturevalue("npe2pm")
    request.getfixturevalue("plugin_settings")
    assert follow_preferences() is False
    manager.register(PluginManifest.from_file(Path(napari_mil.__file__).with_name("napari.yaml")))
    try:
        assert follow_preferences()
        assert cache.shared_cache.capacity == cache.default_bytes()
        settings.get_plugin_settings("napari-mil").slides.cache_mb = 321
        assert cache.shared_cache.capacity == 321 * 2**20
        settings.get_plugin_settings("napari-mil").slides.copies_gb = 7
        assert COPIES.bound_bytes() == 7 * 2**30
    finally:
        cache.set_cache_mb(0)
        COPIES.set_bound_gb(None)


def test_what_the_window_holds_is_left_in_peace_until_it_closes(own_viewer, qtbot):
    viewer = own_viewer
    before = gc.get_freeze_count()
    activate()
    assert gc.get_freeze_count() > before
    viewer.close()
    qtbot.waitUntil(lambda: gc.get_freeze_count() == 0, timeout=5000)
    if before:
        gc.freeze()  # as the suite does


def test_a_window_that_came_later_is_attended_to_as_well(make_napari_viewer, tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "TAKERS", [])
    made = []
    for name in ("a", "b"):
        viewer = make_napari_viewer()
        monkeypatch.setattr(compat, "current_viewer", lambda viewer=viewer: viewer)
        if not made:
            activate()
        image = np.full((600, 700, 3), 200, np.uint8)
        opening.show(viewer, write_pyramid(tmp_path / f"{name}.tif", image, levels=2))
        made.append(viewer)
    for viewer in made:
        assert sharpening_of(viewer.layers[0]) is not None
        draw = compat.main_window(viewer)._qt_viewer.canvas._scene_canvas.events.draw
        assert compat._BEFORE in draw.callback_refs
        viewer.layers[0].data[0].engine.close()


def test_whatever_is_said_to_be_a_slide_is_opened_and_what_is_none_is_told(
    make_napari_viewer, tmp_path, monkeypatch
):
    monkeypatch.setattr(reader, "TAKERS", [])
    told = []
    monkeypatch.setattr(compat, "tell", lambda error: told.append(str(error)))
    viewer = make_napari_viewer()
    Image.fromarray(np.full((300, 400, 3), 200, np.uint8)).save(tmp_path / "photo.png")
    (tmp_path / "no.svs").write_text("no slide")
    for name in ("photo.png", "no.svs"):
        opening.show(viewer, tmp_path / name)
    assert [layer.name for layer in viewer.layers] == ["photo"]
    assert len(told) == 1
    assert "no.svs" in told[0]
    viewer.layers[0].data[0].engine.close()
