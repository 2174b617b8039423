"""What is drawn of a slide: at once, coarse where nothing finer is there, exact in the end."""

from __future__ import annotations

import threading
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from slidefiles import picture, write_pyramid
from slowsource import slow_slide, until

from napari_mil.slides.picture import Picture, blocks, centres
from napari_mil.slides.workers import VIEW_THREADS, Workers

IMAGE = picture(1500, 1900)
BOX = (100, 200, 1100, 1500)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_pyramid(tmp_path_factory.mktemp("picture") / "a.tif", IMAGE, levels=3, tile=(128, 128))


@pytest.fixture
def slow(path):
    with slow_slide(path, 0.02) as slide:
        yield slide


def test_the_coarser_level_is_asked_first_then_the_tiles_from_the_centre_out(slow):
    made = Picture(slow.levels, lambda _last: None)
    slow.engine.source.asked.clear()
    made.draw(0, BOX)
    until(lambda: not made._awaited)
    asked = slow.engine.source.asked
    coarse = [where for where in asked if where[0] == 1]
    assert coarse
    assert asked[: len(coarse)] == coarse
    far = [np.hypot(row - 4.2, col - 6.1) for _, row, col in asked[len(coarse) :]]
    assert np.mean(far[:10]) < np.mean(far[-10:]) / 2
    assert len(asked) == len(set(asked))


def test_the_same_box_gives_the_same_array_which_ends_exact(slow):
    done = []
    made = Picture(slow.levels, done.append)
    first = made.draw(0, BOX)
    assert not made.sharp
    until(lambda: True in done)
    assert made.draw(0, BOX) is first
    assert made.sharp
    assert np.array_equal(first, IMAGE[100:1100, 200:1500])


def test_tiles_are_asked_for_when_what_was_drawn_is_on_the_screen(slow):
    waiting = []
    made = Picture(slow.levels, lambda _last: None, waiting.append)
    slow.engine.source.asked.clear()
    made.draw(0, (0, 0, 600, 600))
    made.draw(0, BOX)
    assert not slow.engine.source.asked
    for act in waiting:
        act()
    until(lambda: not made._awaited)
    assert np.array_equal(made.draw(0, BOX), IMAGE[100:1100, 200:1500])


def test_a_view_whose_tiles_are_there_in_a_moment_is_sharp_at_once_and_drawn_once(path, monkeypatch):
    monkeypatch.setattr("napari_mil.slides.picture._PATIENCE_S", 20)
    with slow_slide(path, 0.0) as slide:
        told = []
        made = Picture(slide.levels, told.append, lambda _act: pytest.fail("nothing is missing"))
        monkeypatch.setattr(slide.engine, "takes_s", lambda tiles: 0.1 * tiles)
        assert np.array_equal(made.draw(0, (0, 0, 300, 300)), IMAGE[:300, :300])
        slide.engine.source.broken.add((0, 3, 0))
        waiting = []
        made._later = waiting.append
        drawn = made.draw(0, (100, 0, 400, 300))
        assert np.array_equal(drawn[:284], IMAGE[100:384, :300])
        assert waiting
        assert not told


def test_a_view_waits_no_longer_than_a_moment(path, monkeypatch):
    with slow_slide(path, 0.0) as slide:
        asked, told = [], []
        made = Picture(slide.levels, told.append, asked.append)
        monkeypatch.setattr(slide.engine, "takes_s", lambda tiles: 1e-6 * tiles)  # which proves wrong
        slide.engine.source.gate.clear()
        drawn = made.draw(0, BOX)
        assert not made.sharp
        assert abs(drawn.astype(int) - IMAGE[100:1100, 200:1500]).mean() < 30
        slide.engine.source.gate.set()
        asked.pop()()
        until(lambda: True in told and not made._awaited)
        assert np.array_equal(made.draw(0, BOX), IMAGE[100:1100, 200:1500])
        assert made.sharp


def test_the_latest_view_wins_and_what_nobody_looks_at_is_dropped(slow):
    made = Picture(slow.levels, lambda _last: None)
    slow.engine.source.asked.clear()
    for x in range(0, 1200, 100):
        made.draw(0, (0, x, 600, x + 600))
    until(lambda: not made._awaited)
    assert np.array_equal(made.draw(0, (0, 1100, 600, 1700)), IMAGE[:600, 1100:1700])
    assert len([where for where in slow.engine.source.asked if where[0] == 0 and where[2] < 7]) < 12  # of 35


def test_a_cache_too_small_for_the_view_ends_exact_all_the_same(path):
    with slow_slide(path, 0.0, cache_bytes=4 * 128 * 128 * 3) as slide:
        made = Picture(slide.levels, lambda _last: None)
        slide.engine.source.asked.clear()
        made.draw(0, BOX)
        until(lambda: not made._awaited)
        assert np.array_equal(made.draw(0, BOX), IMAGE[100:1100, 200:1500])
        assert len(slide.engine.source.asked) < 130


def test_a_slide_of_one_large_level_is_drawn_from_its_background(path, monkeypatch):
    monkeypatch.setattr("napari_mil.slides.picture.WHOLE_PX", 1000)
    with slow_slide(path, 0.05) as slide:
        made = Picture(slide.levels[2:], lambda _last: None)
        assert made.exact(0) is None
        whole = Picture(slide.levels, lambda _last: None)
        assert (whole.draw(2, (0, 0, 300, 400)) == slide.background).all()
        until(lambda: not whole._awaited)
        assert np.array_equal(whole.draw(2, (0, 0, 300, 400)), slide.levels[2].read(0, 0, 300, 400))


@given(st.sets(st.tuples(st.integers(0, 6), st.integers(0, 6))))
@settings(max_examples=80, deadline=None)
def test_blocks_cover_each_cell_once(cells):
    covered = [(r, c) for r0, c0, r1, c1 in blocks(cells) for r in range(r0, r1) for c in range(c0, c1)]
    assert sorted(covered) == sorted(cells)


def test_a_pixel_is_drawn_from_the_coarser_one_under_its_centre():
    assert centres(0, 8, 2 / 8, 2).tolist() == [0] * 4 + [1] * 4
    assert centres(5, 7, 2 / 7, 2).tolist() == [1, 1]


def test_a_view_whose_tiles_take_long_leaves_a_processor_to_the_thread_that_draws(monkeypatch):
    monkeypatch.setattr("napari_mil.slides.workers.LONG_S", 0)  # they do
    at_once, most, done = 0, 0, threading.Event()
    lock = threading.Lock()

    def compute(last):
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        sum(range(20_000))
        with lock:
            at_once -= 1
        if last:
            done.set()

    made = Workers("test")
    made.want("view", [partial(compute, i == 99) for i in range(100)])
    assert done.wait(20)
    made.stop()
    made.join()
    assert most <= VIEW_THREADS


def test_what_the_view_before_showed_is_kept_and_painted_over(slow):
    made = Picture(slow.levels, lambda _last: None)
    rng = np.random.default_rng(3)
    y = x = 300
    for _ in range(15):
        y, x = (int(np.clip(v + rng.integers(-300, 300), 0, 500)) for v in (y, x))
        drawn = made.draw(0, (y, x, y + 700, x + 900))
        assert abs(drawn.astype(int) - IMAGE[y : y + 700, x : x + 900]).mean() < 30  # never another place's
    until(lambda: not made._awaited)
    assert np.array_equal(made.draw(0, (y, x, y + 700, x + 900)), IMAGE[y : y + 700, x : x + 900])
