"""While a view rests, what its next step is likely to show is decoded; a view that moves goes first."""

from __future__ import annotations

import threading
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from slidefiles import picture, write_pyramid
from slowsource import slow_slide, until

from napari_mil.slides import ahead, boxes
from napari_mil.slides.boxes import halves
from napari_mil.slides.info import LevelInfo, SlideInfo
from napari_mil.slides.picture import Picture
from napari_mil.slides.workers import DECODE_THREADS, Batch, Workers

IMAGE = picture(3000, 4000)
BOX = (1000, 1400, 1500, 2000)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_pyramid(tmp_path_factory.mktemp("ahead") / "a.tif", IMAGE, levels=4, tile=(128, 128))


@pytest.fixture
def slide(path):
    with slow_slide(path, 0.0) as slide:
        yield slide


def resting(slide, level=1, box=BOX):
    """A picture whose view is sharp."""
    made = Picture(slide.levels, lambda _last: None)
    made.draw(level, box)
    until(lambda: not made._awaited)
    made.draw(level, box)
    assert made.sharp
    return made


def at_rest(slide):
    """Whether nothing more is wanted later, and nothing is being found out or decoded."""
    workers = slide.engine._workers
    with workers._state:
        return not workers._later and not workers._viewing and slide.engine.idle


def looked_ahead(made, slide):
    made.look_ahead()
    until(lambda: at_rest(slide))


MOVES = {
    "half a view to the right": (1, (500, 1000, 1000, 1600)),
    "half a view up and left": (1, (250, 400, 750, 1000)),
    "in by two": (0, (1250, 1700, 1750, 2300)),
    "out by two": (2, (125, 200, 625, 800)),
}


@pytest.mark.parametrize(("level", "box"), MOVES.values(), ids=MOVES)
def test_the_next_step_finds_its_tiles(slide, level, box):
    made = resting(slide, 1, (500, 700, 1000, 1300))
    before = list(slide.engine.source.asked)
    looked_ahead(made, slide)
    asked = slide.engine.source.asked
    assert len(asked) > len(before)
    assert len(asked) == len(set(asked))  # nothing twice
    count = len(asked)
    drawn = made.draw(level, box)
    assert made.sharp
    assert len(asked) == count
    assert np.array_equal(drawn, slide.levels[level].read(*box))


def test_a_view_that_moves_leaves_what_was_not_begun(slide):
    made, source = resting(slide), slide.engine.source
    source.asked.clear()
    source.gate.clear()
    made.look_ahead()
    until(lambda: len(source.asked) > 0)
    box = (0, 0, 300, 300)
    view = {(1, row, col) for row in range(3) for col in range(3)}
    made.draw(1, box)
    source.gate.set()
    until(lambda: not made._awaited)
    made.draw(1, box)
    assert made.sharp
    assert len(set(source.asked) - view) <= 8 + 9  # begun before; and the coarser level's


def test_looking_ahead_takes_a_part_of_the_cache_alone(path):
    with slow_slide(path, 0.0, cache_bytes=8 * 2**20) as slide:
        made = resting(slide, 1, (500, 700, 900, 1200))
        count = len(slide.engine.source.asked)
        looked_ahead(made, slide)
        more = len(slide.engine.source.asked) - count
        assert more == 8 * 2**20 // 4 // (3 * 128 * 128)


def test_nothing_is_looked_at_ahead_while_somebody_reads_or_the_view_is_not_sharp(slide):
    made = resting(slide)
    source = slide.engine.source
    source.asked.clear()
    with slide.engine.reading():
        made.look_ahead()
        assert not slide.engine._workers._later
    assert source.asked == []
    source.gate.clear()
    made.draw(0, (0, 0, 400, 400))
    made.look_ahead()
    assert not slide.engine._workers._later
    source.gate.set()
    until(lambda: not made._awaited)


def test_a_tile_that_failed_unseen_is_hatched_and_told_when_it_is_looked_at(slide):
    told = []
    made, source = Picture(slide.levels, told.append), slide.engine.source
    made.draw(1, (500, 700, 1000, 1300))
    until(lambda: not made._awaited)
    made.draw(1, (500, 700, 1000, 1300))
    source.broken.add((1, 8, 6))
    looked_ahead(made, slide)
    assert (1, 8, 6) in source.asked
    assert not made.errors  # nobody has looked at it
    told.clear()
    view = (600, 700, 1150, 1300)
    until(
        lambda: made.draw(1, view) is not None and made._missing == {(1, 8, 6)}
    )  # others may be on their way
    drawn = made.draw(1, view)
    assert (drawn[8 * 128 - 600 + 40, 6 * 128 - 700 :][:128] == boxes._HATCH).all(1).any()
    assert [str(error) for error in made.errors] == [
        "a.tif: the tile in row 8, column 6 is damaged; get another copy."
    ]
    assert set(told) == {True}


