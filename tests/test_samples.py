"""The synthetic slides: the same for the same seed, true to their truth, whole or not there."""

import csv
import dataclasses
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from smallslides import draw_small_slides

from napari_mil.errors import LabelError, ProjectError
from napari_mil.interop import csv_labels
from napari_mil.labeltree import LabelTree
from napari_mil.samples import (
    SAMPLE_SLIDES,
    SAMPLE_TREE,
    Difficulty,
    SampleTruth,
    draw_slide,
    make_cohort,
    make_sample_slide,
    make_slide,
    plan_cohort,
    read_truth,
)
from napari_mil.samples.textures import enlarge
from napari_mil.samples.writing import reduced, write_pyramid
from napari_mil.slides import open_slide
from napari_mil.steps import drain

pytestmark = pytest.mark.slow

SAMPLES = Path(__file__).parents[1] / "sample_data"
N = SAMPLE_TREE.node("Benign/N")
LESIONS = [SAMPLE_TREE.path(n) for n in SAMPLE_TREE.leaves if n != N]
TEXTBOOK = Difficulty(lesion_fraction=(0.2, 0.2), hard_tiles=0.0, look_alikes=0.0)


def density(pixels):
    """Optical density (H, W, 3)."""
    return -np.log((pixels.astype(np.float32) + 1) / 245)


def per_cell(values, truth):
    """Mean over each lattice cell, in the truth's order; the slide's sides are multiples of 256."""
    h, w = values.shape
    return values.reshape(h // 256, 256, w // 256, 256).mean((1, 3)).ravel()[: len(truth.cells)]


def small(label="Benign/N", seed=3, **options):
    """A slide of 5 × 6 cells."""
    return draw_slide(seed=seed, label=label, shape_px=(1280, 1536), pen=False, fold=False, **options)


def test_the_tree_has_seven_leaves_of_which_n_is_normal():
    leaves = [SAMPLE_TREE.path(n) for n in SAMPLE_TREE.leaves]
    names = "Benign/N Benign/PB Benign/UDH Atypical/FEA Atypical/ADH Malignant/DCIS Malignant/IC"
    assert leaves == names.split()
    assert SAMPLE_TREE.normal == (N,)


def test_the_same_seed_draws_the_same_slide_and_another_seed_another():
    first, second, other = small("Atypical/ADH"), small("Atypical/ADH"), small("Atypical/ADH", seed=4)
    np.testing.assert_array_equal(first[0], second[0])
    for field in dataclasses.fields(SampleTruth):
        np.testing.assert_array_equal(getattr(first[1], field.name), getattr(second[1], field.name))
    assert (first[0] != other[0]).mean() > 0.3


@pytest.mark.parametrize("label", LESIONS)
def test_lesion_cells_are_fuller_of_nuclei_than_normal_ones(label):
    pixels, truth = small(label, hard=False, difficulty=TEXTBOOK)
    leaf = SAMPLE_TREE.node(label)
    assert truth.label == label
    assert set(truth.nodes) <= {0, N, leaf}
    lesion, normal = truth.nodes == leaf, truth.nodes == N
    assert lesion.sum() >= 2
    assert normal.sum() > lesion.sum()
    assert (truth.expression[lesion] > 0.8).all()
    assert not truth.expression[~lesion].any()
    dark = per_cell(density(pixels)[..., 0] > 0.45, truth)  # red light is stopped by haematoxylin
    assert dark[lesion].mean() > 1.5 * dark[normal].mean()


def test_a_normal_slide_has_no_lesion_and_truth_says_where_tissue_is():
    pixels, truth = small("N")
    assert set(truth.nodes) == {0, N}
    stained = ndimage.uniform_filter((density(pixels)[..., 1] > 0.08).astype(np.float32), 65)[8::16, 8::16]
    tissue = ndimage.binary_fill_holes(stained > 0.4)
    overlap = 2 * (tissue & truth.tissue).sum() / (tissue.sum() + truth.tissue.sum())
    assert overlap > 0.93
    share = truth.tissue.reshape(5, 16, 6, 16).mean((1, 3)).ravel()
    np.testing.assert_array_equal(truth.nodes > 0, share >= 0.25)
    assert [tuple(c) for c in truth.cells] == [(r, c) for r in range(5) for c in range(6)]


def test_hard_slides_carry_few_and_weak_lesion_tiles():
    difficulty = Difficulty(hard_expression=(0.1, 0.3))
    truth = draw_slide(seed=5, label="UDH", shape_px=(2048, 2048), difficulty=difficulty, hard=True)[1]
    lesion = truth.nodes == SAMPLE_TREE.node("UDH")
    assert 1 <= lesion.sum() <= 6  # one to three chosen cells, and neighbours that they cover by a quarter
    assert (truth.expression[lesion] <= 0.31).all()


def test_a_fold_is_darker_and_a_pen_is_coloured():
    plain = small()[0].astype(int)
    marked = draw_slide(seed=3, shape_px=(1280, 1536), pen=True, fold=False)[0].astype(int)
    folded = draw_slide(seed=3, shape_px=(1280, 1536), pen=False, fold=True)[0].astype(int)
    inked = (marked != plain).any(-1)
    assert 0.005 < inked.mean() < 0.15
    red, green, blue = np.median(marked[inked], axis=0)
    assert max(green, blue) > red + 25
    assert (folded <= plain).all()
    assert 0.005 < (folded < plain - 20).any(-1).mean() < 0.2


@pytest.mark.parametrize("label", ["Benign", "nonsense", ""])
def test_only_leaves_can_be_drawn(label):
    with pytest.raises(LabelError, match=r"label of the tree|no leaf of the sample tree"):
        small(label)


def test_a_slide_has_a_least_size():
    with pytest.raises(LabelError, match="at least 1024 × 1024 px; got 800 × 2000"):
        draw_slide(seed=0, shape_px=(800, 2000))


def test_the_file_is_a_pyramid_for_every_reader(tmp_path):
    path = tmp_path / "deep" / "s.tif"
    truth = make_slide(path, seed=9, label="IC", shape_px=(1100, 1300))
    with tifffile.TiffFile(path) as tiff:
        assert [level.shape for level in tiff.series[0].levels] == [(1100, 1300, 3), (275, 325, 3)]
        assert tiff.pages[0].tile == (256, 256)
    with openslide.OpenSlide(path) as theirs:
        assert theirs.level_dimensions == ((1300, 1100), (325, 275))
        assert float(theirs.properties["openslide.mpp-y"]) == pytest.approx(0.5)
    drawn = draw_slide(seed=9, label="IC", shape_px=(1100, 1300))[0]
    with open_slide(path) as ours:
        assert ours.mpp == pytest.approx((0.5, 0.5))
        decoded = ours.levels[0].read(0, 0, 1100, 1300)
    assert np.abs(decoded.astype(int) - drawn).mean() < 6  # JPEG, no other change of colour
    assert len(truth.cells) == 5 * 6
    assert [p.name for p in path.parent.iterdir()] == ["s.tif"]


def test_a_slide_that_cannot_be_written_leaves_nothing(tmp_path):
    with pytest.raises((ValueError, TypeError)):
        write_pyramid(tmp_path / "s.tif", np.zeros((600, 600, 7), np.uint8))
    assert not list(tmp_path.iterdir())


def test_reduced_takes_means():
    pixels = np.random.default_rng(0).integers(0, 256, (10, 13, 3), np.uint8)
    means = pixels[:8, :12].reshape(2, 4, 3, 4, 3).mean((1, 3))
    assert np.abs(reduced(pixels) - means).max() <= 0.5


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.sampled_from([2, 4, 16]), st.integers(0, 99))
def test_enlarging_is_bilinear(h, w, factor, seed):
    field = np.random.default_rng(seed).random((h, w), np.float32)
    at = [(np.arange(n * factor) + 0.5) / factor - 0.5 for n in (h, w)]
    wanted = ndimage.map_coordinates(field, np.meshgrid(*at, indexing="ij"), order=1, mode="nearest")
    np.testing.assert_allclose(enlarge(field, factor), wanted, atol=1e-5)


