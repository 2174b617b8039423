"""Tissue is found on drawn and on real slides; pen, folds, dust and blank glass do not mislead it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from slidefiles import write_pyramid

from napari_mil.errors import TissueError
from napari_mil.samples import make_slide
from napari_mil.slides import open_slide
from napari_mil.tissue import TissueMask, find_tissue, tissue_and_ink, tissue_grid

pytestmark = pytest.mark.slow

FOLDER = os.environ.get("NAPARI_MIL_TEST_DATA")
real = pytest.mark.skipif(not FOLDER, reason="needs the real slides: set NAPARI_MIL_TEST_DATA")
PENS = {
    "green": (30, 140, 90),
    "light green": (90, 190, 150),
    "blue": (40, 50, 160),
    "light blue": (70, 130, 200),
    "black": (25, 25, 28),
    "red": (200, 30, 45),
}


def blob(size=600, seed=0):
    """(size, size, 3) uint8: a grainy pink and purple section on tinted, slightly dirty glass; its truth."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] - size / 2
    edge = size * (0.34 + 0.04 * np.sin(3 * np.arctan2(y, x)))
    truth = np.hypot(y, x) < edge
    eosin, haema = (ndimage.gaussian_filter(rng.random((size, size)), s) for s in (3, 6))
    eosin = 0.25 + 5 * (eosin - eosin.mean())
    haema = np.clip(0.2 + 12 * (haema - haema.mean()), 0, None)
    density = eosin[..., None] * (0.12, 0.95, 0.3) + haema[..., None] * (0.6, 0.72, 0.3)
    glass = np.array([243.0, 240, 244]) - 4 * x[..., None] / size
    image = glass * np.exp(-np.where(truth[..., None], np.clip(density, 0.02, None), 0))
    dust = rng.integers(0, size, (30, 2))
    image[dust[:, 0], dust[:, 1]] *= 0.7
    return np.clip(image + rng.normal(0, 1.5, image.shape), 0, 255).astype(np.uint8), truth


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def truth_on(mask, truth, downsample):
    """A sample's truth (16 level-0 px per entry) on the pixels of a mask."""
    at = [((np.arange(n) + 0.5) * d / 16).astype(int) for n, d in zip(mask.shape, downsample, strict=True)]
    return truth[np.ix_(*(a.clip(0, n - 1) for a, n in zip(at, truth.shape, strict=True)))]


def test_a_plain_section_is_found_to_its_edge():
    image, truth = blob()
    tissue, ink = tissue_and_ink(image)
    assert dice(tissue, truth) > 0.97
    assert not ink.any()


@pytest.mark.parametrize("pen", PENS)
@pytest.mark.parametrize("opacity", [0.75, 1.0])
def test_pen_of_any_colour_is_no_tissue_and_hides_little_else(pen, opacity):
    """A pen is a filter on glass and tissue alike; a ring of it half on, half off the section."""
    image, truth = blob()
    y, x = np.mgrid[:600, :600]
    ring = np.abs(np.hypot(y - 180, x - 300) - 150) < 16
    through = np.array(PENS[pen]) / 245.0
    drawn = image.astype(float)
    drawn[ring] *= opacity * through + (1 - opacity)
    tissue, ink = tissue_and_ink(drawn.astype(np.uint8))
    assert (tissue & ring).sum() < 0.05 * ring.sum()
    assert (ink & ring).sum() > 0.94 * ring.sum()
    away = ~ndimage.binary_dilation(ring, iterations=5)
    assert dice(tissue & away, truth & away) > 0.96


def test_a_fold_is_tissue():
    image, truth = blob()
    fold = truth & (np.abs(np.mgrid[:600, :600][1] - 300) < 9)
    folded = image.astype(float)
    folded[fold] *= folded[fold] / 243  # twice the density
    tissue, _ = tissue_and_ink(folded.astype(np.uint8))
    assert (tissue & fold).sum() > 0.98 * fold.sum()


