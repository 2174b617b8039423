"""What a trained model is: its card. May it run on this bag, and if not, why?"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from napari_mil.bag import PHOTOGRAPH, SRGB, Bag, encoder_of
from napari_mil.errors import ModelError, reason
from napari_mil.labeltree import LabelTree
from napari_mil.options import build, option


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a model is trained. Defaults are those of the sample project; methods.md §3.8 names the published
    ones.
    """

    epochs: int = option(20, "passes over the training bags at most", low=1, high=1000)
    lr: float = option(5e-4, "learning rate of Adam", low=1e-7, high=1.0)
    weight_decay: float = option(1e-5, "L2-coupled weight decay", low=0.0, high=1.0)
    batch_bags: int = option(1, "bags per optimiser step", low=1, high=512)
    schedule: str = option(
        "cosine",
        "learning rate: half a cosine over the epochs, to 1e-7 or to 0, a tenth when the loss stands still, "
        "or constant",
        choices=("cosine", "cosine-to-0", "plateau", "constant"),
    )
    patience: int = option(8, "epochs without a better validation metric before stopping", low=1, high=1000)
    min_epochs: int = option(8, "earliest epoch to stop at", low=0, high=1000)
    stopping: str = option(
        "plain",
        "plain: patience counts from the best epoch; official: from the last that equalled it, as published",
        choices=("plain", "official"),
    )
    select_by: str = option(
        "score",
        "what chooses the best epoch: all AUCs and obedience, the finest macro AUC, or as published "
        "(two classes: macro AUC, more: balanced accuracy, follow-up times: c-index)",
        choices=("score", "auc", "official"),
    )
    precision: str = option("fp32", "arithmetic of training; weights stay float32", choices=("fp32", "bf16"))
    stage1_epochs: int = option(
        8, "epochs of the baseline that starts the teacher (MHIM only)", low=0, high=1000
    )
    tile_weight: float = option(1.0, "weight of tile labels in the loss (λ_tile)", low=0.0, high=100.0)
    tile_share: float = option(
        0.25, "share of the visits that rehearse tile labels the model does not follow yet", low=0.0, high=0.9
    )
    class_weights: bool = option(False, "weigh slide classes by inverse frequency")
    record: tuple[str, ...] = option(
        (), "slides or cases of which every epoch's hidden tiles are recorded (MHIM only)"
    )
    seed: int = option(0, "seed of initialisation, order, masks and dropout", low=0, high=2**31 - 1)

    def __post_init__(self) -> None:
        given: Any = self.record  # JSON has lists, and a command line a single name
        object.__setattr__(self, "record", (given,) if isinstance(given, str) else tuple(map(str, given)))


