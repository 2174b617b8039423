"""MHIM version 1 (ICCV 2023): attention as score, three masks, no recycling."""

import numpy as np
import pytest
import torch

from napari_mil import masks, methods
from napari_mil.bag import Bag
from napari_mil.correction import Target
from napari_mil.grid import TileGrid
from napari_mil.labeltree import LabelTree
from napari_mil.mil import total

FLAT = LabelTree.from_paths(["a", "b"])


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def make(**config):
    given = {"version": 1, "hidden": 16, "dropout": 0.0, **config}
    return methods.create("mhim", given, in_features=5, tree=FLAT)


def features(n, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, 5)).astype(np.float32))


def bag(n):
    grid = TileGrid.full((64, n * 64), None, tile_px=64, mpp=None)
    return Bag("s", grid, features(n).numpy(), "e")


def score(n, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).permutation(n) / n)


@pytest.mark.parametrize("compat", ["clean", "official"])
def test_counts_of_the_camelyon_settings(compat):
    draw = torch.Generator().manual_seed(0)
    model = make(compat=compat, mask_ratio=0.03, hidden_ratio_random=0.5, low_mask_ratio=0.8)
    part = model.hide(score(9000), generator=draw)
    assert (len(part.low), len(part.candidates), len(part.hidden)) == (7200, 540, 270)
    assert len(part.kept) == 1530  # low and high are disjoint here
    model = make(compat=compat, mask_ratio=0.01, hidden_ratio_random=0.5, random_mask_ratio=0.5)
    part = model.hide(score(9000), generator=draw)
    assert (len(part.random), len(part.hidden)) == (4500, 90)
    assert 4410 <= len(part.kept) <= 4500


def test_kept_and_hidden_part_the_tiles_and_nothing_is_recycled():
    model = make(mask_ratio=0.2, low_mask_ratio=0.3, random_mask_ratio=0.4)
    part = model.hide(score(100), generator=torch.Generator().manual_seed(1))
    hidden = {*part.hidden.tolist(), *part.low.tolist(), *part.random.tolist()}
    assert sorted([*hidden, *part.kept.tolist()]) == list(range(100))
    assert not len(part.recycled)
    assert part.tokens == 0
    assert "merge" not in dict(model.student.named_children())


def test_the_score_is_attention():
    model = make()
    seen = model.look(features(30))
    assert torch.equal(seen.score, seen.attention)


@pytest.mark.parametrize("mask_ratio", [0.95, 0.0])
def test_something_is_always_left_to_see(mask_ratio):
    model = make(mask_ratio=mask_ratio, low_mask_ratio=0.95, random_mask_ratio=0.95)
    part = model.hide(score(10), generator=torch.Generator().manual_seed(0))
    assert len(part.kept) >= 1
    assert not set(part.kept.tolist()) & {*part.hidden.tolist(), *part.low.tolist(), *part.random.tolist()}


def test_noise_replays_a_step():
    model = make(mask_ratio=0.1, hidden_ratio_random=0.5, random_mask_ratio=0.3).train()
    noise = {"random": torch.rand(40), "high": torch.rand(8)}
    example = [(features(40), None, Target(slide=1))]
    first, second = (model.loss(example, 0.0, noise=noise) for _ in range(2))
    assert {k: v.item() for k, v in first.items()} == {k: v.item() for k, v in second.items()}


def test_the_student_sees_the_kept_tiles_alone():
    """With few tiles left only these are projected; the answer is that of the kept tiles."""
    model = make(random_mask_ratio=0.6, low_mask_ratio=0.3)
    x, noise = features(50), {"random": torch.rand(50)}
    part = model.hide(model.look(x).score, noise=noise)
    assert len(part.kept) < 25
    study = model.study(x, None, 0.0, noise=noise)
    alone = model.student.predictor(model.student.online_encoder(model.student.embed(x[part.kept])).vector)
    assert torch.allclose(study.logits[0], alone, atol=1e-6)
    total(model.loss([(x, None, Target(slide=1))], 0.0, noise=noise)).backward()
    assert model.student.feature[0].weight.grad.abs().sum() > 0


def test_a_viewer_is_told_every_reason():
    model, tiles = make(mask_ratio=0.1, low_mask_ratio=0.2, random_mask_ratio=0.5), bag(60)
    found = masks.simulate(model, tiles, seed=3, draws=20)
    table = model.explain(tiles, seed=3)
    assert np.array_equal(found.role, table["role"])
    assert found.counts["hidden"] + found.counts["kept"] == 60
    assert found.counts["hidden_random"] > 0
    assert (table["flags"][table["role"] == 3] & 4 == 4).all()
    assert (table["flags"][table["role"] == 1] & 2 == 2).all()
    assert set(np.unique(found.role)) <= {0, 1, 3, 4}
    assert found.random
    assert 0.4 < found.frequency[(found.role == 0) | (found.role == 4)].mean() < 0.6
    assert (found.frequency[found.role == 1] == 1).all()


def test_learns_with_every_preset():
    for name, preset in methods.get("mhim").presets.items():
        model = make(**{**preset.config, "hidden": 16}).train()
        total(model.loss([(features(60), None, Target(slide=2))], 0.5)).backward()
        model.after_step(0.5)
        assert all(torch.isfinite(p).all() for p in model.parameters()), name
