"""OME-Zarr 0.4 and 0.5: the pixels, scale and levels that the metadata say, and a sentence for all else."""

from __future__ import annotations

import json
import os
import time

import numpy as np
import pytest
import zarr
from slidefiles import half, picture, write_zarr

from napari_mil.errors import SlideError
from napari_mil.slides import find_slides, open_slide

IMAGE = picture(700, 531)
FORMATS = ("0.4", "0.5")


def documents(folder, version):
    return folder / ("zarr.json" if version == "0.5" else ".zattrs")


def change(folder, version, act):
    """Let `act` change the OME metadata of a folder."""
    path = documents(folder, version)
    said = json.loads(path.read_text())
    act(said["attributes"]["ome"] if version == "0.5" else said)
    path.write_text(json.dumps(said))
    return folder


@pytest.mark.parametrize("version", FORMATS)
@pytest.mark.parametrize("axes", ["cyx", "tczyx", "yxc", "yx"])
def test_pixels_levels_and_scale(tmp_path, version, axes):
    image = IMAGE if "c" in axes else np.repeat(IMAGE[..., :1], 3, 2)
    folder = write_zarr(tmp_path / "a.ome.zarr", image, version, levels=3, axes=axes, mpp=(0.5, 0.25))
    with open_slide(folder) as slide:
        assert slide.mpp == (0.5, 0.25)
        assert slide.properties["format"] == f"OME-Zarr {version}"
        assert [level.shape_px for level in slide.levels] == [(700, 531), (350, 265), (175, 132)]
        assert slide.levels[0].tile_px == (256, 256)
        for level in slide.levels:
            assert np.array_equal(level[:], image)
            image = half(image)


@pytest.mark.parametrize(
    ("unit", "factor"),
    [("micrometer", 1), ("nanometer", 1e-3), ("millimeter", 1e3), ("parsec", None), (None, None)],
)
@pytest.mark.parametrize("version", FORMATS)
def test_the_unit_of_an_axis_counts(tmp_path, version, unit, factor):
    scale = 0.5 / (factor or 1)
    folder = write_zarr(tmp_path / "a.zarr", IMAGE, version, mpp=(scale, scale), unit=unit)
    with open_slide(folder) as slide:
        assert slide.mpp == (pytest.approx((0.5, 0.5)) if factor else None)


def test_a_scale_of_all_levels_is_multiplied(tmp_path):
    folder = write_zarr(tmp_path / "a.zarr", IMAGE, "0.4", mpp=(0.25, 0.5))

    def twice(said):
        said["multiscales"][0]["coordinateTransformations"] = [{"type": "scale", "scale": [1, 2.0, 2.0]}]

    with open_slide(change(folder, "0.4", twice)) as slide:
        assert slide.mpp == (0.5, 1.0)


def test_shards_are_read_by_their_chunks(tmp_path):
    folder = write_zarr(tmp_path / "a.zarr", IMAGE, "0.5", chunk=64, shards=(3, 512, 512))
    with open_slide(folder) as slide:
        assert slide.levels[0].tile_px == (256, 256)
        assert np.array_equal(slide.levels[0][:], IMAGE)


@pytest.mark.parametrize("version", FORMATS)
def test_chunks_that_were_not_scanned_show_the_background(tmp_path, version):
    image = IMAGE.copy()
    image[256:512, 256:512] = 0  # writers leave such chunks out
    with open_slide(write_zarr(tmp_path / "a.zarr", image, version)) as slide:
        read = slide.levels[0][:]
    image[256:512, 256:512] = 255
    assert np.array_equal(read, image)


def test_the_first_image_of_bioformats2raw_is_the_slide(tmp_path):
    zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2, attributes={"bioformats2raw.layout": 3})
    write_zarr(tmp_path / "a.zarr" / "0", IMAGE, "0.4")
    with open_slide(tmp_path / "a.zarr") as slide:
        assert np.array_equal(slide.levels[0][:], IMAGE)
        assert len(slide.fingerprint) == 64


