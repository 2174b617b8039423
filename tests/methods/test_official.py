"""Published checkpoints: recognised by their keys, loaded strictly, never by running code."""

import dataclasses
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
    pool_shapes,
)
from published import (
    BRACS,
    HERE,
    LAYOUTS,
    D,
    authors_dsmil_shapes,
    clam_shapes,
    mhim,
    resnet,
    transmil_shapes,
    v1,
)

from napari_mil import masks, methods
from napari_mil.bag import Bag
from napari_mil.errors import LabelError, ModelError
from napari_mil.grid import TileGrid
from napari_mil.labeltree import LabelTree
from napari_mil.methods import official
from napari_mil.methods.official.authors import dsmil_in_ours


def same_answers(one, other, n=9):
    """Whether two models answer alike for a bag of n tiles."""
    x = bag(n, D, 0)
    return all(torch.equal(a, b) for a, b in zip(one(x).logits, other(x).logits, strict=True))


def of_the_network(model, weights):
    """Published weights under the key names that `dump` uses for this model, where these are only renamed."""
    own = official.dump(model)
    for ours, theirs in (
        ("feature.", "_fc1."),
        ("classifier.", "_fc2."),
        ("attention_net.3.", "attention_net.2."),
    ):
        if any(k.startswith(ours) for k in own):
            weights = {
                ours + k.removeprefix(theirs) if k.startswith(theirs) else k: v for k, v in weights.items()
            }
    return weights


@pytest.mark.parametrize("layout", HERE)
def test_every_layout_is_recognised_and_answers(layout):
    published = LAYOUTS[layout]
    model = official.load(published.weights, **published.options)
    assert model.name == published.method
    assert model.in_features == D
    assert not model.training
    assert torch.isfinite(model(bag(9, D, 0)).logits[-1]).all()
    written = official.dump(model)
    unsaid = {option: getattr(model.config, option) for option in official.describe(written).unsaid}
    assert same_answers(official.load(written, **published.options, **unsaid), model)
    if "authors, " in layout:  # not a renaming
        return
    expected = of_the_network(model, published.weights)
    extra = {k for k in written if k.startswith("instance_loss_fn.")} | {"merge.global_q"}
    assert written.keys() - extra == expected.keys()
    assert all(torch.equal(written[k], v) for k, v in expected.items())


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
@pytest.mark.parametrize("layout", HERE)
def test_every_layout_is_read_from_files(layout, form, tmp_path):
    published, path = LAYOUTS[layout], tmp_path / "model.pth"
    dressed = {f"module.{k}": v for k, v in published.weights.items()}
    if form == "zip":
        torch.save({"model": dressed, "teacher": dressed, "epoch": 7}, path)
    elif form == "legacy":
        held = {"model_state_dict": published.weights, "optimizer": {"lr": 1.0}, "epoch": 7}
        torch.save(held, path, _use_new_zipfile_serialization=False)
    else:
        safetensors.torch.save_file(dressed, path)
    model = official.load(path, **published.options)
    assert same_answers(model, official.load(published.weights, **published.options))
    assert ("teacher" in dict(model.named_children())) == (form == "zip" and published.method == "mhim")


@pytest.mark.parametrize("layout", HERE)
def test_every_key_that_does_not_fit_is_named(layout):
    published = LAYOUTS[layout]
    weights = dict(published.weights)
    gone = next(k for k in sorted(weights, reverse=True) if k.endswith(".bias"))
    del weights[gone]
    weights["aux.weight"] = torch.zeros(2)
    with pytest.raises(ModelError, match=r"do not fit: unexpected aux\.weight; missing ") as error:
        official.load(weights, **published.options)
    assert gone.split(".")[0] in str(error.value).split("missing ")[1]


@pytest.mark.parametrize("layout", HERE)
def test_classes_may_stand_in_another_order(layout):
    published = LAYOUTS[layout]
    tree = official.load(published.weights, **published.options).tree
    paths = [tree.path(leaf) for leaf in tree.leaves]
    x = bag(9, D, 0)
    plain = official.load(published.weights, **published.options | {"tree": tree})(x)
    turned = official.load(published.weights, **published.options | {"tree": tree, "classes": paths[::-1]})(x)
    for a, b in zip(plain.logits, turned.logits, strict=True):
        assert torch.allclose(a.flip(0), b, atol=1e-5)
    assert torch.allclose(plain.tile_logits.flip(1), turned.tile_logits, atol=1e-5)


