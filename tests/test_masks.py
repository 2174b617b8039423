"""Hidden tiles for a viewer: the method's own masking, for any ratios, from one look of the teacher."""

import numpy as np
import pytest
import torch

from napari_mil import masks, methods
from napari_mil.bag import Bag
from napari_mil.errors import ModelError
from napari_mil.grid import TileGrid
from napari_mil.labeltree import LabelTree
from napari_mil.mil import as_tensor

D = 5
FLAT = LabelTree.from_paths(["a", "b"])
GRID = TileGrid.full((10 * 64, 20 * 64), None, tile_px=64, mpp=None)
TILES = Bag("s", GRID, np.random.default_rng(0).normal(size=(200, D)).astype(np.float32), "e")


def make(name="mhim", **config):
    torch.manual_seed(0)
    return methods.create(name, {"hidden": 16, **config}, in_features=D, tree=FLAT)


def test_the_hidden_tiles_are_those_of_the_highest_scores():
    found = masks.simulate(make(mask_ratio=0.05, keep_ratio=0.9), TILES)
    assert found.hidden.sum() == 10
    assert set(np.flatnonzero(found.hidden)) == set(np.argsort(-found.score, kind="stable")[:10])
    assert sorted(found.rank) == list(range(200))
    assert (found.rank[found.hidden] < 10).all()
    assert found.score[found.rank == 0] == found.score.max()
    assert found.counts == {
        "tiles": 200,
        "candidates": 10,
        "hidden": 10,
        "hidden_low": 0,
        "hidden_random": 0,
        "left": 190,
        "kept": 171,
        "recycled": 19,
        "student_tokens": 176,
    }
    assert np.bincount(found.role).tolist() == [171, 10, 19]
    assert set(found.role) <= set(masks.ROLES)
    assert not found.random


def test_it_is_what_explain_and_training_say():
    model = make(mask_ratio=0.05)
    found, table = masks.simulate(model, TILES, seed=3), model.explain(TILES, seed=3)
    assert found.role.tolist() == table["role"].tolist()
    assert found.rank.tolist() == table["score_rank"].tolist()
    study = model.train().study(as_tensor(model, TILES), None, 0.0)
    assert set(study.seen.part.hidden.tolist()) == set(np.flatnonzero(found.hidden))


def test_sliders_change_the_ratios():
    answer = masks.Simulator(make(mask_ratio=0.05, keep_ratio=0.9), TILES)
    for ratio in (0.0, 0.1, 0.5, 1.0):
        found = answer(mask_ratio=ratio, keep_ratio=0.5)
        assert found.counts["hidden"] == min(199, round(200 * ratio))
        assert found.counts["kept"] == found.counts["left"] // 2
    assert answer().counts["hidden"] == 10
    assert answer(mask_ratio=0.5, keep_ratio=0).counts["kept"] == 0


def test_more_is_hidden_by_a_higher_ratio_and_never_less():
    answer = masks.Simulator(make(), TILES)
    few, many = answer(mask_ratio=0.05), answer(mask_ratio=0.2)
    assert (many.hidden | ~few.hidden).all()


def test_the_teacher_looks_once(monkeypatch):
    model, looks = make(), []
    pooler = model.teacher.online_encoder
    monkeypatch.setattr(
        pooler, "survey", lambda *given, act=pooler.survey, **more: looks.append(1) or act(*given, **more)
    )
    answer = masks.Simulator(model, TILES)
    for i in range(5):
        answer(mask_ratio=0.01 * i, seed=i, draws=3)
    assert len(looks) == 1


def test_where_nothing_random_enters_the_frequency_is_0_or_1():
    found = masks.simulate(make(), TILES, draws=10)
    assert np.array_equal(found.frequency, found.hidden.astype(np.float32))
    recycled = [masks.simulate(make(), TILES, seed=s).role == 2 for s in (0, 1)]
    assert not np.array_equal(*recycled)


