"""Published checkpoints as our models: recognised by their keys, loaded strictly, and never by running code.

A file says neither its activations nor its label names; what is assumed is listed in the model's `assumed`.
"""

from __future__ import annotations

import dataclasses
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from napari_mil.errors import ModelError, reason
from napari_mil.labeltree import LabelTree
from napari_mil.methods import create
from napari_mil.mil import MILModel

Weights = dict[str, Tensor]

#: key (or beginning of a key) → a published layout that has no model here yet
NOT_YET = {
    "dec.cluster_centers": "micromil",
    "online_encoder.cls_token": "mhim with the self-attention encoder",
    "online_encoder.i_classifier.": "mhim with the dsmil encoder",
    "pos_layer.proj.": "transmil",
    "attention_net.": "clam",
    "b_classifier.": "dsmil",
}
#: method → keys that tell its layout, and options that its files do not tell
MARKS = {
    "hmil": ("coarse_attention.0.attention_c.weight",),
    "mhim": ("online_encoder.attention.",),
    "gabmil": ("attention_a.0.weight", "attention_c.weight"),
    "mean": ("head.0.weight", "head.3.weight"),
    "abmil": ("attention.0.weight", "feature.0.weight"),
}
UNSAID = {
    "hmil": (),
    "mhim": ("act", "da_act"),
    "gabmil": ("act",),
    "mean": ("act",),
    "max": ("act",),
    "abmil": ("act",),
}


@dataclasses.dataclass(frozen=True, slots=True)
class _Bundle:
    """What a file holds: the weights asked for, its teacher or None, and whether the keys are version 1's."""

    weights: Weights
    teacher: Weights | None
    first_version: bool


def load(
    source: str | Path | Mapping[str, Any],
    *,
    part: str = "student",
    tree: LabelTree | None = None,
    method: str | None = None,
    **config: Any,
) -> MILModel:
    """A model from a published checkpoint, in eval mode.

    Parameters
    ----------
    source : a file (safetensors, or PyTorch's formats read as weights only) or a state dict; wrappers such as
        {model, teacher, epoch} and {model_state_dict} and the prefix "module." are taken off
    part : "student", or "teacher": the teacher's weights answer
    tree : the labels, in the order of the checkpoint's classes; None: classes are numbered (HMIL needs a
        tree)
    method : "mean" or "max", whose files look the same (None: mean, which is noted), else as recognised
    config : options that the file does not say (act, da_act, mask_ratio, …)

    Raises
    ------
    ModelError
        A file that is missing, damaged or holds code; a layout that is unknown or not built yet; keys or
        shapes that do not fit, all of them named.
    """
    if part not in ("student", "teacher"):
        raise ModelError(f"part is {part!r}; it must be 'student' or 'teacher'.")
    bundle = _bundle(source, part)
    name, options = _recognise(bundle, method)
    classes, in_features = _sizes(name, bundle.weights)
    tree = _tree(name, tree, classes)
    model = create(name, {**options, **config}, in_features=in_features, tree=tree)
    _fill(_answering_part(model), bundle.weights, name)
    if bundle.teacher is not None and isinstance(teacher := getattr(model, "teacher", None), nn.Module):
        _fill(teacher, bundle.teacher, f"{name}'s teacher")
    model.assumed = _assumed(model, bundle, method, {*config})
    return model.eval()


def dump(model: MILModel, *, part: str = "student") -> Weights:
    """The weights under the published key names, MHIM's queries under both theirs; `load` is its inverse."""
    net = getattr(model, part, model) if part == "teacher" else _answering_part(model)
    if part == "teacher" and net is model:
        raise ModelError(f"This {model.name} model holds no teacher to write.")
    weights = {k: v.detach().clone() for k, v in net.state_dict().items()}
    if "merge.global_q_mm" in weights:
        weights["merge.global_q"] = weights["merge.global_q_mm"].clone()
    return weights


def _answering_part(model: MILModel) -> nn.Module:
    """The network whose keys a published file holds: MHIM's student, else the model itself."""
    net = getattr(model, "student", model)
    return net if isinstance(net, nn.Module) else model