def test_truth_survives_its_file(tmp_path):
    truth = small("DCIS")[1]
    truth.save(tmp_path / "t" / "s.npz")
    back = SampleTruth.load(tmp_path / "t" / "s.npz")
    for field in dataclasses.fields(SampleTruth):
        np.testing.assert_array_equal(getattr(back, field.name), getattr(truth, field.name))
    cells, nodes = read_truth(tmp_path / "t" / "s.npz")
    np.testing.assert_array_equal(cells, truth.cells)
    np.testing.assert_array_equal(nodes, truth.nodes)


@pytest.mark.parametrize("content", [None, b"no archive"])
def test_a_file_without_truth_is_refused(tmp_path, content):
    path = tmp_path / "s.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(LabelError, match=r"holds no truth .* make the samples again"):
        read_truth(path)


def test_the_cohort_is_mostly_normal_with_every_lesion_in_nine_cases():
    rows = plan_cohort()
    cases = {row.case: row.label for row in rows}
    per_label = Counter(cases.values())
    assert len(rows) == 120
    assert 100 <= len(cases) < 120
    assert 0.42 <= per_label["Benign/N"] / len(cases) <= 0.48
    assert all(per_label[label] >= 9 for label in LESIONS)
    assert all(cases[row.case] == row.label for row in rows)
    hard = np.mean([row.hard for row in rows if row.label != "Benign/N"])
    assert hard == pytest.approx(Difficulty().hard_slides, abs=0.07)
    assert not any(row.hard for row in rows if row.label == "Benign/N")