def test_what_is_recycled_is_drawn_where_nothing_else_is():
    model = make(mask_ratio=0.05, keep_ratio=0.8)
    found = masks.simulate(model, TILES, draws=100, seed=3)
    assert not found.random
    each = np.stack([masks.simulate(model, TILES, seed=3 + i).role == 2 for i in range(100)])
    assert found.recycled_frequency == pytest.approx(each.mean(0), abs=1e-6)
    assert (found.recycled_frequency[found.hidden] == 0).all()
    assert found.recycled_frequency[~found.hidden] == pytest.approx(np.full(190, 0.2), abs=0.17)
    assert found.recycled_frequency.dtype == np.float32
    none = masks.simulate(model, TILES, keep_ratio=1.0, draws=10)
    assert not none.recycled_frequency.any()


def test_a_random_share_of_the_candidates_gives_frequencies():
    model = make(mask_ratio=0.05, hidden_ratio_random=0.25)
    found = masks.simulate(model, TILES, draws=200, seed=1)
    assert found.random
    assert (found.counts["candidates"], found.counts["hidden"]) == (40, 10)
    assert found.frequency.sum() == pytest.approx(10, abs=1e-3)
    assert (found.frequency[found.rank >= 40] == 0).all()
    assert found.frequency[found.rank < 40] == pytest.approx(np.full(40, 0.25), abs=0.15)
    again = masks.simulate(model, TILES, draws=200, seed=1)
    assert np.array_equal(found.frequency, again.frequency)
    assert np.array_equal(found.role, again.role)


def test_the_published_teacher_varies_with_its_dropout():
    model = make(mask_ratio=0.1, compat="official")
    found = masks.simulate(model, TILES, draws=20)
    assert found.random
    assert ((found.frequency > 0) & (found.frequency < 1)).any()
    assert found.frequency.sum() == pytest.approx(20, abs=1e-3)
    clean = masks.simulate(model, TILES, mode="clean", draws=20)
    assert not clean.random
    asked = masks.simulate(make(mask_ratio=0.1), TILES, mode="official", draws=20)
    assert asked.random


def test_a_schedule_may_be_followed():
    answer = masks.Simulator(make(mask_ratio=0.2, mask_schedule="cosine"), TILES)
    assert [answer(progress=p).counts["hidden"] for p in (0.0, 0.5, 1.0)] == [40, 20, 0]
    model = make(mask_ratio=0.2, mask_schedule="cosine")
    assert masks.simulate(model, TILES, progress=0.5).counts["hidden"] == 20
    assert (model.explain(TILES, progress=0.5)["role"] == 1).sum() == 20
    assert (model.explain(TILES)["role"] == 1).sum() == 40


def test_one_tile_alone_is_never_hidden():
    found = masks.simulate(make(), TILES.crop((0, 0, 64, 64)), mask_ratio=1.0)
    assert (found.hidden.tolist(), found.role.tolist()) == ([False], [0])


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (("abmil", {}), "abmil has no teacher and hides no tiles; choose an mhim model"),
        (("mhim", {"pure": True}), "holds no teacher"),
        (("mhim", {"teacher": False}), "holds no teacher"),
    ],
)
def test_models_without_a_teacher_are_refused(model, words):
    with pytest.raises(ModelError, match=words):
        masks.simulate(make(model[0], **model[1]), TILES)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mask_ratio": 1.2}, r"mask_ratio is 1.2; .*\[0, 1\]"),
        ({"keep_ratio": -0.1}, r"keep_ratio is -0.1"),
        ({"draws": 0}, "draws is 0"),
        ({"progress": 1.5}, r"progress is 1.5; .*\[0, 1\]"),
    ],
)
def test_ratios_outside_their_bounds_are_refused(options, words):
    with pytest.raises(ModelError, match=words):
        masks.simulate(make(), TILES, **options)


def test_what_comes_back_cannot_be_changed():
    found = masks.simulate(make(), TILES)
    for name in ("hidden", "role", "frequency", "recycled_frequency", "score", "rank"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(found, name)[0] = 1
