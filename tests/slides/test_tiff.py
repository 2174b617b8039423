"""TIFF of every kind: the right pixels, levels and scale, and one sentence for what is no slide."""

from __future__ import annotations

import struct
import time
from dataclasses import replace

import numpy as np
import openslide
import pytest
import tifffile
from slidefiles import (
    APERIO,
    TAGS,
    PageSpec,
    cut,
    encode,
    half,
    page,
    picture,
    write_pyramid,
    write_svs,
    write_tiff,
)

from napari_mil.errors import SlideError
from napari_mil.slides import omexml, open_slide

IMAGE = picture(300, 421)
LOSSY = {"jpeg-rgb": 4, "jpeg-ycbcr": 9, "jp2-ycbcr": 2}


def whole(path):
    with open_slide(path) as slide:
        return slide.levels[0][:]


def through_openslide(path, level=0):
    with openslide.OpenSlide(path) as handle:
        size = handle.level_dimensions[level]
        return np.asarray(handle.read_region((0, 0), level, size).convert("RGB")).astype(int)


@pytest.mark.parametrize("codec", TAGS)
def test_aperio_slides_of_every_codec_have_openslides_pixels(tmp_path, codec):
    path = write_svs(tmp_path / "a.svs", IMAGE, codec)
    found = whole(path).astype(int)
    assert np.abs(found - IMAGE).max() <= LOSSY.get(codec, 0)
    assert np.abs(found - through_openslide(path)).max() <= 2


def test_jpeg_2000_in_a_generic_tiff_has_the_pixels_that_were_written(tmp_path):
    pages = [replace(page(image, "jp2-rgb"), compression=34712) for image in (IMAGE, half(IMAGE))]
    with open_slide(write_tiff(tmp_path / "a.tif", pages)) as slide:
        assert np.array_equal(slide.levels[0][:], IMAGE)
        assert np.array_equal(slide.levels[1][:], half(IMAGE))


@pytest.mark.parametrize("tile", [(128, 128), (16, 16)])
def test_a_bigtiff_has_the_pixels_of_the_classic_one(tmp_path, tile):
    more = {"photometric": "rgb", "tile": tile, "compression": "zlib"}
    for name, big in (("classic.tif", False), ("big.tif", True)):
        tifffile.imwrite(tmp_path / name, IMAGE, bigtiff=big, **more)
    assert (tmp_path / "big.tif").read_bytes()[2] == 43
    assert (tmp_path / "classic.tif").read_bytes()[2] == 42
    assert np.array_equal(whole(tmp_path / "big.tif"), whole(tmp_path / "classic.tif"))
    assert np.array_equal(whole(tmp_path / "big.tif"), IMAGE)


def test_a_jpeg_that_says_ycbcr_is_believed_over_a_tag_that_says_rgb(tmp_path):
    tiles = [encode(tile, "jpeg-ycbcr") for tile in cut(IMAGE, (256, 256))]
    assert (
        np.abs(
            whole(write_tiff(tmp_path / "a.tif", [PageSpec(IMAGE.shape[:2], tiles)])).astype(int) - IMAGE
        ).max()
        <= 6
    )


@pytest.mark.parametrize("codec", ["raw", "lzw", "zlib", "jpeg-ycbcr"])
def test_levels_are_found_and_show_the_same_picture(tmp_path, codec):
    image = picture(1025, 771)
    with open_slide(write_pyramid(tmp_path / "a.tif", image, codec, levels=4, tile=(128, 256))) as slide:
        assert [level.shape_px for level in slide.levels] == [(1025, 771), (512, 385), (256, 192), (128, 96)]
        assert slide.levels[1].tile_px == (128, 256)
        for level in slide.levels:
            assert np.abs(level[:].astype(int) - image).max() <= LOSSY.get(codec, 0)
            image = half(image)


def test_levels_that_are_not_marked_as_reduced_are_found_by_their_shape(tmp_path):
    pages = [page(IMAGE, "raw"), page(half(IMAGE), "raw"), page(picture(128, 128), "raw")]
    with open_slide(write_tiff(tmp_path / "a.tif", pages)) as slide:
        assert [level.shape_px for level in slide.levels] == [(300, 421), (150, 210)]


