"""Pixels averaged, enlarged, and read with a step."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from slidefiles import picture, write_pyramid

from napari_mil.slides import open_slide
from napari_mil.slides.boxes import enlarged, reduced
from napari_mil.slides.cache import TileCache, slots
from napari_mil.slides.slide import Slide
from napari_mil.slides.tiff import open_source
from napari_mil.slides.tiles import Engine

IMAGE = picture(700, 900)
STEPS = st.tuples(st.sampled_from([1, 2, 3, 4, 8]), st.sampled_from([1, 2, 3, 4, 8]))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.one_of(st.just((2, 2)), STEPS), st.integers(0, 99))
def test_means_are_those_that_pillow_makes(height, width, step, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(pixels).reduce(step[::-1]))
    assert np.array_equal(reduced(pixels, step), expected)
    turned = np.ascontiguousarray(pixels.transpose(1, 0, 2)).transpose(1, 0, 2)  # laid out otherwise
    assert np.array_equal(reduced(turned, step), expected)


@settings(max_examples=80, deadline=None)
@given(
    st.integers(0, 5000),
    st.integers(1, 700),
    st.one_of(st.sampled_from([1.0, 0.5, 0.25, 1 / 4.0003, 1 / 16]), st.floats(0.02, 1.0)),
    st.integers(1, 300),
)
def test_enlarging_takes_the_pixel_under_each_centre(start, length, ratio, height):
    cols = ((np.arange(start, start + length) + 0.5) * ratio).astype(np.intp)
    cols -= cols[0]
    rows = (np.arange(height) * min(ratio, 0.5)).astype(np.intp)
    rng = np.random.default_rng(start)
    source = rng.integers(0, 256, (rows[-1] + 1, cols[-1] + 1, 3), dtype=np.uint8)
    out = np.zeros((height, length + 7, 3), np.uint8)
    enlarged(source, rows, cols, out[:, 3:-4])
    assert np.array_equal(out[:, 3:-4], source[rows[:, None], cols])
    assert not out[:, :3].any()
    assert not out[:, -4:].any()


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_pyramid(tmp_path_factory.mktemp("boxes") / "a.tif", IMAGE, tile=(128, 64))


@pytest.fixture(scope="module")
def level(path):
    with open_slide(path) as slide:
        yield slide.levels[0]


@settings(max_examples=80, deadline=None)
@given(st.tuples(*[st.integers(-20, 110)] * 2), st.tuples(*[st.integers(1, 60)] * 2), STEPS)
def test_a_box_with_a_step_holds_the_means_of_the_box_without(level, corner, size, step):
    (y, x), (h, w), (sy, sx) = corner, size, step
    box = (8 * y, 8 * x, 8 * y + h * sy, 8 * x + w * sx)
    assert np.array_equal(level.read(*box, step), reduced(level.read(*box), step))


def test_tiles_that_are_read_whole_and_smaller_stay_out_of_the_cache(path):
    cache = TileCache(2**24)
    with Slide.of(path, Engine(open_source(path), path.name, cache=cache)) as slide:
        made = slide.read(
            (0, 0, 256, 96), out_px=(128, 48)
        )  # the tiles of its second column lie half outside
        assert np.array_equal(made, reduced(IMAGE[:256, :96], (2, 2)))
        kept = [(r, c) for r in range(2) for c in range(2) if slide.engine.cached(0, r, c) is not None]
        assert kept == [(0, 1), (1, 1)]
        assert np.array_equal(slide.read((0, 0, 256, 96), out_px=(256, 96)), IMAGE[:256, :96])
        assert slide.engine.cached(0, 0, 0) is not None


def test_memory_of_tiles_begins_beside_a_multiple_of_32():
    kept = [slots.empty((128, 250, 3)) for _ in range(40)]
    assert {one.ctypes.data % 32 for one in kept} == {16}
    for i, one in enumerate(kept):
        one[:] = i
    assert all((one == i).all() for i, one in enumerate(kept))


@pytest.mark.parametrize("step", [(1, 1), (2, 2), (3, 5), (4, 4)])
@pytest.mark.parametrize(("height", "width"), [(0, 30), (30, 0), (0, 0)])
def test_means_of_nothing_are_none(level, height, width, step):
    shape = (-(-height // step[0]), -(-width // step[1]), 3)
    assert level.read(7, 9, 7 + height, 9 + width, step).shape == shape
