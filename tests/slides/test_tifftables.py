"""Long tables of tiles are arrays; whatever form they have, they are what tifffile finds."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import tifffile

from napari_mil.errors import SlideError
from napari_mil.slides import open_slide
from napari_mil.slides.tiff import open_source
from napari_mil.slides.tiffpage import File
from napari_mil.slides.tifftables import COUNTS, LONG, OFFSETS, Tables


def write(path, *, big, order, side=16 * 60, levels=0):
    """A tiled TIFF of 3600 tiles, with smaller images as sub-IFDs."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (side, side, 3), np.uint8)
    with tifffile.TiffWriter(path, bigtiff=big, byteorder=order) as out:
        out.write(image, tile=(16, 16), photometric="rgb", subifds=levels, compression="zlib", metadata=None)
        for i in range(levels):
            small = image[:: 2 << i, :: 2 << i]
            out.write(
                small, tile=(16, 16), photometric="rgb", subfiletype=1, compression="zlib", metadata=None
            )
    return path


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("levels", [0, 1, 2])
def test_tables_are_those_that_tifffile_reads(tmp_path, big, order, levels):
    path = write(tmp_path / "a.tif", big=big, order=order, levels=levels)
    file = File(path)
    tables = Tables(file)
    assert len(tables.patches) == 2 * (1 + (levels > 0))
    with tifffile.TiffFile(path) as tif:
        plain = [tif.pages[0], *(tif.pages[0].pages or ())]
        with tifffile.TiffFile(io.BufferedReader(tables.stream()), name="a.tif") as patched:
            seen = [patched.pages[0], *(patched.pages[0].pages or ())]
            assert [p.shape for p in seen] == [p.shape for p in plain]
            assert len(seen[0].dataoffsets) == 1
            assert seen[0].dataoffsets[0] == plain[0].dataoffsets[0]
            for page, whole in zip(seen, plain, strict=True):
                assert tables.of(page, OFFSETS, page.dataoffsets).tolist() == list(whole.dataoffsets)
                assert tables.of(page, COUNTS, page.databytecounts).tolist() == list(whole.databytecounts)
    file.close()
    source = open_source(path)
    assert np.array_equal(source.tile(0, 59, 59), tifffile.imread(path)[-16:, -16:])
    source.close()


def test_short_tables_are_left_to_tifffile(tmp_path):
    path = write(tmp_path / "a.tif", big=True, order="<", side=16 * 22)
    file = File(path)
    assert LONG > 22 * 22
    assert Tables(file).patches == {}
    file.close()


def test_pages_that_point_at_each_other_end(tmp_path):
    path = write(tmp_path / "a.tif", big=True, order="<")
    data = bytearray(path.read_bytes())
    first = struct.unpack_from("<Q", data, 8)[0]
    count = struct.unpack_from("<Q", data, first)[0]
    struct.pack_into("<Q", data, first + 8 + 20 * count, first)
    path.write_bytes(data)
    file = File(path)
    assert len(Tables(file).patches) == 2
    file.close()


def test_a_table_beyond_the_file_is_one_sentence(tmp_path):
    path = write(tmp_path / "a.tif", big=True, order="<")
    data = bytearray(path.read_bytes())
    first = struct.unpack_from("<Q", data, 8)[0]
    for i in range(struct.unpack_from("<Q", data, first)[0]):
        at = first + 8 + 20 * i
        if struct.unpack_from("<H", data, at)[0] == 324:
            struct.pack_into("<Q", data, at + 4, 10**12)
    path.write_bytes(data)
    with pytest.raises(SlideError) as caught:
        open_slide(path)
    assert "a.tif" in str(caught.value)
    assert "\n" not in str(caught.value)
