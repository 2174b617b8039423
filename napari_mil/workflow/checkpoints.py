"""Published checkpoints into a project: what a file leaves open is asked, or assumed and marked so."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_mil.card import ModelCard
from napari_mil.errors import LabelError, ModelError
from napari_mil.labeltree import LabelTree
from napari_mil.options import build
from napari_mil.workflow.models import model_id, weight_bytes
from napari_mil.workflow.project import Project, parse_mpp

if TYPE_CHECKING:
    from napari_mil.methods.official import Contents
    from napari_mil.mil import MILModel

#: what is asked of every checkpoint; everything else in an answer is an option of the method
ABOUT = ("method", "classes", "encoder", "tile_px", "mpp")
TILE_PX, MPP = 256, 0.5


@dataclass(frozen=True, slots=True)
class Question:
    """Something that a checkpoint does not say.

    Attributes
    ----------
    name : the key of its answer for `import_model`
    words : what is asked
    default : what is assumed when nobody knows, as text
    read : the text of an answer → its value; MILError when it is none
    choices : the only answers there are, or empty
    """

    name: str
    words: str
    default: str
    read: Callable[[str], Any]
    choices: tuple[str, ...] = ()


def questions(path: Path, tree: LabelTree | None, *, method: str | None = None) -> tuple[Question, ...]:
    """What a checkpoint leaves open, for a project with that label tree, or for a new one (None).

    ModelError when the file is no checkpoint that can be run here.
    """
    from napari_mil import methods
    from napari_mil.methods import official

    said = official.describe(path, method=method)
    names = [f"class {i}" for i in range(said.classes)] if said.levels == 1 else []
    words = f"its {said.classes} classes, in its order"
    if tree is not None:
        names = [tree.path(leaf) for leaf in tree.leaves]
    elif said.levels > 1:
        words += ", each under its coarse one, such as Benign/UDH"
    words += f" ({said.note})" if said.note else ""
    asked = [
        Question(
            "classes", f"its {said.classes} classes, in its order", ", ".join(names), _classes(said, tree)
        ),
        Question("encoder", "encoder whose features it reads", "unknown", str),
        Question("tile_px", "side of its tiles in pixels", str(TILE_PX), _tile_px),
        Question("mpp", "µm per pixel of its tiles, or none", str(MPP), _mpp),
    ]
    if said.choices:
        asked.insert(0, Question("method", "method", said.method, str, said.choices))
    kind = methods.get(said.method).Config
    known = {f.name: f.metadata for f in dataclasses.fields(kind)}
    for option, default in said.unsaid.items():
        choices = tuple(map(str, known[option].get("choices", ())))
        words = known[option].get("help", option)
        asked.append(Question(option, words, str(default), _option(kind, option, said.method), choices))
    return tuple(asked)


def import_model(
    project: Project,
    path: Path,
    said: Mapping[str, Any] | None = None,
    *,
    part: str = "student",
    name: str | None = None,
) -> ModelCard:
    """Take a published checkpoint into the project; what the file does not say is marked as assumed on its
    card.

    Parameters
    ----------
    path : PyTorch file (read as weights only) or safetensors, of a layout that `methods.official` knows
    said : what somebody knows of it, by the names of `questions`: `classes`, the leaves of the project's tree
        in the file's order; `encoder`, an encoder of ours or the id of another (without one the model answers
        for no bag yet); `tile_px` and `mpp` of its tiles; options of the method
    part : "student", or "teacher": the teacher's weights answer
    name : what to call the model; None: the file's name

    Raises
    ------
    ModelError : a file that holds code, is damaged, of another layout, or of other classes than the
        project's tree
    LabelError : classes that are not the leaves of the project's tree
    """
    known = dict(said or {})
    model = _network(path, project.tree, known, part)
    return _keep(project, model, path, known, name)


def take_checkpoint(
    folder: Path,
    path: Path,
    said: Mapping[str, Any] | None = None,
    *,
    part: str = "student",
    name: str | None = None,
    by: str = "",
) -> ModelCard:
    """`import_model` into the project at `folder`, which is made when it is missing: its label tree is then
    that of the classes, and nothing is made of a checkpoint that does not fit.
    """
    if (folder / "project.json").exists():
        with Project(folder, by=by) as project:
            return import_model(project, path, said, part=part, name=name)
    known = dict(said or {})
    tree = LabelTree.from_paths(known["classes"]) if "classes" in known else None
    model = _network(path, tree, known, part)
    with Project(folder, tree=model.tree, by=by) as project:
        return _keep(project, model, path, known, name)


def _network(path: Path, tree: LabelTree | None, said: Mapping[str, Any], part: str) -> MILModel:
    from napari_mil.methods import official

    options = {key: value for key, value in said.items() if key not in ABOUT}
    return official.load(
        path, part=part, tree=tree, classes=said.get("classes"), method=said.get("method"), **options
    )


def _keep(
    project: Project, model: MILModel, path: Path, said: Mapping[str, Any], name: str | None
) -> ModelCard:
    from napari_mil.methods import official

    encoder, tile_px, mpp, assumed = _tiles(said)
    if "classes" not in said:
        assumed = ("the order of the classes", *assumed)
    inside = official.describe(path).encoder
    weights = weight_bytes(model)
    card = ModelCard(
        id="",
        name=name or path.stem,
        method=model.name,
        config=dataclasses.asdict(model.config),
        encoder=encoder,
        in_features=model.in_features,
        tile_px=tile_px,
        mpp=mpp,
        tree=project.tree,
        assumed=(*model.assumed, *assumed),
        note=f"imported from {path.name}" + (f", which holds a {inside} encoder too" if inside else ""),
    )
    card = dataclasses.replace(card, id=model_id(weights + _passport(card), model.name))
    project.store.save_model(card, weights)
    return card


def _passport(card: ModelCard) -> bytes:
    """What makes the same weights another model: said otherwise, they answer otherwise."""
    said = [dict(card.config), card.encoder, card.tile_px, card.mpp, card.name, card.assumed]
    return json.dumps(said, sort_keys=True).encode()


def _tiles(said: Mapping[str, Any]) -> tuple[str, int, float | None, tuple[str, ...]]:
    """Encoder id, tile size, µm per pixel, and what of it is assumed; an encoder of ours says its tiles."""
    from napari_mil import encoders

    encoder = said.get("encoder") or ""
    tile_px, mpp = TILE_PX, MPP
    own = next((n for n in encoders.names() if encoder == n or encoder.startswith(f"{n}-")), None)
    if own:
        machine = encoders.create(own)
        encoder, tile_px, mpp = machine.id if encoder == own else encoder, machine.tile_px, machine.mpp
    cut = int(said.get("tile_px", tile_px)), said.get("mpp", mpp)
    assumed = [] if encoder else ["which encoder made the features it reads"]
    if not own and not {"tile_px", "mpp"} <= said.keys():
        assumed.insert(0, f"tiles of {cut[0]} px at {cut[1]} µm/px")
    return encoder or "unknown", *cut, tuple(assumed)


def _classes(said: Contents, tree: LabelTree | None) -> Callable[[str], Sequence[str]]:
    def read(text: str) -> Sequence[str]:
        names = class_list(text)
        if len(names) != said.classes:
            raise LabelError(f"The checkpoint answers for {said.classes} classes; {len(names)} were named.")
        return [tree.path(tree.node(name)) for name in names] if tree else names

    return read


def class_list(text: str) -> list[str]:
    """Names with commas between them as a list."""
    return [name.strip() for name in text.split(",") if name.strip()]


def _option(kind: type[Any], option: str, method: str) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        return getattr(build(kind, {option: value}, method), option)

    return read


def _tile_px(text: str) -> int:
    if not text.isdecimal() or not 16 <= int(text) <= 100_000:
        raise ModelError(f"{text!r} is no side of a tile; a whole number of pixels is expected, such as 256.")
    return int(text)


def _mpp(text: str) -> float | None:
    return None if text.lower() == "none" else parse_mpp(text)
