"""Published checkpoints into a project: what a file leaves open is asked, or assumed and marked so."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_mil.bag import encoder_of
from napari_mil.card import ModelCard
from napari_mil.errors import LabelError, ModelError
from napari_mil.labeltree import UNITS, LabelTree, Survival
from napari_mil.options import build
from napari_mil.workflow.encoding import UNKNOWN, encoder_in, encoder_inside, keep_encoder
from napari_mil.workflow.models import model_id, weight_bytes
from napari_mil.workflow.project import Project, parse_mpp

if TYPE_CHECKING:
    from napari_mil.encoders import Encoder
    from napari_mil.methods.official import Contents
    from napari_mil.mil import MILModel

#: what is asked of every checkpoint; everything else in an answer is an option of the method
ABOUT = ("method", "classes", "edges", "unit", "encoder", "encoder_weights", "tile_px", "mpp")
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
    after, instead : asked only where that question was answered, only where that one was not; "" for always
    """

    name: str
    words: str
    default: str
    read: Callable[[str], Any]
    choices: tuple[str, ...] = ()
    after: str = ""
    instead: str = ""

    def due(self, said: Mapping[str, Any]) -> bool:
        """Whether it is open, by the names of what has been said."""
        met = (not self.after or self.after in said) and (not self.instead or self.instead not in said)
        return met and self.name not in said


@dataclass(frozen=True, slots=True)
class _Features:
    """What a model reads: the id of the encoder, its tiles, and what of it is assumed; `given` is an encoder
    that came with the checkpoint, whose weights the project is to keep, or None.
    """

    encoder: str
    tile_px: int
    mpp: float | None
    assumed: tuple[str, ...]
    given: Encoder | None


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
        Question("classes", words, ", ".join(names), _classes(said, tree), instead="edges"),
        Question("encoder", _of_encoder(said), _own(said.encoder) or UNKNOWN, str),
        Question("tile_px", "side of its tiles in pixels", str(TILE_PX), _tile_px),
        Question("mpp", "µm per pixel of its tiles, or none", str(MPP), _mpp),
    ]
    if said.levels == 1:
        asked[:0] = _of_time(said.classes)
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
        in the file's order, or, where it answers with time, `edges`, the times between its intervals, with or
        without both ends, and their `unit`; `encoder`, an encoder of ours by name or id, or the id of another
        (None: the one that the file holds, else the model answers for no bag yet); `encoder_weights`, the
        file of its weights, which the project then keeps; `tile_px` and `mpp` of its tiles; options of the
        method
    part : "student", or "teacher": the teacher's weights answer
    name : what to call the model; None: the file's name

    Raises
    ------
    ModelError : a file that holds code, is damaged, of another layout, or of other classes than the
        project's tree; the name of an encoder whose weights nobody gave
    LabelError : classes that are not the leaves of the project's tree; edges that do not bound as many
        intervals as it answers for, or a unit that is none
    """
    known = dict(said or {})
    model = _network(path, project.tree, known, part)
    return _keep(project, model, _features(project.path, path, known), path, known, name)


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
    that of the classes (the usual one where it answers with time), and nothing is made of a checkpoint that
    does not fit.
    """
    if (folder / "project.json").exists():
        with Project(folder, by=by) as project:
            return import_model(project, path, said, part=part, name=name)
    known = dict(said or {})
    tree = LabelTree.from_paths(known["classes"]) if "classes" in known else None
    model, reads = _network(path, tree, known, part), _features(folder, path, known)
    labels = None if isinstance(model.tree, Survival) else model.tree
    with Project(folder, tree=labels, by=by) as project:
        return _keep(project, model, reads, path, known, name)


def _network(path: Path, tree: LabelTree | None, said: Mapping[str, Any], part: str) -> MILModel:
    from napari_mil.methods import official

    options = {key: value for key, value in said.items() if key not in ABOUT}
    tree = _task(path, said) or tree
    return official.load(
        path, part=part, tree=tree, classes=said.get("classes"), method=said.get("method"), **options
    )


def _task(path: Path, said: Mapping[str, Any]) -> Survival | None:
    """The intervals of time that somebody says a checkpoint answers for, or None where nobody does."""
    from napari_mil.methods import official

    if "edges" not in said:
        if "unit" in said:
            raise LabelError("A unit is that of times; give the times between the intervals too, as edges.")
        return None
    if "classes" in said:
        raise LabelError("A model answers with classes or with time; give classes or edges, not both.")
    held = official.describe(path, method=said.get("method"))
    if held.levels > 1:
        raise LabelError(f"A checkpoint of {held.title} answers with classes on two levels, not with time.")
    return Survival.from_edges(said["edges"], intervals=held.classes, unit=said.get("unit", ""))


def _meaning(tree: LabelTree, said: Mapping[str, Any]) -> tuple[str, ...]:
    """What is assumed of that which the model answers with."""
    if not isinstance(tree, Survival):
        return () if "classes" in said else ("the order of the classes",)
    end = f"its last interval of time ends at {tree.edges[-1]:g} {tree.unit}".rstrip()
    ends = () if len(said["edges"]) == len(tree.edges) else (end,)
    return ends if tree.unit else (*ends, "the unit of its times")


