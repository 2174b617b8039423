"""The published layouts, as a table: what tells one from another, and what its shapes say.

A layout of a method that the registry does not hold is recognised all the same; `load` then says so.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from napari_mil.methods.official.authors import dsmil_in_ours
from napari_mil.methods.official.files import Bundle, Weights

#: what a file says of an option; None where the key that says it is missing
Read = Callable[[Bundle], Any]


@dataclass(frozen=True, slots=True)
class Layout:
    """One published way to name the weights of a method.

    Attributes
    ----------
    method : the registry's name
    title : what a sentence calls it
    marks : beginnings of keys; the first layout of LAYOUTS of which all are there is it
    in_features, classes : D and C
    options : option → what the shapes say of it
    fixed : option → its value in every file of this layout
    unsaid : options that no file says though its answers depend on them
    unsaid_of_teacher : the same for what the teacher would hide
    note : what a reader must know beyond options, or None
    levels : of the label tree it needs; a file of two cannot say which fine class belongs where
    twin : a method of the same layout, which only the caller can tell apart
    same : names of one thing, as beginnings of keys; the network's own is used, whichever the file has
    loose : beginnings of keys that either side may lack
    aside : beginnings of keys that belong to something else, such as the encoder
    classwise : beginning of a key → (level, axes that count its classes), level −1 the finest; a `#` in it is
        the number of the class
    convert : for weights that are no renaming of ours
    """

    method: str
    title: str
    marks: tuple[str, ...]
    in_features: Read
    classes: Read
    options: Mapping[str, Read] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    unsaid: tuple[str, ...] = ("act",)
    unsaid_of_teacher: tuple[str, ...] = ()
    note: Callable[[Bundle], str | None] = lambda _: None
    levels: int = 1
    twin: str = ""
    same: tuple[tuple[str, ...], ...] = ()
    loose: tuple[str, ...] = ()
    aside: tuple[str, ...] = ()
    classwise: Mapping[str, tuple[int, tuple[int, ...]]] = field(default_factory=dict)
    convert: Callable[[Weights], Weights] | None = None

    def fits(self, weights: Weights) -> bool:
        """Whether all its marks are there."""
        return all(any(key.startswith(mark) for key in weights) for mark in self.marks)


def size(key: str, axis: int) -> Read:
    """The length of an axis of a tensor."""

    def read(bundle: Bundle) -> int | None:
        value = bundle.weights.get(key)
        return None if value is None or value.ndim <= axis else int(value.shape[axis])

    return read


def count(pattern: str) -> Read:
    """How many keys match."""

    def read(bundle: Bundle) -> int | None:
        return sum(re.fullmatch(pattern, key) is not None for key in bundle.weights) or None

    return read


def _tokens(bundle: Bundle) -> int:
    return size("merge.global_q_mm", 1)(bundle) or 0


def _pure(bundle: Bundle) -> bool:
    return bundle.teacher is None and not _tokens(bundle)


def _heads_of_recycling(bundle: Bundle) -> int | None:
    """Every head is an eighth of the features wide, however many there are."""
    rows, hidden = (size("merge.attn.to_q.weight", axis)(bundle) for axis in (0, 1))
    return rows // max(1, hidden // 8) if rows and hidden else None


_LEAF = (-1, (0,))
#: what hides the salient tiles in both versions of MHIM
_HIDES = ("compat", "mask_ratio", "hidden_ratio_random", "mask_schedule")
#: what every published setting of version 1 has, though no file says so
_FIRST = {"act": "relu", "mask_schedule": "cosine"}
_STEM = "online_encoder."
#: encoder of MHIM → (what a sentence calls it, its mark, what its shapes say, its classwise keys)
_ENCODERS: dict[str, tuple[str, str, dict[str, Read], dict[str, tuple[int, tuple[int, ...]]]]] = {
    "gated": (
        "gated attention encoder",
        f"{_STEM}attention.attention_",
        {"attention_width": size(f"{_STEM}attention.attention_c.weight", 1)},
        {},
    ),
    "attn": (
        "attention encoder",
        f"{_STEM}attention.",
        {"attention_width": size(f"{_STEM}attention.attention.2.weight", 1)},
        {},
    ),
    "selfattn": (
        "self-attention encoder",
        f"{_STEM}cls_token",
        {"heads": size(f"{_STEM}layer1.attn.res_conv.weight", 0)},
        {},
    ),
    "dsmil": (
        "dsmil encoder",
        f"{_STEM}i_classifier.",
        {"attention_width": size(f"{_STEM}b_classifier.q.0.weight", 0)},
        {f"{_STEM}i_classifier.": _LEAF, f"{_STEM}b_classifier.fcc.": (-1, (0, 1))},
    ),
}


def _mhim(encoder: str, version: int) -> Layout:
    words, mark, said, classwise = _ENCODERS[encoder]
    first = version == 1
    fusion = ("fusion",) if encoder == "selfattn" else ()  # the one whose heads score by themselves
    projection = "patch_to_emb.0.weight" if first else "feature.0.weight"
    recycling: dict[str, Read] = {"recycle_tokens": _tokens, "heads": _heads_of_recycling}
    return Layout(
        method="mhim",
        title=f"mhim with the {words}",
        marks=("patch_to_emb.", mark) if first else (mark,),
        in_features=size(projection, 1),
        classes=size("predictor.weight", 0),
        options={
            "hidden": size(projection, 0),
            "pure": _pure,
            "teacher": lambda bundle: bundle.teacher is not None,
            **({} if first else recycling),
            **said,
        },
        fixed={"encoder": encoder, "version": version, **(_FIRST if first else {})},
        unsaid=("act", "da_act") if encoder in ("attn", "gated") else ("act",),
        unsaid_of_teacher=(
            (*_HIDES, "low_mask_ratio", "random_mask_ratio", *fusion)
            if first
            else ("score", *_HIDES, "keep_ratio", *fusion)
        ),
        same=(("feature.", "patch_to_emb."),),
        classwise={"predictor.": _LEAF, **classwise},
    )


_HMIL = Layout(
    method="hmil",
    title="hmil",
    marks=("coarse_attention.0.attention_c.weight",),
    in_features=size("feature_extractor.0.weight", 1),
    classes=size("fine_attention.0.attention_c.weight", 0),
    options={"hidden": size("coarse_classifier.weight", 1)},
    unsaid=(),
    levels=2,
    classwise={"fine_attention.0.attention_c.": _LEAF, "coarse_attention.0.attention_c.": (-2, (0,))},
)
_MICROMIL = Layout(
    method="micromil",
    title="micromil",
    marks=("dec.cluster_centers",),
    in_features=size("image_feature.weight", 1),
    classes=size("classify.weight", 0),
    options={
        "clusters": size("dec.cluster_centers", 0),
        "hidden": size("layers.0.fc.weight", 0),
        "layers": count(r"layers\.\d+\.fc\.weight"),
        "width": size("image_feature.weight", 0),
    },
    unsaid=("compat", "tau"),
    aside=("feature_extractor.",),
    classwise={"classify.": _LEAF},
)
_TRANSMIL = Layout(
    method="transmil",
    title="transmil",
    marks=("pos_layer.proj.",),
    in_features=size("feature.0.weight", 1),
    classes=size("classifier.weight", 0),
    options={"hidden": size("feature.0.weight", 0), "heads": size("layer1.attn.res_conv.weight", 0)},
    classwise={"classifier.": _LEAF},
)
_TRANSMIL_OF_ITS_AUTHORS = dataclasses.replace(
    _TRANSMIL,
    title="transmil as its authors publish it",
    marks=("pos_layer.proj.", "_fc1."),
    in_features=size("_fc1.0.weight", 1),
    classes=size("_fc2.weight", 0),
    options={"hidden": size("_fc1.0.weight", 0), "heads": size("layer1.attn.res_conv.weight", 0)},
    fixed={"act": "relu"},
    same=(("feature.", "_fc1."), ("classifier.", "_fc2.")),
)


def _scores_of_clam(axis: int) -> Read:
    """The last attention layer stands at index 3, or at 2 where there is no dropout."""
    at3, at2 = (size(f"attention_net.{i}.attention_c.weight", axis) for i in (3, 2))
    return lambda bundle: at3(bundle) or at2(bundle)


def _dropout_of_clam(bundle: Bundle) -> float | None:
    return 0.0 if any(key.startswith("attention_net.2.") for key in bundle.weights) else None


_CLAM_SB = Layout(
    method="clam_sb",
    title="clam (SB)",
    marks=("attention_net.", "classifiers.weight"),
    in_features=size("attention_net.0.weight", 1),
    classes=size("classifiers.weight", 0),
    options={
        "hidden": size("attention_net.0.weight", 0),
        "attention_width": _scores_of_clam(1),
        "dropout": _dropout_of_clam,
    },
    same=(("attention_net.3.", "attention_net.2."),),
    loose=("instance_loss_fn.",),
    classwise={"classifiers.": _LEAF, "instance_classifiers.#.": (-1, ())},
)
_CLAM_MB = dataclasses.replace(
    _CLAM_SB,
    method="clam_mb",
    title="clam (MB)",
    marks=("attention_net.",),
    classes=_scores_of_clam(0),
    classwise={
        "attention_net.3.attention_c.": _LEAF,
        "attention_net.2.attention_c.": _LEAF,
        "classifiers.#.": (-1, ()),
        "instance_classifiers.#.": (-1, ()),
    },
)
_DSMIL = Layout(
    method="dsmil",
    title="dsmil",
    marks=("b_classifier.", "feature.0."),
    in_features=size("feature.0.weight", 1),
    classes=size("b_classifier.fcc.weight", 0),
    options={
        "hidden": size("feature.0.weight", 0),
        "attention_width": size("b_classifier.q.0.weight", 0),
    },
    same=(("i_classifier.0.", "i_classifier."),),
    classwise={"i_classifier.": _LEAF, "b_classifier.fcc.": (-1, (0, 1))},
)


def _sigmoids(bundle: Bundle) -> str:
    if size("b_classifier.fcc.weight", 0)(bundle) == 1:
        return "one logit (sigmoid): the first class is the absence of the second"
    return "one answer among the classes, where its authors ask for each by itself (sigmoid)"


_DSMIL_OF_ITS_AUTHORS = dataclasses.replace(
    _DSMIL,
    title="dsmil as its authors publish it",
    marks=("b_classifier.",),
    in_features=size("b_classifier.q.0.weight", 1),
    classes=lambda bundle: max(2, size("b_classifier.fcc.weight", 0)(bundle) or 2),
    fixed={"act": "relu"},
    options={
        "hidden": lambda bundle: 2 * (size("b_classifier.q.0.weight", 1)(bundle) or 0) or None,
        "attention_width": size("b_classifier.q.0.weight", 0),
    },
    unsaid=(),
    note=_sigmoids,
    convert=dsmil_in_ours,
)
_GABMIL = Layout(
    method="gabmil",
    title="gabmil",
    marks=("attention_a.0.weight", "attention_c.weight"),
    in_features=size("feature.0.weight", 1),
    classes=size("classifier.0.weight", 0),
    options={"hidden": size("feature.0.weight", 0), "attention_width": size("attention_c.weight", 1)},
    classwise={"classifier.0.": _LEAF},
)
_POOL = Layout(
    method="mean",
    twin="max",
    title="mean or max pooling",
    marks=("head.0.weight", "head.3.weight"),
    in_features=size("head.0.weight", 1),
    classes=size("head.3.weight", 0),
    options={"hidden": size("head.0.weight", 0)},
    classwise={"head.3.": _LEAF},
)
_ABMIL = Layout(
    method="abmil",
    title="abmil",
    marks=("attention.0.weight", "feature.0.weight"),
    in_features=size("feature.0.weight", 1),
    classes=size("classifier.weight", 0),
    options={"hidden": size("feature.0.weight", 0), "attention_width": size("attention.0.weight", 0)},
    classwise={"classifier.": _LEAF},
)
#: in the order in which they are tried
LAYOUTS = (
    _HMIL,
    _MICROMIL,
    *(_mhim(encoder, version) for version in (1, 2) for encoder in _ENCODERS),
    _TRANSMIL_OF_ITS_AUTHORS,
    _TRANSMIL,
    _CLAM_SB,
    _CLAM_MB,
    _DSMIL,
    _DSMIL_OF_ITS_AUTHORS,
    _GABMIL,
    _POOL,
    _ABMIL,
)
