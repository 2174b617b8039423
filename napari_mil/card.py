"""What a trained model is: its card. May it run on this bag, and if not, why?"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from napari_mil.bag import PHOTOGRAPH, Bag
from napari_mil.errors import ModelError
from napari_mil.labeltree import LabelTree
from napari_mil.options import option


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a model is trained. Defaults are those of the sample project; methods.md §3.8 names the published
    ones.
    """

    epochs: int = option(20, "passes over the training bags at most", low=1, high=1000)
    lr: float = option(5e-4, "learning rate of Adam", low=1e-7, high=1.0)
    weight_decay: float = option(1e-5, "L2-coupled weight decay", low=0.0, high=1.0)
    batch_bags: int = option(1, "bags per optimiser step", low=1, high=512)
    patience: int = option(8, "epochs without a better validation metric before stopping", low=1, high=1000)
    min_epochs: int = option(8, "earliest epoch to stop at", low=0, high=1000)
    stage1_epochs: int = option(
        8, "epochs of the baseline that starts the teacher (MHIM only)", low=0, high=1000
    )
    tile_weight: float = option(1.0, "weight of tile labels in the loss (λ_tile)", low=0.0, high=100.0)
    tile_share: float = option(
        0.25, "share of the visits that rehearse tile labels the model does not follow yet", low=0.0, high=0.9
    )
    class_weights: bool = option(False, "weigh slide classes by inverse frequency")
    seed: int = option(0, "seed of initialisation, order, masks and dropout", low=0, high=2**31 - 1)


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
    assumed : what a foreign checkpoint did not say and was assumed
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
    assumed: tuple[str, ...] = ()
    note: str = ""
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def why_not(self, bag: Bag) -> str | None:
        """None when the model may run on `bag`, else the sentence that says why not."""
        if bag.encoder != self.encoder:
            mine, theirs = (e.removesuffix(PHOTOGRAPH) for e in (self.encoder, bag.encoder))
            if mine == theirs:
                learned, given = (
                    ("photographs", "a slide") if mine != self.encoder else ("slides", "photographs")
                )
                return f"{self.name} was trained on {learned}, and this is {given}; choose another model."
            return (
                f"{self.name} reads features of {self.encoder!r}, these are of {bag.encoder!r}; "
                "embed the slide again."
            )
        if bag.width != self.in_features:
            return f"{self.name} reads {self.in_features} numbers per tile, these tiles have {bag.width}."
        if bag.grid.tile_px != self.tile_px or bag.grid.mpp != self.mpp:
            mine, theirs = (
                f"{self.tile_px} px at {self.mpp} µm/px",
                f"{bag.grid.tile_px} px at {bag.grid.mpp} µm/px",
            )
            return f"{self.name} was trained on tiles of {mine}, these are {theirs}; tile the slide again."
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
            d["recipe"] = Recipe(**d["recipe"])
            d["slides"] = {k: tuple(v) for k, v in d["slides"].items()}
            d["assumed"] = tuple(d["assumed"])
            return cls(**d)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"This is no model card: {error}.") from error
