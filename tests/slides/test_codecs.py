"""Tiles of WebP and JPEG XL in a TIFF: the pixels of tifffile, and no more memory than the tile's."""

from __future__ import annotations

import struct
import tracemalloc

import imagecodecs
import numpy as np
import pytest
import tifffile
from slidefiles import PageSpec, cut, encode, half, picture, write_modern, write_tiff

from napari_mil.errors import SlideError
from napari_mil.slides import codecs, open_slide

IMAGE = picture(300, 421)
KINDS = [(c, n) for c, numbers in (("webp", (50001, 34927)), ("jxl", (50002, 52546))) for n in numbers]


@pytest.mark.parametrize(("codec", "compression"), [*KINDS, ("jxl-container", 50002)])
def test_lossless_tiles_have_the_pixels_of_tifffile(tmp_path, codec, compression):
    path = write_modern(tmp_path / "a.tif", IMAGE, codec, compression)
    with open_slide(path) as slide, tifffile.TiffFile(path) as tif:
        assert slide.levels[0].shape_px == IMAGE.shape[:2]
        for level, page in zip(slide.levels, tif.pages, strict=True):
            assert int(page.compression) == compression
            assert np.array_equal(level[:], page.asarray())
        assert np.array_equal(slide.levels[0][:], IMAGE)
        assert np.array_equal(slide.levels[1][:], half(IMAGE))


@pytest.mark.parametrize("compression", ["webp", "jpegxl"])
@pytest.mark.parametrize("lossless", [True, False])
def test_what_tifffile_writes_is_read_as_tifffile_reads_it(tmp_path, compression, lossless):
    more = {"lossless": True} if lossless else {"level": 80}
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, IMAGE, photometric="rgb", tile=(128, 128), compression=compression, compressionargs=more
    )
    with open_slide(path) as slide:
        assert np.array_equal(slide.levels[0][:], tifffile.imread(path))
        assert np.abs(slide.levels[0][:].astype(int) - IMAGE).max() <= (0 if lossless else 40)


def test_grey_is_tripled_and_transparent_pixels_show_the_background(tmp_path):
    grey = np.ascontiguousarray(IMAGE[:256, :256, 0])
    spec = PageSpec((256, 256), [encode(grey, "jxl")], compression=50002, photometric=1, samples=1)
    with open_slide(write_tiff(tmp_path / "grey.tif", [spec])) as slide:
        assert np.array_equal(slide.levels[0][:], np.repeat(grey[..., None], 3, axis=2))
    clear = np.dstack([IMAGE[:256, :256], np.full((256, 256), 255, np.uint8)])
    clear[:100, :, 3] = 0
    for codec, compression in KINDS:
        spec = PageSpec((256, 256), [encode(clear, codec)], compression=compression, samples=4)
        with open_slide(write_tiff(tmp_path / "clear.tif", [spec])) as slide:
            assert (slide.levels[0][:100] == 255).all()
            assert np.array_equal(slide.levels[0][100:], IMAGE[100:256, :256])


SIDES = [(1, 1), (8, 8), (256, 256), (200, 300), (256, 320), (37, 1000), (3000, 9), (600, 400), (1, 1500)]


@pytest.mark.parametrize("px", SIDES)
def test_the_size_that_a_stream_announces_is_found(px):
    image = np.zeros((*px, 3), np.uint8)
    alpha = np.dstack([image, np.zeros(px, np.uint8)])
    for one in (image, alpha):
        assert codecs._webp_px(imagecodecs.webp_encode(one, lossless=True)) == px
        assert codecs._webp_px(imagecodecs.webp_encode(one, level=80)) == px
        for codec in ("jxl", "jxl-container"):
            assert codecs._jpegxl_px(encode(one, codec)) == px


def enlarged(codec):
    """A stream of 256 × 256 px whose header says 16,000 × 16,000 or more."""
    data = bytearray(encode(cut(IMAGE, (256, 256))[0], codec))
    if codec == "webp":
        data[21:25] = struct.pack("<I", 16_000 - 1 | 16_000 - 1 << 14)
    else:  # not small; y of 30 bits; ratio 1
        data[2:10] = (0 | 3 << 1 | (40_000 - 1) << 3 | 1 << 33).to_bytes(8, "little")
    return bytes(data)


@pytest.mark.parametrize("codec", ["webp", "jxl"])
def test_what_announces_more_than_its_tile_is_not_decoded(tmp_path, codec, monkeypatch):
    compression = {"webp": 50001, "jxl": 50002}[codec]
    for decoder in ("webp_decode", "jpegxl_decode"):
        monkeypatch.setattr(imagecodecs, decoder, lambda *_, **__: pytest.fail("was decoded"))
    path = write_tiff(tmp_path / "a.tif", [PageSpec((256, 256), [enlarged(codec)], compression=compression)])
    tracemalloc.start()
    with pytest.raises(SlideError, match=r"damaged \(it announces \d+ × \d+ px\)"):
        open_slide(path)
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()
    for nonsense in (b"", b"RIFF", b"\xff\x0b" + bytes(40), b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(40)):
        spec = PageSpec((256, 256), [nonsense or b"\0"], compression=compression)
        with pytest.raises(SlideError, match="its header makes no sense"):
            open_slide(write_tiff(tmp_path / "b.tif", [spec]))


@pytest.mark.parametrize(("codec", "compression"), KINDS)
def test_a_tile_of_another_size_or_cut_short_is_damaged(tmp_path, codec, compression):
    tile = encode(cut(IMAGE, (256, 256))[0], codec)
    small = encode(np.ascontiguousarray(IMAGE[:100, :100]), codec)
    for data, why in ((tile[: len(tile) // 2], "is damaged"), (small, "it holds 100 × 100 px")):
        spec = PageSpec((256, 256), [data], compression=compression)
        with pytest.raises(SlideError, match=why):
            open_slide(write_tiff(tmp_path / "a.tif", [spec]))


def test_where_imagecodecs_lacks_a_codec_the_compression_is_not_known(tmp_path, monkeypatch):
    path = write_modern(tmp_path / "a.tif", IMAGE, "jxl", 50002)
    monkeypatch.setattr(codecs.imagecodecs, "JPEGXL", type("Lacking", (), {"available": False}))
    with pytest.raises(SlideError, match=r"compression JPEGXL \(50002\) is not known here"):
        open_slide(path)
