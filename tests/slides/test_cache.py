"""The cache of decoded tiles."""

from __future__ import annotations

import gc
import threading
import weakref

import numpy as np

from napari_mil.slides.cache import TileCache

TILE = np.zeros((8, 8, 3), np.uint8)


def test_the_garbage_collector_may_let_go_of_a_slide_in_the_midst_of_anything(monkeypatch):
    """As it did: a file on a server was collected while the thread that met it kept a tile."""
    cache, done = TileCache(10 * TILE.nbytes), []
    for at in range(4):
        cache.put((1, 0, at, 0), TILE)

    class Owner:
        pass

    def forgotten():
        owner = Owner()
        owner.itself = owner  # only the collector finds it
        weakref.finalize(owner, cache.drop, 1).atexit = False

    shrink = cache._shrink

    def collecting():
        forgotten()
        gc.collect()
        shrink()

    monkeypatch.setattr(cache, "_shrink", collecting)

    def use():
        cache.put((2, 0, 0, 0), TILE)
        done.append(cache.used)

    thread = threading.Thread(target=use, daemon=True)
    thread.start()
    thread.join(20)
    assert done == [TILE.nbytes]  # it ended, and of the slide nothing is left
    assert cache.get((2, 0, 0, 0)) is TILE
    assert cache.get((1, 0, 0, 0)) is None
