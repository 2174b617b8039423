"""Memory of pictures that replace each other."""

import threading

import numpy as np

from napari_mil.slides import canvases
from napari_mil.slides.canvases import Canvases


def ahead():
    """Wait for what is made ahead."""
    for thread in threading.enumerate():
        if thread.name.startswith("canvases"):
            thread.join(20)


def test_the_picture_before_stays_and_memory_is_used_again():
    made = Canvases()
    seen = []
    for i in range(6):
        canvas = made.blank(40, 50 - i)
        ahead()
        canvas[:] = i
        if seen:
            assert (seen[-1] == i - 1).all()
        seen.append(canvas)
    assert np.shares_memory(seen[3], seen[5])
    assert not np.shares_memory(seen[4], seen[5])


def test_memory_for_a_larger_picture_is_there_before_it_is_wanted():
    made = Canvases()
    made.blank(100, 100)
    ahead()
    waiting = list(made._spare)
    assert [len(one) for one in waiting] == [int(30_000 * canvases._GROWTH)] * 2
    assert np.shares_memory(made.blank(150, 150), waiting[-1])


def test_a_picture_beyond_what_is_foreseen_gets_its_memory_all_the_same(monkeypatch):
    monkeypatch.setattr(canvases, "_FORESEEN", 1000)
    made = Canvases()
    for size in (10, 100, 120, 10, 120):
        assert made.blank(size, size).shape == (size, size, 3)
        ahead()
    assert made.nbytes < 2.1 * 3 * 120**2
