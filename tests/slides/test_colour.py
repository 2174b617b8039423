"""Colours by the scanner's profile: as stored unless asked for, converted and said when asked for."""

from __future__ import annotations

import io

import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image, ImageCms
from slidefiles import picture, write_pyramid

from napari_mil.errors import SlideError
from napari_mil.slides import open_slide
from napari_mil.slides.openslide import open_source

IMAGE = picture(400, 500)


def profile():
    """sRGB with red and green exchanged, so that a conversion shows."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    for at in range(132, 132 + 12 * int.from_bytes(data[128:132], "big"), 12):
        name = bytes(data[at : at + 4])
        data[at : at + 4] = {b"rXYZ": b"gXYZ", b"gXYZ": b"rXYZ"}.get(name, name)
    return bytes(data)


def write(path, icc):
    tifffile.imwrite(path, IMAGE, photometric="rgb", tile=(128, 128), iccprofile=icc)
    return path


def test_colours_are_as_stored_unless_asked_for(tmp_path):
    with open_slide(write(tmp_path / "a.tif", profile())) as slide:
        assert np.array_equal(slide.levels[0][:], IMAGE)
        assert "colours" not in slide.properties


def test_colours_are_converted_when_asked_for_and_that_is_said(tmp_path):
    path = write(tmp_path / "a.tif", profile())
    with open_slide(path, srgb=True) as slide, open_slide(path) as stored:
        read = slide.levels[0][:]
        given = ImageCms.ImageCmsProfile(io.BytesIO(profile()))
        wanted = ImageCms.profileToProfile(Image.fromarray(IMAGE), given, ImageCms.createProfile("sRGB"))
        assert np.array_equal(read, np.asarray(wanted))
        assert np.abs(read.astype(int) - IMAGE[..., [1, 0, 2]]).max() <= 3
        assert slide.properties["colours"].startswith("converted to sRGB from sRGB")
        assert slide.fingerprint == stored.fingerprint
        assert slide.pixel_hash != stored.pixel_hash


def test_a_slide_without_a_profile_stays_as_it_is_and_says_so(tmp_path):
    with open_slide(write_pyramid(tmp_path / "a.tif", IMAGE), srgb=True) as slide:
        assert np.array_equal(slide.levels[0][:], IMAGE)
        assert slide.properties["colours"] == "as stored: the file has no colour profile"


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_a_photograph_is_converted_by_its_profile(tmp_path, name):
    Image.fromarray(IMAGE).save(tmp_path / name, icc_profile=profile(), quality=95)
    stored = Image.open(tmp_path / name)
    given = ImageCms.ImageCmsProfile(io.BytesIO(profile()))
    wanted = np.asarray(ImageCms.profileToProfile(stored, given, ImageCms.createProfile("sRGB")))
    assert abs(wanted.astype(int) - IMAGE).max() > 10
    with open_slide(tmp_path / name, srgb=True) as slide:
        assert slide.properties["colours"].startswith("converted to sRGB from ")
        assert np.array_equal(slide.levels[0][:], wanted)


def test_a_montage_is_converted_where_all_photographs_share_a_profile(tmp_path):
    for name in ("a.png", "b.png"):
        Image.fromarray(IMAGE).save(tmp_path / name, icc_profile=profile())
    with open_slide(tmp_path, srgb=True) as slide:
        assert slide.properties["colours"].startswith("converted to sRGB from ")
    Image.fromarray(IMAGE).save(tmp_path / "c.png")
    with open_slide(tmp_path, srgb=True) as slide:
        assert slide.properties["colours"] == "as stored: the photographs have different colour profiles"


def test_a_profile_that_is_not_for_rgb_is_said(tmp_path):
    grey = Image.fromarray(IMAGE[..., 0])
    grey.save(tmp_path / "a.png", icc_profile=profile())
    with open_slide(tmp_path / "a.png", srgb=True) as slide:
        assert slide.properties["colours"] == "as stored: its colour profile is not for RGB"


def test_a_damaged_profile_is_said_and_the_file_given_back(tmp_path):
    path = write(tmp_path / "a.tif", b"no profile")
    with pytest.raises(
        SlideError, match=r"its colour profile cannot be used \(.*\); open it with the colours as"
    ):
        open_slide(path, srgb=True)
    open_slide(path).close()


def test_openslides_profile_is_the_same(tmp_path):
    path = write(tmp_path / "a.tif", profile())
    assert openslide.OpenSlide.detect_format(path) == "generic-tiff"
    source = open_source(path)
    assert source.info.icc_profile is not None
    assert len(source.info.icc_profile) == len(profile())
    source.close()
