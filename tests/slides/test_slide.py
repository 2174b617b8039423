"""Slide and Level: geometry, resampling, identity; a level behaves as numpy does."""

from __future__ import annotations

import copy
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from slidefiles import half, page, picture, write_pyramid, write_svs, write_tiff

from napari_mil.errors import SlideError
from napari_mil.slides import open_slide
from napari_mil.slides import slide as slide_module

IMAGE = picture(531, 407)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_pyramid(tmp_path_factory.mktemp("slide") / "case 7.tif", IMAGE, levels=3, tile=(64, 48))


@pytest.fixture(scope="module")
def slide(path):
    with open_slide(path) as slide:
        yield slide


def test_levels_say_exactly_how_much_smaller_they_are(slide):
    assert slide.shape_px == (531, 407)
    assert [level.shape_px for level in slide.levels] == [(531, 407), (265, 203), (132, 101)]
    assert slide.levels[2].downsample == (531 / 132, 407 / 101)
    assert [level.index for level in slide.levels] == [0, 1, 2]


def test_a_level_has_what_a_napari_layer_needs(slide):
    level = slide.levels[1]
    assert (level.shape, level.ndim, level.dtype, level.size) == ((265, 203, 3), 3, np.uint8, 265 * 203 * 3)
    assert (level.chunks, len(level), level.nbytes) == ((128, 128, 3), 265, level.size)
    assert np.array_equal(np.asarray(level), half(IMAGE))
    assert np.asarray(level, float).dtype == float
    assert copy.deepcopy([level])[0] is level
    with pytest.raises(ValueError, match="always a copy"):
        level.__array__(copy=False)


@settings(max_examples=120, deadline=None)
@given(hnp.basic_indices((531, 407, 3), allow_newaxis=True))
def test_a_level_is_indexed_as_an_array_is(slide, index):
    assert np.array_equal(slide.levels[0][index], IMAGE[index])


BRIGHT = IMAGE.mean(axis=2) > 150


@pytest.mark.parametrize(
    "index",
    [
        ([3, 500, 7],),
        (slice(None), [0, 406]),
        (np.arange(531) % 7 == 0,),
        ([],),
        BRIGHT,
        (BRIGHT, 1),
        (Ellipsis, BRIGHT[:, :3].any(axis=0)),
        IMAGE > 150,
        np.zeros((531, 407), bool),
        (np.array([500], np.uint16), None),
        (np.array([3], np.uint8), slice(None)),
        np.ix_([1, 2], [3, 4], [0, 2]),
        True,
        None,
    ],
)
def test_a_level_takes_lists_and_masks(slide, index):
    assert np.array_equal(slide.levels[0][index], IMAGE[index])


@pytest.mark.parametrize(
    "index",
    [531, (0, -408), (0, 0, 0, 0), ([0, 600],), 1.5, "a", ([True, False],), BRIGHT.T, (Ellipsis, Ellipsis)],
)
def test_an_index_outside_is_an_index_error(slide, index):
    with pytest.raises(IndexError):
        slide.levels[0][index]


@settings(max_examples=25, deadline=None)
@given(hnp.basic_indices((265, 203, 3), allow_newaxis=False, allow_ellipsis=False))
def test_the_dask_view_holds_the_same_pixels(slide, index):
    level = slide.levels[1]
    assert level.dask.shape == level.shape
    assert np.array_equal(level.dask[index].compute(scheduler="sync"), half(IMAGE)[index])


def test_a_slice_of_the_dask_view_reads_only_the_tiles_under_it(tmp_path):
    with open_slide(write_pyramid(tmp_path / "a.tif", picture(1200, 1200), tile=(64, 64))) as slide:
        level = slide.levels[0]
        slide.engine.cache.drop(slide.engine.token)
        assert level.dask.numblocks == (1, 1, 1)
        level.dask[70:100, 640:700].compute()
        inside = [(r, c) for r in range(19) for c in range(19) if slide.engine.cached(0, r, c) is not None]
        assert inside == [(1, 10)]


def test_a_read_at_the_slides_own_resolution_is_exact(slide):
    assert np.array_equal(slide.read((10, 20, 110, 90), out_px=(100, 70)), IMAGE[10:110, 20:90])