@pytest.mark.parametrize("within", ["", "0"])
def test_the_objective_is_what_the_scanner_said_beside_the_images(tmp_path, within):
    root = tmp_path / "a.zarr"
    zarr.open_group(root, mode="w", zarr_format=2, attributes={"bioformats2raw.layout": 3})
    write_zarr(root / "0", IMAGE, "0.4")
    with open_slide(root / within) as slide:
        assert slide.objective_power is None
    (root / "OME").mkdir()
    (root / "OME" / "METADATA.ome.xml").write_text(
        '<OME><Instrument><Objective ID="Objective:0" NominalMagnification="5.0"/>'
        '<Objective ID="Objective:1" NominalMagnification="40.0"/></Instrument>'
        '<Image><ObjectiveSettings ID="Objective:1"/></Image></OME>'
    )
    with open_slide(root / within) as slide:
        assert slide.objective_power == 40.0


def channels(*colours):
    found = [{"label": f"dye {i}", "color": colour} for i, colour in enumerate(colours)]
    return lambda said: said.update(omero={"channels": found})


@pytest.mark.parametrize("mark", ["", "#"])
def test_channels_that_are_named_red_green_and_blue_are_a_colour_image(tmp_path, mark):
    colours = [mark + colour for colour in ("ff0000", "00FF00", "0000FF")]
    folder = change(write_zarr(tmp_path / "a.zarr", IMAGE, "0.5"), "0.5", channels(*colours))
    open_slide(folder).close()


@pytest.mark.parametrize("version", FORMATS)
def test_an_array_by_itself_is_no_image(tmp_path, version):
    folder = write_zarr(tmp_path / "a.zarr", IMAGE, version) / "0"
    with pytest.raises(
        SlideError, match="it is a Zarr array without the metadata `multiscales`, while an OME"
    ):
        open_slide(folder)


@pytest.mark.parametrize("version", FORMATS)
@pytest.mark.parametrize(
    ("image", "act", "sentence"),
    [
        (IMAGE.astype(np.uint16), None, "its pixels are uint16, while bright-field RGB of 8 bit is expected"),
        (IMAGE.astype(np.float32), None, "its pixels are float32, while"),
        (np.concatenate([IMAGE, IMAGE], 2), None, "it has 6 channels, while bright-field RGB is expected"),
        (IMAGE, channels("FF00FF", "00FFFF", "0000FF"), r"its channels \(dye 0, dye 1, dye 2\) are no red"),
        (IMAGE, lambda said: said.pop("multiscales"), "without the metadata `multiscales`"),
        (IMAGE, lambda said: said.update(plate={"rows": []}), "it is a plate of many images"),
        (
            IMAGE,
            lambda said: said["multiscales"][0].update(axes=[{"name": "x"}]),
            "its axes are x, while y and",
        ),
        (IMAGE, lambda said: said["multiscales"][0].update(axes=3), r"a damaged OME-Zarr \("),
        (IMAGE, lambda said: said["multiscales"][0]["datasets"].reverse(), "not ordered from the largest"),
        (
            IMAGE,
            lambda said: said["multiscales"][0]["datasets"][0].update(path="no"),
            "its level no is not there; copy the folder again",
        ),
    ],
)
def test_what_is_no_slide_is_refused_with_a_sentence(tmp_path, version, image, act, sentence):
    folder = write_zarr(tmp_path / "a.zarr", image, version, levels=2)
    if act is not None:
        change(folder, version, act)
    with pytest.raises(SlideError, match=rf"^a\.zarr cannot be used as a slide: .*{sentence}.*\.$"):
        open_slide(folder)


def test_a_stack_is_refused(tmp_path):
    folder = write_zarr(tmp_path / "a.zarr", IMAGE, "0.4", axes="zcyx")
    array = zarr.create_array(
        tmp_path / "deep", shape=(5, 3, 700, 531), chunks=(1, 3, 256, 256), dtype="u1", zarr_format=2
    )
    (folder / "0" / ".zarray").write_text((tmp_path / "deep" / ".zarray").read_text())
    assert array.shape[0] == 5
    with pytest.raises(SlideError, match=r"it holds a stack of images \(5 along z\), while one bright-field"):
        open_slide(folder)


