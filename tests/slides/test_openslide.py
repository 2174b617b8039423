"""What OpenSlide reads, and every real slide of the test data."""

from __future__ import annotations

import gc
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openslide
import pytest
from openslide import OpenSlideCache
from slidefiles import page, picture, write_pyramid, write_tiff

from napari_mil.errors import SlideError
from napari_mil.slides import open_slide
from napari_mil.slides.cache import shared_cache
from napari_mil.slides.openslide import _bounds, _files, _tile_px, open_source
from napari_mil.slides.slide import Slide
from napari_mil.slides.tiles import Engine

IMAGE = picture(700, 500)
FOLDER = os.environ.get("NAPARI_MIL_TEST_DATA")
real = pytest.mark.skipif(not FOLDER, reason="needs the real slides: set NAPARI_MIL_TEST_DATA")


def data(name):
    return Path(FOLDER or "") / "slides" / name


@pytest.fixture
def slide(tmp_path):
    path = write_pyramid(tmp_path / "a.tif", IMAGE, levels=3, mpp=(0.5, 0.25))
    with Slide.of(path, Engine(open_source(path), path.name)) as slide:
        yield slide


def test_levels_pixels_and_scale_come_through(slide):
    assert [level.shape_px for level in slide.levels] == [(700, 500), (350, 250), (175, 125)]
    assert slide.mpp == pytest.approx((0.5, 0.25))
    assert np.array_equal(slide.levels[0][:], IMAGE)
    assert np.array_equal(slide.levels[0].read(301, 250, 411, 400), IMAGE[301:411, 250:400])
    assert slide.properties["openslide.vendor"] == "generic-tiff"


@pytest.fixture
def bound():
    """A function that bounds the cache of all slides."""
    before = shared_cache.capacity
    yield shared_cache.resize
    shared_cache.resize(before)


def test_what_openslide_keeps_is_a_part_of_the_bound_of_all_tiles(slide, tmp_path, bound):
    def kept():
        gc.collect()
        return [size for one, size in shared_cache._reserved.items() if isinstance(one, OpenSlideCache)]

    bound(2**30)
    other = write_pyramid(tmp_path / "b.tif", IMAGE)
    with Slide.of(other, Engine(open_source(other), "b")) as beside:
        for bytes_, part in ((2**30, 64 * 2**20), (2**24, 2**21)):
            bound(bytes_)
            with ThreadPoolExecutor(4) as pool:
                for one in (slide, beside):
                    one.engine.cache.drop(one.engine.token)
                read = list(pool.map(lambda one: one.levels[0][:], (slide, beside) * 4))
            assert all(np.array_equal(found, IMAGE) for found in read)
            assert kept() == [part]  # of both together
            assert shared_cache.used + part <= bytes_


def test_what_was_not_scanned_shows_the_background(tmp_path):
    path = write_tiff(tmp_path / "a.tif", [page(IMAGE, "raw", missing={3})])
    with Slide.of(path, Engine(open_source(path), path.name)) as slide:
        read = slide.levels[0][:]
    assert np.array_equal(read[:256], IMAGE[:256])
    assert (read[256:512, 256:500] == 255).all()


def test_bounds_and_tiles_are_taken_from_what_the_vendor_says():
    says = {f"openslide.bounds-{key}": value for key, value in zip("xy", ("120", "40"), strict=True)}
    assert _bounds(says) is None
    assert _bounds(says | {"openslide.bounds-width": "800", "openslide.bounds-height": "600"}) == (
        40,
        120,
        640,
        920,
    )
    strips = {"openslide.level[0].tile-height": "8", "openslide.level[0].tile-width": "3968"}
    assert _tile_px(strips, 0) == (256, 1024)
    assert _tile_px({}, 3) == (256, 256)


def test_the_companions_of_a_slide_are_its_files_too(tmp_path):
    (tmp_path / "a").mkdir()
    for name in ("a.mrxs", "a/Slidedat.ini", "a/Data0000.dat", "b.jpg", "c.jpg", "other.txt"):
        (tmp_path / name).write_text("x")
    (tmp_path / "v.vms").write_text(
        "[Virtual Microscope Specimen]\nImageFile=b.jpg\nMapFile=c.jpg\nNoLayers=1\n"
    )
    found = {file.relative_to(tmp_path).as_posix() for file in _files(tmp_path / "a.mrxs", "mirax")}
    assert found == {"a.mrxs", "a/Slidedat.ini", "a/Data0000.dat"}
    assert {f.name for f in _files(tmp_path / "v.vms", "hamamatsu")} == {"v.vms", "b.jpg", "c.jpg"}
    assert _files(tmp_path / "other.txt", "") == (tmp_path / "other.txt",)
    for name in ("d.dcm", "e.dcm"):
        (tmp_path / name).write_text("x")
    (tmp_path / "f.dcm").mkdir()
    assert {f.name for f in _files(tmp_path / "d.dcm", "dicom")} == {"d.dcm", "e.dcm"}


