"""Photographs as slides: one alone, and a folder as a montage that invents no positions."""

import os
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from slidefiles import picture, write_pyramid, write_svs

from napari_mil.errors import SlideError
from napari_mil.grid import TileGrid
from napari_mil.slides import find_slides, open_slide
from napari_mil.slides.cache import shared_cache
from napari_mil.slides.photos import MontageSource, PhotographSource, photographs_in
from napari_mil.tissue import lattice, tissue_grid

DATA = os.environ.get("NAPARI_MIL_TEST_DATA")


def save(path, pixels, **options):
    Image.fromarray(pixels).save(path, **options)
    return path


def folder_of(folder, sizes):
    """Photographs p1.png, p2.png, … of the given (h, w), and their pixels."""
    folder.mkdir(parents=True)
    pixels = [np.roll(picture(*size), i, axis=1) for i, size in enumerate(sizes)]
    for i, image in enumerate(pixels, 1):
        save(folder / f"p{i}.png", image)
    return pixels


def refusal(path):
    with pytest.raises(SlideError) as error:
        open_slide(path)
    sentence = str(error.value)
    assert "\n" not in sentence
    assert sentence.endswith(".")
    assert ".." not in sentence
    return sentence


sizes = st.lists(st.tuples(st.integers(1, 300), st.integers(1, 300)), min_size=1, max_size=14)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes)
def test_every_photograph_lies_in_a_cell_of_its_own_as_it_is(tmp_path_factory, some):
    folder = tmp_path_factory.mktemp("m") / "patient"
    pixels = folder_of(folder, some)
    with open_slide(folder) as slide:
        montage = slide.montage
        assert [p.name for p in montage.photographs] == [f"p{i + 1}.png" for i in range(len(some))]
        assert len({p.cell for p in montage.photographs}) == len(some)
        cells = slide.shape_px[0] // montage.cell_px[0], slide.shape_px[1] // montage.cell_px[1]
        assert slide.shape_px == (cells[0] * montage.cell_px[0], cells[1] * montage.cell_px[1])
        seen = np.zeros(slide.shape_px, bool)
        for photograph, expected in zip(montage.photographs, pixels, strict=True):
            y0, x0, y1, x1 = photograph.box_px
            assert np.array_equal(slide.levels[0].read(y0, x0, y1, x1), expected)
            top, left = (photograph.cell[k] * montage.cell_px[k] for k in (0, 1))
            assert top < y0 < y1 < top + montage.cell_px[0]  # a gap all around
            assert left < x0 < x1 < left + montage.cell_px[1]
            seen[y0:y1, x0:x1] = True
        assert (slide.levels[0][:][~seen] == 255).all()


@pytest.mark.slow
def test_levels_are_halved_exactly(tmp_path):
    folder_of(tmp_path / "p", [(300, 400)] * 40)
    with open_slide(tmp_path / "p") as slide:
        assert max(slide.levels[-1].shape_px) <= 1024 < max(slide.levels[-2].shape_px)
        whole = slide.levels[0][:].astype(float)
        for k, level in enumerate(slide.levels):
            assert level.downsample == (2.0**k, 2.0**k)
            small = whole.reshape(level.shape_px[0], 2**k, level.shape_px[1], 2**k, 3).mean((1, 3))
            assert np.abs(level[:] - small).max() <= 1
        wide = slide.shape_px[1] / slide.shape_px[0]
        assert 0.8 < wide < 2.2


def test_a_montage_says_what_it_is(tmp_path):
    folder_of(tmp_path / "patient 1.2", [(40, 60), (50, 30)])
    (tmp_path / "patient 1.2" / "notes.txt").write_text("x")
    (tmp_path / "patient 1.2" / "._p1.png").write_bytes(b"x")
    with open_slide(tmp_path / "patient 1.2") as slide:
        assert slide.name == "patient 1.2"
        assert slide.mpp is None
        assert slide.properties["format"] == "montage of 2 photographs of patient 1.2"
        assert "says nothing" in slide.properties["positions"]
        first = slide.fingerprint
    with open_slide(tmp_path / "patient 1.2", mpp=0.4) as slide:
        assert slide.mpp == (0.4, 0.4)
    (tmp_path / "patient 1.2").rename(tmp_path / "moved")
    with open_slide(tmp_path / "moved") as slide:
        assert slide.fingerprint == first
    save(tmp_path / "moved" / "p1.png", picture(41, 60))
    with open_slide(tmp_path / "moved") as slide:
        assert slide.fingerprint != first


def test_numbers_in_names_count_as_numbers(tmp_path):
    for name in ("s10.png", "s9.jpg", "S1.jpeg", "s9b.bmp"):
        save(tmp_path / name, picture(20, 20))
    assert [f.name for f in photographs_in(tmp_path)] == ["S1.jpeg", "s9.jpg", "s9b.bmp", "s10.png"]


