"""Slide and grid to bag: order, cancelling, short memory."""

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from napari_mil import encode
from napari_mil.encode import _cover, encode_steps
from napari_mil.encoders import Encoder
from napari_mil.errors import BagError, DeviceError, TissueError
from napari_mil.grid import TileGrid
from napari_mil.samples.writing import write_pyramid
from napari_mil.slides import Slide, open_slide
from napari_mil.steps import drain
from napari_mil.tissue import tissue_grid

SHAPE = (700, 900)


class Corner(Encoder):
    """Mean colour: quick, and known beforehand."""

    name, id, width, tile_px, mpp = "corner", "corner-1", 3, 64, 0.5

    def __call__(self, tiles: torch.Tensor) -> torch.Tensor:
        return tiles.float().mean((1, 2))


class Greedy(Corner):
    """Has memory for so many tiles at once."""

    def __init__(self, most: int) -> None:
        self.most, self.sizes = most, []

    def __call__(self, tiles: torch.Tensor) -> torch.Tensor:
        self.sizes.append(len(tiles))
        if len(tiles) > self.most:
            raise torch.OutOfMemoryError("planted")
        return super().__call__(tiles)


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    pixels = np.stack([y * 255 // SHAPE[0], x * 255 // SHAPE[1], (y + x) % 256 // 2], axis=-1).astype(
        np.uint8
    )
    path: Path = tmp_path_factory.mktemp("encode") / "gradient.tif"
    write_pyramid(path, pixels)
    with open_slide(path) as opened:
        yield opened


@pytest.fixture(scope="module")
def grid(slide: Slide) -> TileGrid:
    return TileGrid.full(slide.shape_px, slide.mpp, tile_px=64, mpp=0.5)


@pytest.fixture(scope="module")
def plain(slide, grid) -> np.ndarray:
    return drain(encode_steps(slide, grid, Corner(), device="cpu")).features


def readers() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("napari-mil-read")]


def test_the_bag_is_in_the_grid_s_order(slide, grid, plain):
    bag = drain(encode_steps(slide, grid, Corner(), device="cpu"))
    assert (bag.slide_id, bag.encoder, len(bag), bag.width) == (slide.fingerprint, "corner-1", len(grid), 3)
    assert bag.features.dtype == np.float16
    for i in (0, 7, len(grid) - 1):
        tile = slide.read(tuple(grid.boxes_px[i]), out_px=(64, 64))
        np.testing.assert_allclose(bag.features[i], tile.mean((0, 1)), atol=0.2)


@settings(max_examples=8, deadline=None)
@given(st.lists(st.integers(0, 164), max_size=12), st.integers(1, 70))
def test_tiles_asked_for_come_first_and_nothing_else_changes(slide, grid, plain, wanted, batch):
    seen, order = np.full(len(grid), -1), []
    features = np.zeros_like(plain)

    def take(progress):
        if progress.payload is None:
            assert progress.done == 0
            return
        indices, made = progress.payload
        seen[indices] = 1
        features[indices] = made
        order.extend(indices.tolist())
        assert (progress.stage, progress.done, progress.total) == ("features", len(order), len(grid))

    steps = encode_steps(slide, grid, Corner(), first=wanted, batch=batch, device="cpu")
    bag = drain(steps, take)
    unique = list(dict.fromkeys(wanted))
    assert order[: len(unique)] == unique
    assert sorted(order) == list(range(len(grid)))
    np.testing.assert_array_equal(bag.features, plain)
    np.testing.assert_array_equal(features, plain)
    assert readers() == []


def test_cancelling_ends_the_threads_at_once(slide, grid):
    steps = encode_steps(slide, grid, Corner(), batch=4, device="cpu")
    next(steps)
    assert next(steps).done == 4
    assert readers()
    steps.close()
    assert readers() == []


def test_cancelling_waits_for_the_tiles_that_are_being_read_alone(slide, grid, monkeypatch):
    views = encode.Views.of(slide, grid)
    batches = views.portions(np.arange(len(grid)), 16)
    plain, later, closing = Slide.read, [], threading.Event()
    first = {tuple(box) for box in views.at(batches[0])}

    def read(self, box, **about):
        if box not in first:
            later.append(box)
            assert closing.wait(30)
        return plain(self, box, **about)

    class Pool(encode.ThreadPoolExecutor):
        def shutdown(self, **about):
            closing.set()
            super().shutdown(**about)

    monkeypatch.setattr(Slide, "read", read)
    monkeypatch.setattr(encode, "ThreadPoolExecutor", Pool)
    coming = encode.read_ahead(slide, 64, views, batches)
    indices, pixels = next(coming)
    assert pixels.shape == (16, 64, 64, 3)
    assert indices.tolist() == list(range(16))
    coming.close()
    assert len(later) <= encode._readers()


def test_cancelling_before_the_first_batch(slide, grid):
    steps = encode_steps(slide, grid, Corner(), device="cpu")
    next(steps)
    steps.close()
    assert readers() == []


def test_an_encoder_that_fails_leaves_no_threads(slide, grid):
    class Broken(Corner):
        def __call__(self, tiles):
            raise RuntimeError("a defect")

    with pytest.raises(RuntimeError, match="a defect"):
        drain(encode_steps(slide, grid, Broken(), batch=4, device="cpu"))
    assert readers() == []


