"""Levels that a file lacks are means of two by two pixels; sketches of tiles are for drawing alone."""

from __future__ import annotations

import time
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from slidefiles import picture, write_pyramid

from napari_mil.errors import SlideError
from napari_mil.slides import open_slide
from napari_mil.slides.boxes import halves, reduced
from napari_mil.slides.cache import TileCache
from napari_mil.slides.info import LevelInfo, Montage, SlideInfo
from napari_mil.slides.picture import Picture
from napari_mil.slides.slide import Level, Slide
from napari_mil.slides.tiff import open_source
from napari_mil.slides.tiles import Engine

IMAGE = picture(1501, 1907)


@pytest.fixture
def slide(tmp_path):
    path = write_pyramid(tmp_path / "a.tif", IMAGE, levels=2, tile=(128, 128), step=4)
    with Slide.of(path, Engine(open_source(path), path.name, cache=TileCache(2**28))) as made:
        yield made


def info(*shapes, **more):
    return SlideInfo(levels=tuple(LevelInfo(s, (256, 256)) for s in shapes), files=(), **more)


def test_levels_are_put_between_those_that_step_by_more_than_two():
    found = list(halves(info((40_001, 30_000), (10_000, 7_500), (2_500, 1_875), (1_250, 938))))
    assert [(one.shape_px, one.of) for one in found] == [((20_001, 15_000), 0), ((5_000, 3_750), 1)]
    assert [(o.shape_px, o.of) for o in halves(info((16_000, 16_000), (2_000, 2_000)))] == [
        ((8_000, 8_000), 0),
        ((4_000, 4_000), 2),
    ]
    assert not list(halves(info((4_000, 4_000), (2_000, 2_000), (800, 800))))
    assert not list(halves(info((4_000, 4_000), (1_000, 1_000), montage=Montage((10, 10), ()))))


def test_pixels_of_levels_in_between_lie_where_their_four_do_however_odd_the_sizes():
    known = info((40_001, 150_001), (5_001, 18_751))
    engine = SimpleNamespace(levels=(*known.levels, *halves(known)))
    whole, coarse, half, quarter = (Level.of(engine, i) for i in range(4))
    assert [level.shape_px[1] for level in (whole, half, quarter, coarse)] == [
        150_001,
        75_001,
        37_501,
        18_751,
    ]
    assert half.downsample == (2, 2)
    assert quarter.downsample == (4, 4)
    assert coarse.downsample == (40_001 / 5_001, 150_001 / 18_751)


def test_a_level_in_between_is_the_mean_of_four_pixels(slide):
    assert len(slide.levels) == 2
    between = slide.drawn_levels[1]
    assert between.shape_px == (751, 954)
    whole = np.asarray(between)
    even = IMAGE[:1500, :1906].astype(int)
    mean = sum(even[y::2, x::2] for y in (0, 1) for x in (0, 1)) / 4
    assert abs(whole[:750, :953] - mean).max() <= 0.5
    edge = (IMAGE[1500, 0:1906:2].astype(int) + IMAGE[1500, 1:1906:2]) / 2
    assert abs(whole[750, :953] - edge).max() <= 0.5
    assert np.array_equal(between[300:400, 500:600], whole[300:400, 500:600])
    assert [round(level.downsample[0]) for level in slide.drawn_levels] == [1, 2, 4]


def test_slides_are_read_from_the_levels_of_the_file(slide):
    assert [level.index for level in slide.levels] == [0, 1]
    box = slide.read((0, 0, 1024, 1024), out_px=(512, 512))
    engine = slide.engine
    assert not any(key[1] == 2 for key in engine.cache._tiles)
    assert box.shape == (512, 512, 3)


class Paint:
    """A sketch in one colour."""

    def __init__(self, levels, *, broken=False):
        self.levels, self.broken, self.closed, self.asked = levels, broken, 0, []

    def has(self, level):
        return level in self.levels

    def tile(self, level, row, col):
        self.asked.append((level, row, col))
        if self.broken:
            raise SlideError("it is damaged")
        return np.full((128, 128, 3), 7, np.uint8)

    def close(self):
        self.closed += 1


def until(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def drawn(slide, level, box):
    made = Picture(slide.drawn_levels, lambda _last: None)
    made.draw(level, box)
    until(lambda: not made._awaited)
    return made.draw(level, box).copy()


def test_only_drawing_sees_a_sketch(slide):
    sketch = Paint({2})
    slide.engine.draw_with(sketch)
    box = (128, 128, 512, 512)
    assert (drawn(slide, 2, box) == 7).all()
    assert sketch.asked
    between = slide.drawn_levels[1]
    exact = reduced(IMAGE, (2, 2))[128:512, 128:512]
    assert np.array_equal(between.read(*box), exact)
    assert np.array_equal(between.dask[128:512, 128:512].compute(), exact)
    assert np.array_equal(slide.levels[0].read(0, 0, 300, 300), IMAGE[:300, :300])
    assert np.array_equal(drawn(slide, 2, box), exact)  # now that it is in the cache
    slide.close()
    assert sketch.closed == 1


def test_a_sketch_that_cannot_be_read_is_done_without(slide):
    slide.engine.draw_with(Paint({2}, broken=True))
    box = (128, 128, 512, 512)
    assert np.array_equal(drawn(slide, 2, box), reduced(IMAGE, (2, 2))[128:512, 128:512])
    assert slide.engine.sketch is None


def test_without_a_sketch_levels_in_between_are_not_asked_for_in_advance(slide):
    made = Picture(slide.drawn_levels, lambda _last: None)
    made.draw(0, (0, 0, 512, 512))
    assert {level for level, _, _ in made._awaited} == {0}  # the coarsest of the file is held anyway


def test_photographs_have_no_levels_in_between(tmp_path):
    for i in range(3):
        Image.fromarray(picture(300, 400)).save(tmp_path / f"{i}.png")
    with open_slide(tmp_path) as slide:
        assert [one.index for one in slide.drawn_levels] == [one.index for one in slide.levels]