def test_a_read_outside_is_background(slide):
    read = slide.read((-20, 400, 30, 440), out_px=(50, 40))
    assert (read[:20] == 255).all()
    assert (read[:, 7:] == 255).all()
    assert np.array_equal(read[20:, :7], IMAGE[:30, 400:])
    assert (slide.read((9000, 9000, 9100, 9100), out_px=(10, 10)) == 255).all()


@settings(max_examples=40, deadline=None)
@given(
    st.floats(20, 200),
    st.floats(20, 150),
    st.floats(60, 300),
    st.floats(0.7, 9),
)
def test_reads_are_antialiased_and_lie_where_they_were_asked_for(ramps, y, x, side, scale):
    """On a linear ramp every pixel holds the value at its own centre, whatever level and filter are used."""
    n = max(1, round(side / scale))
    read = ramps.read((y, x, y + side, x + side), out_px=(n, n)).astype(float)
    middle = (np.arange(n) + 0.5) * side / n
    assert np.abs(read[..., 0] - ((y + middle)[:, None] * 0.4)).max() <= 1.6
    assert np.abs(read[..., 1] - ((x + middle)[None, :] * 0.4)).max() <= 1.6


@pytest.fixture(scope="module")
def ramps(tmp_path_factory):
    """Red grows with y, green with x, 0.4 per level-0 pixel, at pixel centres."""
    y, x = np.mgrid[:560, :560] + 0.5
    image = np.stack([y * 0.4, x * 0.4, np.full_like(y, 200)], -1).round().astype(np.uint8)
    with open_slide(write_pyramid(tmp_path_factory.mktemp("ramps") / "r.tif", image, levels=3)) as slide:
        yield slide


def test_fine_stripes_turn_grey_when_seen_from_afar(tmp_path):
    stripes = np.full((512, 512, 3), 255, np.uint8)
    stripes[::2] = 0
    with open_slide(write_pyramid(tmp_path / "s.tif", stripes)) as slide:
        seen = slide.read((0, 0, 512, 512), out_px=(100, 100)).astype(int)
    assert abs(seen.mean() - 127.5) < 2
    assert np.ptp(seen[2:-2]) < 12


def test_a_huge_read_goes_band_by_band_with_the_same_result(slide, monkeypatch):
    whole = slide.read((3.3, 1.1, 520.7, 400.2), out_px=(171, 133))
    monkeypatch.setattr(slide_module, "_BAND_PX", 5000)
    assert np.array_equal(slide.read((3.3, 1.1, 520.7, 400.2), out_px=(171, 133)), whole)


@pytest.mark.parametrize(("most", "shape"), [(1024, (531, 407)), (100, (100, 77)), (1, (1, 1))])
def test_a_thumbnail_is_the_whole_slide(slide, most, shape):
    thumbnail = slide.thumbnail(most)
    assert thumbnail.shape == (*shape, 3)
    assert np.abs(thumbnail.mean((0, 1)) - IMAGE.mean((0, 1))).max() < (2 if most > 1 else 40)


@pytest.mark.parametrize(
    ("box", "out"), [((0, 0, 0, 10), (5, 5)), ((0, 0, 10, 10), (0, 5)), ((5, 5, 1, 9), (2, 2))]
)
def test_an_empty_box_is_refused(slide, box, out):
    with pytest.raises(SlideError, match="both need a positive size"):
        slide.read(box, out_px=out)


@pytest.mark.parametrize(
    ("stated", "found"),
    [
        ((0.25, 0.5), (0.25, 0.5)),
        ((0.05, 20.0), (0.05, 20.0)),
        ((0.01, 0.01), None),
        ((1000.0, 1000.0), None),
        (None, None),
    ],
)
def test_an_implausible_pixel_size_counts_as_missing(tmp_path, stated, found):
    with open_slide(write_pyramid(tmp_path / "a.tif", IMAGE, mpp=stated)) as slide:
        assert slide.mpp == pytest.approx(found, rel=1e-4) if found else slide.mpp is None


def test_a_person_may_state_the_pixel_size(path, slide):
    with open_slide(path, mpp=0.3) as other:
        assert other.mpp == (0.3, 0.3)
    assert slide.with_mpp((0.2, 0.4)).mpp == (0.2, 0.4)
    assert slide.with_mpp(0.2).levels is slide.levels
    assert slide.with_mpp(np.float32(0.5)).mpp == (0.5, 0.5)
    for wrong in (0.01, 21, (0.5, 400), float("nan")):
        with pytest.raises(SlideError, match=r"not plausible; give µm per pixel between 0\.05 and 20"):
            slide.with_mpp(wrong)