@dataclass(frozen=True, slots=True, eq=False)
class ModelCard:
    """A model's passport; travels beside its weights as card.json.

    Attributes
    ----------
    id : content id of weights and configuration, also the folder's name
    name : what a person calls it ("mhim-1")
    method, config : registered method and its full configuration
    recipe : how it was trained
    encoder, in_features : encoder id and D of the bags it reads
    tile_px, mpp : the tiles it was trained on (mpp None: pixels)
    tree : its label tree
    parent : id of the model it was retrained from, or None
    ledger_head : hash of the ledger's last event it was trained on, or None
    slides : slide ids per split, {"train": …, "validation": …, "test": …}
    metrics : held-out figures, {name: [value, low, high]} or {name: value}
    calibrated, temperature : whether a temperature was fitted on held-out data, and which
    reliability : reliability diagram of the finest level on held-out cases, see evaluate.reliability; `part`
        says which part of the split
    survival : Kaplan–Meier curves of the halves by risk on held-out cases, see evaluate.survival_table; with
        `part`; {} where the task is not time
    made_with : where it was trained: versions, device, how products were rounded; the seed is the recipe's
    assumed : what a foreign checkpoint did not say and was assumed
    worse : the sentence that says how it became worse than its parent on held-out cases, or ""
    note : anything a reader should know
    """

    id: str
    name: str
    method: str
    config: Mapping[str, Any]
    encoder: str
    in_features: int
    tile_px: int
    mpp: float | None
    tree: LabelTree
    recipe: Recipe = field(default_factory=Recipe)
    parent: str | None = None
    ledger_head: str | None = None
    slides: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    calibrated: bool = False
    temperature: float = 1.0
    reliability: Mapping[str, Any] = field(default_factory=dict)
    survival: Mapping[str, Any] = field(default_factory=dict)
    made_with: Mapping[str, Any] = field(default_factory=dict)
    assumed: tuple[str, ...] = ()
    worse: str = ""
    note: str = ""
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def why_not(self, bag: Bag) -> str | None:
        """None when the model may run on `bag`, else the sentence that says why not."""
        if bag.encoder != self.encoder:
            mine, theirs = (e.removesuffix(SRGB) for e in (self.encoder, bag.encoder))
            if mine == theirs:
                ways = ("as they are stored", "converted to sRGB")
                learned, given = ways if mine == self.encoder else ways[::-1]
                return (
                    f"{self.name} was trained on colours {learned}, and this project has them {given}; "
                    "choose another model, or change it with `napari-mil project colours`."
                )
            if encoder_of(mine) == encoder_of(theirs):
                of_photographs = mine.endswith(PHOTOGRAPH)
                learned = (
                    "photographs, and this is a slide"
                    if of_photographs
                    else "slides, and these are photographs"
                )
                return f"{self.name} was trained on {learned}; choose another model."
            return (
                f"{self.name} reads features of {self.encoder!r}, these are of {bag.encoder!r}; "
                "embed the slide again."
            )
        if bag.width != self.in_features:
            return f"{self.name} reads {self.in_features} numbers per tile, these tiles have {bag.width}."
        if bag.grid.tile_px != self.tile_px or bag.grid.mpp != self.mpp:
            mine, theirs = tiles_words(self.tile_px, self.mpp), tiles_words(bag.grid.tile_px, bag.grid.mpp)
            mend = "tile the slide again"
            if bag.grid.mpp is None:
                mend = "say how many they are, `napari-mil mpp` does"
            elif self.mpp is None:
                mend = "choose another model"
            return f"{self.name} was trained on tiles of {mine}, these are of {theirs}; {mend}."
        return None if len(bag) else "The bag is empty: no tissue was found on this slide."

    def check(self, bag: Bag) -> None:
        """Raise ModelError when the model may not run on `bag`."""
        if reason := self.why_not(bag):
            raise ModelError(reason)

    def to_json(self) -> str:
        """The card as JSON text; `from_json` is its inverse."""
        d = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        d["tree"] = json.loads(self.tree.to_json())
        d["recipe"] = dataclasses.asdict(self.recipe)
        return json.dumps(d, indent=1, default=lambda v: dict(v) if isinstance(v, Mapping) else list(v))

    @classmethod
    def from_json(cls, text: str | bytes) -> ModelCard:
        """A card from `to_json`'s text; ModelError when it is none."""
        try:
            d = json.loads(text)
            d["tree"] = LabelTree.from_json(json.dumps(d["tree"]))
            d["recipe"] = build(Recipe, d["recipe"], "recipe")
            d["slides"] = {k: tuple(v) for k, v in d["slides"].items()}
            d["assumed"] = tuple(d["assumed"])
            card = cls(**d)
            wrong = next((name for name, fits in _FITS.items() if not fits(getattr(card, name))), None)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise ModelError(f"This is no model card: {reason(error)}.") from error
        if wrong is not None:
            raise ModelError(f"This is no model card: its {wrong} is {getattr(card, wrong)!r}.")
        return card


def tiles_words(tile_px: int, mpp: float | None) -> str:
    """The size of tiles as sentences say it."""
    return f"{tile_px} px, nobody knows of how many µm" if mpp is None else f"{tile_px} px at {mpp:g} µm/px"


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _count(value: Any) -> bool:
    return type(value) is int and value > 0


def _positive(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value < math.inf


#: what the fields of a card file have to be, besides those whose own classes check them
_FITS: Mapping[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("id", "name", "method", "encoder", "note", "created"), _text),
    **dict.fromkeys(("parent", "ledger_head"), lambda value: value is None or _text(value)),
    **dict.fromkeys(("in_features", "tile_px"), _count),
    **dict.fromkeys(("config", "metrics"), lambda value: isinstance(value, dict)),
    "mpp": lambda value: value is None or _positive(value),
    "temperature": _positive,
    "slides": lambda value: all(map(_text, (slide for split in value.values() for slide in split))),
    "calibrated": lambda value: isinstance(value, bool),
    "assumed": lambda value: all(map(_text, value)),
}