@pytest.mark.parametrize("count", [1, 3])
def test_ome_levels_in_sub_ifds(tmp_path, count):
    path, image = tmp_path / "a.ome.tif", picture(512, 700)
    stated = {"axes": "YXS", "PhysicalSizeX": 0.4, "PhysicalSizeY": 500, "PhysicalSizeYUnit": "nm"}
    with tifffile.TiffWriter(path, ome=True) as tif:
        more = {"tile": (128, 128), "photometric": "rgb", "compression": "zlib", "predictor": True}
        tif.write(image, subifds=count - 1, metadata=stated, **more)
        for i in range(1, count):
            tif.write(image[:: 2**i, :: 2**i], subfiletype=1, **more)
    with open_slide(path) as slide:
        assert [level.shape_px for level in slide.levels] == [(512, 700), (256, 350), (128, 175)][:count]
        assert slide.mpp == (0.5, 0.4)
        assert slide.properties["format"] == "OME-TIFF"
        for i, level in enumerate(slide.levels):
            assert np.array_equal(level[:], image[:: 2**i, :: 2**i])


@pytest.mark.parametrize("names", [("macro", "scan"), ("scan 1", "scan 2"), ("", "")])
def test_of_several_images_in_an_ome_tiff_the_largest_is_the_slide_with_its_own_words(tmp_path, names):
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as tif:
        for image, um, name in zip((half(picture(90, 180, 3)), IMAGE), (8.0, 0.25), names, strict=True):
            said = {"axes": "YXS", "PhysicalSizeX": um, "PhysicalSizeY": 2 * um, "Name": name}
            tif.write(image, tile=(64, 64), photometric="rgb", metadata=said)
    words = tifffile.tiffcomment(tmp_path / "a.ome.tif")
    head, body = words.split("<Image", 1)
    first, second = body.split("<Image", 1)
    lenses = "".join(
        f'<Objective ID="Objective:{i}" NominalMagnification="{m}"/>' for i, m in enumerate((2, 40))
    )
    used = (
        one.replace("<Pixels", f'<ObjectiveSettings ID="Objective:{i}"/><Pixels', 1)
        for i, one in enumerate((first, second))
    )
    made = "<Image".join([f'{head}<Instrument ID="Instrument:0">{lenses}</Instrument>', *used])
    tifffile.tiffcomment(tmp_path / "a.ome.tif", made.encode())
    with open_slide(tmp_path / "a.ome.tif") as slide:
        assert (slide.shape_px, slide.mpp, slide.objective_power) == ((300, 421), (0.5, 0.25), 40)
        assert set(slide.associated) == {"macro"} & set(names)


@pytest.mark.parametrize(("um", "levels"), [(0.5, 2), (1.0, 1), (None, 1)])
def test_another_image_of_an_ome_tiff_is_a_level_only_where_it_says_that_it_is_as_large(tmp_path, um, levels):
    other = half(IMAGE) if levels == 2 else picture(150, 210, 7)
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as tif:
        for image, size in ((IMAGE, um and 0.25), (other, um)):
            said = {"PhysicalSizeX": size, "PhysicalSizeY": size} if size else {}
            tif.write(image, tile=(64, 64), photometric="rgb", metadata={"axes": "YXS", **said})
    with open_slide(tmp_path / "a.ome.tif") as slide:
        assert [level.shape_px for level in slide.levels] == [(300, 421), (150, 210)][:levels]


def test_words_of_ome_that_make_no_sense_cost_no_time():
    began = time.process_time()
    assert omexml.image_of("<Image Name='a'" * 200_000, "a", (1, 1)).startswith("<Image")
    assert not omexml.is_rgb("<Image><Channel " * 100_000, "a")
    assert time.process_time() - began < 5