def _keep(
    project: Project,
    model: MILModel,
    reads: _Features,
    path: Path,
    said: Mapping[str, Any],
    name: str | None,
) -> ModelCard:
    from napari_mil.methods import official

    came_with = "" if reads.given is None else f" with the encoder {keep_encoder(project, reads.given).id}"
    if foreign := official.describe(path, method=said.get("method")).foreign:
        came_with += f"; the encoder in the file, {foreign}, cannot be used here"
    weights = weight_bytes(model)
    card = ModelCard(
        id="",
        name=name or path.stem,
        method=model.name,
        config=dataclasses.asdict(model.config),
        encoder=reads.encoder,
        in_features=model.in_features,
        tile_px=reads.tile_px,
        mpp=reads.mpp,
        tree=model.tree,
        assumed=(*model.assumed, *_meaning(model.tree, said), *reads.assumed),
        note=f"imported from {path.name}{came_with}{_at_default(path, model, said)}",
    )
    card = dataclasses.replace(card, id=model_id(weights + _passport(card), model.name))
    project.store.save_model(card, weights)
    return card


def _at_default(path: Path, model: MILModel, said: Mapping[str, Any]) -> str:
    """The options that neither the file nor anybody told and that none of its answers asks for."""
    from napari_mil.methods import official

    held = official.describe(path, method=said.get("method"))
    told = {*held.options, *held.unsaid, *said}
    left = [f.name for f in dataclasses.fields(model.config) if f.name not in told]
    return f"; not told by the file, at their defaults: {', '.join(left)}" if left else ""


def _passport(card: ModelCard) -> bytes:
    """What makes the same weights another model: said otherwise, they answer otherwise."""
    said = [dict(card.config), card.encoder, card.tile_px, card.mpp, card.name, card.assumed]
    if isinstance(card.tree, Survival):
        said += [card.tree.edges, card.tree.unit]
    return json.dumps(said, sort_keys=True).encode()


def _features(folder: Path, path: Path, said: Mapping[str, Any]) -> _Features:
    """What the model of the checkpoint `path` reads in the project at `folder`. An encoder of ours says its
    tiles; of one that was trained elsewhere they are assumed to be those of the checkpoint.
    """
    from napari_mil import encoders

    told = said.get("encoder") or ""
    plain = encoder_of(told)
    given = _given(path, plain, said.get("encoder_weights"))
    own = encoders.name_of(plain) if given is None else given.name
    ours = own in encoders.names()
    if given is not None or (plain == own and ours):  # a card carries an id, as bags do, never a bare name
        machine = given or encoder_in(folder, own)
        told = machine.id + told.removeprefix(plain)
    tile_px, mpp = encoders.tiles_of(own) if ours else (TILE_PX, MPP)
    cut = int(said.get("tile_px", tile_px)), said.get("mpp", mpp)
    assumed = [] if told else ["which encoder made the features it reads"]
    if not {"tile_px", "mpp"} <= said.keys() and not (ours and not encoders.needs_weights(own)):
        assumed.insert(0, f"tiles of {cut[0]} px at {cut[1]} µm/px")
    return _Features(told or UNKNOWN, *cut, tuple(assumed), given)


def _given(path: Path, which: str, weights: Path | None) -> Encoder | None:
    """The encoder that comes with the checkpoint `path`, in a file of its own or inside it, where it is the
    one asked for; ModelError when its weights are those of another.
    """
    from napari_mil import encoders

    if weights is None:
        made = encoder_inside(path)
        return made if made is not None and which in ("", made.name, made.id) else None
    if not which:
        known = ", ".join(name for name in encoders.names() if encoders.needs_weights(name))
        raise ModelError(f"{weights.name} holds weights of an encoder; say by --encoder of which: {known}.")
    made = encoders.create(encoders.name_of(which), weights=weights)
    if which not in (made.name, made.id):
        raise ModelError(f"The weights in {weights.name} are those of {made.id}, not of {which}.")
    return made


def _of_encoder(said: Contents) -> str:
    """The question about the encoder; it names one in the file that cannot be used here."""
    words = "encoder whose features it reads"
    return f"{words} ({said.foreign} stands in the file, and cannot be used here)" if said.foreign else words


def _own(encoder: str | None) -> str:
    """What the encoder in a checkpoint is called in a question; "" where there is none."""
    return f"its own {encoder}" if encoder else ""


def _classes(said: Contents, tree: LabelTree | None) -> Callable[[str], Sequence[str]]:
    def read(text: str) -> Sequence[str]:
        names = class_list(text)
        if len(names) != said.classes:
            raise LabelError(f"The checkpoint answers for {said.classes} classes; {len(names)} were named.")
        return [tree.path(tree.node(name)) for name in names] if tree else names

    return read


def _of_time(intervals: int) -> list[Question]:
    """Whether its classes are intervals of time, and which."""
    words = f"where it answers with time, the times between its {intervals} intervals, such as 12,24,36"
    return [
        Question("edges", words, "that it does not", _times(intervals), instead="classes"),
        Question("unit", "what these times are counted in", "no unit", str, UNITS, after="edges"),
    ]


def _times(intervals: int) -> Callable[[str], Sequence[float]]:
    def read(text: str) -> Sequence[float]:
        try:
            times = [float(time) for time in class_list(text)]
        except ValueError as error:
            raise LabelError(
                f"{text!r} are no times; numbers with commas between them are expected, such as 12,24,36."
            ) from error
        Survival.from_edges(times, intervals=intervals)
        return times

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