def test_grey_transparent_turned_and_tiff_photographs(tmp_path):
    image = picture(30, 50)
    save(tmp_path / "a.png", image[..., 0])
    clear = np.dstack([image, np.full((30, 50), 255, np.uint8)])
    clear[:10, :, 3] = 0
    save(tmp_path / "b.png", clear)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    save(tmp_path / "c.png", image, exif=exif)
    tifffile.imwrite(tmp_path / "d.tif", image, photometric="rgb")
    with open_slide(tmp_path) as slide:
        a, b, c, d = (slide.levels[0].read(*p.box_px) for p in slide.montage.photographs)
    assert np.array_equal(a, np.repeat(image[..., :1], 3, axis=2))
    assert (b[:10] == 255).all()
    assert np.array_equal(b[10:], image[10:])
    assert np.array_equal(c, np.rot90(image, -1))
    assert np.array_equal(d, image)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp"])
def test_one_photograph_is_a_small_slide(tmp_path, suffix):
    image = picture(700, 1300)
    options = {"quality": 95, "subsampling": 0} if suffix == ".jpg" else {}
    path = save(tmp_path / f"one{suffix}", image, **options)
    with open_slide(path) as slide:
        assert (slide.name, slide.shape_px, slide.mpp, slide.montage) == ("one", (700, 1300), None, None)
        assert [level.shape_px for level in slide.levels] == [(700, 1300), (350, 650)]
        tolerance = 60 if suffix == ".jpg" else 0
        assert np.abs(slide.levels[0][:].astype(int) - image).max() <= tolerance
        small = slide.levels[0][:].astype(float).reshape(350, 2, 650, 2, 3).mean((1, 3))
        assert np.abs(slide.levels[1][:] - small).max() <= 1


def test_a_header_is_opened_once_for_size_and_profile(tmp_path, monkeypatch):
    files = [tmp_path / f"{i}.png" for i in range(5)]
    for file in files:
        Image.fromarray(picture(60, 80)).save(file, icc_profile=b"a profile")
    opened, really = [], Image.open
    monkeypatch.setattr(Image, "open", lambda file, **how: opened.append(file.name) or really(file, **how))
    source = MontageSource(tmp_path, files)
    names = [str(file) for file in files]
    assert sorted(opened) == names  # several at once
    assert source.info.icc_profile == b"a profile"
    assert PhotographSource(files[0]).info.icc_profile == b"a profile"
    assert sorted(opened) == sorted([*names, names[0]])


def test_odd_sizes_of_one_photograph(tmp_path):
    path = save(tmp_path / "odd.png", picture(1501, 2703))
    with open_slide(path) as slide:
        assert [level.shape_px for level in slide.levels] == [(1501, 2703), (751, 1352), (376, 676)]
        for level in slide.levels:
            assert level[:].shape == level.shape
        assert np.array_equal(slide.levels[0][:], picture(1501, 2703))


def test_folders_without_photographs(tmp_path):
    (tmp_path / "empty").mkdir()
    assert "empty is an empty folder" in refusal(tmp_path / "empty")
    (tmp_path / "slides").mkdir()
    write_pyramid(tmp_path / "slides" / "a.tif", picture(300, 400))
    assert "photographs: a folder without photographs)" in refusal(tmp_path / "slides")


def test_photographs_that_cannot_be_read_are_named(tmp_path):
    folder = tmp_path / "p"
    folder_of(folder, [(40, 60)] * 3)
    whole = (folder / "p2.png").read_bytes()
    (folder / "p2.png").write_bytes(whole[: len(whole) // 2])
    assert "the photograph p2.png cannot be read (" in refusal(folder)
    (folder / "p2.png").write_text("no picture")
    assert "p2.png is no photograph that can be read; copy it again, or take it out)" in refusal(folder)
    (folder / "p2.png").unlink()
    (folder / "p2.png").symlink_to(tmp_path / "on a disk that is not there.png")
    assert "p2.png is no photograph that can be read; copy it again" in refusal(folder)
    (folder / "p2.png").unlink()
    Image.fromarray(np.zeros((20, 20), np.uint16)).save(folder / "p2.png")
    assert "p2.png has pixels of the kind 'I;16', while 8-bit colour or grey is expected" in refusal(folder)
    (folder / "p2.png").write_bytes(whole)
    one, other = (Image.fromarray(p) for p in (picture(20, 20), 255 - picture(20, 20)))
    one.save(folder / "p3.png", save_all=True, append_images=[other])
    assert "p3.png holds 2 pictures" in refusal(folder)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_that_its_camera_turned_is_upright_alone_and_among_others(tmp_path, orientation):
    image = picture(60, 90)
    turns = {2: image[:, ::-1], 3: image[::-1, ::-1], 4: image[::-1], 5: image.transpose(1, 0, 2)}
    turns |= {6: np.rot90(image, -1), 7: np.rot90(image, -1)[:, ::-1][::-1, ::-1], 8: np.rot90(image)}
    upright = turns.get(orientation, image)
    path = tmp_path / "p" / "a.tif"
    path.parent.mkdir()
    tifffile.imwrite(path, image, photometric="rgb", extratags=[(274, "H", 1, orientation, True)])
    with open_slide(path) as slide:
        assert np.array_equal(slide.levels[0][:], upright)
    with open_slide(path.parent) as slide:
        y0, x0, y1, x1 = slide.montage.photographs[0].box_px
        assert np.array_equal(slide.levels[0].read(y0, x0, y1, x1), upright)


@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 3), (20, 30, 4)])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bit_is_refused_alone_and_among_others(tmp_path, shape, suffix):
    folder = tmp_path / "p"
    folder_of(folder, [(40, 60)] * 2)
    deep = np.full(shape, 40_000, np.uint16)
    if suffix == ".png":
        (folder / "deep.png").write_bytes(imagecodecs.png_encode(deep))
    else:
        kind = "minisblack" if deep.ndim == 2 else "rgb"
        more = {"planarconfig": "separate"} if deep.ndim == 3 else {}
        tifffile.imwrite(
            folder / "deep.tif", np.moveaxis(deep, -1, 0) if more else deep, photometric=kind, **more
        )
    assert "deep" in refusal(folder)
    assert "while 8-bit colour or grey is expected" in refusal(folder)
    assert "expected" in refusal(folder / f"deep{suffix}")


