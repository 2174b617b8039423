"""The tile cache, the decode threads, and what becomes of them when a slide is closed."""

from __future__ import annotations

import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from slidefiles import picture, write_pyramid
from slowsource import slow_slide, until

from napari_mil.errors import SlideError
from napari_mil.slides import cache, open_slide, tiles
from napari_mil.slides.cache import TileCache
from napari_mil.slides.slots import Slots
from napari_mil.slides.tiff import open_source
from napari_mil.slides.tiles import Engine
from napari_mil.slides.workers import DECODE_THREADS, WAITING_THREADS

IMAGE = picture(700, 900)


class Counting:
    """A source that remembers which tiles were decoded."""

    def __init__(self, source):
        self._source, self.info, self.asked = source, source.info, []
        self.hold = threading.Event()
        self.hold.set()

    def tile(self, level, row, col):
        self.hold.wait(20)
        self.asked.append((level, row, col))
        return self._source.tile(level, row, col)

    def close(self):
        self._source.close()


@pytest.fixture
def path(tmp_path):
    return write_pyramid(tmp_path / "a.tif", IMAGE, levels=2, tile=(128, 64))


@pytest.fixture
def counted(path):
    source = Counting(open_source(path))
    engine = Engine(source, "a.tif", cache=TileCache(2**28))
    yield engine, source
    source.hold.set()
    engine.close()


def decoders(token):
    return [t for t in threading.enumerate() if t.name.startswith(f"slide-{token}-decode")]


def open_files():
    listed = Path("/proc/self/fd")
    return len(list(listed.iterdir())) if listed.is_dir() else None


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 40)), max_size=60), st.integers(30, 100))
def test_the_cache_never_holds_more_than_its_bound(puts, capacity):
    cache = TileCache(capacity)
    for name, size in puts:
        cache.put((0, 0, 0, name), np.zeros(size, np.uint8))
        held = [cache.get((0, 0, 0, n)) for n in range(10)]
        assert sum(t.nbytes for t in held if t is not None) == cache.used <= capacity
        assert size > capacity or cache.get((0, 0, 0, name)) is not None
    cache.drop(0)
    assert cache.used == 0


def test_the_least_recently_used_tile_leaves_first():
    cache = TileCache(2)
    one = np.zeros(1, np.uint8)
    for name in range(2):
        cache.put((0, 0, 0, name), one)
    cache.get((0, 0, 0, 0))
    cache.put((0, 0, 0, 2), one)
    assert [cache.get((0, 0, 0, n)) is not None for n in range(3)] == [True, False, True]


def test_pictures_count_as_long_as_they_live_and_leave_tiles_half_of_the_bound():
    cache = TileCache(100)
    one, other = type("Picture", (), {})(), type("Picture", (), {})()
    for name in range(10):
        cache.put((0, 0, 0, name), np.zeros(10, np.uint8))
    cache.make_room(one, 15)
    assert cache.used == 80
    cache.make_room(one, 25)
    cache.make_room(other, 5)
    assert cache.used == 70
    cache.make_room(other, 500)
    assert cache.used == 50
    del one, other
    for name in range(10):
        cache.put((1, 0, 0, name), np.zeros(10, np.uint8))
    assert cache.used == 100


def test_what_others_keep_for_the_tiles_counts_in_the_bound():
    cache = TileCache(100)
    other, picture = type("Other", (), {})(), type("Picture", (), {})()
    for name in range(10):
        cache.put((0, 0, 0, name), np.zeros(10, np.uint8))
    cache.reserve(other, 20)
    assert cache.used == 80
    cache.make_room(picture, 500)
    assert cache.used == 40
    cache.reserve(other, 500)
    cache.put((1, 0, 0, 0), np.zeros(10, np.uint8))
    assert cache.used == 0
    del other, picture
    for name in range(10):
        cache.put((1, 0, 0, name), np.zeros(10, np.uint8))
    assert cache.used == 100
    cache.forget((1, 0, 0, 3))
    cache.forget((1, 0, 0, 3))
    assert cache.used == 90


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(*[st.integers(-150, 1100)] * 4).map(
        lambda b: (min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]), max(b[1], b[3]))
    )
)
def test_a_box_is_what_the_picture_shows_and_background_outside(box):
    y0, x0, y1, x1 = box
    padded = np.full((1100 + 150, 1100 + 150, 3), 255, np.uint8)
    padded[150 : 150 + 700, 150 : 150 + 900] = IMAGE
    assert np.array_equal(SHARED.read(*box), padded[y0 + 150 : y1 + 150, x0 + 150 : x1 + 150])


