"""Vendors' slides, written so that OpenSlide's own detection accepts them: pixels and what they say."""

from __future__ import annotations

import numpy as np
import openslide
import pytest
from PIL import Image
from slidefiles import half, picture
from vendorslides import write_bif, write_mirax, write_ndpi, write_philips, write_scn, write_trestle

from napari_mil.errors import SlideError
from napari_mil.slides import open_slide

pytestmark = pytest.mark.slow

IMAGE = picture(2048, 2720)
PART = IMAGE[:1024, :1360]
# writer, image, suffix, OpenSlide's name, objective, box of the scan, most that pixels differ by
FAMILIES = {
    "philips": (write_philips, PART, ".tiff", "philips", None, (0, 0, 1024, 1360), 0),
    "scn": (write_scn, PART, ".scn", "leica", 20, (256, 680, 1280, 2040), 0),
    "bif": (write_bif, IMAGE, ".bif", "ventana", 40, (0, 0, 2048, 2720), 0),
    "ndpi": (write_ndpi, PART, ".ndpi", "hamamatsu", 40, (0, 0, 1024, 1360), 6),
    "mirax": (write_mirax, PART, ".mrxs", "mirax", 40, (0, 0, 1024, 1536), 6),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vendors")
    return {
        name: write(folder / f"a{suffix}", image, mpp=0.25)
        for name, (write, image, suffix, *_) in FAMILIES.items()
    }


@pytest.mark.parametrize("name", FAMILIES)
def test_pixels_levels_and_what_the_slide_says(files, name):
    _, image, _, vendor, power, box, apart = FAMILIES[name]
    with open_slide(files[name]) as slide:
        assert slide.properties["openslide.vendor"] == vendor
        assert slide.mpp == pytest.approx((0.25, 0.25), rel=1e-3)
        assert slide.objective_power == power
        assert slide.bounds_px == box
        for level in slide.levels[:2]:
            step = round(level.downsample[0])
            top, left = box[0] // step, box[1] // step
            read = level.read(top, left, top + image.shape[0], left + image.shape[1])
            assert np.abs(read.astype(np.int16) - image).max() <= apart
            image = half(image)


@pytest.mark.parametrize("name", FAMILIES)
def test_pixels_equal_openslides_and_the_unscanned_is_background(files, name):
    with open_slide(files[name]) as slide, openslide.OpenSlide(files[name]) as handle:
        for i, level in enumerate(slide.levels[:2]):
            seen = np.asarray(handle.read_region((0, 0), i, handle.level_dimensions[i])).astype(np.int16)
            read, there = level[:].astype(np.int16), seen[..., 3] == 255
            assert np.abs(read - seen[..., :3])[there].max() <= 2
            outside = read[seen[..., 3] == 0]
            assert (outside == slide.background).all()
            assert len(outside) or name != "scn"


def test_the_macro_of_a_slide_is_kept_apart(files):
    for name in ("bif", "ndpi"):
        with open_slide(files[name]) as slide:
            assert set(slide.associated) == {"macro"}
            assert slide.associated["macro"].ndim == 3


def test_every_file_of_a_mirax_slide_is_in_its_fingerprint(files, tmp_path):
    write_mirax(tmp_path / "a.mrxs", PART, mpp=0.25)
    with open_slide(files["mirax"]) as slide, open_slide(tmp_path / "a.mrxs") as same:
        assert same.fingerprint == slide.fingerprint
    write_mirax(tmp_path / "b" / "a.mrxs", picture(1024, 1360, 4), mpp=0.25)
    with open_slide(files["mirax"]) as slide, open_slide(tmp_path / "b" / "a.mrxs") as other:
        assert other.fingerprint != slide.fingerprint


def test_a_mirax_slide_whose_folder_is_missing_or_damaged_is_not_its_thumbnail(tmp_path):
    path = write_mirax(tmp_path / "m.mrxs", PART)
    Image.fromarray(picture(300, 400)).save(path, format="JPEG")  # as its scanners write it
    with open_slide(path) as slide:
        assert slide.properties["openslide.vendor"] == "mirax"
    folder = path.with_suffix("")
    (folder / "Index.dat").unlink()
    with pytest.raises(
        SlideError, match=r"the files in its folder m are damaged or not all there \(.*\); copy"
    ):
        open_slide(path)
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(
        SlideError, match=r"^m\.mrxs cannot be used .* needs the folder m with Slidedat\.ini be"
    ):
        open_slide(path)


def test_the_tiles_of_trestle_overlap(tmp_path):
    path = write_trestle(tmp_path / "t.tif", IMAGE[:512, :768])
    with open_slide(path) as slide, openslide.OpenSlide(path) as handle:
        assert slide.properties["openslide.vendor"] == "trestle"
        assert slide.objective_power == 20
        assert slide.shape_px == (512 - 3 * 32, 768 - 5 * 32)
        seen = np.asarray(handle.read_region((0, 0), 0, handle.dimensions))
        assert np.array_equal(slide.levels[0][:], seen[..., :3])


def test_a_mirax_slide_in_capitals_is_to_be_renamed(tmp_path):
    with pytest.raises(SlideError, match=r"MIRAX by the ending \.mrxs, in small letters; rename A\.MRXS\.$"):
        open_slide(write_mirax(tmp_path / "A.MRXS", PART))
