import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from napari_mil.encoders import filters as f

seeds = st.integers(0, 10_000)
few = settings(max_examples=15, deadline=None)


def plane(seed: int, h: int = 64, w: int = 64) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random((1, 1, h, w), np.float32))


@few
@given(seeds, st.sampled_from([0.8, 1.4, 3.0, 7.5]), st.sampled_from([(64, 64), (50, 71)]))
def test_blur_is_the_gaussian_with_mirrored_borders(seed, sigma, shape):
    image = plane(seed, *shape)
    radius = int(np.ceil(3.5 * sigma))
    expected = ndimage.gaussian_filter(image[0, 0].double().numpy(), sigma, mode="reflect", radius=radius)
    np.testing.assert_allclose(f.blur(image, sigma)[0, 0].numpy(), expected, atol=2e-6)


def test_enlarging_keeps_a_plane_s_mean_and_its_place():
    ramp = torch.linspace(0, 1, 32).repeat(32, 1)[None, None]
    large = f.blur(ramp, 1.0, enlarge=2)
    assert large.shape == (1, 1, 64, 64)
    assert torch.allclose(f.halve(large), f.blur(ramp, 1.0), atol=0.01)


@few
@given(seeds, st.integers(1, 9))
def test_openings_are_those_of_grey_morphology(seed, radius):
    image = plane(seed, 40, 47)
    size = (2 * radius + 1,) * 2
    eroded = ndimage.grey_erosion(image[0, 0].numpy(), size, mode="nearest")
    np.testing.assert_array_equal(f.erode(image, radius)[0, 0].numpy(), eroded)
    np.testing.assert_array_equal(
        f.opened(image, radius)[0, 0].numpy(), ndimage.grey_dilation(eroded, size, mode="nearest")
    )


@few
@given(seeds)
def test_the_euler_number_counts_objects_less_holes(seed):
    rng = np.random.default_rng(seed)
    mask = ndimage.binary_dilation(rng.random((60, 60)) < 0.03, iterations=2)
    mask[:2] = mask[-2:] = mask[:, :2] = mask[:, -2:] = False
    objects = ndimage.label(mask)[1]
    holes = ndimage.label(~mask, np.ones((3, 3)))[1] - 1
    area, rim, euler = f.minkowski(torch.from_numpy(mask.astype(np.float32))[None, None])
    assert round(float(euler) * mask.size) == objects - holes
    assert round(float(area) * mask.size) == mask.sum()
    edges = np.abs(np.diff(mask.astype(int), axis=0)).sum() + np.abs(np.diff(mask.astype(int), axis=1)).sum()
    assert round(float(rim) * mask.size) == edges


def test_a_soft_mask_measures_the_mean_over_thresholds():
    soft = plane(3)
    steps = [(soft > t).float() for t in np.linspace(0, 1, 401)[:-1] + 1 / 800]
    for measured, exact in zip(
        f.minkowski(soft), zip(*(f.minkowski(step) for step in steps), strict=True), strict=True
    ):
        assert float(measured) == pytest.approx(float(torch.stack(exact).mean()), abs=2e-3)


@few
@given(seeds)
def test_haar_keeps_the_energy(seed):
    image = plane(seed)
    low, edge, diagonal = f.haar(image)
    energy = 4 * (low.square() + 2 * edge.square() + diagonal.square()).sum()
    assert float(energy) == pytest.approx(float(image.square().sum()), rel=1e-4)


def test_the_spectrum_finds_wavelength_and_direction():
    x = torch.arange(128.0)
    stripes = torch.sin(2 * torch.pi * x / 8).expand(1, 1, 128, 128)
    power, directed = f.spectrum(stripes)
    edges = np.array(f.RING_EDGES)
    assert int(power.argmax()) == np.searchsorted(edges, 1 / 8) - 1
    assert float(directed[0, 0, power.argmax()]) > 0.98
    noise = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 1, 128, 128)).astype(np.float32))
    assert float(f.spectrum(noise)[1][0, 0, -3:].max()) < 0.1


@few
@given(seeds)
def test_binary_patterns_are_shares(seed):
    shares = f.binary_patterns(plane(seed), 0.05)
    assert shares.shape == (1, 10)
    assert float(shares.min()) > -1e-6
    assert float(shares.sum()) == pytest.approx(1, abs=1e-5)


def test_binary_patterns_know_a_spot_from_an_edge_from_nothing():
    flat = torch.full((1, 1, 32, 32), 0.5)
    assert float(f.binary_patterns(flat, 0.05)[0, 0]) == pytest.approx(1)
    hole = flat.clone()
    hole[..., 16, 16] = 0
    assert float(f.binary_patterns(hole, 0.05)[0, 8]) * 900 == pytest.approx(1, abs=1e-3)


@few
@given(seeds)
def test_weighted_moments(seed):
    values, weight = plane(seed), plane(seed + 1)
    mean, std = f.weighted(values, weight, floor=0.0)
    v, w = values.double().numpy().ravel(), weight.double().numpy().ravel()
    expected = np.average(v, weights=w)
    assert float(mean) == pytest.approx(expected, rel=1e-4)
    assert float(std) == pytest.approx(np.sqrt(np.average((v - expected) ** 2, weights=w)), rel=1e-3)