@pytest.mark.parametrize("kind", ["white", "grey", "tinted", "noisy", "dusty"])
def test_blank_glass_holds_no_tissue(kind, tmp_path):
    rng = np.random.default_rng(2)
    image = np.full((700, 900, 3), (255, 255, 255) if kind == "white" else (238, 238, 238), float)
    if kind == "tinted":
        image += np.linspace(-6, 6, 900)[None, :, None] * (1, 0.8, 1.1)
    if kind in {"noisy", "dusty"}:
        image += rng.normal(0, 4, image.shape)
    if kind == "dusty":
        for y, x in rng.integers(20, 680, (40, 2)):
            image[y : y + 5, x : x + 5] = 120
    path = write_pyramid(tmp_path / "blank.tif", image.clip(0, 255).astype(np.uint8))
    with open_slide(path) as slide:
        assert find_tissue(slide).mask.mean() < 0.001
        with pytest.raises(
            TissueError, match=r"No tissue was found on blank: of 12 tiles none holds 25% tissue \(the"
        ):
            tissue_grid(slide)


def test_tissue_that_is_inked_all_over_is_told_from_none(tmp_path, monkeypatch):
    everywhere, ink = np.ones((8, 8), bool), np.tile(np.arange(8) % 4 == 0, (8, 1))
    monkeypatch.setattr("napari_mil.tissue.find_tissue", lambda _: TissueMask(everywhere, (64, 64), ink))
    said = r"No tissue of inked is free of pen: .* more than 10% of each of the 4 tiles .* \(at least 25%\)"
    with open_slide(write_pyramid(tmp_path / "inked.tif", np.full((512, 512, 3), 240, np.uint8))) as slide:
        with pytest.raises(TissueError, match=said):
            tissue_grid(slide)
        assert len(tissue_grid(slide, max_ink=0.25)) == 4


def test_a_slide_that_is_tissue_from_rim_to_rim(tmp_path):
    image, _ = blob(900)
    with open_slide(write_pyramid(tmp_path / "full.tif", image[250:650, 250:650])) as slide:
        assert find_tissue(slide).mask.mean() > 0.97
        assert len(tissue_grid(slide, tile_px=100)) == 16


def test_the_grid_keeps_the_tiles_with_enough_tissue_and_little_ink():
    mask, ink = np.zeros((8, 8), bool), np.zeros((8, 8), bool)
    mask[:4, :4], ink[:1, 4:] = True, True
    found = TissueMask(mask, (2.0, 4.0), ink)
    boxes = np.array([[0, 0, 8, 16], [0, 8, 8, 24], [0, 16, 8, 32], [-8, -16, 8, 16], [4, 0, 12, 16]], float)
    assert found.share(boxes) == pytest.approx([1, 0.5, 0, 0.25, 0.5])
    assert found.ink_share(boxes) == pytest.approx([0, 0.125, 0.25, 0, 0])
    assert not TissueMask(mask, (1.0, 1.0)).ink_share(boxes).any()


