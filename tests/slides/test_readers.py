"""What holds for every reader of the registry; a new one needs a slide in `slidefamilies.FAMILIES`."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from slidefamilies import FAMILIES
from slidefiles import picture

from napari_mil.slides import READERS, find_slides, open_slide
from napari_mil.slides.readers import Reader

IMAGE = picture(600, 777)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory):
    module, write = FAMILIES[request.param]
    return module, write(tmp_path_factory.mktemp("family"), IMAGE)


def test_every_reader_has_a_slide_here():
    assert {module for module, _ in FAMILIES.values()} == {reader.module for reader in READERS}
    assert len({reader.name for reader in READERS}) == len(READERS)
    assert all(reader.extra for reader in READERS if reader.needs)


def test_a_missing_library_is_named_with_its_line():
    reader = Reader("x", "x", "x", needs="no_such_library", extra="dicom")
    assert not reader.installed
    assert reader.install == "pip install 'napari-mil[dicom]'"


def test_its_own_reader_takes_it(family):
    module, path = family
    with open_slide(path) as slide:
        assert type(slide.engine.source).__module__ == f"napari_mil.slides.{module}"


def test_tiles_of_every_level_are_the_picture(family):
    _, path = family
    with open_slide(path) as slide:
        sizes = [level.shape_px for level in slide.levels]
        assert sizes == sorted(sizes, reverse=True)
        assert slide.engine.source.info.files
        for i, level in enumerate(slide.levels):
            th, tw = level.tile_px
            rows, cols = -(-level.shape_px[0] // th), -(-level.shape_px[1] // tw)
            for row, col in {(0, 0), (rows - 1, cols - 1)}:
                tile = slide.engine.source.tile(i, row, col)
                assert tile.dtype == np.uint8
                high, wide = level.shape_px
                assert tile.shape == (min(th, high - row * th), min(tw, wide - col * tw), 3)
            thumbnail = slide.thumbnail(64)
            assert thumbnail.shape[2] == 3


def test_many_threads_get_the_same_pixels(family):
    _, path = family
    with open_slide(path) as slide, ThreadPoolExecutor(8) as pool:
        source = slide.engine.source
        first = source.tile(0, 0, 0)
        assert all(
            np.array_equal(first, tile) for tile in pool.map(lambda _: source.tile(0, 0, 0), range(32))
        )


def test_opening_twice_gives_the_same_slide_and_closing_twice_no_harm(family):
    _, path = family
    with open_slide(path) as one, open_slide(path) as other:
        assert one.fingerprint == other.fingerprint
        assert one.pixel_hash == other.pixel_hash
    one.close()


def test_it_is_found_in_its_folder(family):
    _, path = family
    if path.suffix != ".png":
        assert path in set(find_slides(path.parent))