def test_the_thread_that_draws_counts_no_tiles_however_many_there_are(tmp_path, monkeypatch):
    path = write_pyramid(tmp_path / "tiny.tif", picture(1200, 1600), levels=2, tile=(16, 16))
    with slow_slide(path, 0.0) as slide:
        made, threads = resting(slide, 0, (400, 500, 700, 900)), []
        cached = slide.engine.cached

        def noting(*where):
            threads.append(threading.current_thread())
            return cached(*where)

        monkeypatch.setattr(slide.engine, "cached", noting)
        looked_ahead(made, slide)
        assert len(threads) > 1000
        assert threading.current_thread() not in threads


def test_what_is_found_out_for_a_view_that_has_moved_is_not_wanted(slide, monkeypatch):
    made, source = resting(slide), slide.engine.source
    counting, go, cached = threading.Event(), threading.Event(), slide.engine.cached

    def slowly(*where):
        counting.set()
        go.wait(20)
        return cached(*where)

    with monkeypatch.context() as patch:
        patch.setattr(slide.engine, "cached", slowly)
        made.look_ahead()
        assert counting.wait(20)
    made.leave(3, (0, 0, *slide.levels[-1].shape_px))
    source.asked.clear()
    go.set()
    until(lambda: at_rest(slide))
    assert source.asked == []


def test_a_closed_slide_is_left_alone(path):
    with slow_slide(path, 0.0) as slide:
        made = resting(slide)
    made.look_ahead()
    assert not slide.engine._workers._later


def test_a_server_that_is_gone_is_not_asked_for_the_rest(slide):
    made, source = resting(slide), slide.engine.source
    asked = list(source.asked)
    source.broken = {(level, row, col) for level in range(4) for row in range(30) for col in range(40)}
    looked_ahead(made, slide)
    assert len(source.asked) - len(asked) <= 2 * 8  # each that was begun is tried twice


def test_the_coarsest_view_ends_the_one_before_and_is_looked_ahead_from(slide):
    made, source = Picture(slide.levels, lambda _last: None), slide.engine.source
    source.gate.clear()
    made.draw(0, (0, 0, 3000, 4000))
    until(lambda: len(source.asked) > 0)
    whole = (0, 0, *slide.levels[-1].shape_px)
    made.leave(3, whole)
    source.gate.set()
    until(lambda: slide.engine.idle)
    assert made.sharp
    assert len([w for w in source.asked if w[0] == 0]) <= 8
    source.asked.clear()
    looked_ahead(made, slide)
    assert {level for level, _, _ in source.asked} == {2}
    middle = (187, 250, 563, 750)
    count = len(source.asked)
    made.draw(2, middle)
    assert made.sharp
    assert len(source.asked) == count


def test_what_is_wanted_later_comes_after_all_that_somebody_waits_for():
    workers, order, done = Workers("later"), [], threading.Event()
    started, go = threading.Event(), threading.Event()

    def hold():
        started.set()
        go.wait(20)

    def say(word):
        order.append(word)
        if len(order) == 12:
            done.set()

    workers.want("first", [hold] * DECODE_THREADS)
    assert started.wait(20)
    workers.want("ahead", [partial(say, "later")] * 4, later=True)
    workers.share(Batch(4, lambda _i: say("read")))
    workers.want("view", [partial(say, "view")] * 4)
    go.set()
    assert done.wait(20)
    workers.stop()
    workers.join()
    assert sorted(order[-4:]) == ["later"] * 4


@pytest.fixture(scope="module")
def levels(path):
    with slow_slide(path, 0.0) as slide:
        yield slide.levels


@given(st.integers(0, 3), st.data())
def test_what_is_near_lies_in_its_level_and_holds_the_view(levels, at, data):
    h, w = levels[at].shape_px
    y0, x0 = data.draw(st.integers(0, h - 2)), data.draw(st.integers(0, w - 2))
    box = y0, x0, data.draw(st.integers(y0 + 1, h)), data.draw(st.integers(x0 + 1, w))
    found = list(ahead.near(levels, at, box))
    assert found[0][0] is levels[at]
    assert {level.index for level, _ in found[1:]} <= {at - 1, at + 1}
    for level, (a, b, c, d) in found:
        assert 0 <= a <= c <= level.shape_px[0]
        assert 0 <= b <= d <= level.shape_px[1]
    a, b, c, d = found[0][1]
    assert a <= box[0] <= box[2] <= c
    assert b <= box[1] <= box[3] <= d


def test_levels_whose_tiles_are_made_of_many_of_the_file_are_not_looked_ahead_at():
    known = SlideInfo(levels=(LevelInfo((50_000, 40_000), (256, 256)),), files=())
    sketch: set[int] = set()
    levels = (*known.levels, *halves(known))
    engine = SimpleNamespace(levels=levels, sketched=lambda level: level in sketch)
    drawn = [SimpleNamespace(engine=engine, index=i) for i in range(len(levels))]
    assert [ahead._dear(level) for level in drawn] == [False, False, False, True, True, True, True]
    sketch.add(3)
    assert [ahead._dear(level) for level in drawn] == [False] * 6 + [True]
