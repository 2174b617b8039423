"""The models that travel in the package: what a person sees first must be right."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from napari_mil import encoders
from napari_mil.encode import encode_steps
from napari_mil.evaluate import lesion_of
from napari_mil.infer import answer, call
from napari_mil.samples import SAMPLE_SLIDES, SAMPLE_TREE, SampleTruth
from napari_mil.slides import open_slide
from napari_mil.steps import drain
from napari_mil.tissue import tissue_grid
from napari_mil.workflow.models import load_model
from napari_mil.workflow.sample import packaged_models

pytestmark = pytest.mark.slow

SAMPLES = Path(__file__).parents[2] / "sample_data"
MODELS = {card.name: (card, weights) for card, weights in packaged_models()}
TREE = SAMPLE_TREE


@cache
def seen(name):
    """Bag of a sample slide, and the true node of each of its tiles."""
    encoder = encoders.create("builtin")
    with open_slide(SAMPLES / "slides" / f"{name}.tif") as slide:
        grid = tissue_grid(slide, tile_px=encoder.tile_px, mpp=encoder.mpp)
        bag = drain(encode_steps(slide, grid, encoder, device="cpu"))
    truth = SampleTruth.load(SAMPLES / "labels" / f"{name}.npz")
    known = {tuple(cell): node for cell, node in zip(truth.cells.tolist(), truth.nodes.tolist(), strict=True)}
    return bag, np.array([known[tuple(cell)] for cell in bag.grid.cells.tolist()])


def asked(model, name):
    card, weights = MODELS[model]
    bag, truth = seen(name)
    temperature = card.temperature if card.calibrated else 1.0
    said = answer(load_model(card, weights), bag.features, bag.grid.cells, temperature=temperature)
    return said, truth


@pytest.mark.parametrize("sample", SAMPLE_SLIDES, ids=lambda s: s.name)
@pytest.mark.parametrize("model", MODELS)
def test_sample_slides_are_answered_rightly_and_their_class_maps_are_right(model, sample):
    said, truth = asked(model, sample.name)
    slide = TREE.node(sample.label)
    assert TREE.leaves[int(said.probabilities[-1].argmax())] == slide
    kind = np.array([lesion_of(TREE, node) for node in range(len(TREE))])
    lesion, normal = kind[truth] == 1, kind[truth] == 0
    for level, least in ((0, 0.7), (1, 0.2)):
        called = call(said, TREE, level=level)
        assert (kind[called[normal]] == 1).mean() <= 0.02
        if lesion.any():
            right = np.array([TREE.at_level(int(node), level) for node in truth[lesion]])
            there = called[lesion]
            assert (there == right).mean() >= least
            assert not ((there != right) & (there > 0)).any()


def test_their_cards_hold_the_sample_slides_out():
    for card, weights in MODELS.values():
        named = {name for part in card.slides.values() for name in part}
        assert not named & {s.name for s in SAMPLE_SLIDES}
        assert "further cohorts" in card.note
        assert len(weights) <= 2.5e6
