"""Opening: every fault is one sentence, nothing heavy is loaded, huge slides cost little memory."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys

import numpy as np
import pytest
import tifffile
from anotheruser import as_one_who_may_not
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from slidefiles import half, page, picture, write_huge, write_pyramid, write_svs, write_tiff

from napari_mil.errors import SlideError
from napari_mil.slides import READERS, find_slides, open_slide


def refusal(path):
    with pytest.raises(SlideError) as error:
        open_slide(path)
    sentence = str(error.value)
    assert "\n" not in sentence
    assert sentence.endswith(".")
    assert not sentence.endswith("..")
    return sentence


def test_a_missing_file(tmp_path):
    assert refusal(tmp_path / "a.svs") == f"There is no file {tmp_path / 'a.svs'}; check the path."


@pytest.mark.parametrize("address", ["gs://bucket/a.svs", "ftp://host/a.svs"])
def test_an_address_of_another_kind(address):
    assert refusal(address).endswith(
        "a.svs cannot be opened: addresses of slides begin with https:// or s3://."
    )


def test_the_address_of_a_file_here(tmp_path):
    path = write_svs(tmp_path / "a b.svs", picture(300, 400), "raw")
    with open_slide(path.as_uri()) as slide:
        assert slide.path == path


@pytest.mark.parametrize("here", [".", ".."])
def test_the_folder_where_one_is_has_its_name(tmp_path, here, monkeypatch):
    (tmp_path / "P017" / "deeper").mkdir(parents=True)
    Image.fromarray(picture(300, 400)).save(tmp_path / "P017" / "1.png")
    monkeypatch.chdir(tmp_path / "P017" / ("deeper" if here == ".." else ""))
    with open_slide(here) as slide, open_slide(tmp_path / "P017") as same:
        assert slide.name == "P017"
        assert slide.fingerprint == same.fingerprint


@pytest.mark.skipif(os.name != "posix", reason="of this system alone")
def test_a_channel_between_programs_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.svs")
    assert refusal(tmp_path / "a.svs").startswith("a.svs is no file but a channel between programs; give")


def test_an_empty_file(tmp_path):
    (tmp_path / "a.svs").touch()
    assert refusal(tmp_path / "a.svs") == "a.svs is empty (0 bytes); copy the slide again."


def test_a_folder(tmp_path):
    (tmp_path / "notes.txt").write_text("no slide")
    assert refusal(tmp_path).endswith("a photograph or a folder of photographs as PNG, JPEG or TIFF.")


@pytest.mark.parametrize("content", [b"hello", bytes(5000), b"\x89PNG\r\n"])
def test_no_image_at_all(tmp_path, content):
    (tmp_path / "a.svs").write_bytes(content)
    sentence = refusal(tmp_path / "a.svs")
    assert sentence.startswith("a.svs cannot be opened as a slide (TIFF reader: ")
    assert "OpenSlide: " in sentence


@pytest.mark.parametrize(
    "content", [b"II*\0", b"II*\0\x08\0\0\0", b"MM\0*\xff\xff\xff\xff", b"II+\0\x08\0\0\0"]
)
def test_a_tiff_without_content(tmp_path, content):
    (tmp_path / "a.svs").write_bytes(content)
    sentence = refusal(tmp_path / "a.svs")
    assert sentence.startswith("a.svs cannot be used as a slide: it is a damaged TIFF (")
    assert sentence.endswith("; copy the file again.")


def test_the_readers_that_do_not_know_a_file_are_silent_where_one_knows_what_is_wrong(tmp_path):
    tifffile.imwrite(
        tmp_path / "a.tif", picture(64, 64), photometric="rgb", tile=(64, 64), compression="lzma"
    )
    assert refusal(tmp_path / "a.tif").startswith(
        "a.tif cannot be opened as a slide (TIFF reader: its compression LZMA (34925) is not known here; "
        "OpenSlide: Unsupported TIFF compression: 34925); expected is "
    )
    Image.fromarray(picture(64, 64)).save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[: len(whole) // 2])
    assert refusal(tmp_path / "a.png").startswith(
        "a.png cannot be opened as a slide (photographs: the photograph a.png cannot be read ("
    )


def test_looking_into_a_folder_prints_nothing(tmp_path):
    (tmp_path / "a.tif").write_bytes(b"II*\0" + bytes(8))
    code = "import sys, pathlib, napari_mil.slides as s; list(s.find_slides(pathlib.Path(sys.argv[1])))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout + done.stderr == ""


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="there are no such permissions")
def test_a_file_one_may_not_read(tmp_path):
    path = write_pyramid(tmp_path / "a.tif", picture(64, 64))
    path.chmod(0)
    with as_one_who_may_not(tmp_path):
        assert "cannot be read" in refusal(path)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="there are no such permissions")
@pytest.mark.parametrize("mode", [0, 0o444])
def test_a_folder_one_may_not_look_into_is_found_and_said_and_keeps_no_other_back(tmp_path, mode):
    write_svs(tmp_path / "a.svs", picture(64, 64), "raw")
    (tmp_path / "b").mkdir()
    write_svs(tmp_path / "b" / "b.svs", picture(64, 64), "raw")
    (tmp_path / "b").chmod(mode)
    (tmp_path / "c").mkdir()
    write_svs(tmp_path / "c" / "c.svs", picture(64, 64), "raw")
    (tmp_path / "c" / "locked").touch(mode=0)
    with as_one_who_may_not(tmp_path):
        found = list(find_slides(tmp_path))
        assert [one.name for one in found] == ["a.svs", "b", "c.svs"]
        assert "b cannot be read (Permission denied); check its permissions." in refusal(tmp_path / "b")
    (tmp_path / "b").chmod(0o755)


def test_what_a_system_hides_and_links_that_lead_back_bring_no_slides(tmp_path):
    write_svs(tmp_path / "a.svs", picture(64, 64), "raw")
    (tmp_path / "._a.svs").write_bytes(b"as macOS writes beside files on network disks")
    (tmp_path / ".snapshot").mkdir()
    write_svs(tmp_path / ".snapshot" / "a.svs", picture(64, 64), "raw")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "back").symlink_to(tmp_path, target_is_directory=True)
    assert list(find_slides(tmp_path)) == [tmp_path / "a.svs"]


def test_a_link_to_nothing_is_found_and_said(tmp_path):
    write_svs(tmp_path / "a.svs", picture(64, 64), "raw")
    for name, to in (("b.tif", "gone.tif"), ("c.svs", "c.svs"), ("d", "gone")):
        (tmp_path / name).symlink_to(tmp_path / to)
    assert [one.name for one in find_slides(tmp_path)] == ["a.svs", "b.tif", "c.svs"]
    said = f"it is a link to {tmp_path / 'gone.tif'}, where there is nothing; mend or delete the link."
    assert refusal(tmp_path / "b.tif") == f"b.tif cannot be read: {said}"
    assert "c.svs cannot be read: it is a link to" in refusal(tmp_path / "c.svs")
    (tmp_path / "a.svs").unlink()
    assert [one.name for one in find_slides(tmp_path)] == ["b.tif", "c.svs"]


@pytest.mark.parametrize(
    "error", [FileNotFoundError(2, "No such file or directory"), OSError(5, "Input/output error")]
)
def test_whatever_a_disk_answers_is_one_sentence(tmp_path, monkeypatch, error):
    def gone(*_):
        raise error

    path = write_svs(tmp_path / "a.svs", picture(64, 64), "raw")
    for reader in ("tiff", "dicom", "openslide", "photos"):
        monkeypatch.setattr(importlib.import_module(f"napari_mil.slides.{reader}"), "open_source", gone)
    assert f"a.svs cannot be opened: {error.strerror}." in refusal(path)


def test_a_broken_link(tmp_path):
    (tmp_path / "a.svs").symlink_to(tmp_path / "gone.svs")
    assert "cannot be read" in refusal(tmp_path / "a.svs")


def test_a_dark_image_is_no_bright_field_slide(tmp_path):
    image = np.zeros((300, 300, 3), np.uint8)
    image[100:200, 100:200, 2] = 255
    assert refusal(write_pyramid(tmp_path / "a.tif", image)) == (
        "a.tif cannot be used as a slide: it is dark everywhere, as fluorescence images are, "
        "while a bright-field RGB slide is expected, such as an H&E scan."
    )


def test_when_one_reader_refuses_the_next_is_tried(tmp_path, monkeypatch):
    image = picture(300, 400)
    path = write_svs(tmp_path / "a.svs", image, "raw")
    monkeypatch.setattr("napari_mil.slides.READERS", sorted(READERS, key=lambda r: r.module))
    with open_slide(path) as slide:
        assert slide.properties["openslide.vendor"] == "aperio"
    generic = write_tiff(tmp_path / "b.tif", [page(image, "jp2-rgb", reduced=False)])
    data = generic.read_bytes().replace((33005).to_bytes(2, "little"), (34712).to_bytes(2, "little"), 1)
    generic.write_bytes(data)
    with open_slide(generic) as slide:  # OpenSlide does not know this codec
        assert np.array_equal(slide.levels[0][:], image)


ORIGINAL = {}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    image = picture(200, 300)
    write_pyramid(folder / "a.tif", image, levels=2, tile=(64, 64))
    write_svs(folder / "a.svs", image, "jpeg-rgb")
    write_tiff(folder / "j.tif", [page(image, "jp2-rgb"), page(half(image), "jp2-rgb", reduced=True)])
    for path in list(folder.iterdir()):
        ORIGINAL[path.name] = path.read_bytes()
    return folder


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["a.tif", "a.svs", "j.tif"]),
    st.one_of(st.none(), st.floats(0, 1)),
    st.lists(st.tuples(st.one_of(st.floats(0, 0.1), st.floats(0, 1)), st.integers(0, 255)), max_size=4),
)
def test_a_damaged_file_gives_pixels_or_a_sentence_and_nothing_else(folder, name, length, flips):
    data = bytearray(ORIGINAL[name])
    for where, value in flips:
        data[int(where * (len(data) - 1))] = value
    path = folder / f"damaged-{name}"
    path.write_bytes(data if length is None else data[: int(length * len(data))])
    try:
        with open_slide(path) as slide:
            assert slide.levels[0].read(0, 0, 200, 300).shape == (200, 300, 3)
            assert slide.thumbnail(64).dtype == np.uint8
    except SlideError as error:
        said = str(error)
    else:
        said = "opened."
    assert "\n" not in said
    assert said.endswith(".")


SCRIPT = """
import sys, psutil
from pathlib import Path
import numpy, dask.array, tifffile, imagecodecs, openslide, PIL.Image  # libraries are not the slide's cost
import napari_mil.slides, napari_mil.slides.tiff, napari_mil.slides.openslide
me = psutil.Process()
before = me.memory_info().rss
slide = napari_mil.slides.open_slide(sys.argv[1])
coarsest = slide.levels[-1][:]
view = slide.levels[0].read(70000, 90000, 71000, 91600)
lazy = [level.dask for level in slide.levels]
status = Path("/proc/self/status")
peak = int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024 if status.exists() else 0
print(slide.shape_px, len(slide.levels), view.shape, "torch" in sys.modules, "napari" in sys.modules)
print(max(me.memory_info().rss, peak) - before)
slide.close()
"""


@pytest.mark.slow
def test_a_huge_slide_costs_little_memory_and_no_heavy_import(tmp_path):
    path = write_huge(tmp_path / "huge.tif", 150_000, 200_000)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT, path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    facts, grown = done.stdout.splitlines()
    assert facts == "(150000, 200000) 9 (1000, 1600, 3) False False"
    assert int(grown) < 150 * 2**20, f"{int(grown) / 2**20:.0f} MB"
