"""The built-in encoder: invariances, limits, and a definition that does not move."""

import importlib.util
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from encoders.conftest import draw_tile
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_mil import encoders
from napari_mil.encode import encode_steps
from napari_mil.encoders import builtin
from napari_mil.encoders.builtin_scale import SCALE
from napari_mil.errors import BagError
from napari_mil.slides import open_slide
from napari_mil.steps import drain

GOLDEN = Path(__file__).with_name("builtin_1.npz")
DATA = os.environ.get("NAPARI_MIL_TEST_DATA")
few = settings(max_examples=8, deadline=None)
encode = encoders.create()


def test_it_gives_one_finite_named_vector_per_tile(tiles):
    made = encode(tiles)
    assert made.shape == (len(tiles), encode.width)
    assert made.dtype == torch.float32
    assert made.isfinite().all()
    assert 128 <= encode.width <= 512
    names = builtin.feature_names()
    assert len(set(names)) == len(names) == encode.width
    measured = {group: values.shape[1] for group, values in builtin.parts(tiles[:1]).items()}
    assert measured == {group: len(mean) for group, (mean, _) in SCALE.items()}
    assert list(measured) == list(SCALE)


def test_the_definition_has_not_moved():
    """Bags and trained models say builtin-1: when this fails on purpose, the id must change with it."""
    golden = np.load(GOLDEN)["features"]
    tiles = np.stack([draw_tile(1), draw_tile(2, nuclei=150, radius=5.0, lumens=0)])
    made = encode(torch.from_numpy(tiles)).numpy()
    assert encode.id == "builtin-1"
    np.testing.assert_allclose(made, golden, atol=5e-3)


@few
@given(st.integers(1, 11), st.integers(0, 10), st.randoms(use_true_random=False))
def test_a_tile_s_vector_does_not_depend_on_its_batch(tiles, size, which, random):
    others = [random.randrange(len(tiles)) for _ in range(size)]
    at = random.randrange(size)
    others[at] = which
    alone = encode(tiles[which : which + 1])[0]
    assert torch.allclose(encode(tiles[others])[at], alone, atol=1e-5, rtol=0)


def test_the_number_of_threads_changes_nothing(tiles):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = encode(tiles)
        torch.set_num_threads(3)
        assert torch.allclose(encode(tiles), one, atol=1e-5, rtol=0)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("turn", ["quarter", "half", "mirror", "transpose"])
def test_turning_or_mirroring_a_tile_changes_nothing(tiles, turn):
    turned = {
        "quarter": lambda t: torch.rot90(t, 1, (1, 2)),
        "half": lambda t: torch.rot90(t, 2, (1, 2)),
        "mirror": lambda t: t.flip(2),
        "transpose": lambda t: t.transpose(1, 2),
    }[turn](tiles)
    assert torch.allclose(encode(turned), encode(tiles), atol=5e-3, rtol=0)


@few
@given(st.tuples(st.integers(0, 255), st.integers(0, 255), st.integers(0, 255)))
def test_single_colours_are_finite_and_clipped(colour):
    made = encode(torch.tensor(colour, dtype=torch.uint8).expand(1, 256, 256, 3))
    assert made.isfinite().all()
    assert float(made.abs().max()) <= builtin.CLIP


def test_noise_and_odd_sizes_are_finite():
    for shape in [(256, 256), (96, 131), (301, 257)]:
        noise = np.random.default_rng(0).integers(0, 256, (2, *shape, 3), dtype=np.uint8)
        assert encode(torch.from_numpy(noise)).isfinite().all()


def test_no_tiles_give_no_vectors():
    assert encode(torch.empty(0, 256, 256, 3, dtype=torch.uint8)).shape == (0, encode.width)


@pytest.mark.parametrize(
    "wrong",
    [
        torch.zeros(1, 256, 256, 3),
        torch.zeros(256, 256, 3, dtype=torch.uint8),
        torch.zeros(1, 3, 256, 256, dtype=torch.uint8),
        torch.zeros(1, 64, 256, 3, dtype=torch.uint8),
    ],
    ids=["floats", "one tile without batch", "channels first", "too small"],
)
def test_what_is_no_tile_is_refused(wrong):
    with pytest.raises(BagError, match=r"uint8 \(B, H, W, 3\)"):
        encode(wrong)


def value(made: torch.Tensor, name: str) -> list[float]:
    return made[:, builtin.feature_names().index(name)].tolist()


def drawn(**kinds: list[float]) -> torch.Tensor:
    ((what, values),) = kinds.items()
    return torch.from_numpy(np.stack([draw_tile(5, **{what: v}) for v in values]))


def test_the_numbers_mean_what_their_names_say():
    more = encode(drawn(nuclei=[10, 40, 100]))
    assert value(more, "blob number[0]") == sorted(value(more, "blob number[0]"))
    assert value(more, "nuclei area[3]") == sorted(value(more, "nuclei area[3]"))
    larger = encode(drawn(radius=[5.0, 8.0, 12.0]))
    assert value(larger, "blob size and shape[0]") == sorted(value(larger, "blob size and shape[0]"))
    wider = encode(drawn(lumens=[0, 3, 9]))
    assert value(wider, "white area[0]") == sorted(value(wider, "white area[0]"))


def test_paler_staining_changes_textures_less_than_amounts(tiles):
    """Textures are relative to the tile's own staining strength."""
    density = -torch.log10((tiles.float() + 1) / 256)
    paler = (256 * 10 ** (-0.8 * density) - 1).clamp(0, 255).round().to(torch.uint8)
    change = (encode(paler) - encode(tiles)).abs().mean(0)
    names = [name.split("[")[0] for name in builtin.feature_names()]
    amount = change[[n == "stain mean in tissue" for n in names]].mean()
    assert change[[n.startswith("frequency") for n in names]].mean() < 0.5 * amount


def test_nothing_is_left_on_the_cpu_when_the_tiles_are_elsewhere():
    """Every constant follows the tiles: on the device without memory a stray one would be refused."""
    made = encode(torch.empty(2, 256, 256, 3, dtype=torch.uint8, device="meta"))
    assert made.is_meta
    assert made.shape == (2, encode.width)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_gpu_gives_the_same_numbers(tiles):
    there = encode(tiles.cuda())
    assert there.is_cuda
    assert torch.allclose(there.cpu(), encode(tiles), atol=1e-2, rtol=0)


@pytest.mark.slow
@pytest.mark.skipif(not DATA, reason="NAPARI_MIL_TEST_DATA is not set")
def test_twenty_labelled_tiles_tell_tumour_from_liver():
    """Issue point 6: AUC ≥ 0.97 on the rest, mean of ten draws; measured here on every third tile."""
    path = Path(__file__).parents[2] / "benchmarks" / "encoder.py"
    spec = importlib.util.spec_from_file_location("encoder_benchmark", path)
    assert spec is not None
    benchmark = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = benchmark
    spec.loader.exec_module(benchmark)
    data = Path(str(DATA))
    with open_slide(data / f"slides/{benchmark.LIVER}.tif") as slide:
        grid, labels = benchmark.labelled(data, slide)
        grid, labels = grid.with_cells(grid.cells[::3]), labels[::3]
        features = drain(encode_steps(slide, grid, encode, device="cpu")).features
        colours = drain(encode_steps(slide, grid, benchmark.MeanColour(), device="cpu")).features
    found = benchmark.probe(features, labels).auc
    assert len(found) == 10
    assert found.mean() >= 0.97
    assert found.mean() > benchmark.probe(colours, labels).auc.mean()