def _read(path: Path) -> Any:
    """What a file holds, without running any code of it."""
    if not path.is_file():
        raise ModelError(f"There is no checkpoint {path}.")
    try:
        with path.open("rb") as file:
            head = file.read(9)
        if head[8:] == b"{":  # the length of safetensors' JSON header comes first
            return safetensors.torch.load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols; what is not understood raises
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        asked = (
            str(error).split("\n")[-1].strip(" .") if "GLOBAL" not in str(error) else _asked_for(str(error))
        )
        raise ModelError(
            f"{path.name} holds more than weights ({asked}) and could run code of its maker; it is refused, "
            "ask for the state dict alone."
        ) from error
    except Exception as error:  # a damaged file may raise anything inside the parsers
        raise ModelError(f"{path.name} is no readable checkpoint: {reason(error)}.") from error


def _asked_for(message: str) -> str:
    found = re.search(r"GLOBAL ([\w.]+)", message)
    return f"it asks for {found.group(1)}" if found else "objects"


def _bundle(source: str | Path | Mapping[str, Any], part: str) -> _Bundle:
    held = source if isinstance(source, Mapping) else _read(Path(source))
    if not isinstance(held, Mapping):
        raise ModelError(f"The checkpoint holds a {type(held).__name__}; a state dict was expected.")
    wrapper = next(
        (k for k in ("model", "model_state_dict", "state_dict") if isinstance(held.get(k), Mapping)), None
    )
    student = held if wrapper is None else held[wrapper]
    teacher = held.get("teacher") if isinstance(held.get("teacher"), Mapping) else None
    if part == "teacher" and teacher is None:
        raise ModelError("The checkpoint holds no teacher; load its student.")
    if wrapper is None and teacher is not None:
        student = teacher
    student = _plain(student)
    first = "patch_to_emb.0.weight" in student
    taught = None if teacher is None else _renamed(_plain(teacher))
    mine = taught if part == "teacher" and taught is not None else _renamed(student)
    return _Bundle(mine, taught, first)


def _plain(held: Mapping[str, Any]) -> Weights:
    """The tensors of a state dict in float32, without "module." and the second name of MHIM's queries."""
    weights: Weights = {}
    for key, value in held.items():
        if not isinstance(value, Tensor):
            raise ModelError(f"{key} of the checkpoint is a {type(value).__name__}; a tensor was expected.")
        tensor = value.detach().cpu()
        tensor = tensor.float() if tensor.is_floating_point() else tensor
        if not torch.isfinite(tensor).all():
            raise ModelError(f"{key} of the checkpoint holds numbers that are not finite.")
        weights[re.sub(r"(^|\.)module\.", r"\1", str(key))] = tensor
    alias = weights.pop("merge.global_q", None)
    if alias is not None and not torch.equal(weights.setdefault("merge.global_q_mm", alias), alias):
        raise ModelError(
            "merge.global_q and merge.global_q_mm of the checkpoint differ; they are one tensor."
        )
    return weights


def _renamed(weights: Weights) -> Weights:
    """Keys of version 1 in those of version 2."""
    return {re.sub(r"^patch_to_emb\.", "feature.", k): v for k, v in weights.items()}


def _recognise(bundle: _Bundle, method: str | None) -> tuple[str, dict[str, Any]]:
    """Name of the method and the options that can be read from the shapes."""
    weights = bundle.weights
    for mark, name in NOT_YET.items():
        if any(k.startswith(mark) for k in weights):
            raise ModelError(f"This is a checkpoint of {name}, which cannot be run here yet.")
    found = next(
        (m for m, marks in MARKS.items() if all(any(k.startswith(x) for k in weights) for x in marks)), None
    )
    if found is None:
        raise _unknown(weights)
    if found == "mean" and method in ("mean", "max"):
        found = method
    if method not in (None, found):
        raise ModelError(f"The keys of this checkpoint are those of {found}, not of {method}.")
    if found == "hmil":
        return found, {"hidden": _size(weights, "coarse_classifier.weight", 1, 1024)}
    if found in ("mean", "max"):
        return found, {"hidden": _size(weights, "head.0.weight", 0, 512)}
    options: dict[str, Any] = {"hidden": _size(weights, "feature.0.weight", 0, 512)}
    if found == "mhim":
        return found, options | _mhim_options(bundle, options["hidden"])
    key = "attention.0.weight" if found == "abmil" else "attention_c.weight"
    axis, usual = (0, 128) if found == "abmil" else (1, 384)
    return found, options | {"attention_width": _size(weights, key, axis, usual)}