@settings(max_examples=25, deadline=None)
@given(st.integers(7, 150), st.integers(0, 2**31))
def test_any_cohort_has_every_label_and_no_slide_twice(slides, seed):
    rows = plan_cohort(slides=slides, seed=seed)
    assert len(rows) == slides
    assert len({row.name for row in rows}) == len({row.seed for row in rows}) == slides
    assert {row.label for row in rows} == {SAMPLE_TREE.path(n) for n in SAMPLE_TREE.leaves}
    assert rows == plan_cohort(slides=slides, seed=seed)


def test_too_small_a_cohort_is_refused(tmp_path):
    with pytest.raises(ProjectError, match="at least 7 slides, one per label; got 3"):
        drain(make_cohort(tmp_path / "c", slides=3))


def test_manifest_slides_and_truth_belong_together(cohort):
    with (cohort / "manifest.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    planned = plan_cohort(slides=10, seed=1)
    assert [(r["slide"], r["case"], r["label"]) for r in rows] == [
        (f"slides/{p.name}.tif", p.case, p.label) for p in planned
    ]
    for row in rows:
        truth = SampleTruth.load(cohort / "truth" / f"{Path(row['slide']).stem}.npz")
        assert truth.label == row["label"]
        leaf = SAMPLE_TREE.node(row["label"])
        assert set(truth.nodes) == {0, N, leaf}
        with open_slide(cohort / row["slide"]) as slide:
            assert truth.tissue.shape == (slide.shape_px[0] // 16, slide.shape_px[1] // 16)
    # what a process of its own drew is what is drawn here
    one = planned[0]
    with open_slide(cohort / rows[0]["slide"]) as slide:
        shape_px = slide.shape_px
    drawn = draw_slide(seed=one.seed, label=one.label, shape_px=shape_px, hard=one.hard)[1]
    cells, nodes = read_truth(cohort / "truth" / f"{one.name}.npz")
    np.testing.assert_array_equal(nodes, drawn.nodes)
    np.testing.assert_array_equal(cells, drawn.cells)


def test_a_cohort_that_is_there_is_left_alone(cohort):
    told = []
    assert drain(make_cohort(cohort, slides=10, seed=1), told.append) == cohort / "manifest.csv"
    assert [(p.done, p.total, p.note) for p in told] == [(10, 10, "already there")]
    with pytest.raises(ProjectError, match="already holds something other than these sample slides"):
        drain(make_cohort(cohort, slides=10, seed=2))


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.soak), 2])
def test_cancelling_leaves_nothing(tmp_path, workers, monkeypatch):
    draw_small_slides(monkeypatch)
    steps = make_cohort(tmp_path / "c", slides=8, workers=workers)
    assert next(steps).done == 0
    assert next(steps).done == 1
    steps.close()
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ProjectError, match=r"cannot be written .* choose another folder"):
        drain(make_cohort(tmp_path / "file" / "c", slides=7))


def test_a_worker_tells_its_failure():
    job = {"folder": "/nowhere", "row": {"name": "x"}, "difficulty": {}}
    command = [sys.executable, "-m", "napari_mil.samples.worker"]
    ended = subprocess.run(command, input=json.dumps(job) + "\n", capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert json.loads(ended.stdout)["error"].startswith("TypeError: ")


def test_the_sample_folder_holds_what_its_manifest_says():
    with (SAMPLES / "manifest.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(r["slide"], r["label"]) for r in rows] == [
        (f"slides/{s.name}.tif", s.label) for s in SAMPLE_SLIDES
    ]
    assert LabelTree.from_json((SAMPLES / "labeltree.json").read_bytes()) == SAMPLE_TREE
    for sample in SAMPLE_SLIDES:
        path = SAMPLES / "slides" / f"{sample.name}.tif"
        assert path.stat().st_size <= 2_000_000
        truth = SampleTruth.load(SAMPLES / "labels" / f"{sample.name}.npz")
        table = csv_labels.read_tiles(SAMPLES / "labels" / f"{sample.name}.csv", SAMPLE_TREE)
        told = Counter()
        with open_slide(path) as slide:
            assert slide.shape_px == sample.shape_px
            for correction in table:
                assert correction.slide_id == slide.fingerprint
                told[correction.label] += len(correction.place.cells)
        counts = Counter(SAMPLE_TREE.path(n) for n in truth.nodes if n)
        assert told == counts
        lesion = sum(n for label, n in counts.items() if label != "Benign/N") / counts.total()
        assert lesion == 0 if sample.label == "Benign/N" else 0.02 <= lesion <= 0.10


def test_the_sample_slides_are_what_the_code_draws(tmp_path):
    sample = SAMPLE_SLIDES[0]
    truth = make_sample_slide(tmp_path / "s.tif", sample)
    kept = SampleTruth.load(SAMPLES / "labels" / f"{sample.name}.npz")
    np.testing.assert_array_equal(truth.nodes, kept.nodes)
    with open_slide(tmp_path / "s.tif") as new, open_slide(SAMPLES / "slides" / f"{sample.name}.tif") as old:
        assert np.abs(new.thumbnail(800).astype(int) - old.thumbnail(800)).mean() < 1