def test_short_memory_halves_the_batch_and_says_so(slide, grid, plain):
    encoder, notes = Greedy(most=9), []
    steps = encode_steps(slide, grid, encoder, batch=32, device="cpu")
    bag = drain(steps, lambda progress: notes.append(progress.note))
    np.testing.assert_array_equal(bag.features, plain)
    assert encoder.sizes[:4] == [32, 16, 8, 8]
    assert "memory is short" not in notes[0]
    assert "memory is short, 8 tiles at a time" in notes[-1]


def test_no_memory_for_one_tile_is_a_sentence(slide, grid):
    with pytest.raises(DeviceError, match="a single tile"):
        drain(encode_steps(slide, grid, Greedy(most=0), device="cpu"))
    assert readers() == []


def test_an_empty_grid_is_refused(slide, grid):
    with pytest.raises(TissueError, match="no tiles"):
        drain(encode_steps(slide, grid.with_cells(np.empty((0, 2))), Corner()))


def test_another_slide_s_grid_is_refused(slide):
    with pytest.raises(BagError, match="make a grid for this slide"):
        drain(encode_steps(slide, TileGrid.full((500, 500), None, tile_px=64, mpp=None), Corner()))


@pytest.mark.parametrize("first", [[-1], [0, 165]])
def test_first_must_name_tiles_of_the_grid(slide, grid, first):
    assert len(grid) == 165
    with pytest.raises(BagError, match=r"tiles 0 … 164"):
        drain(encode_steps(slide, grid, Corner(), first=first))


def test_numbers_beyond_float16_are_refused(slide, grid):
    class Huge(Corner):
        def __call__(self, tiles):
            return super().__call__(tiles) * 1e6

    with pytest.raises(BagError, match=r"corner-1 .*65504"):
        drain(encode_steps(slide, grid, Huge(), device="cpu"))


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(0, 500), st.integers(0, 500)),
    st.tuples(st.integers(1, 900), st.integers(1, 900)),
    st.tuples(st.floats(20, 300), st.floats(20, 300)),
)
def test_views_cover_a_photograph_and_nothing_else(corner, size, view):
    y, x = corner
    views = _cover((y, x, y + size[0], x + size[1]), view)
    assert views[:, :2].min(0).tolist() == [y, x]
    np.testing.assert_allclose(views[:, 2:].max(0), [y + size[0], x + size[1]])
    sides = views[:, 2:] - views[:, :2]
    factor = min(1, size[0] / view[0], size[1] / view[1])  # smaller photographs are enlarged, not distorted
    np.testing.assert_allclose(sides, np.broadcast_to(np.array(view) * factor, sides.shape))
    for k in (0, 1):
        starts = np.unique(views[:, k])
        assert (np.diff(starts) <= sides[0, k] + 1e-6).all()  # no gap
        assert len(starts) == max(1, int(np.ceil(size[k] / sides[0, k] - 1e-9)))


@pytest.fixture(scope="module")
def montage(tmp_path_factory):
    folder = tmp_path_factory.mktemp("montage")
    rng = np.random.default_rng(0)
    for i, size in enumerate([(200, 130), (64, 64), (40, 90), (300, 70), (128, 128)]):
        base = rng.integers(40, 220, 3)
        pixels = np.clip(base + rng.integers(-30, 30, (*size, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    with open_slide(folder) as opened:
        yield opened


@pytest.mark.parametrize("batch", [1, 5, 64])
def test_a_photograph_s_vector_is_the_mean_over_its_tiles(montage, batch):
    grid = tissue_grid(montage, tile_px=64)
    steps = encode_steps(montage, grid, Corner(), first=[3, 1], batch=batch, device="cpu")
    done: list[int] = []
    bag = drain(steps, lambda now: done.extend(now.payload[0].tolist() if now.payload else []))
    assert done[:2] == [3, 1]
    assert sorted(done) == [0, 1, 2, 3, 4]
    assert bag.encoder == "corner-1+photograph"
    for i, photograph in enumerate(montage.montage.photographs):
        y0, x0, y1, x1 = photograph.box_px
        inside = montage.levels[0].read(y0, x0, y1, x1).mean((0, 1))
        np.testing.assert_allclose(bag.features[i], inside, atol=3)  # overlaps weigh a little
    exact = [np.asarray(montage.levels[0].read(*p.box_px)).mean((0, 1)) for p in montage.montage.photographs]
    np.testing.assert_allclose(bag.features[[1, 4]], np.array(exact)[[1, 4]], atol=0.1)  # no overlap there


def test_what_surrounds_a_photograph_is_not_seen(montage):
    class Darkest(Corner):
        def __call__(self, tiles):
            return tiles.float().amax((1, 2))

    bag = drain(encode_steps(montage, tissue_grid(montage, tile_px=64), Darkest(), device="cpu"))
    assert (bag.features < 252).all()  # the montage around them is white


def test_a_montage_s_grid_needs_its_photographs(slide, montage):
    grid = tissue_grid(montage, tile_px=64)
    empty = grid.with_cells([(grid.shape[0] - 1, grid.shape[1] - 1)])
    with pytest.raises(BagError, match="cells without a photograph"):
        drain(encode_steps(montage, empty, Corner()))