def test_mpp_is_ignored_where_the_slide_has_none(tmp_path):
    image, _ = blob(600)
    with open_slide(write_pyramid(tmp_path / "a.tif", image, mpp=None)) as slide:
        grid = tissue_grid(slide, tile_px=64, mpp=0.5)
        assert (grid.mpp, grid.pitch_px) == (None, (64, 64))
        scaled = tissue_grid(slide.with_mpp(0.25), tile_px=64, mpp=0.5)
        assert scaled.pitch_px == (128, 128)
        assert set(map(tuple, scaled.cells)) <= set(map(tuple, grid.cells // 2))


def test_the_mask_says_exactly_where_its_pixels_lie(tmp_path):
    image, _ = blob(701)
    with open_slide(write_pyramid(tmp_path / "a.tif", image[:, :643], levels=3)) as slide:
        found = find_tissue(slide)
    assert found.downsample == (701 / found.mask.shape[0], 643 / found.mask.shape[1])
    assert max(found.mask.shape) == 512


@pytest.mark.parametrize("label", ["Benign/N", "Malignant/IC"])
def test_sample_slides_agree_with_their_truth(tmp_path, label):
    truth = make_slide(tmp_path / "s.tif", seed=11, label=label, shape_px=(1536, 1792), pen=True, fold=True)
    with open_slide(tmp_path / "s.tif") as slide:
        found = find_tissue(slide)
        grid = tissue_grid(slide)
    assert dice(found.mask, truth_on(found.mask, truth.tissue, found.downsample)) >= 0.95
    tissue_cells = {tuple(c) for c, node in zip(truth.cells.tolist(), truth.nodes, strict=True) if node}
    assert set(map(tuple, grid.cells.tolist())) & tissue_cells
    assert len(set(map(tuple, grid.cells.tolist())) - tissue_cells) <= 0.1 * len(grid)


@pytest.mark.soak
@pytest.mark.parametrize("pen", [True, False])
def test_more_sample_slides_agree_with_their_truth(tmp_path, pen):
    for seed, label in enumerate(["Benign/UDH", "Benign/PB", "Atypical/FEA", "Malignant/DCIS"]):
        truth = make_slide(tmp_path / "s.tif", seed=seed, label=label, pen=pen, fold=True)
        with open_slide(tmp_path / "s.tif") as slide:
            found = find_tissue(slide)
        assert dice(found.mask, truth_on(found.mask, truth.tissue, found.downsample)) >= 0.95, (seed, label)


def inked(rgb):
    """Strictly by hue: green to blue and not pale, or so dark that no stain looks like it."""
    r, g, b = np.moveaxis(rgb.astype(float) / 255, -1, 0)
    most, spread = rgb.max(-1) / 255, np.ptp(rgb.astype(float), axis=-1) / 255 + 1e-9
    hue = (
        np.select(
            [most == r, most == g], [((g - b) / spread) % 6, (b - r) / spread + 2], (r - g) / spread + 4
        )
        / 6
    )
    return ((hue > 0.2) & (hue < 0.69) & (spread / (most + 1e-9) > 0.2)) | (most < 70 / 255)


@real
def test_of_the_pen_marked_prostate_hardly_a_kept_tile_shows_pen():
    with open_slide(Path(FOLDER) / "slides" / "TCGA-XK-AAJU_prostate_penmarks.tif") as slide:
        pen = inked(slide.levels[0][:])
        assert pen.mean() > 0.03  # the measure sees the pen
        for tile_px, covered in ((32, 0.40), (64, 0.38), (128, 0.36), (256, 0.33)):
            grid = tissue_grid(slide, tile_px=tile_px)
            boxes = grid.boxes_px.astype(int).tolist()
            shares = np.array([pen[y0:y1, x0:x1].mean() for y0, x0, y1, x1 in boxes])
            assert len(grid) * tile_px**2 > covered * pen.size
            assert np.mean(shares > 0.1) <= 0.02


@real
@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("CMU-1-Small-Region.svs", 0.35, 0.42),
        ("TCGA-CR-7395-01A-01-TS1.svs", 0.60, 0.68),
        ("patlas_duodenum_tubular_adenoma_HE.tif", 0.21, 0.26),
        ("patlas_liver_metastatic_sarcoma_HE_crop.tif", 0.98, 1.0),
        ("patlas_stomach_hpylori_HE.ome.tif", 0.27, 0.32),
        ("patlas_duodenum_NET_HE_jpeg2000.tif", 0.46, 0.52),
    ],
)
def test_real_slides_hold_as_much_tissue_as_the_eye_sees(name, low, high):
    """Bounds around what was judged right on overlays of all six."""
    with open_slide(Path(FOLDER) / "slides" / name) as slide:
        assert low < find_tissue(slide).mask.mean() < high
