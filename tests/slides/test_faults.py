"""The table of faults: each ends in pixels or one sentence, and leaves the project as it was."""

from __future__ import annotations

import os
import shutil
import struct
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
from anotheruser import as_one_who_may_not
from dicomslides import write_dicom
from slidefamilies import FAMILIES
from slidefiles import half, picture, write_pyramid, write_svs, write_zarr

from napari_mil.errors import SlideError
from napari_mil.slides import open_slide
from napari_mil.slides.originals import FEW, PAUSE_S
from napari_mil.workflow import Project

IMAGE = picture(600, 777)


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """A function that copies the slide of a family into a folder."""
    made = {}

    def copy(family, folder):
        if family not in made:
            home = tmp_path_factory.mktemp("original")
            made[family] = FAMILIES[family][1](home, IMAGE)
        shutil.copytree(made[family].parent, folder, dirs_exist_ok=True)
        return folder / made[family].name

    return copy


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    home = tmp_path_factory.mktemp("project")
    with Project(home / "study", by="me") as project:
        project.add(write_pyramid(home / "good.tif", half(IMAGE), levels=1), label="ADH")
        yield project


def largest(path):
    """The file of a slide that holds the most bytes."""
    inside = [f for f in path.parent.rglob("*") if f.is_file()]
    return max(inside, key=lambda f: f.stat().st_size)


def truncated(path):
    file = largest(path)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def emptied(path):
    largest(path).write_bytes(b"")


