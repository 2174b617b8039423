"""Published checkpoints: recognised by their keys, loaded strictly, never by running code."""

import os
import pickle
import re
from pathlib import Path

import pytest
import safetensors.torch
import torch
from closed_form import (
    abmil_shapes,
    bag,
    fill,
    gabmil_shapes,
    hmil_shapes,
    linear_shapes,
    mhim_shapes,
    pool_shapes,
)

from napari_mil import masks
from napari_mil.bag import Bag
from napari_mil.errors import ModelError
from napari_mil.grid import TileGrid
from napari_mil.labeltree import LabelTree
from napari_mil.methods import official

D = 40
BRACS = LabelTree.from_paths(["B/N", "B/PB", "B/UDH", "A/FEA", "A/ADH", "M/DCIS", "M/IC"])


def mhim(phase=0, **more):
    return fill(mhim_shapes(D, hidden=64, **more), phase)


def v1(weights):
    return {k.replace("feature.", "patch_to_emb."): v for k, v in weights.items()}


LAYOUTS = {
    "mean": (fill(pool_shapes(D)), {}),
    "max": (fill(pool_shapes(D, c=3)), {"method": "max"}),
    "abmil": (fill(abmil_shapes(D, c=4)), {}),
    "gabmil": (fill(gabmil_shapes(D)), {}),
    "mhim": (mhim(), {}),
    "mhim gated": (mhim(gated=True, k=1, c=3), {}),
    "mhim pure": (mhim(k=0), {}),
    "mhim pure gated": (mhim(k=0, gated=True), {}),
    "mhim v1": (v1(mhim(k=0)), {}),
    "hmil": (fill(hmil_shapes(d=D)), {"tree": BRACS}),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_recognised_and_answers(layout):
    weights, options = LAYOUTS[layout]
    model = official.load(weights, **options)
    assert model.name == layout.split()[0]
    assert model.in_features == D
    assert not model.training
    out = model(bag(9, D, 0))
    assert torch.isfinite(out.logits[-1]).all()
    written = official.dump(model)
    expected = {k.replace("patch_to_emb.", "feature."): v for k, v in weights.items()}
    assert written.keys() - {"merge.global_q"} == expected.keys()
    assert all(torch.equal(written[k], v) for k, v in expected.items())


def test_the_answer_is_that_of_the_formulas():
    w = fill(abmil_shapes(D, c=2))
    x = bag(9, D, 0).double()
    w = {k: v.double() for k, v in w.items()}
    h = torch.nn.functional.gelu(x @ w["feature.0.weight"].T + w["feature.0.bias"])
    e = torch.tanh(h @ w["attention.0.weight"].T + w["attention.0.bias"]) @ w["attention.2.weight"].T
    z = torch.softmax(e[:, 0] + w["attention.2.bias"], 0) @ h
    expected = z @ w["classifier.weight"].T + w["classifier.bias"]
    out = official.load(fill(abmil_shapes(D, c=2)))(bag(9, D, 0))
    assert torch.allclose(out.logits[0].double(), expected, atol=1e-5)

    w = {k: v.double() for k, v in fill(gabmil_shapes(D)).items()}
    h = torch.nn.functional.gelu(x @ w["feature.0.weight"].T + w["feature.0.bias"])
    a, b = (h @ w[f"attention_{s}.0.weight"].T + w[f"attention_{s}.0.bias"] for s in "ab")
    e = (torch.tanh(a) * torch.sigmoid(b)) @ w["attention_c.weight"].T
    z = torch.softmax(e[:, 0], 0) @ h
    out = official.load(fill(gabmil_shapes(D)))(bag(9, D, 0))
    assert torch.allclose(
        out.logits[0].double(), z @ w["classifier.0.weight"].T + w["classifier.0.bias"], atol=1e-5
    )

    w = {k: v.double() for k, v in fill(pool_shapes(D)).items()}
    tiles = torch.nn.functional.gelu(x @ w["head.0.weight"].T + w["head.0.bias"])
    tiles = tiles @ w["head.3.weight"].T + w["head.3.bias"]
    for method, pooled in (("mean", tiles.mean(0)), ("max", tiles.max(0).values)):
        out = official.load(fill(pool_shapes(D)), method=method)(bag(9, D, 0))
        assert torch.allclose(out.logits[0].double(), pooled, atol=1e-5)


def test_gated_mhim_answers_by_the_formula():
    w = {k: v.double() for k, v in mhim(gated=True).items()}
    h = torch.nn.functional.gelu(bag(9, D, 0).double() @ w["feature.0.weight"].T + w["feature.0.bias"])
    stem = "online_encoder.attention.attention_"
    e = torch.relu(h @ w[f"{stem}a.0.weight"].T) * torch.sigmoid(h @ w[f"{stem}b.0.weight"].T)
    z = torch.softmax((e @ w[f"{stem}c.weight"].T)[:, 0], 0) @ h
    out = official.load(mhim(gated=True))(bag(9, D, 0))
    expected = z @ w["predictor.weight"].T + w["predictor.bias"]
    assert torch.allclose(out.logits[0].double(), expected, atol=1e-5)


def test_wrappers_and_prefixes_are_taken_off():
    plain = official.load(mhim())(bag(9, D, 0)).logits[0]
    dressed = {f"module.{k}": v for k, v in mhim().items()}
    inner = {k.replace("online_encoder.", "online_encoder.module."): v for k, v in mhim().items()}
    for source in (
        dressed,
        inner,
        {"model": dressed, "epoch": 3},
        {"model_state_dict": mhim(), "optimizer": {"lr": 1.0}},
        {"state_dict": mhim()},
    ):
        assert torch.equal(official.load(source)(bag(9, D, 0)).logits[0], plain)


def test_student_and_teacher_fill_both_networks():
    file = {"model": mhim(), "teacher": mhim(1), "epoch": 7}
    model = official.load(file)
    assert model.has_teacher()
    assert torch.equal(model.student.predictor.weight, mhim()["predictor.weight"])
    assert torch.equal(model.teacher.predictor.weight, mhim(1)["predictor.weight"])
    taught = official.load(file, part="teacher")
    assert torch.equal(taught.student.predictor.weight, mhim(1)["predictor.weight"])
    assert torch.equal(official.dump(model, part="teacher")["feature.0.bias"], mhim(1)["feature.0.bias"])
    alone = official.load(mhim())
    assert not alone.has_teacher()
    with pytest.raises(ModelError, match="holds no teacher"):
        official.load(mhim(), part="teacher")
    with pytest.raises(ModelError, match="holds no teacher to write"):
        official.dump(alone, part="teacher")
    with pytest.raises(ModelError, match="part is 'both'"):
        official.load(mhim(), part="both")


def test_masks_need_the_file_s_teacher():
    grid = TileGrid.full((5 * 64, 6 * 64), None, tile_px=64, mpp=None)
    tiles = Bag("s", grid, bag(30, D, 0).numpy(), "e")
    found = masks.simulate(official.load({"model": mhim(), "teacher": mhim(1)}, mask_ratio=0.1), tiles)
    assert found.hidden.sum() == 3
    with pytest.raises(ModelError, match="holds no teacher"):
        masks.simulate(official.load(mhim()), tiles)


def test_both_names_of_the_recycling_queries_are_read_and_written():
    one, other = mhim(), mhim()
    other["merge.global_q"] = other.pop("merge.global_q_mm")
    both = one | {"merge.global_q": one["merge.global_q_mm"].clone()}
    for weights in (one, other, both):
        written = official.dump(official.load(weights))
        assert torch.equal(written["merge.global_q"], one["merge.global_q_mm"])
        assert torch.equal(written["merge.global_q_mm"], one["merge.global_q_mm"])
    both["merge.global_q"] += 1
    with pytest.raises(ModelError, match=r"merge.global_q and merge.global_q_mm .* differ"):
        official.load(both)


def test_what_the_file_does_not_say_is_noted():
    assert official.load(mhim(k=0)).assumed == ("act = gelu", "da_act = relu")
    assert official.load(v1(mhim(k=0))).assumed == ("act = relu", "da_act = relu")
    assert official.load(mhim(k=0), act="relu", da_act="tanh").assumed == ()
    full = official.load({"model": mhim(), "teacher": mhim(1)}, act="gelu", da_act="relu")
    assert full.assumed == ("mask_ratio = 0.03", "keep_ratio = 0.8")
    assert "mean pooling (max looks the same in a file)" in official.load(fill(pool_shapes(D))).assumed
    first = official.load({"model": v1(mhim(k=0)), "teacher": v1(mhim(1, k=0))})
    assert first.assumed[-1].startswith("version 1: only the answering network")
    assert not first.has_teacher()


def test_shapes_say_the_options():
    config = official.load({"model": mhim(k=3, gated=True), "teacher": mhim(1, k=3, gated=True)}).config
    assert (config.encoder, config.recycle_tokens, config.hidden, config.heads) == ("gated", 3, 64, 8)
    assert official.load(mhim(k=0)).config.pure
    masked = official.load({"model": mhim(k=0), "teacher": mhim(1, k=0)}).config
    assert (masked.pure, masked.teacher, masked.recycle_tokens) == (False, True, 0)


def test_labels_come_from_the_tree_given():
    tree = LabelTree.from_paths(["tumour/LUAD", "tumour/LUSC"])
    out = official.load(mhim(), tree=tree)(bag(5, D, 0))
    assert [len(x) for x in out.logits] == [1, 2]
    assert official.load(mhim()).tree.names == ("unlabelled", "class 0", "class 1")
    with pytest.raises(ModelError, match="answers for 2 classes, the label tree has 7 leaves"):
        official.load(mhim(), tree=BRACS)
    with pytest.raises(ModelError, match="give its tree"):
        official.load(fill(hmil_shapes(d=D)))
    other = LabelTree.from_paths(["B/N", "B/PB", "B/UDH", "A/FEA", "A/ADH", "A/DCIS", "A/IC"])
    with pytest.raises(
        ModelError, match=r"coarse_attention.0.attention_c.weight is \(3, 256\) instead of \(2, 256\)"
    ):
        official.load(fill(hmil_shapes(d=D)), tree=other)


def test_keys_that_do_not_fit_are_all_named():
    weights = mhim()
    del weights["predictor.bias"], weights["merge.norm.weight"]
    weights["aux.weight"] = torch.zeros(2)
    with pytest.raises(
        ModelError, match=r"unexpected aux.weight; missing merge.norm.weight, predictor.bias\."
    ):
        official.load(weights)
    with pytest.raises(ModelError, match=r"those of mhim but do not fit.*attention_a"):
        official.load(mhim(gated=True), encoder="attn")
    with pytest.raises(ModelError, match=r"mhim's teacher but do not fit: missing feature.0.bias"):
        official.load(
            {"model": mhim(), "teacher": {k: v for k, v in mhim(1).items() if k != "feature.0.bias"}}
        )
    with pytest.raises(ModelError, match="keys of this checkpoint are those of abmil, not of max"):
        official.load(fill(abmil_shapes(D)), method="max")


@pytest.mark.parametrize(
    ("keys", "name"),
    [
        ({"dec.cluster_centers": (4, 8)}, "micromil"),
        ({"feature.0.weight": (8, 4), "online_encoder.cls_token": (1, 1, 8)}, "mhim with the self-attention"),
        (
            {"patch_to_emb.0.weight": (8, 4), "online_encoder.cls_token": (1, 1, 8)},
            "mhim with the self-attention",
        ),
        ({"feature.0.weight": (8, 4), "online_encoder.i_classifier.0.weight": (2, 8)}, "mhim with the dsmil"),
        ({"cls_token": (1, 1, 8), "pos_layer.proj.weight": (8, 1, 7, 7)}, "transmil"),
        ({"attention_net.0.weight": (8, 4), "classifiers.weight": (2, 8)}, "clam"),
        ({"feature.0.weight": (8, 4), "b_classifier.q.0.weight": (8, 8)}, "dsmil"),
    ],
)
def test_layouts_without_a_model_here_are_refused_by_name(keys, name):
    with pytest.raises(ModelError, match=rf"checkpoint of {name}.*, which cannot be run here yet"):
        official.load(fill(keys))


def test_an_unknown_layout_is_refused_with_the_nearest_one():
    strange = fill({**linear_shapes("encoder.0", 8, 4), **linear_shapes("attention.0", 8, 8)})
    with pytest.raises(ModelError) as error:
        official.load(strange)
    words = str(error.value)
    assert "of no layout known here" in words
    assert "nearest is abmil" in words
    assert "unexpected encoder.0.bias, encoder.0.weight" in words
    assert "missing feature.0.weight" in words
    assert "classifier.weight" in words


def test_values_that_are_no_weights_are_refused():
    with pytest.raises(
        ModelError, match=r"feature.0.weight of the checkpoint is a int; a tensor was expected"
    ):
        official.load({"model": {"feature.0.weight": 3}})
    with pytest.raises(
        ModelError, match=r"predictor.bias of the checkpoint holds numbers that are not finite"
    ):
        official.load(mhim() | {"predictor.bias": torch.tensor([1.0, torch.nan])})


@pytest.mark.parametrize("form", ["zip", "legacy", "half", "safetensors", "safetensors without its suffix"])
def test_files_of_every_form_are_read(form, tmp_path):
    path = tmp_path / ("model.safetensors" if form == "safetensors" else "model.pth")
    weights = mhim()
    if form.startswith("safetensors"):
        safetensors.torch.save_file(weights, path)
    elif form == "half":
        torch.save({"model": {k: v.half() for k, v in weights.items()}}, path)
    else:
        torch.save({"model": weights, "epoch": 2}, path, _use_new_zipfile_serialization=form == "zip")
    model = official.load(str(path))
    expected = weights["feature.0.weight"]
    expected = expected.half().float() if form == "half" else expected
    assert torch.equal(model.student.feature[0].weight, expected)


class Bomb:
    """Would run when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("form", ["torch", "legacy", "pickle"])
def test_a_file_that_holds_code_is_refused_and_not_run(form, tmp_path):
    path, trace = tmp_path / "model.pth", tmp_path / "it ran"
    held = {"model": mhim(), "callback": Bomb(trace)}
    if form == "pickle":
        path.write_bytes(pickle.dumps(Bomb(trace)))
    else:
        torch.save(held, path, _use_new_zipfile_serialization=form == "torch")
    with pytest.raises(ModelError, match=r"model.pth .*refused"):
        official.load(path)
    assert not trace.exists()


def test_whole_models_are_refused(tmp_path):
    torch.save(official.load(mhim()), tmp_path / "model.pt")
    with pytest.raises(ModelError, match=r"holds more than weights \(it asks for napari_mil"):
        official.load(tmp_path / "model.pt")


@pytest.mark.parametrize(
    "content",
    [b"", b"not a checkpoint at all", b"PK\x03\x04 and then nothing", b"\x08\0\0\0\0\0\0\0{broken}"],
)
def test_damaged_files_are_refused(content, tmp_path):
    (tmp_path / "model.pth").write_bytes(content)
    with pytest.raises(ModelError, match=r"model.pth (is no readable checkpoint|holds more than weights)"):
        official.load(tmp_path / "model.pth")


def test_a_truncated_file_is_refused(tmp_path):
    path = tmp_path / "model.pth"
    torch.save(mhim(), path)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ModelError, match=r"model.pth is no readable checkpoint"):
        official.load(path)


def test_an_old_file_that_lost_a_storage_is_refused_in_one_sentence(tmp_path):
    path = tmp_path / "model.pth"
    torch.save({"feature.0.weight": torch.ones(3)}, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    key = re.findall(rb"\d{9,}", data)[-1]  # in the list of storages, behind the tensors
    at = data.rindex(key)
    path.write_bytes(data[:at] + b"0" * len(key) + data[at + len(key) :])
    with pytest.raises(ModelError, match=r"model.pth is no readable checkpoint: [^.]*\.$"):
        official.load(path)


def test_a_missing_file_and_a_tensor_alone_are_refused(tmp_path):
    with pytest.raises(ModelError, match="There is no checkpoint"):
        official.load(tmp_path / "none.pth")
    torch.save(torch.zeros(3), tmp_path / "tensor.pth")
    with pytest.raises(ModelError, match="holds a Tensor; a state dict was expected"):
        official.load(tmp_path / "tensor.pth")


REAL = Path(os.environ.get("NAPARI_MIL_TEST_DATA", "none")) / "checkpoints"


@pytest.mark.skipif(not REAL.is_dir(), reason="NAPARI_MIL_TEST_DATA is not set")
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("dsmil_c16_aggregator.pth", "checkpoint of dsmil, which cannot be run here yet"),
        (
            "katherlab_dachs_survival_prediction.pth",
            r"no layout known .* nearest is abmil: unexpected .*head.3.bias; missing .*classifier.bias\.",
        ),
    ],
)
def test_real_checkpoints_of_other_layouts_are_refused(name, words):
    with pytest.raises(ModelError, match=words):
        official.load(REAL / name)


def test_loading_leaves_the_source_alone():
    weights = mhim()
    before = {k: v.clone() for k, v in weights.items()}
    model = official.load(weights)
    model.student.predictor.weight.data.zero_()
    assert all(torch.equal(weights[k], v) for k, v in before.items())
