"""DICOM slides: pixels, scale, power, label, and one sentence for what is none."""

from __future__ import annotations

import builtins
import os
import time
from pathlib import Path

import numpy as np
import openslide
import pydicom
import pytest
from anotheruser import as_one_who_may_not
from dicomslides import SYNTAXES, instance, write_dicom
from PIL import ImageCms
from pydicom.uid import generate_uid
from slidefiles import half, picture

from napari_mil.errors import SlideError
from napari_mil.slides import find_slides, open_slide
from napari_mil.slides.dicom import open_source
from napari_mil.slides.openslide import open_source as through_openslide
from napari_mil.slides.tiles import Engine

pytest.importorskip("wsidicom")
IMAGE, LABEL = picture(500, 731), picture(90, 70, 1)
LOSSY = {"jpeg-rgb": 4, "jpeg-ycbcr": 9}


@pytest.mark.parametrize("codec", SYNTAXES)
def test_pixels_levels_scale_and_label(tmp_path, codec):
    folder = write_dicom(tmp_path / "a", IMAGE, codec, levels=3, mpp=(0.5, 0.5), power=40, label=LABEL)
    with open_slide(folder) as slide:
        assert slide.properties["format"] == "DICOM"
        assert slide.mpp == pytest.approx((0.5, 0.5))
        assert slide.objective_power == 40
        assert set(slide.associated) == {"label"}
        assert np.abs(slide.associated["label"].astype(int) - LABEL).max() <= LOSSY.get(codec, 0)
        assert [level.shape_px for level in slide.levels] == [(500, 731), (250, 365), (125, 182)]
        assert [f.name for f in slide.engine.source.info.files] == [
            "level-0.dcm", "level-1.dcm", "level-2.dcm", "level-label.dcm"
        ]  # fmt: skip
        image = IMAGE
        for level in slide.levels:
            assert np.abs(level[:].astype(int) - image).max() <= LOSSY.get(codec, 0)
            image = half(image)
    with open_slide(folder / "level-1.dcm") as one:  # any file of a slide opens it
        assert one.shape_px == (500, 731)
        known = one.fingerprint
    (tmp_path / "link").symlink_to(folder)
    with open_slide(tmp_path / "link" / "level-1.dcm") as linked:
        assert linked.fingerprint == known


def test_frames_that_wsidicom_decodes_are_decoded_one_at_a_time(tmp_path, monkeypatch):
    write_dicom(tmp_path / "a", IMAGE, "raw")
    with open_slide(tmp_path / "a") as slide:
        plane = slide.engine.source._planes[0]
        decode, inside, most = plane.get_decoded_tile, [], []

        def watched(*where):
            inside.append(where)
            most.append(len(inside))
            time.sleep(0.005)
            inside.remove(where)
            return decode(*where)

        monkeypatch.setattr(plane, "get_decoded_tile", watched)
        slide.engine.cache.drop(slide.engine.token)  # opening has looked at the tiles
        assert np.array_equal(slide.levels[0][:], IMAGE)
    assert len(most) > 4
    assert max(most) == 1


@pytest.mark.parametrize("codec", ["jpeg-ycbcr", "jpeg-rgb"])
def test_pixels_equal_openslides(tmp_path, codec):
    folder = write_dicom(tmp_path / "a", IMAGE, codec, levels=2)
    with open_slide(folder) as slide, openslide.OpenSlide(next(folder.iterdir())) as handle:
        for i, level in enumerate(slide.levels):
            theirs = handle.read_region((0, 0), i, handle.level_dimensions[i]).convert("RGB")
            assert np.abs(level[:].astype(int) - np.asarray(theirs)).max() <= 2


def test_the_colour_profile_is_kept(tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    with open_slide(write_dicom(tmp_path / "a", IMAGE, icc=profile + bytes(len(profile) % 2))) as slide:
        assert slide.engine.source.info.icc_profile[: len(profile)] == profile


def test_a_folder_with_two_slides_is_refused_and_each_file_opens(tmp_path):
    write_dicom(tmp_path / "a", IMAGE, name="one")
    write_dicom(tmp_path / "a", half(IMAGE), name="two")
    sentence = (
        r"holds 2 DICOM slides; open a file of the one that is meant, such as one-0\.dcm, two-0\.dcm\.$"
    )
    with pytest.raises(SlideError, match=sentence):
        open_slide(tmp_path / "a")
    assert [file.name for file in find_slides(tmp_path)] == ["one-0.dcm", "two-0.dcm"]
    for name, shape in (("one", (500, 731)), ("two", (250, 365))):
        with open_slide(tmp_path / "a" / f"{name}-0.dcm") as slide:
            assert slide.shape_px == shape


def test_a_folder_of_dicom_files_is_found_as_one_slide(tmp_path):
    folder = write_dicom(tmp_path / "cohort" / "a", IMAGE, levels=2)
    assert list(find_slides(tmp_path)) == [folder]
    (tmp_path / "DICOMDIR").write_bytes(bytes(128) + b"DICM" + bytes(64))  # as on a disk that a PACS wrote
    assert list(find_slides(tmp_path)) == [folder]
    (folder / "DICOMDIR").write_bytes(bytes(128) + b"DICM" + bytes(64))
    with open_slide(folder) as slide:
        assert len(slide.levels) == 2


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="there are no such permissions")
def test_a_file_of_the_slide_that_one_may_not_read_is_named(tmp_path):
    folder = write_dicom(tmp_path / "a", IMAGE, levels=2)
    (folder / "level-1.dcm").chmod(0)
    with as_one_who_may_not(tmp_path):
        assert list(find_slides(tmp_path)) == [folder]
        with pytest.raises(
            SlideError, match=r"level-1\.dcm cannot be read \(Permission denied\); check its perm"
        ):
            open_slide(folder)