def test_classes_must_be_the_leaves_of_the_tree():
    tree = LabelTree.from_paths(["LUAD", "LUSC"])
    with pytest.raises(LabelError, match=r"given as LUAD, LUAD; each leaf .* once: LUAD, LUSC"):
        official.load(mhim(), tree=tree, classes=["LUAD", "LUAD"])
    with pytest.raises(LabelError, match="'other' is no label"):
        official.load(mhim(), tree=tree, classes=["LUAD", "other"])


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
    w = {k: v.double() for k, v in mhim(encoder="gated").items()}
    h = torch.nn.functional.gelu(bag(9, D, 0).double() @ w["feature.0.weight"].T + w["feature.0.bias"])
    stem = "online_encoder.attention.attention_"
    e = torch.relu(h @ w[f"{stem}a.0.weight"].T) * torch.sigmoid(h @ w[f"{stem}b.0.weight"].T)
    z = torch.softmax((e @ w[f"{stem}c.weight"].T)[:, 0], 0) @ h
    out = official.load(mhim(encoder="gated"))(bag(9, D, 0))
    expected = z @ w["predictor.weight"].T + w["predictor.bias"]
    assert torch.allclose(out.logits[0].double(), expected, atol=1e-5)


def test_wrappers_and_prefixes_are_taken_off():
    plain = official.load(mhim())(bag(9, D, 0)).logits[0]
    dressed = {f"module.{k}": v for k, v in mhim().items()}
    twice = {f"module.{k}": v for k, v in dressed.items()}
    inner = {k.replace("online_encoder.", "online_encoder.module."): v for k, v in mhim().items()}
    deep = {f"module.{k.replace('.attention.', '.module.module.attention.')}": v for k, v in inner.items()}
    for source in (
        dressed,
        twice,
        inner,
        deep,
        {"model": twice, "epoch": 3},
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
    assert full.assumed == (
        "score = class",
        "compat = clean",
        "mask_ratio = 0.03",
        "hidden_ratio_random = 1.0",
        "mask_schedule = none",
        "keep_ratio = 0.8",
    )
    assert "mean pooling (max looks the same in a file)" in official.load(fill(pool_shapes(D))).assumed
    first = official.load({"model": v1(mhim(k=0)), "teacher": v1(mhim(1, k=0))}, random_mask_ratio=0.5)
    assert first.assumed[2:] == (
        "compat = clean",
        "mask_ratio = 0.03",
        "hidden_ratio_random = 1.0",
        "mask_schedule = cosine",
        "low_mask_ratio = 0.0",
    )


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("encoder", ["attn", "gated", "selfattn", "dsmil"])
def test_whatever_decides_which_tiles_a_file_s_teacher_hides_is_noted(encoder, version):
    """Every option that changes the hidden tiles, tried one by one, stands among what was assumed."""
    named = v1 if version == 1 else dict
    k = 0 if version == 1 else 5
    file = {name: named(mhim(i, encoder=encoder, k=k)) for i, name in enumerate(("model", "teacher"))}
    others = {
        "mask_ratio": 0.5,
        "hidden_ratio_random": 0.2,
        "low_mask_ratio": 0.3,
        "random_mask_ratio": 0.3,
        "keep_ratio": 0.3,
        "fusion": "mean",
        "mask_schedule": "cosine",
        "score": "attention",
        "compat": "official",
    }
    usual = {"mask_ratio": 0.3, "mask_schedule": "none"}
    usual |= {"score": "attention"} if (encoder, version) == ("selfattn", 2) else {}
    x = bag(60, D, 0)

    def roles(**options):
        model = official.load(file, **usual | options)
        draw = torch.Generator().manual_seed(0)
        return model.hide(model.salience(x), progress=0.5, generator=draw).roles(60)

    plain = roles()
    decide = {name for name, value in others.items() if not torch.equal(roles(**{name: value}), plain)}
    assert decide >= {"mask_ratio", "hidden_ratio_random", "mask_schedule", "compat"}
    assert ("fusion" in decide) == (encoder == "selfattn")
    assert decide <= official.describe(file).unsaid.keys()


#: how a model is asked, whatever its file is
ASKED = {"select", "draws", "seed"}


def others_than(value, metadata):
    """Other values that an option may have."""
    if choices := metadata.get("choices"):
        return [choice for choice in choices if choice != value]
    if isinstance(value, bool):
        return [not value]
    lower, higher = metadata["low"], metadata["high"]
    return [
        other
        for other in (value / 2, 2 * value + 1)
        if lower <= other <= higher and type(value)(other) == other
    ]


@pytest.mark.parametrize("layout", HERE)
def test_whatever_decides_the_answer_and_is_not_in_the_file_is_noted(layout):
    """Every option that changes an answer or a map, tried one by one, stands in the file or was assumed."""
    published = LAYOUTS[layout]
    said = official.describe(published.weights, method=published.options.get("method"))
    kind, x = methods.get(published.method).Config, bag(40, D, 0)

    def answer(**options):
        out = official.load(published.weights, **published.options | options)(x)
        return {
            "tiles": out.tile_logits,
            "attention": out.attention,
            **dict(enumerate(out.logits)),
            **out.maps,
        }

    def differs(one, other):
        return one.keys() != other.keys() or any(not torch.equal(one[k], other[k]) for k in one)

    plain, decide = answer(), set()
    for field in dataclasses.fields(kind):
        if field.name in (said.options.keys() - said.unsaid.keys()) | ASKED:
            continue
        usual = getattr(official.load(published.weights, **published.options).config, field.name)
        for other in others_than(usual, field.metadata):
            try:
                changed = differs(answer(**{field.name: other}), plain)
            except ModelError:  # the file is of another one
                continue
            decide |= {field.name} if changed else set()
    assert decide <= said.unsaid.keys()
    assert ("act" in decide) == ("act" in said.unsaid)


def test_what_a_file_says_and_leaves_open_can_be_asked_without_making_a_model():
    said = official.describe({"model": mhim(c=3), "teacher": mhim(1, c=3)})
    assert (said.method, said.classes, said.in_features, said.teacher) == ("mhim", 3, D, True)
    assert said.title == "mhim with the attention encoder"
    assert said.options["recycle_tokens"] == 5
    assert dict(said.unsaid) == {
        "act": "gelu",
        "da_act": "relu",
        "score": "class",
        "compat": "clean",
        "mask_ratio": 0.03,
        "hidden_ratio_random": 1.0,
        "mask_schedule": "none",
        "keep_ratio": 0.8,
    }
    assert official.describe(v1(mhim(k=0))).unsaid["act"] == "relu"
    assert official.describe(fill(pool_shapes(D))).choices == ("mean", "max")
    assert official.describe(fill(pool_shapes(D)), method="max").choices == ()
    assert dict(official.describe(fill(hmil_shapes(d=D))).unsaid) == {}


def test_version_1_hides_its_tiles():
    file = {"model": v1(mhim(k=0)), "teacher": v1(mhim(1, k=0)), "epoch": 12}
    model = official.load(file, mask_ratio=0.1, low_mask_ratio=0.2, random_mask_ratio=0.0)
    assert (model.config.version, model.config.pure) == (1, False)
    grid = TileGrid.full((5 * 64, 6 * 64), None, tile_px=64, mpp=None)
    found = masks.simulate(model, Bag("s", grid, bag(30, D, 0).numpy(), "e"))
    assert ((found.role == 1).sum(), (found.role == 3).sum()) == (3, 6)
    for part in ("student", "teacher"):
        expected = file["model" if part == "student" else "teacher"]
        written = official.dump(model, part=part)
        assert written.keys() == expected.keys()
        assert all(torch.equal(written[k], v) for k, v in expected.items())
    alone = official.load(file["model"])
    assert (alone.config.version, alone.config.pure, alone.has_teacher()) == (1, True, False)


def test_a_teacher_from_stage_1_lacks_the_recycling():
    taught = {k: v for k, v in mhim(1).items() if not k.startswith("merge.")}
    model = official.load({"model": mhim(), "teacher": taught})
    assert torch.equal(model.teacher.predictor.weight, mhim(1)["predictor.weight"])
    assert torch.equal(model.teacher.merge.norm.weight, mhim()["merge.norm.weight"])


def test_shapes_say_the_options():
    config = official.load(
        {"model": mhim(k=3, encoder="gated"), "teacher": mhim(1, k=3, encoder="gated")}
    ).config
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
        official.load(mhim(encoder="gated"), encoder="attn")
    with pytest.raises(ModelError, match=r"mhim's teacher but do not fit: missing feature.0.bias"):
        official.load(
            {"model": mhim(), "teacher": {k: v for k, v in mhim(1).items() if k != "feature.0.bias"}}
        )
    with pytest.raises(ModelError, match="keys of this checkpoint are those of abmil, not of max"):
        official.load(fill(abmil_shapes(D)), method="max")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_without_a_method_here_are_refused_by_name(layout, monkeypatch):
    published = LAYOUTS[layout]
    monkeypatch.setattr(methods, "names", lambda: ())
    name = published.method.split("_")[0] if published.method not in ("mean", "max") else "mean or max"
    with pytest.raises(ModelError, match=rf"checkpoint of {name}.*, which cannot be run here yet"):
        official.load(published.weights, **published.options)


@pytest.mark.parametrize(("encoder", "words"), [("selfattn", "self-attention"), ("dsmil", "dsmil")])
@pytest.mark.parametrize("version", [1, 2])
def test_encoders_that_mhim_does_not_offer_are_refused_by_name(encoder, words, version, monkeypatch):
    weights = mhim(encoder=encoder, k=0)
    field = dataclasses.field(default="attn", metadata={"choices": ("attn", "gated")})
    without = dataclasses.make_dataclass("Config", [("encoder", str, field)], frozen=True)
    monkeypatch.setattr(methods.get("mhim"), "Config", without)
    with pytest.raises(
        ModelError, match=f"checkpoint of mhim with the {words} encoder, which cannot be run here yet"
    ):
        official.load(v1(weights) if version == 1 else weights)


def authors_answer(w, x):
    """DSMIL as its authors write it: tile logits (N, C), attention (N, C), bag logits (C,) (CVPR 2021)."""
    c = x @ w["i_classifier.fc.0.weight"].T + w["i_classifier.fc.0.bias"]

    def query(h):
        first = torch.relu(h @ w["b_classifier.q.0.weight"].T + w["b_classifier.q.0.bias"])
        return torch.tanh(first @ w["b_classifier.q.2.weight"].T + w["b_classifier.q.2.bias"])

    v = x
    if "b_classifier.v.1.weight" in w:
        v = torch.relu(x @ w["b_classifier.v.1.weight"].T + w["b_classifier.v.1.bias"])
    q = query(x)
    a = torch.softmax(q @ query(x[c.argmax(0)]).T / q.shape[1] ** 0.5, 0)
    b = (a.T @ v)[None]
    return (
        c,
        a,
        torch.nn.functional.conv1d(b, w["b_classifier.fcc.weight"], w["b_classifier.fcc.bias"])[0, :, 0],
    )


def ours_of_authors(weights, x):
    """The same of the mapped weights, by the formula of the baseline: a projection, then as the authors."""
    w = {k.replace("i_classifier.", "i_classifier.fc.0."): v for k, v in dsmil_in_ours(weights).items()}
    w = {k: v.double() for k, v in w.items()}
    return authors_answer(w, torch.relu(x @ w["feature.0.weight"].T + w["feature.0.bias"]))


@pytest.mark.parametrize("values", [False, True])
@pytest.mark.parametrize("c", [1, 3])
def test_dsmil_of_its_authors_is_mapped_exactly(c, values):
    weights, x = fill(authors_dsmil_shapes(c, values=values)), bag(50, D, 0).double()
    tiles, attention, logits = authors_answer({k: v.double() for k, v in weights.items()}, x)
    mine = ours_of_authors(weights, x)
    if c == 1:  # one logit among two classes
        assert torch.allclose(torch.softmax(mine[2], 0)[1], torch.sigmoid(logits[0]), atol=1e-12)
        assert torch.allclose(torch.softmax(mine[0], 1)[:, 1], torch.sigmoid(tiles[:, 0]), atol=1e-12)
        assert torch.allclose(mine[1][:, 1], attention[:, 0], atol=1e-12)
    else:
        for ours, theirs in zip(mine, (tiles, attention, logits), strict=True):
            assert torch.allclose(ours, theirs, atol=1e-12)


def test_dsmil_of_its_authors_is_refused_where_it_does_not_fit():
    weights = fill(authors_dsmil_shapes())
    weights["b_classifier.q.weight"] = weights.pop("b_classifier.q.0.weight")
    with pytest.raises(ModelError, match=r"unexpected .*q\.weight; missing .*q\.0\.weight"):
        dsmil_in_ours(weights)
    weights = fill(authors_dsmil_shapes()) | {"b_classifier.fcc.weight": torch.zeros(3)}
    with pytest.raises(ModelError, match=r"b_classifier.fcc.weight is \(3,\) instead of \(1, 1, 40\)"):
        dsmil_in_ours(weights)


def test_two_names_of_one_thing_in_one_file_are_refused():
    weights = v1(mhim(k=0)) | {"feature.0.weight": mhim()["feature.0.weight"]}
    with pytest.raises(ModelError, match=r"unexpected patch_to_emb\.0\.weight"):
        official.load(weights)


@pytest.mark.parametrize("method", {"transmil"} & {*methods.names()})
def test_both_names_of_transmil_are_one_network(method):
    theirs = official.load(fill(transmil_shapes(3, first="_fc1.0", last="_fc2")))
    ours = {
        k.replace("_fc1.", "feature.").replace("_fc2.", "classifier."): v
        for k, v in fill(transmil_shapes(3, first="_fc1.0", last="_fc2")).items()
    }
    assert same_answers(theirs, official.load(ours, act="relu"))
    assert theirs.assumed == ("act = relu",)


@pytest.mark.parametrize("method", [m for m in ("clam_sb", "clam_mb") if m in methods.names()])
def test_clam_without_dropout_is_the_same_network(method):
    wet = fill(clam_shapes(branches=method == "clam_mb"))
    dry = {k.replace("attention_net.3.", "attention_net.2."): v for k, v in wet.items()}
    one, other = official.load(wet), official.load(dry)
    assert (one.config.dropout > 0, other.config.dropout) == (True, 0.0)
    assert same_answers(one, other)
    buffer = {"instance_loss_fn.labels": torch.arange(2)}
    assert same_answers(official.load(wet | buffer), one)


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
needs_data = pytest.mark.skipif(not REAL.is_dir(), reason="NAPARI_MIL_TEST_DATA is not set")


@needs_data
def test_a_real_checkpoint_of_another_layout_is_refused():
    with pytest.raises(
        ModelError,
        match=r"no layout known .* nearest is abmil: unexpected .*head.3.bias; missing .*classifier.bias\.",
    ):
        official.load(REAL / "katherlab_dachs_survival_prediction.pth")


@needs_data
def test_a_real_dsmil_answers_as_its_authors_say():
    weights = torch.load(REAL / "dsmil_c16_aggregator.pth", map_location="cpu", weights_only=True)
    x = bag(200, 512, 0).double()
    _, attention, logits = authors_answer({k: v.double() for k, v in weights.items()}, x)
    mine = ours_of_authors(weights, x)
    assert torch.allclose(torch.softmax(mine[2], 0)[1], torch.sigmoid(logits[0]), atol=1e-12)
    if "dsmil" not in methods.names():
        with pytest.raises(ModelError, match="dsmil as its authors publish it, which cannot be run here yet"):
            official.load(REAL / "dsmil_c16_aggregator.pth")
        return
    model = official.load(REAL / "dsmil_c16_aggregator.pth")
    out = model(x.float())
    assert (model.config.hidden, model.config.act, model.in_features, model.classes) == (1024, "relu", 512, 2)
    assert model.assumed == ("one logit (sigmoid): the first class is the absence of the second",)
    assert torch.allclose(torch.softmax(out.logits[-1], 0)[1].double(), torch.sigmoid(logits[0]), atol=1e-6)
    assert torch.allclose(out.attention[:, 1].double(), attention[:, 0], atol=1e-6)


@pytest.mark.parametrize("method", {"micromil"} & {*methods.names()})
def test_an_encoder_in_the_file_is_left_aside(method):
    file = LAYOUTS[method].weights | {f"feature_extractor.{k}": v for k, v in resnet([2, 2, 2, 2], 1).items()}
    assert same_answers(official.load(file), official.load(LAYOUTS[method].weights))
    assert official.describe(file).encoder == "resnet18"
    assert official.describe(LAYOUTS[method].weights).encoder is None


def test_loading_leaves_the_source_alone():
    weights = mhim()
    before = {k: v.clone() for k, v in weights.items()}
    model = official.load(weights)
    model.student.predictor.weight.data.zero_()
    assert all(torch.equal(weights[k], v) for k, v in before.items())