def test_too_large_for_a_photograph(tmp_path, monkeypatch):
    monkeypatch.setattr("napari_mil.slides.photos.MOST_PX", 1000)
    path = save(tmp_path / "a.png", picture(40, 60))
    assert "a.png has 60 × 40 pixels, too many for a photograph" in refusal(path)


def test_dark_photographs_are_no_bright_field(tmp_path):
    for i in range(2):
        save(tmp_path / f"{i}.png", np.zeros((100, 100, 3), np.uint8))
    assert "dark everywhere" in refusal(tmp_path)
    save(tmp_path / "2.png", picture(100, 100))
    open_slide(tmp_path).close()


def test_slides_and_photographs_are_found_in_folders(tmp_path):
    folder_of(tmp_path / "study" / "b patient", [(20, 20)] * 2)
    folder_of(tmp_path / "study" / "deep" / "a patient", [(20, 20)])
    (tmp_path / "study" / "slides").mkdir()
    write_svs(tmp_path / "study" / "slides" / "one.svs", picture(200, 300), "raw")
    write_pyramid(tmp_path / "study" / "slides" / "two.tif", picture(200, 300), levels=2, tile=(64, 64))
    save(tmp_path / "study" / "slides" / "thumbnail.png", picture(20, 20))  # lies beside slides
    found = [p.relative_to(tmp_path / "study").as_posix() for p in find_slides(tmp_path / "study")]
    assert found == ["b patient", "deep/a patient", "slides/one.svs", "slides/two.tif"]
    assert list(find_slides(tmp_path / "study" / "b patient")) == [tmp_path / "study" / "b patient"]


def test_the_tiles_of_a_montage_are_its_photographs(tmp_path):
    folder_of(tmp_path / "p", [(90, 120), (60, 150), (90, 120), (50, 50), (70, 70)])
    with open_slide(tmp_path / "p") as slide:
        grid = tissue_grid(slide, tile_px=64)
        whole = lattice(slide, tile_px=64)
        assert len(grid) == 5 < len(whole)
        assert grid.pitch_px == whole.pitch_px == tuple(map(float, slide.montage.cell_px))
        assert grid.view_px == (64.0, 64.0)
        for box, photograph in zip(grid.boxes_px, slide.montage.photographs, strict=True):
            assert (box[:2] <= photograph.box_px[:2]).all()
            assert (box[2:] >= photograph.box_px[2:]).all()
        assert grid.id != TileGrid(grid.slide_px, None, 64, None, grid.cells[:1]).id
        with_size = tissue_grid(slide.with_mpp(0.25), tile_px=64, mpp=0.5)
        assert with_size.view_px == (128.0, 128.0)
        assert with_size.pitch_px == grid.pitch_px
        assert with_size.placement()[0] == (grid.pitch_px[0] * 0.25, grid.pitch_px[1] * 0.25)


@pytest.mark.skipif(DATA is None, reason="NAPARI_MIL_TEST_DATA is not set")
def test_real_photographs():
    home = Path(DATA) / "microscopy" / "breakhis_100x"
    found = list(find_slides(home))
    assert len(found) == 8
    for folder in found[:2]:
        with open_slide(folder) as slide:
            assert len(slide.montage.photographs) == 6
            for photograph in slide.montage.photographs:
                with Image.open(folder / photograph.name) as image:
                    expected = np.asarray(image.convert("RGB"))
                assert np.array_equal(slide.levels[0].read(*photograph.box_px), expected)


def test_a_photograph_in_memory_counts_in_the_bound_of_all_tiles(tmp_path):
    before = sum(shared_cache._reserved.values())
    with open_slide(save(tmp_path / "a.png", picture(900, 700))):
        assert sum(shared_cache._reserved.values()) - before == 900 * 700 * 3
    assert sum(shared_cache._reserved.values()) <= before