REAL = {  # shape, levels, mpp, objective, associated
    "CMU-1-Small-Region.svs": ((2967, 2220), 1, (0.499, 0.499), 20, {"label", "macro", "thumbnail"}),
    "CMU-1-Small-Region_dicom": ((2967, 2220), 1, (0.499, 0.499), None, {"label", "macro", "thumbnail"}),
    "TCGA-CR-7395-01A-01-TS1.svs": ((3567, 4443), 2, None, None, {"thumbnail"}),
    "patlas_duodenum_tubular_adenoma_HE.tif": ((13178, 14336), 7, (0.5, 0.5), None, set()),
    "patlas_liver_metastatic_sarcoma_HE_crop.tif": ((8192, 10240), 6, (0.5, 0.5), None, set()),
    "patlas_stomach_hpylori_HE.ome.tif": ((6592, 5055), 4, None, None, set()),
    "patlas_duodenum_NET_HE_jpeg2000.tif": ((3462, 5006), 4, None, None, set()),
    "TCGA-XK-AAJU_prostate_penmarks.tif": ((2638, 3236), 5, None, None, set()),
}


@real
@pytest.mark.parametrize("name", REAL)
def test_every_real_slide_opens(name):
    shape, levels, mpp, power, associated = REAL[name]
    with open_slide(data(name)) as slide:
        assert (slide.shape_px, len(slide.levels), slide.mpp) == (shape, levels, mpp)
        assert slide.objective_power == power
        assert set(slide.associated) == associated
        assert len(slide.fingerprint) == len(slide.pixel_hash) == 64
        middle = slide.read((shape[0] / 3, shape[1] / 3, shape[0] / 1.5, shape[1] / 1.5), out_px=(64, 64))
        assert 40 < middle.mean() < 250
        assert middle.std() > 5


@real
def test_every_file_of_the_folder_is_covered():
    refused = {"hamamatsu_test3-DAPI-2.ndpi", "invalid_not_a_tiff.svs"}
    assert {path.name for path in data("").iterdir()} == set(REAL) | refused


@real
def test_fluorescence_is_refused_by_name():
    with pytest.raises(
        SlideError, match=r"^hamamatsu.* is a fluorescence image \(filter DAPI 2 \(387\)\), while a bright-"
    ):
        open_slide(data("hamamatsu_test3-DAPI-2.ndpi"))


@real
def test_a_file_that_is_no_tiff_is_refused_by_both_readers():
    with pytest.raises(
        SlideError,
        match=r"\(TIFF reader: not a TIFF; DICOM reader: no DICOM; OpenSlide: not a format that it knows; "
        r"photographs: not a photograph\); expected",
    ):
        open_slide(data("invalid_not_a_tiff.svs"))


@real
@pytest.mark.parametrize(
    "name", ["CMU-1-Small-Region.svs", "TCGA-CR-7395-01A-01-TS1.svs", "TCGA-XK-AAJU_prostate_penmarks.tif"]
)
def test_real_pixels_equal_openslides(name):
    with open_slide(data(name)) as slide, openslide.OpenSlide(data(name)) as handle:
        for i, level in enumerate(slide.levels):
            height, width = (min(600, n) for n in level.shape_px)
            theirs = np.asarray(handle.read_region((0, 0), i, (width, height)).convert("RGB")).astype(int)
            assert np.abs(level.read(0, 0, height, width) - theirs).max() <= 2
        assert all(size != level.shape_px for level in slide.levels for size in [(463, 387), (431, 1280)])


@real
def test_the_same_slide_as_dicom_shows_the_same_place():
    with (
        open_slide(data("CMU-1-Small-Region.svs")) as svs,
        open_slide(data("CMU-1-Small-Region_dicom")) as dicom,
    ):
        box = (700, 600, 2300, 1900)
        one, other = (s.read(box, out_px=(100, 81)).astype(float) for s in (svs, dicom))
        assert np.abs(one - other).mean() < 2
        assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.99
        labels = [s.associated["label"].astype(float) for s in (svs, dicom)]
        assert np.abs(labels[0] - labels[1]).mean() < 5
    one_file = next(data("CMU-1-Small-Region_dicom").iterdir())
    with open_slide(one_file) as slide, open_slide(data("CMU-1-Small-Region_dicom")) as folder:
        assert slide.fingerprint == folder.fingerprint