def test_a_file_that_went_away_is_said(path, tmp_path):
    with open_slide(shutil.copy(path, tmp_path / "gone.tif")) as slide:
        (tmp_path / "gone.tif").unlink()
        with pytest.raises(SlideError, match=r"^gone cannot be read \(No such file or directory\); check"):
            slide.fingerprint  # noqa: B018


def test_the_fingerprint_follows_the_file(path, slide, tmp_path):
    copy = tmp_path / path.name
    shutil.copy(path, copy)
    with open_slide(copy) as same:
        assert same.fingerprint == slide.fingerprint
        assert len(same.fingerprint) == 64
    with copy.open("ab") as file:
        file.write(b"x")
    with open_slide(copy) as longer:
        assert longer.fingerprint != slide.fingerprint
        assert longer.pixel_hash == slide.pixel_hash


def test_the_pixel_hash_finds_the_same_picture_in_another_file(slide, tmp_path):
    with open_slide(write_pyramid(tmp_path / "z.tif", IMAGE, "lzw", levels=3, tile=(128, 128))) as same:
        assert same.pixel_hash == slide.pixel_hash
        assert same.fingerprint != slide.fingerprint
    other = IMAGE.copy()
    other[100:140, 100:140] = 90
    with open_slide(write_pyramid(tmp_path / "o.tif", other, levels=3)) as changed:
        assert changed.pixel_hash != slide.pixel_hash


def test_without_bounds_the_whole_slide_was_scanned(slide):
    assert slide.bounds_px == (0, 0, 531, 407)
    assert slide.background == (255, 255, 255)
    assert slide.name == "case 7"
    assert dict(slide.associated) == {}


def test_names_of_ome_tiffs_lose_both_suffixes(tmp_path):
    with open_slide(write_pyramid(tmp_path / "a.b.ome.tif", IMAGE)) as slide:
        assert slide.name == "a.b"
    with open_slide(write_svs(tmp_path / "a.b.svs", IMAGE, "jpeg-rgb")) as slide:
        assert slide.name == "a.b"


@pytest.mark.slow
def test_levels_that_are_nearly_four_times_apart_lie_right_to_half_a_pixel_at_the_far_corner(tmp_path):
    """150,000 px, levels 4.0003 apart: after three levels a rounded factor would be off by 45 px."""
    width, step = 150_000, 4.0003
    tile = (256, 1024)
    widths = [round(width / step**i) for i in range(4)]
    mark = width - 3000  # a dark stripe that begins here, 600 px wide
    pages = []
    for i, one in enumerate(widths):
        scale = width / one
        rows = max(1, round(256 / scale))
        x = np.arange(one)
        inside = (
            np.clip(np.minimum((x + 1) * scale, mark + 600) - np.maximum(x * scale, mark), 0, scale) / scale
        )
        image = np.repeat((240 - 200 * inside).round().astype(np.uint8)[None, :, None], 3, 2).repeat(rows, 0)
        pages.append(page(image, "zlib", tile=tile, reduced=i > 0, resolution=(2e4 / scale, 2e4 / scale)))
    with open_slide(write_tiff(tmp_path / "wide.tif", pages)) as wide:
        assert [level.shape_px[1] for level in wide.levels] == widths
        for level in wide.levels:
            row = level[0, :, 0].astype(float)
            dark = (240 - row) / 200
            centre = (dark * (np.arange(len(row)) + 0.5)).sum() / dark.sum() * level.downsample[1]
            assert abs(centre - (mark + 300)) < 0.5
        for level in wide.levels[1:]:  # and so do reads, from whichever level they are taken
            side = 3000
            out = round(side / level.downsample[1])
            read = wide.read(
                (0, width - side, 256, width), out_px=(max(1, round(256 / level.downsample[0])), out)
            )
            dark = (240 - read[0, :, 0].astype(float)) / 200
            centre = (dark * (np.arange(out) + 0.5)).sum() / dark.sum() * side / out
            assert abs(centre - 300) < 0.5 * level.downsample[1]
