"""The plugin is first used: preferences are followed."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
from npe2 import PluginManifest

import napari_mil
from napari_mil.slides import cache
from napari_mil.ui.activation import activate, follow_preferences


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
    finally:
        cache.set_cache_mb(0)


def test_what_the_window_holds_is_left_in_peace_until_it_closes(qtbot):
    import napari

    viewer = napari.Viewer(show=False)
    before = gc.get_freeze_count()
    activate()
    assert gc.get_freeze_count() > before
    viewer.close()
    qtbot.waitUntil(lambda: gc.get_freeze_count() == 0, timeout=5000)
    if before:
        gc.freeze()  # as the suite does
