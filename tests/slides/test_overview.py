"""A slide whose file holds one large level alone is never read whole, and looked through once."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from PIL import Image
from slidefiles import picture, write_pyramid

from napari_mil.errors import SlideError
from napari_mil.slides import open_slide, overview, sidecar
from napari_mil.slides.boxes import halves
from napari_mil.slides.cache import TileCache
from napari_mil.slides.info import LevelInfo, SlideInfo
from napari_mil.slides.slide import Slide
from napari_mil.slides.tiff import open_source
from napari_mil.slides.tiles import Engine

IMAGE = picture(3001, 3107)


def halved(pixels, times):
    for _ in range(times):
        pixels = np.asarray(Image.fromarray(pixels).reduce(2))
    return pixels.astype(int)


@pytest.fixture(autouse=True)
def _room(own_home, monkeypatch):
    monkeypatch.setenv("NAPARI_MIL_SIDECAR_GB", "10")


@pytest.fixture
def path(tmp_path):
    return write_pyramid(tmp_path / "a.tif", IMAGE, "zlib", tile=(256, 256))


@pytest.fixture
def decoded(monkeypatch):
    """How many tiles of files were decoded."""
    found = []
    tile = Engine.decode

    def decode(self, level, row, col):
        if self.levels[level].of is None:
            found.append((level, row, col))
        return tile(self, level, row, col)

    monkeypatch.setattr(Engine, "decode", decode)
    return found


def test_a_large_last_level_has_further_ones_down_to_a_small_one():
    found = list(halves(SlideInfo(levels=(LevelInfo((50_001, 40_000), (256, 256)),), files=())))
    assert [(one.shape_px, one.of) for one in found][:2] == [((25_001, 20_000), 0), ((12_501, 10_000), 1)]
    assert found[-1].shape_px == (782, 625)
    assert not list(halves(SlideInfo(levels=(LevelInfo((2967, 2220), (240, 240)),), files=())))


def test_its_pixels_are_means_and_it_is_computed_once(path, own_home, decoded):
    with open_slide(path) as slide:
        level = slide.drawn_levels[-1]
        assert (len(slide.levels), level.shape_px, level.downsample) == (1, (751, 777), (4, 4))
        assert overview.needed(slide)
        overview.prepare(slide)
        assert not overview.needed(slide)
        pixels = level[:]
        assert np.abs(pixels.astype(int) - halved(IMAGE, 2)).max() <= 2
    decoded.clear()
    with open_slide(path) as slide:
        few = len(decoded)  # those that tell whether it is bright
        overview.prepare(slide)
        assert not overview.needed(slide)
        assert np.array_equal(slide.drawn_levels[-1][:], pixels)
        assert len(decoded) == few
    assert list(own_home.rglob("overview.npz"))
    sidecar.remove_all()
    assert not list(own_home.rglob("overview.npz"))


@pytest.mark.parametrize("damage", ["other", "short", "text", "none"])
def test_what_was_kept_of_another_file_or_is_damaged_is_computed_anew(path, own_home, damage):
    with open_slide(path) as slide:
        pixels = overview.prepare(slide).drawn_levels[-1][:]
    [kept] = own_home.rglob("overview.npz")
    if damage == "other":
        np.savez_compressed(kept, about="of another file", pixels=255 - pixels)
    else:
        kept.write_bytes({"short": kept.read_bytes()[:-900], "text": b"no archive", "none": b""}[damage])
    with open_slide(path) as slide:
        assert np.array_equal(overview.prepare(slide).drawn_levels[-1][:], pixels)


def test_a_picture_for_people_is_of_the_small_level_and_a_thumbnail_of_the_files(path, decoded):
    with open_slide(path) as slide:
        overview.prepare(slide)
        decoded.clear()
        found = overview.picture(slide, 388)
        assert found.shape == (375, 388, 3)
        assert not decoded
        whole = np.asarray(Image.fromarray(IMAGE).resize((388, 375), Image.Resampling.BOX)).astype(int)
        assert np.abs(found - whole).mean() < 4
        assert np.abs(slide.thumbnail(388) - whole).mean() < 4
        assert decoded


def test_a_damaged_tile_is_hatched_in_it_and_the_rest_is_there(path, own_home):
    with tifffile.TiffFile(path) as tif:
        offset = tif.pages[0].dataoffsets[5 * 13 + 6]  # of 12 × 13 tiles
    with path.open("r+b") as stream:
        stream.seek(offset)
        stream.write(b"no tile at all")
    with open_slide(path) as slide:
        overview.prepare(slide)
        assert not overview.needed(slide)
        found, true = slide.drawn_levels[-1][:].astype(int), halved(IMAGE, 2)
        hole = (slice(5 * 64, 6 * 64), slice(6 * 64, 7 * 64))
        marked = (abs(found[hole] - (214, 0, 110)) <= 1).all(axis=2)
        assert 0.05 < marked.mean() < 0.2
        assert 0.7 < (found[hole] == 255).all(axis=2).mean() < 0.95
        assert "row 5, column 6" in str(slide.engine.damage)
        found[hole] = true[hole]
        assert np.abs(found - true).max() <= 2
        with pytest.raises(SlideError, match="row 5, column 6"):
            slide.levels[0].read(5 * 256, 6 * 256, 5 * 256 + 9, 6 * 256 + 9)
    assert not list(own_home.rglob("overview.npz"))  # the file may be mended


def test_a_disk_that_is_full_is_no_matter(path, own_home, monkeypatch):
    monkeypatch.setattr(sidecar, "SPARE_BYTES", 2**62)
    with open_slide(path) as slide:
        overview.prepare(slide)
        assert not overview.needed(slide)
    assert not list(own_home.rglob("overview*"))


def test_the_sidecar_holds_the_levels_above_it(path):
    with Slide.of(path, Engine(open_source(path), path.name, cache=TileCache(2**28))) as slide:
        assert [level.shape_px for level in slide.drawn_levels] == [(3001, 3107), (1501, 1554), (751, 777)]
        assert sidecar.wanted(slide) == (1,)