def corrupted(path):
    file = largest(path)
    data = bytearray(file.read_bytes())
    data[len(data) // 4 : len(data) // 2] = os.urandom(len(data) // 2 - len(data) // 4)
    file.write_bytes(data)


def a_directory_instead(path):
    file = largest(path)
    file.unlink()
    file.mkdir()


def gone(path):
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def text_instead(path):
    largest(path).write_text("this is no slide\n" * 50)


FAULTS = (truncated, emptied, corrupted, a_directory_instead, gone, text_instead)


def used(slide):
    """Everything that a viewer and an encoder do with a slide."""
    for level in slide.levels:
        level.read(0, 0, *level.shape_px)
    slide.thumbnail(64)
    return slide.fingerprint, slide.pixel_hash


def inside(slide):
    """A box in the scanned area of level 0."""
    y, x, _, _ = slide.bounds_px
    return y, x, y + 100, x + 100


def one_sentence(error):
    said = str(error)
    assert said.isprintable()
    assert said.endswith(".")
    assert not said.endswith("..")
    assert len(said) < 1500


def intact(project):
    [record] = [record for record in project.slides if record.name == "good"]
    assert record.label == "Atypical/ADH"
    assert project.slide("good").levels[0].read(0, 0, 9, 9).shape == (9, 9, 3)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_fault_before_a_slide_is_opened(originals, project, tmp_path, family, fault):
    path = originals(family, tmp_path)
    fault(path)
    try:
        with open_slide(path) as slide:
            used(slide)
    except SlideError as error:
        one_sentence(error)
        with pytest.raises(SlideError):
            used(project.add(path))
    else:
        assert fault in {corrupted, truncated, emptied, a_directory_instead, text_instead}
        if fault is not corrupted:  # the largest file may be one that the rest of the slide goes on without
            assert family in {"OME-Zarr 0.4", "OME-Zarr 0.5", "montage", "DICOM"}
    intact(project)


@pytest.mark.parametrize("replace", [False, True], ids=["deleted", "replaced"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_slide_that_goes_while_it_is_open(originals, project, tmp_path, family, replace):
    path = originals(family, tmp_path)
    with open_slide(path) as slide:
        slide.engine.cache.drop(slide.engine.token)
        gone(path)
        if replace:
            path.write_bytes(b"other content")
        for act in (lambda: slide.levels[0].read(0, 0, 300, 300), lambda: slide.fingerprint):
            try:
                act()
            except SlideError as error:
                one_sentence(error)
    intact(project)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_file_that_is_written_over_while_it_is_open_is_not_shown_as_the_slide(
    originals, project, tmp_path, family
):
    path = originals(family, tmp_path)
    with open_slide(path) as slide:
        before = slide.levels[0].read(*inside(slide))
        slide.engine.cache.drop(slide.engine.token)
        file = max(slide.engine.source.info.files, key=lambda file: file.stat().st_size)
        content, there = file.read_bytes(), file.stat()
        before_ns = there.st_atime_ns, there.st_mtime_ns
        with file.open("r+b") as out:  # the same inode, length and layout
            out.write(content[:-1] + bytes([content[-1] ^ 1]))
        changed = f"another program has changed the file {file.name}; open the slide again"
        if len(slide.engine.source.info.files) > FEW:
            time.sleep(PAUSE_S)
        with pytest.raises(SlideError, match=changed) as caught:
            slide.levels[0].read(*inside(slide))
        one_sentence(caught.value)
        with pytest.raises(SlideError, match=changed):
            _ = slide.fingerprint
        assert not [key for key in slide.engine.cache._tiles if key[0] == slide.engine.token]
        file.write_bytes(content)
        os.utime(file, ns=before_ns)
        with pytest.raises(SlideError, match=changed):  # what a library kept of the other file is not known
            slide.levels[0].read(*inside(slide))
    with open_slide(path) as again:
        assert np.array_equal(again.levels[0].read(*inside(again)), before)
    intact(project)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_slide_that_another_takes_the_place_of_while_it_is_open_is_not_shown_as_that(
    originals, project, tmp_path, family
):
    path = originals(family, tmp_path / "one")
    (tmp_path / "two").mkdir()
    other = FAMILIES[family][1](tmp_path / "two", picture(600, 777, 5))
    with open_slide(path) as slide, open_slide(other) as theirs:
        expected = slide.levels[0].read(*inside(slide))
        assert not np.array_equal(theirs.levels[0].read(*inside(slide)), expected)
        slide.engine.cache.drop(slide.engine.token)
        gone(path)
        with pytest.raises(
            SlideError, match=r"cannot be read any more \(No such file or directory\)"
        ) as caught:
            slide.levels[0].read(*inside(slide))
        one_sentence(caught.value)
        shutil.rmtree(tmp_path / "one")
        (tmp_path / "two").rename(tmp_path / "one")
        with pytest.raises(
            SlideError, match=r"another program has changed .*; open the slide again"
        ) as caught:
            slide.levels[0].read(*inside(slide))
        one_sentence(caught.value)
        assert not [key for key in slide.engine.cache._tiles if key[0] == slide.engine.token]
    intact(project)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_wrong_suffix_is_no_matter_where_the_content_says_it(originals, tmp_path, family):
    path = originals(family, tmp_path)
    wrong = path.with_name("slide.xyz")
    path.rename(wrong)
    try:
        with open_slide(wrong) as slide:
            assert len(slide.pixel_hash) == 64
    except SlideError as error:  # MIRAX finds its folder by its name
        one_sentence(error)
        assert family == "MRXS"


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="there are no such permissions")
@pytest.mark.parametrize("family", FAMILIES)
def test_no_permission(originals, tmp_path, family):
    path = originals(family, tmp_path)
    path.chmod(0)
    try:
        with (
            as_one_who_may_not(path.parent),
            pytest.raises(SlideError, match="check its permissions"),
        ):
            open_slide(path)
    finally:
        path.chmod(0o700)


def test_a_tiff_that_claims_a_terapixel_without_data(tmp_path):
    data = write_pyramid(tmp_path / "a.tif", IMAGE).read_bytes()
    for n in IMAGE.shape[:2]:
        data = data.replace(struct.pack("<I", n), struct.pack("<I", 1_000_000), 1)
    (tmp_path / "a.tif").write_bytes(data)
    with pytest.raises(SlideError, match=r"is a damaged TIFF \(its table lists 12 of 15264649 tiles\); copy"):
        open_slide(tmp_path / "a.tif")


def test_tiles_that_no_memory_holds_are_refused_before_openslide_asks_for_it(originals, tmp_path):
    path = originals("SCN", tmp_path)
    with tifffile.TiffFile(path, mode="r+b") as tif:
        tif.pages[0].tags["TileLength"].overwrite(2130706688)
    with pytest.raises(SlideError, match="it claims tiles of 256 × 2130706688 px") as caught:
        open_slide(path)
    one_sentence(caught.value)


@pytest.mark.parametrize("family", [f for f in FAMILIES if FAMILIES[f][0] != "openslide"])
def test_one_pixel(tmp_path, family):
    image = np.full((1, 1, 3), 200, np.uint8)
    single = {
        "tiled TIFF": lambda: write_pyramid(tmp_path / "a.tif", image, "jpeg-ycbcr"),
        "SVS": lambda: write_svs(tmp_path / "a.svs", image, "jp2-rgb"),
        "OME-Zarr 0.4": lambda: write_zarr(tmp_path / "a.zarr", image, "0.4"),
        "OME-Zarr 0.5": lambda: write_zarr(tmp_path / "a.zarr", image, "0.5"),
        "DICOM": lambda: write_dicom(tmp_path / "d", image, "jpeg-ycbcr"),
    }
    path = single[family]() if family in single else FAMILIES[family][1](tmp_path, image)
    with open_slide(path) as slide:
        used(slide)
        assert np.abs(slide.levels[0].read(*_middle(slide)).astype(int) - 200).max() <= 3


def _middle(slide) -> tuple[int, int, int, int]:
    box = slide.montage.photographs[0].box_px if slide.montage else (0, 0, 1, 1)
    return tuple(box)


def test_the_path_of_a_fault_is_no_path_of_the_project(project, tmp_path):
    with pytest.raises(SlideError, match="There is no file"):
        project.add(Path(tmp_path / "none.svs"))
    assert len([r for r in project.slides if r.name == "none"]) == 0