@pytest.fixture(scope="module", autouse=True)
def shared(tmp_path_factory):
    global SHARED  # noqa: PLW0603 - hypothesis does not mix with function-scoped fixtures
    path = write_pyramid(tmp_path_factory.mktemp("tiles") / "b.tif", IMAGE, tile=(128, 64))
    with open_slide(path) as slide:
        SHARED = slide.levels[0]
        yield


def test_many_threads_read_the_same_pixels_and_decode_no_tile_twice(counted):
    engine, source = counted
    rng = np.random.default_rng(1)
    boxes = [(y, x, y + 200, x + 260) for y, x in rng.integers(0, 600, (200, 2)).tolist()]
    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(lambda box: engine.box(0, *box), boxes))
    for (y0, x0, y1, x1), pixels in zip(boxes, found, strict=True):
        part = IMAGE[y0:y1, x0:x1]
        assert np.array_equal(pixels[: part.shape[0], : part.shape[1]], part)
    assert len(source.asked) == len(set(source.asked))


def test_two_who_want_the_same_tile_at_once_share_one_decoding(counted):
    engine, source = counted
    source.hold.clear()
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(engine.box, 0, 0, 0, 10, 10) for _ in range(4)]
        source.hold.set()
        first, *others = [a.result() for a in asked]
    assert source.asked == [(0, 0, 0)]
    assert all(np.array_equal(first, other) for other in others)


def test_all_who_wait_for_a_tile_hear_that_it_failed(counted, monkeypatch):
    engine, source = counted
    waiting = threading.Barrier(4)

    class Waiter(tiles.Future):
        def result(self, timeout=None):
            waiting.wait(20)
            return super().result(timeout)

    def broken(level, row, col):
        if not source.asked:  # the first time all others wait by now
            waiting.wait(20)
        source.asked.append((level, row, col))
        raise SlideError("planted.")

    monkeypatch.setattr(tiles, "Future", Waiter)
    sound, source.tile = source.tile, broken
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(engine.box, 0, 0, 0, 10, 10) for _ in range(4)]
        assert all("planted" in str(one.exception(20)) for one in asked)
    assert source.asked == [(0, 0, 0)] * 2
    source.tile = sound
    assert np.array_equal(engine.box(0, 0, 0, 10, 10), IMAGE[:10, :10])


def test_tiles_are_handed_out_of_the_cache_only_when_they_are_there(counted):
    engine, _ = counted
    assert engine.cached(0, 0, 0) is None
    engine.box(0, 0, 0, 10, 10)
    tile = engine.cached(0, 0, 0)
    assert np.array_equal(tile, IMAGE[:128, :64])
    assert not tile.flags.writeable


def test_closing_ends_the_threads_forgets_the_tiles_and_frees_the_file(path):
    files = open_files()
    slide = open_slide(path)
    slide.levels[0].read(0, 0, 700, 900)
    assert decoders(slide.engine.token)
    slide.close()
    slide.close()
    assert not decoders(slide.engine.token)
    assert slide.engine.cached(0, 0, 0) is None
    assert open_files() == files
    with pytest.raises(SlideError, match=r"a\.tif has been closed; open the slide again"):
        slide.levels[0].read(0, 0, 10, 10)


def test_closing_waits_for_a_read_under_way(counted):
    engine, source = counted
    source.hold.clear()
    with ThreadPoolExecutor(2) as pool:
        reading = pool.submit(engine.box, 0, 0, 0, 700, 900)
        while not engine._reading:
            threading.Event().wait(0.001)
        closing = pool.submit(engine.close)
        source.hold.set()
        assert np.array_equal(reading.result(), IMAGE)
        closing.result()
    assert engine.closed


def test_closing_does_not_wait_for_a_server_that_does_not_answer(path, monkeypatch):
    monkeypatch.setattr("napari_mil.slides.tiles.CLOSES_S", 0.1)
    slide = slow_slide(path, 0.0)
    source, closed = slide.engine.source, threading.Event()
    close = source.close
    source.close = lambda: (close(), closed.set())
    source.gate.clear()
    slide.engine.want("view", [(0, 0, 0), (0, 0, 1)], lambda *_: None)
    until(lambda: bool(source.asked))
    slide.close()
    assert not closed.is_set()
    source.gate.set()
    assert closed.wait(10)  # by the read that was last


