"""Which files are claimed, and what a slide becomes."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import tifffile
from npe2 import PluginManager, PluginManifest

from napari_mil.errors import SlideError
from napari_mil.ui.layers import OURS
from napari_mil.ui.reader import get_reader, read


def write_pyramid(path, *, shape=(1024, 1280), levels=3, tiled=True, mpp=0.5):
    """A bright RGB TIFF with a dark landmark; mpp None leaves the resolution out."""
    pixels = np.full((*shape, 3), 235, np.uint8)
    pixels[300:420, 500:660] = (120, 40, 130)
    tile = {"tile": (256, 256)} if tiled else {}
    unit = {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"} if mpp else {}
    with tifffile.TiffWriter(path) as writer:
        for level in range(levels):
            step = 2**level
            kind = {"photometric": "rgb", "subfiletype": int(level > 0)}
            writer.write(pixels[::step, ::step], **kind, **tile, **unit)
    return path


def test_folders_with_dicom_files_are_claimed(tmp_path):
    (tmp_path / "slide").mkdir()
    (tmp_path / "slide" / "notes.txt").write_text("no")
    assert get_reader(tmp_path / "slide") is None
    (tmp_path / "slide" / "1.dcm").write_bytes(bytes(128) + b"DICM")
    assert get_reader(tmp_path / "slide") is read


def test_slide_suffixes_are_claimed_and_photographs_are_not(tmp_path):
    assert get_reader("case.svs") is read
    assert get_reader(tmp_path / "Case.OME.TIFF") is read
    assert get_reader("photo.png") is None
    assert get_reader("https://host/deep/a.tif?key=1") is read
    assert get_reader(tmp_path / "a.ome.zarr") is read
    assert get_reader(tmp_path) is None
    assert get_reader("large.btf") is read
    assert get_reader(["a.svs", "b.svs"]) is None


def test_of_tiff_files_only_tiled_pyramids_are_claimed(tmp_path):
    assert get_reader(write_pyramid(tmp_path / "slide.tif")) is read
    assert get_reader(write_pyramid(tmp_path / "flat.tif", levels=1)) is None
    assert get_reader(write_pyramid(tmp_path / "strips.tiff", tiled=False)) is None
    (tmp_path / "broken.tif").write_bytes(b"II*\0 and nothing else")
    assert get_reader(tmp_path / "broken.tif") is None
    assert get_reader(tmp_path / "missing.tif") is None


def test_a_file_that_the_parser_stumbles_over_is_none_of_ours(tmp_path, monkeypatch):
    def stumble(_path):
        raise TypeError("slice indices must be integers")

    monkeypatch.setattr(tifffile, "TiffFile", stumble)
    assert get_reader(tmp_path / "odd.tif") is None


def test_a_slide_becomes_one_layer_in_micrometres(tmp_path):
    [(levels, options, kind)] = read(write_pyramid(tmp_path / "slide.tif"))
    assert kind == "image"
    assert [level.shape for level in levels] == [(1024, 1280, 3), (512, 640, 3), (256, 320, 3)]
    assert options["scale"] == pytest.approx((0.5, 0.5))
    assert options["units"] == ("um", "um")
    assert options["contrast_limits"] == (0, 255)
    assert options["metadata"][OURS]["key"] == "opened"
    assert levels[0][350, 600].tolist() == [120, 40, 130]


def test_a_slide_without_pixel_size_is_shown_in_pixels(tmp_path):
    [(_, options, _)] = read(write_pyramid(tmp_path / "slide.tif", mpp=None))
    assert options["scale"] == (1.0, 1.0)
    assert options["units"] == ("pixel", "pixel")


def test_a_file_that_is_no_slide_says_so(tmp_path):
    (tmp_path / "case.svs").write_bytes(b"not a slide")
    with pytest.raises(SlideError):
        read(tmp_path / "case.svs")


def test_the_manifest_is_valid_and_every_command_exists():
    manifest = PluginManifest.from_distribution("napari-mil")
    assert manifest.contributions.readers
    for command in manifest.contributions.commands:
        assert callable(command.python_name and _import(command.python_name))


def _import(name):
    import importlib

    module, attribute = name.split(":")
    return getattr(importlib.import_module(module), attribute)


def test_reader_and_layers_load_neither_qt_nor_torch():
    code = (
        "import sys, napari_mil.ui.reader, napari_mil.ui.layers;"
        "assert not {'torch', 'qtpy', 'napari', 'PyQt5'} & set(sys.modules), set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_napari_offers_our_reader_for_slides_and_not_for_photographs(tmp_path):
    manager = PluginManager.instance()
    manager.discover()

    def offered(path):
        return [reader.plugin_name for reader in manager.iter_compatible_readers([str(path)])]

    assert "napari-mil" in offered(write_pyramid(tmp_path / "slide.tif"))
    assert "napari-mil" in offered(tmp_path / "case.ndpi")
    assert "napari-mil" not in offered(tmp_path / "photo.png")