def test_an_ome_tiff_without_words_about_its_pixels_size_has_that_of_its_resolution_tags(tmp_path):
    tags = {"resolution": (1e4 / 0.3, 1e4 / 0.6), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(tmp_path / "a.ome.tif", IMAGE, photometric="rgb", tile=(64, 64), **tags)
    with open_slide(tmp_path / "a.ome.tif") as slide:
        assert slide.mpp == pytest.approx((0.6, 0.3), rel=1e-4)


def test_aperio_states_scale_and_power_and_keeps_label_and_macro_apart(tmp_path):
    path, label, macro = tmp_path / "a.svs", picture(90, 70, 1), picture(80, 200, 2)
    words = APERIO.format(h=300, w=421, th=256, tw=256, mpp="0.2522")
    with tifffile.TiffWriter(path) as tif:
        plain = {"photometric": "rgb", "metadata": None}
        tif.write(IMAGE, tile=(256, 256), description=words, **plain)
        tif.write(half(IMAGE), description="Aperio Image Library\r\n421x300 -> 210x150 - |", **plain)
        tif.write(
            half(IMAGE), tile=(256, 256), description="Aperio Image Library\r\n421x300 -> 210x150", **plain
        )
        tif.write(
            label,
            compression="lzw",
            predictor=True,
            subfiletype=1,
            description="Aperio\r\nlabel 70x90",
            **plain,
        )
        tif.write(macro, subfiletype=9, description="Aperio\r\nmacro 200x80", **plain)
    with open_slide(path) as slide:
        assert slide.mpp == (0.2522, 0.2522)
        assert slide.objective_power == 20
        assert slide.properties["AppMag"] == "20"
        assert [level.shape_px for level in slide.levels] == [(300, 421), (150, 210)]
        assert set(slide.associated) == {"label", "macro", "thumbnail"}
        assert np.array_equal(slide.associated["label"], label)
        assert np.array_equal(slide.associated["macro"], macro)
    with pytest.raises(SlideError, match="closed"):
        slide.associated["label"]


@pytest.mark.parametrize("mpp", ["", "none", "1000", "0,25"])
def test_a_strange_aperio_scale(tmp_path, mpp):
    with open_slide(write_svs(tmp_path / "a.svs", IMAGE, "raw", mpp=mpp)) as slide:
        assert slide.mpp == ((0.25, 0.25) if mpp == "0,25" else None)


@pytest.mark.parametrize("compression", [None, "lzw", "zlib", "packbits", "zstd"])
@pytest.mark.parametrize("kind", ["tiles", "strips"])
def test_lossless_codecs_tiled_and_in_strips(tmp_path, compression, kind):
    more = {"tile": (64, 64)} if kind == "tiles" else {"rowsperstrip": 37}
    tifffile.imwrite(tmp_path / "a.tif", IMAGE, photometric="rgb", compression=compression, **more)
    assert np.array_equal(whole(tmp_path / "a.tif"), IMAGE)


def test_grey_is_tripled_and_white_may_be_zero(tmp_path):
    grey = IMAGE[..., 0]
    for name, photometric, shown in (("b", "minisblack", grey), ("w", "miniswhite", 255 - grey)):
        tifffile.imwrite(tmp_path / f"{name}.tif", grey, photometric=photometric, tile=(128, 128))
        assert np.array_equal(whole(tmp_path / f"{name}.tif"), np.repeat(shown[..., None], 3, axis=2))


@pytest.mark.parametrize("kind", ["unassalpha", "assocalpha"])
def test_what_is_transparent_shows_the_background(tmp_path, kind):
    alpha = np.zeros((*IMAGE.shape[:2], 1), np.uint8)
    alpha[:100], alpha[100:200] = 255, 51
    stored = IMAGE if kind == "unassalpha" else np.rint(IMAGE * (alpha / 255)).astype(np.uint8)
    tifffile.imwrite(
        tmp_path / "a.tif",
        np.concatenate([stored, alpha], 2),
        photometric="rgb",
        extrasamples=[kind],
        tile=(64, 64),
    )
    found = whole(tmp_path / "a.tif")
    assert np.array_equal(found[:100], IMAGE[:100])
    assert np.abs(found[100:200] - (IMAGE[100:200] * 0.2 + 255 * 0.8)).max() <= (
        0.51 if kind == "unassalpha" else 1.01
    )
    assert (found[200:] == 255).all()


def test_a_tile_that_was_never_written_is_background(tmp_path):
    found = whole(write_tiff(tmp_path / "a.tif", [page(IMAGE, "raw", missing={1})]))
    assert np.array_equal(found[:, :256], IMAGE[:, :256])
    assert (found[:256, 256:] == 255).all()


@pytest.mark.parametrize("unit", [(2, 25400), (3, 10000)])
def test_the_resolution_tags_give_the_scale(tmp_path, unit):
    code, um = unit
    tifffile.imwrite(
        tmp_path / "a.tif",
        IMAGE,
        photometric="rgb",
        tile=(64, 64),
        resolution=(um / 0.3, um / 0.6),
        resolutionunit=code,
    )
    with open_slide(tmp_path / "a.tif") as slide:
        assert slide.mpp == pytest.approx((0.6, 0.3), rel=1e-4)


def test_a_resolution_without_a_unit_is_no_scale(tmp_path):
    tifffile.imwrite(
        tmp_path / "a.tif", IMAGE, photometric="rgb", tile=(64, 64), resolution=(3, 3), resolutionunit=1
    )
    with open_slide(tmp_path / "a.tif") as slide:
        assert slide.mpp is None


@pytest.mark.parametrize(
    ("unit", "found"),
    [("micron", 0.5), ("\\u00B5m", 0.5), ("um", 0.5), ("nm", None), ("pixel", None), ("", None)],
)
def test_imagej_names_the_unit_of_the_resolution_in_its_words(tmp_path, unit, found):
    more = {
        "imagej": True,
        "resolution": (2, 2),
        "metadata": {"axes": "YXS", **({"unit": unit} if unit else {})},
    }
    tifffile.imwrite(tmp_path / "a.tif", IMAGE, photometric="rgb", **more)
    with open_slide(tmp_path / "a.tif") as slide:
        assert slide.mpp == (found and (found, found))


GREY = {"photometric": "minisblack"}
PALETTE = {"photometric": "palette", "colormap": np.zeros((3, 256), np.uint16)}


@pytest.mark.parametrize(
    ("data", "more", "sentence"),
    [
        (
            IMAGE.astype(np.uint16),
            {"photometric": "rgb"},
            "its pixels are uint16, while bright-field RGB of 8 bit",
        ),
        (IMAGE[..., 0].astype(np.float32), GREY, "its pixels are float32, while"),
        (np.stack([IMAGE[..., 0]] * 5), GREY, r"a stack of images or channels \(\wYX: 5 × 300 × 421"),
        (IMAGE[..., 0], PALETTE, "it has 1 channel with colours of the kind PALETTE"),
    ],
)
def test_what_is_no_bright_field_image_is_refused_with_a_sentence(tmp_path, data, more, sentence):
    tifffile.imwrite(tmp_path / "a.tif", data, tile=(64, 64), **more)
    advice = (
        "" if "stack" in sentence else "; if it is a colour image, save it as RGB of 8 bit with the pro.*"
    )
    with pytest.raises(
        SlideError, match=rf"^a\.tif cannot be used as a slide: .*{sentence}.*expected{advice}\.$"
    ):
        open_slide(tmp_path / "a.tif")


def test_a_file_cut_short_is_refused(tmp_path):
    path = write_pyramid(tmp_path / "a.tif", IMAGE)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(
        SlideError, match=r"cut short: its tiles reach to byte \d+, but it has only \d+; copy the file"
    ):
        open_slide(path)


def test_a_tile_that_is_no_jpeg_is_noticed_when_the_slide_is_opened(tmp_path):
    tiles = [b"no jpeg at all, but of some length" for _ in range(4)]
    path = write_tiff(tmp_path / "a.tif", [PageSpec(IMAGE.shape[:2], tiles, photometric=6)])
    with pytest.raises(
        SlideError, match=r"TIFF reader: the tile in row 0, column 0 .* is damaged .*; OpenSlide: .*cannot be"
    ):
        open_slide(path)


def test_a_tile_that_announces_more_pixels_than_its_place_is_not_decoded(tmp_path):
    for codec in ("jpeg-ycbcr", "jp2-rgb"):
        large = page(picture(512, 512), codec, tile=(512, 512))
        small = PageSpec((300, 200), large.tiles, (256, 256), large.compression, large.photometric)
        with pytest.raises(SlideError, match=r"damaged \(it announces 512 × 512 px\)"):
            open_slide(write_tiff(tmp_path / "a.svs", [small]))


def test_a_table_of_too_few_tiles_is_a_damaged_file(tmp_path):
    spec = page(IMAGE, "raw")
    data = write_tiff(tmp_path / "a.tif", [spec]).read_bytes()
    (tmp_path / "a.tif").write_bytes(data.replace(struct.pack("<I", 300), struct.pack("<I", 3000), 1))
    with pytest.raises(
        SlideError, match=r"is a damaged TIFF \(its table lists 4 of 24 tiles\); copy the file again"
    ):
        open_slide(tmp_path / "a.tif")


def test_a_large_image_in_strips_cannot_be_read_in_parts(tmp_path, monkeypatch):
    tifffile.imwrite(tmp_path / "a.tif", IMAGE, photometric="rgb")
    monkeypatch.setattr("napari_mil.slides.tiff.MOST_STRIPED_PX", 300 * 421 - 1)
    with pytest.raises(SlideError, match="neither tiled nor small"):
        open_slide(tmp_path / "a.tif")


@pytest.mark.parametrize("name", ["CD68 macrophages", "unlabelled control", "HE overviewscan"])
def test_a_slide_whose_name_holds_the_word_of_another_picture_is_the_slide(tmp_path, name):
    path = tmp_path / "a.ome.tif"
    image = picture(600, 700)
    with tifffile.TiffWriter(path, ome=True) as writer:
        writer.write(picture(300, 320), photometric="rgb", tile=(128, 128), metadata={"Name": "label image"})
        writer.write(image, photometric="rgb", tile=(128, 128), metadata={"Name": name})
    with open_slide(path) as slide:
        assert slide.shape_px == (600, 700)
        assert np.array_equal(slide.levels[0][:], image)
        assert list(slide.associated) == ["label"]


RGB_CHANNELS = {"Channel": {"Name": ["red", "green", "blue"]}}


@pytest.mark.parametrize("way", ["SYX", "CYX"])
@pytest.mark.parametrize("compression", ["zlib", "jpeg"])
def test_colours_in_planes_are_read_as_the_same_picture(tmp_path, way, compression):
    image = picture(700, 900)
    path = tmp_path / "a.ome.tif"
    options = {"tile": (128, 128), "compression": compression}
    options |= {"compressionargs": {"level": 95}} if compression == "jpeg" else {}
    if way == "SYX":
        options |= {"photometric": "rgb", "planarconfig": "separate"}
    about = {"axes": way, "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5} | (RGB_CHANNELS if way == "CYX" else {})
    with tifffile.TiffWriter(path, ome=True) as writer:
        planes = np.moveaxis(image, 2, 0)
        writer.write(planes, subifds=2, metadata=about, **options)
        for step in (2, 4):
            writer.write(np.ascontiguousarray(planes[:, ::step, ::step]), subfiletype=1, **options)
    with tifffile.TiffFile(path) as tif:
        assert tif.series[0].axes == way
    with open_slide(path) as slide:
        assert [level.shape_px for level in slide.levels] == [(700, 900), (350, 450), (175, 225)]
        assert slide.mpp == (0.5, 0.5)
        for level, step in zip(slide.levels, (1, 2, 4), strict=True):
            apart = abs(level[:].astype(int) - image[::step, ::step])
            assert apart.max() <= (0 if compression == "zlib" else 40)
            assert apart.mean() < 2


def test_a_generic_pyramid_in_planes_is_read(tmp_path):
    image = picture(500, 600)
    options = {"tile": (128, 128), "photometric": "rgb", "planarconfig": "separate"}
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(np.moveaxis(image, 2, 0), **options)
        writer.write(np.ascontiguousarray(np.moveaxis(image[::2, ::2], 2, 0)), subfiletype=1, **options)
    with open_slide(tmp_path / "a.tif") as slide:
        assert [level.shape_px for level in slide.levels] == [(500, 600), (250, 300)]
        assert np.array_equal(slide.levels[0][:], image)
        assert np.array_equal(slide.levels[1][:], image[::2, ::2])


@pytest.mark.parametrize(
    "channels",
    [
        {"Name": ["Cy5", "FITC", "DAPI"], "Color": [-16776961, 16711935, 65535]},
        {},
    ],
)
def test_three_channels_that_are_not_red_green_and_blue_are_refused(tmp_path, channels):
    about = {"axes": "CYX"} | ({"Channel": channels} if channels else {})
    planes = np.moveaxis(picture(300, 400), 2, 0)
    tifffile.imwrite(tmp_path / "a.ome.tif", planes, ome=True, tile=(128, 128), metadata=about)
    with pytest.raises(SlideError, match="a stack of images or channels"):
        open_slide(tmp_path / "a.ome.tif")


@pytest.mark.parametrize(
    ("shape", "more", "counts"),
    [
        ((600, 842), {"subfiletype": 0}, True),  # of Huron and others, which mark nothing
        ((300, 421), {"subfiletype": 0}, True),
        ((299, 420), {"subfiletype": 0}, True),
        ((400, 561), {"subfiletype": 0}, False),
        ((400, 561), {"subfiletype": 1}, True),
        ((600, 842), {"subfiletype": 2}, False),
        ((600, 842), {"subfiletype": 0, "tile": (128, 128)}, False),
    ],
)
def test_an_unmarked_page_is_a_level_where_it_looks_like_one(tmp_path, shape, more, counts):
    with tifffile.TiffWriter(tmp_path / "a.tif") as tif:
        for image, about in ((picture(1200, 1684), {}), (picture(*shape, 3), more)):
            tif.write(image, **{"tile": (64, 64), "photometric": "rgb", "metadata": None, **about})
    with open_slide(tmp_path / "a.tif") as slide:
        assert [level.shape_px for level in slide.levels] == [(1200, 1684), *[shape] * counts]