def test_a_forgotten_slide_gives_file_and_threads_back(path):
    slide = open_slide(path)
    slide.levels[0].read(0, 0, 700, 900)
    token, threads = slide.engine.token, decoders(slide.engine.token)
    assert threads
    del slide
    gc.collect()
    for thread in threads:
        thread.join(20)
    assert not decoders(token)


def test_an_error_in_a_decode_thread_reaches_the_reader_and_the_rest_stays_readable(path):
    with open_slide(path) as slide:
        source = slide.engine.source
        page = source._pages[0]
        offsets = page.offsets.copy()
        offsets[20] = source._file.size - 10
        object.__setattr__(page, "offsets", offsets)
        with pytest.raises(
            SlideError, match=r"row 1, column 5 of the level of 900 × 700 px is damaged \(10 of"
        ):
            slide.levels[0].read(0, 0, 700, 900)
        assert np.array_equal(slide.levels[0].read(256, 0, 700, 900), IMAGE[256:])


def test_the_size_of_the_cache_is_a_tenth_of_the_memory_unless_said(monkeypatch):
    monkeypatch.delenv(cache.VARIABLE, raising=False)
    monkeypatch.setattr(cache.psutil, "virtual_memory", lambda: SimpleNamespace(total=8 * 2**30))
    assert cache.default_bytes() == 8 * 2**30 // 10
    monkeypatch.setattr(cache.psutil, "virtual_memory", lambda: SimpleNamespace(total=2**40))
    assert cache.default_bytes() == 2 * 2**30
    monkeypatch.setenv(cache.VARIABLE, "77")
    assert cache.default_bytes() == 77 * 2**20
    monkeypatch.setenv(cache.VARIABLE, "much")
    with pytest.raises(SlideError, match=r"NAPARI_MIL_CACHE_MB is 'much'; give a number of megabytes"):
        cache.default_bytes()


def test_a_smaller_bound_lets_tiles_go_at_once():
    held = TileCache(100)
    for name in range(10):
        held.put((0, 0, 0, name), np.zeros(10, np.uint8))
    held.resize(35)
    assert held.used == 30
    assert held.get((0, 0, 0, 9)) is not None


def test_a_tile_that_fails_is_tried_once_more_and_never_kept(path):
    with slow_slide(path, 0.0) as slide:
        source = slide.engine.source
        source.broken = {(0, 1, 1)}
        with pytest.raises(SlideError, match=r"a\.tif: the tile in row 1, column 1 is damaged"):
            slide.levels[0].read(0, 0, 700, 900)
        assert source.asked.count((0, 1, 1)) == 2
        assert slide.engine.cached(0, 1, 1) is None
        assert "row 1, column 1" in str(slide.engine.fault(0, 1, 1))
        source.broken = set()
        assert np.array_equal(slide.levels[0].read(0, 0, 700, 900), IMAGE)
        assert slide.engine.fault(0, 1, 1) is None


def test_tiles_that_let_one_wait_are_fetched_many_at_once(path):
    with slow_slide(path, 0.03) as slide:
        got, all_there = [], threading.Event()
        tiles = [(0, row, col) for row in range(5) for col in range(14)]

        def deliver(where, found):
            got.append(where)
            if len(got) == len(tiles):
                all_there.set()

        slide.engine.want("view", tiles, deliver)
        assert all_there.wait(20)
        assert DECODE_THREADS < len(decoders(slide.engine.token)) <= WAITING_THREADS


def test_tiles_use_the_same_memory_again_and_give_it_back():
    process, slots = psutil.Process(), Slots()
    big = np.full((512, 512, 3), 7, np.uint8)
    before = process.memory_info().rss
    for _ in range(3):
        kept = [slots.keep(big) for _ in range(96)]
        part = kept[0][:5, :5]
        assert all((one == 7).all() and not one.flags.writeable for one in kept)
        assert 70 * 2**20 < process.memory_info().rss - before < 90 * 2**20
        del kept
    other = slots.keep(np.zeros((512, 512, 3), np.uint8))  # in the place of one that is gone
    assert (part == 7).all()  # a part of a tile keeps it
    del part, other
    slots.give_back()
    assert process.memory_info().rss - before < 15 * 2**20