@pytest.mark.parametrize("version", FORMATS)
def test_a_damaged_chunk_is_named(tmp_path, version):
    folder = write_zarr(tmp_path / "a.zarr", IMAGE, version)
    chunk = folder / "0" / ("c/0/1/1" if version == "0.5" else "0/1/1")
    chunk.write_bytes(b"no chunk")
    with open_slide(write_zarr(tmp_path / "b.zarr", IMAGE, version, levels=3)) as slide:
        (tmp_path / "b.zarr" / chunk.relative_to(folder)).write_bytes(b"no chunk")
        with pytest.raises(
            SlideError, match=r"^b\.zarr: the chunk in row 1, column 1 of the level of 531 × 700 px is"
        ):
            slide.levels[0].read(300, 300, 310, 310)
        assert np.array_equal(slide.levels[0].read(0, 0, 256, 256), IMAGE[:256, :256])


@pytest.mark.parametrize("version", FORMATS)
def test_the_fingerprint_follows_metadata_and_the_coarsest_level(tmp_path, version):
    marks = set()
    for seed in (0, 1):
        with open_slide(
            write_zarr(tmp_path / f"{seed}" / "a.zarr", picture(700, 531, seed), version, levels=2)
        ) as slide:
            marks.add(slide.fingerprint)
    with open_slide(write_zarr(tmp_path / "again" / "a.zarr", IMAGE, version, levels=2)) as slide:
        assert slide.fingerprint in marks
    assert len(marks) == 2


def test_folders_of_zarr_are_found_and_not_searched(tmp_path):
    write_zarr(tmp_path / "s" / "a.ome.zarr", IMAGE, "0.4")
    write_zarr(tmp_path / "s" / "b.zarr", IMAGE, "0.5")
    assert [p.name for p in find_slides(tmp_path)] == ["a.ome.zarr", "b.zarr"]
    with open_slide(tmp_path / "s" / "a.ome.zarr") as slide:
        assert slide.name == "a"


@pytest.mark.parametrize(
    ("names", "colours", "rgb"),
    [
        ("DAPI FITC Cy3", None, False),
        ("Cy5 FITC DAPI", ("FF0000", "00FF00", "0000FF"), False),
        ("mCherry EGFP Hoechst33342", ("FF0000", "00FF00", "0000FF"), False),
        ("panCK CD3 CD8", None, False),
        ("B G R", None, False),
        ("Red Green Blue", None, True),
        ("r g b", ("FF0000", "00FF00", "0000FF"), True),
        ("Channel:0 Channel:1 Channel:2", None, True),
        ("ch_1 ch_2 ch_3", ("ff0000", "00ff00", "0000ff"), True),
        ("0 1 2", None, True),
    ],
)
def test_dyes_are_no_colours(tmp_path, names, colours, rgb):
    path = write_zarr(tmp_path / "a.zarr", IMAGE)
    found = [{"label": name} for name in names.split()]
    for one, colour in zip(found, colours or (), strict=False):
        one["color"] = colour
    change(path, "0.5", lambda said: said.update(omero={"channels": found}))
    if rgb:
        with open_slide(path) as slide:
            assert np.array_equal(slide.levels[0][:], IMAGE)
    else:
        said = names.replace(" ", ", ")
        with pytest.raises(
            SlideError, match=rf"its channels \({said}\) are no red, green and blue, while RGB"
        ):
            open_slide(path)


@pytest.mark.parametrize(("shards", "name"), [(None, "0/c/0/5/0"), ((3, 512, 512), "0/c/0/1/0")])
def test_a_chunk_that_is_written_while_the_slide_is_open_is_noticed(tmp_path, shards, name):
    path = write_zarr(tmp_path / "a.zarr", IMAGE, levels=2, chunk=128, shards=shards)
    with open_slide(path) as slide:
        assert np.array_equal(slide.levels[0].read(0, 0, 128, 128), IMAGE[:128, :128])
        os.utime(path / name, (time.time() + 5,) * 2)
        slide.levels[0].read(0, 0, 128, 128)
        with pytest.raises(SlideError, match=rf"another program has changed the file {name}; open the slide"):
            slide.levels[0].read(600, 0, 700, 100)
        slide.engine.cache.drop(slide.engine.token)
        with pytest.raises(SlideError, match="another program has changed the file"):
            slide.levels[0].read(0, 0, 128, 128)
    os.utime(path / name)
    with open_slide(path) as slide:
        assert np.array_equal(slide.levels[0][:], IMAGE)
