"""Published checkpoints as our models: recognised by their keys, loaded strictly, and never by running code.

A file says neither its activations nor its label names; what is assumed is listed in the model's `assumed`.
`layouts` holds the table of what is known; docs/methods.md shows it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from napari_mil import methods
from napari_mil.errors import LabelError, ModelError
from napari_mil.labeltree import LabelTree
from napari_mil.methods.official.files import Bundle, Source, Weights, unpack
from napari_mil.methods.official.fitting import fill, misfit, named_like, reordered
from napari_mil.methods.official.layouts import LAYOUTS, Layout
from napari_mil.methods.official.resnet import encoder_of, encoder_weights, foreign_encoder
from napari_mil.mil import MILModel
from napari_mil.options import expect

__all__ = ["Contents", "describe", "dump", "encoder_weights", "load"]


@dataclasses.dataclass(frozen=True, slots=True)
class Contents:
    """What a checkpoint says, and what it leaves open.

    Attributes
    ----------
    method, title : the registry's name, and what a sentence calls the layout
    classes, in_features : C and D
    levels : of the label tree that it needs
    options : options that were read from the shapes
    unsaid : option → the value that is assumed unless somebody knows better
    choices : methods that share this layout, which only a person can tell apart
    teacher : whether a teacher is in the file too
    encoder : name of an encoder whose weights are in the file too, or None
    foreign : what a sentence calls an encoder in the file that cannot be used here, or None
    note : what a reader must know beyond that, or None
    """

    method: str
    title: str
    classes: int
    in_features: int
    levels: int
    options: Mapping[str, Any]
    unsaid: Mapping[str, Any]
    choices: tuple[str, ...]
    teacher: bool
    encoder: str | None
    foreign: str | None
    note: str | None


def load(
    source: Source,
    *,
    part: str = "student",
    tree: LabelTree | None = None,
    classes: Sequence[str] | None = None,
    method: str | None = None,
    **config: Any,
) -> MILModel:
    """A model from a published checkpoint, in eval mode.

    Parameters
    ----------
    source : a file (safetensors, or PyTorch's formats read as weights only) or a state dict; wrappers such as
        {model, teacher, epoch} and {model_state_dict} and the prefix "module." are taken off
    part : "student", or "teacher": the teacher's weights answer
    tree : the labels; None: classes are numbered (HMIL needs a tree)
    classes : leaves of the tree in the order of the checkpoint's classes; None: in the tree's own order
    method : "mean" or "max", whose files look the same (None: mean, which is noted), else as recognised
    config : options that the file does not say (act, da_act, mask_ratio, …)

    Raises
    ------
    ModelError
        A file that is missing, damaged or holds code; a layout that is unknown or has no method here; keys or
        shapes that do not fit, all of them named.
    LabelError : classes that are not the leaves of the tree
    """
    bundle = unpack(source, part)
    layout, name = _recognise(bundle, method)
    said = {**_options(layout, name, bundle), **config}
    count, in_features = layout.classes(bundle) or 2, layout.in_features(bundle) or 1024
    tree = _tree(layout, tree, count)
    model = methods.create(name, said, in_features=in_features, tree=tree)
    orders = _orders(tree, classes)
    _fill(_answering_part(model), bundle.weights, layout, name, orders)
    if bundle.teacher is not None and isinstance(teacher := getattr(model, "teacher", None), nn.Module):
        _fill(teacher, _with_recycling(bundle), layout, f"{name}'s teacher", orders)
    model.assumed = _assumed(model, layout, bundle, method, {*config})
    return model.eval()


def describe(source: Source, *, method: str | None = None) -> Contents:
    """What a checkpoint says and what it leaves open, without making a model; raises as `load` does."""
    bundle = unpack(source)
    layout, name = _recognise(bundle, method)
    options = _options(layout, name, bundle)
    defaults = dataclasses.asdict(methods.get(name).Config()) | options
    return Contents(
        method=name,
        title=layout.title,
        classes=layout.classes(bundle) or 2,
        in_features=layout.in_features(bundle) or 1024,
        levels=layout.levels,
        options=options,
        unsaid={f: defaults[f] for f in _unsaid(layout, defaults)},
        choices=(layout.method, layout.twin) if layout.twin and method is None else (),
        teacher=bundle.teacher is not None,
        encoder=encoder_of(bundle.weights),
        foreign=foreign_encoder(bundle.weights) if layout.aside else None,
        note=layout.note(bundle),
    )


def dump(model: MILModel, *, part: str = "student") -> Weights:
    """The weights under the published key names, MHIM's queries under both theirs; `load` is its inverse."""
    net = getattr(model, part, model) if part == "teacher" else _answering_part(model)
    if part == "teacher" and net is model:
        raise ModelError(f"This {model.name} model holds no teacher to write.")
    weights = {k: v.detach().clone() for k, v in net.state_dict().items()}
    if "merge.global_q_mm" in weights:
        weights["merge.global_q"] = weights["merge.global_q_mm"].clone()
    if getattr(model.config, "version", None) == 1:
        return named_like(weights, ["patch_to_emb."], [("patch_to_emb.", "feature.")])
    return weights


def _answering_part(model: MILModel) -> nn.Module:
    """The network whose keys a published file holds: MHIM's student, else the model itself."""
    net = getattr(model, "student", model)
    return net if isinstance(net, nn.Module) else model


def _recognise(bundle: Bundle, method: str | None) -> tuple[Layout, str]:
    """The layout and the name of the method; ModelError when there is none, or none that is here."""
    layout = next((known for known in LAYOUTS if known.fits(bundle.weights)), None)
    if layout is None:
        raise _unknown(bundle.weights)
    if layout.method not in methods.names():
        raise _not_here(layout)
    name = method if method and method == layout.twin else layout.method
    if method not in (None, name):
        raise ModelError(f"The keys of this checkpoint are those of {name}, not of {method}.")
    return layout, name


def _not_here(layout: Layout) -> ModelError:
    return ModelError(f"This is a checkpoint of {layout.title}, which cannot be run here yet.")


def _options(layout: Layout, name: str, bundle: Bundle) -> dict[str, Any]:
    """What layout and shapes say, as far as the method has such options; ModelError where it cannot."""
    known = {f.name: f.metadata for f in dataclasses.fields(methods.get(name).Config)}
    read = {**layout.fixed, **{option: says(bundle) for option, says in layout.options.items()}}
    options = {option: value for option, value in read.items() if option in known and value is not None}
    for option, value in options.items():
        choices = known[option].get("choices")
        if choices and value not in choices:
            raise _not_here(layout)
    return options


def _unsaid(layout: Layout, config: Mapping[str, Any]) -> list[str]:
    """Options of a configuration that no file of the layout tells."""
    hides = layout.unsaid_of_teacher if config.get("teacher") else ()
    return [option for option in (*layout.unsaid, *hides) if option in config]


def _tree(layout: Layout, tree: LabelTree | None, classes: int) -> LabelTree:
    if tree is None:
        if layout.levels > 1:
            raise ModelError(
                f"A checkpoint of {layout.title} does not say which fine class belongs where; give its tree "
                "(on the command line --classes Benign/N,Benign/UDH,… in its order)."
            )
        return LabelTree.from_paths([f"class {i}" for i in range(classes)])
    expect("The label tree of the checkpoint", tree, LabelTree, "a LabelTree, or None: classes are numbered")
    if len(tree.leaves) != classes:
        raise ModelError(
            f"The checkpoint answers for {classes} classes, the label tree has {len(tree.leaves)} leaves."
        )
    return tree


def _orders(tree: LabelTree, classes: Sequence[str] | None) -> dict[int, list[int]]:
    """Per level (−1 the finest, −2 above it): for each class of the tree, its place in the file."""
    if classes is None:
        return {}
    called = "a list of the tree's leaves, or None: the tree's own order"
    expect("classes of the checkpoint", classes, (list, tuple), called, LabelError)
    leaves = [tree.node(text) for text in classes]
    if sorted(leaves) != sorted(tree.leaves):
        raise LabelError(
            f"The classes of the checkpoint were given as {', '.join(classes)}; each leaf of the label tree "
            f"is expected once: {', '.join(tree.path(leaf) for leaf in tree.leaves)}."
        )
    above = list(dict.fromkeys(tree.ancestors(leaf)[0] for leaf in leaves)) if tree.levels > 1 else []
    coarse = [above.index(node) for node in tree.nodes_at(tree.levels - 2)] if above else []
    return {-1: [leaves.index(leaf) for leaf in tree.leaves], -2: coarse}


def _fill(
    net: nn.Module, weights: Weights, layout: Layout, what: str, orders: Mapping[int, Sequence[int]]
) -> None:
    given = {k: v for k, v in weights.items() if not k.startswith(layout.aside)}
    given = layout.convert(given) if layout.convert else given
    given = named_like(given, net.state_dict(), layout.same)
    given = reordered(given, layout.classwise, orders) if orders else given
    fill(net, given, what, layout.loose)


def _with_recycling(bundle: Bundle) -> Weights:
    """The teacher's weights; one that came from stage 1 lacks the recycling, which only a student uses."""
    taught = bundle.teacher or {}
    if any(key.startswith("merge.") for key in taught):
        return taught
    return taught | {k: v for k, v in bundle.weights.items() if k.startswith("merge.")}


def _unknown(weights: Weights) -> ModelError:
    """A sentence about keys of no known layout: the nearest one, and what does not fit it."""
    if name := encoder_of(weights):
        return ModelError(
            f"These are the weights of an encoder, {name}, which makes vectors of tiles; a model that reads "
            "such vectors was expected. `official.encoder_weights` takes them."
        )
    tree = LabelTree.from_paths(["a/b", "c/d"])
    names = [n for n in dict.fromkeys(known.method for known in LAYOUTS) if n in methods.names()]
    states = {
        name: _answering_part(methods.create(name, in_features=8, tree=tree)).state_dict() for name in names
    }
    nearest = max(names, key=lambda name: len(states[name].keys() & weights.keys()))
    same = misfit(dict.fromkeys(states[nearest], ()), dict.fromkeys(weights, ()))  # shapes do not matter here
    return ModelError(
        f"This checkpoint is of no layout known here ({', '.join(names)}, max); nearest is {nearest}: {same}."
    )


def _assumed(
    model: MILModel, layout: Layout, bundle: Bundle, method: str | None, said: set[str]
) -> tuple[str, ...]:
    """Sentences about what the file did not say."""
    config = dataclasses.asdict(model.config)
    notes = [f"{option} = {config[option]}" for option in _unsaid(layout, config) if option not in said]
    if layout.twin and method is None:
        notes.append(f"{model.name} pooling ({layout.twin} looks the same in a file)")
    return (*notes, *filter(None, [layout.note(bundle)]))