def _mhim_options(bundle: _Bundle, hidden: int) -> dict[str, Any]:
    weights, stem = bundle.weights, "online_encoder.attention."
    gated = f"{stem}attention_c.weight" in weights
    tokens = _size(weights, "merge.global_q_mm", 1, 0)
    last = f"{stem}attention_c.weight" if gated else f"{stem}attention.2.weight"
    options = {
        "encoder": "gated" if gated else "attn",
        "attention_width": _size(weights, last, 1, 128),
        "recycle_tokens": tokens,
        "pure": bundle.first_version or (not tokens and bundle.teacher is None),
        "teacher": bundle.teacher is not None and not bundle.first_version,
    }
    if tokens:
        options["heads"] = _size(weights, "merge.attn.to_q.weight", 0, 512) // max(1, hidden // 8)
    if bundle.first_version:
        options["act"] = "relu"
    return options


def _sizes(name: str, weights: Weights) -> tuple[int, int]:
    """C and D."""
    last, first = {
        "hmil": ("fine_attention.0.attention_c.weight", "feature_extractor.0.weight"),
        "mhim": ("predictor.weight", "feature.0.weight"),
        "gabmil": ("classifier.0.weight", "feature.0.weight"),
        "abmil": ("classifier.weight", "feature.0.weight"),
    }.get(name, ("head.3.weight", "head.0.weight"))
    return _size(weights, last, 0, 2), _size(weights, first, 1, 1024)


def _size(weights: Weights, key: str, axis: int, usual: int) -> int:
    """Length of an axis, or the usual one where the key is missing (the strict comparison then names it)."""
    value = weights.get(key)
    return usual if value is None or value.ndim <= axis else int(value.shape[axis])


def _tree(name: str, tree: LabelTree | None, classes: int) -> LabelTree:
    if tree is None:
        if name == "hmil":
            raise ModelError(
                "A checkpoint of hmil does not say which fine class belongs where; give its tree."
            )
        return LabelTree.from_paths([f"class {i}" for i in range(classes)])
    if len(tree.leaves) != classes:
        raise ModelError(
            f"The checkpoint answers for {classes} classes, the label tree has {len(tree.leaves)} leaves."
        )
    return tree


def _fill(net: nn.Module, weights: Weights, what: str) -> None:
    """Load strictly; ModelError naming every key and shape that does not fit."""
    if trouble := _misfit(net.state_dict(), weights):
        raise ModelError(f"The keys look like those of {what} but do not fit: {trouble}.")
    net.load_state_dict(weights)


def _misfit(expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    parts = []
    if unexpected := [k for k in given if k not in expected]:
        parts.append(f"unexpected {', '.join(unexpected)}")
    if missing := [k for k in expected if k not in given]:
        parts.append(f"missing {', '.join(missing)}")
    wrong = [
        f"{k} is {tuple(given[k].shape)} instead of {tuple(expected[k].shape)}"
        for k in expected
        if k in given and given[k].shape != expected[k].shape
    ]
    return "; ".join([*parts, *wrong])


def _unknown(weights: Weights) -> ModelError:
    """A sentence about keys of no known layout: the nearest one, and what does not fit it."""
    tree = LabelTree.from_paths(["a/b", "c/d"])
    nearest, shared, keys = "", -1, {}
    for name in MARKS:
        state = _answering_part(create(name, {"hidden": 16}, in_features=1, tree=tree)).state_dict()
        if (both := len(state.keys() & weights.keys())) > shared:
            nearest, shared, keys = name, both, state
    same = {k: keys.get(k, v) for k, v in weights.items()}  # shapes do not matter here
    return ModelError(
        f"This checkpoint is of no layout known here ({', '.join(MARKS)}, max); nearest is {nearest}: "
        f"{_misfit(keys, same)}."
    )


def _assumed(model: MILModel, bundle: _Bundle, method: str | None, said: set[str]) -> tuple[str, ...]:
    """Sentences about what the file did not say."""
    config = dataclasses.asdict(model.config)
    unsaid = [f for f in UNSAID[model.name] if f not in said]
    if config.get("teacher"):
        unsaid += [f for f in ("mask_ratio", "keep_ratio") if f not in said]
    notes = [f"{f} = {config[f]}" for f in unsaid]
    if model.name == "mean" and method is None:
        notes.append("mean pooling (max looks the same in a file)")
    if bundle.first_version and bundle.teacher is not None:
        notes.append("version 1: only the answering network was loaded, its masks are not simulated")
    return tuple(notes)