def test_a_file_of_another_kind_is_refused(tmp_path):
    folder = write_dicom(tmp_path / "a", IMAGE)
    other = pydicom.dcmread(folder / "level-0.dcm")
    other.SOPClassUID = other.file_meta.MediaStorageSOPClassUID = generate_uid()
    pydicom.dcmwrite(folder / "other.dcm", other)
    with pytest.raises(
        SlideError, match=r"other\.dcm cannot be used as a slide: it is a DICOM file of another kind"
    ):
        open_slide(folder / "other.dcm")


def test_sixteen_bit_is_refused(tmp_path):
    keys = ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
    made = instance(IMAGE, "raw", {key: generate_uid() for key in keys}, (0.5, 0.5))
    made.BitsAllocated, made.BitsStored, made.HighBit = 16, 16, 15
    made.PixelData = made.PixelData * 2
    (tmp_path / "a").mkdir()
    pydicom.dcmwrite(tmp_path / "a" / "0.dcm", made, enforce_file_format=True)
    with pytest.raises(SlideError, match=r"^a cannot be .* slide: its pixels have 16 bit, while bright"):
        open_slide(tmp_path / "a")


def test_frames_are_kept_in_the_cache_of_all_slides_alone(tmp_path, monkeypatch):
    write_dicom(tmp_path / "a", IMAGE, "jp2-rgb")
    with open_slide(tmp_path / "a") as slide:
        plane, asked = slide.engine.source._planes[0], []
        fetch = plane._get_tile_frame
        monkeypatch.setattr(plane, "_get_tile_frame", lambda frame: asked.append(frame) or fetch(frame))
        for _ in range(2):
            slide.engine.cache.drop(slide.engine.token)
            slide.levels[0].read(0, 0, 9, 9)
            slide.levels[0].read(0, 0, 9, 9)
        assert len(asked) == 2


def test_a_dicom_file_that_is_a_tiff_as_well_opens_with_all_its_levels(tmp_path):
    folder = write_dicom(tmp_path / "a", IMAGE, "jp2-rgb", levels=2)
    for file in folder.iterdir():
        data = bytearray(file.read_bytes())
        data[:8] = b"II*\0" + (128).to_bytes(4, "little")  # the preamble is a TIFF's header
        file.write_bytes(data)
    with open_slide(folder / "level-0.dcm") as slide:
        assert slide.properties["format"] == "DICOM"
        assert [level.shape_px for level in slide.levels] == [(500, 731), (250, 365)]


def test_a_damaged_frame_is_named(tmp_path):
    folder = write_dicom(tmp_path / "a", IMAGE, "jp2-rgb", levels=3)
    data = bytearray((folder / "level-0.dcm").read_bytes())
    second = data.find(b"\xff\x4f\xff\x51", data.find(b"\xff\x4f\xff\x51") + 4)
    data[second : second + 64] = bytes(64)
    (folder / "level-0.dcm").write_bytes(data)
    with open_slide(folder) as slide:
        with pytest.raises(
            SlideError, match=r"^a: the frame in row 0, column 1 of the level of 731 × 500 px is dam"
        ):
            slide.levels[0].read(10, 250, 20, 260)
        assert np.array_equal(slide.levels[0].read(0, 0, 240, 240), IMAGE[:240, :240])


def test_without_wsidicom_the_line_that_installs_it_is_said(tmp_path, monkeypatch):
    folder = write_dicom(tmp_path / "a", IMAGE)
    whole = builtins.__import__

    def without(name, *given, **more):
        if name.startswith("wsidicom"):
            raise ImportError(name)
        return whole(name, *given, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(
        SlideError, match=r"it needs wsidicom, which comes with: pip install 'napari-mil\[dicom\]'"
    ):
        open_source(folder)


@pytest.mark.skipif(
    not os.environ.get("NAPARI_MIL_TEST_DATA"), reason="needs the real slides: set NAPARI_MIL_TEST_DATA"
)
def test_a_real_slide_equals_openslides_to_the_bit():
    folder = Path(os.environ["NAPARI_MIL_TEST_DATA"]) / "slides" / "CMU-1-Small-Region_dicom"
    theirs = Engine(through_openslide(folder), "a")
    with open_slide(folder) as slide:
        assert slide.properties["format"] == "DICOM"
        assert np.array_equal(slide.levels[0][:], theirs.box(0, 0, 0, *slide.shape_px))
        for name, image in slide.associated.items():
            assert np.array_equal(image, theirs.source.info.associated[name]())
    theirs.close()
