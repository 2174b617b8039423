"""The project folder: the ledger, and what a machine can recompute from slides and ledger.

::

    project.json                              format and version; where the ledger is, when a team shares it
    labeltree.json                            the tree of labels
    ledger.sqlite                             what people said
    bags/<slide>/<encoder>-<tile>px-<mpp>/    zarr: features (N, D), cells (N, 2)
    maps/<slide>/<model>/<scope>-<grid>/      zarr: the maps of one answer, by kind
    models/<id>/                              weights.safetensors, card.json, maybe recording.safetensors
    encoders/<id>.safetensors                 weights that a person gave
    review/<slide>/<model>.npz                the places of a slide that may be worth a question
    parts/<slide>/<encoder-…>/<grid>/         features of a slide that was interrupted, until its bag is whole
    unfinished/                               what is being written; moved to its place when whole

Names of folders are the keys, so what is there needs not be computed again. Checksums tell damage.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_mil.bag import Bag
from napari_mil.card import ModelCard
from napari_mil.errors import ModelError, ProjectError
from napari_mil.grid import TileGrid
from napari_mil.labeltree import LabelTree
from napari_mil.ledger import Ledger
from napari_mil.prediction import Prediction, Scope, TileMap
from napari_mil.store.arrays import attributes, read_arrays, write_arrays
from napari_mil.store.disk import (
    checked,
    clean,
    damage,
    ledger_of,
    name_of,
    put,
    read_marker,
    said,
    whole,
    write_marker,
)
from napari_mil.store.parts import Parts

WEIGHTS = "weights.safetensors"


class Store:
    """Opens a project folder, or makes one.

    Parameters
    ----------
    folder : the project's folder
    tree : the label tree of a new project, or a function that makes it; a project that stands keeps its own

    Raises
    ------
    ProjectError : the folder is damaged (and what of it), comes from a newer version, or cannot be written
    """

    def __init__(
        self, folder: str | Path, *, tree: LabelTree | Callable[[], LabelTree] | None = None
    ) -> None:
        self.folder = Path(folder)
        marker = read_marker(self.folder)
        with said(self.folder, "written"):
            clean(self.folder)
        if not marker:
            write_marker(self.folder)
        known, address = (self.folder / "labeltree.json").exists(), ledger_of(self.folder)
        if known and isinstance(address, Path) and not address.exists():
            raise ProjectError(
                f"The project {self.folder} is damaged: ledger.sqlite is missing; restore it from a backup."
            )
        self._cards: dict[Path, tuple[list[tuple[int, int]], ModelCard]] = {}
        self.ledger = Ledger(address)
        try:
            self.tree = self._tree() if known else self._new_tree(tree)
        except BaseException:
            self.ledger.close()
            raise

    def close(self) -> None:
        """Let go of the ledger; everything is kept already."""
        self.ledger.close()

    def load_bag(
        self, slide_id: str, encoder: str, tile_px: int, mpp: float | None, *, mapped: bool = False
    ) -> Bag | None:
        """The kept features of a slide's tiles, or None: never computed. With `mapped` they stay on disk, see
        `arrays.read_arrays`.
        """
        folder = self._bag_folder(slide_id, encoder, tile_px, mpp)
        if not folder.exists():
            return None
        with damage(self.folder, folder):
            about, arrays = read_arrays(folder, mapped=mapped)
            grid, pixels = _grid(about["grid"], arrays["cells"]), about.get("pixel_hash", "")
            return Bag(about["slide_id"], grid, arrays["features"], about["encoder"], pixels)

    def save_bag(self, bag: Bag) -> None:
        """Keep the features of a slide's tiles; a bag of the same key is replaced."""
        grid = bag.grid
        about = {
            "slide_id": bag.slide_id,
            "encoder": bag.encoder,
            "pixel_hash": bag.pixel_hash,
            "grid": {
                "slide_px": grid.slide_px,
                "slide_mpp": grid.slide_mpp,
                "tile_px": grid.tile_px,
                "mpp": grid.mpp,
                "cell_px": grid.cell_px,
            },
        }
        arrays = {"features": bag.features, "cells": grid.cells}
        with whole(
            self.folder, self._bag_folder(bag.slide_id, bag.encoder, grid.tile_px, grid.mpp)
        ) as folder:
            write_arrays(folder, about, arrays)

    def parts(self, slide_id: str, encoder: str, grid: TileGrid) -> Parts:
        """What was computed of a bag before its computation was interrupted."""
        bag = self._bag_folder(slide_id, encoder, grid.tile_px, grid.mpp)
        place = self.folder / "parts" / bag.relative_to(self.folder / "bags") / name_of(grid.id)
        return Parts(self.folder, place, len(grid))

    def load_prediction(
        self, slide_id: str, grid_id: str, model_id: str, *, scope: Scope = "slide"
    ) -> Prediction | None:
        """The kept answer of a model for a slide (or for a region: another grid), or None."""
        folder = self._answer_folder(slide_id, grid_id, model_id, scope)
        if not folder.exists():
            return None
        with damage(self.folder, folder):
            about, arrays = read_arrays(folder)
            taken = dict.fromkeys(arrays, 0)
            maps = []
            for entry in about["maps"]:
                values = arrays[entry["kind"]][taken[entry["kind"]]]
                taken[entry["kind"]] += 1
                maps.append(_map(entry, values))
            return _prediction(about, tuple(maps))

    def latest_answer(self, slide_id: str, model_id: str) -> Prediction | None:
        """A model's latest answer for a slide, or None; without its maps, so that a list can ask for many."""
        found = []
        for folder in self._answers(slide_id, model_id):
            with damage(self.folder, folder):
                about = attributes(folder)
                found.append((about.get("clock", 0), _prediction(about, ())))
        return max(found, key=lambda both: (both[0], both[1].at), default=(0, None))[1]

    def _answers(self, slide_id: str, model_id: str) -> list[Path]:
        """The folders of a model's answers for a slide."""
        return sorted(self._answer_folder(slide_id, "", model_id, "slide").parent.glob("slide-*"))

    def _clock(self, slide_id: str, model_id: str) -> int:
        """How often the clock is known to have gone back since a model first answered for a slide: answers
        that were kept before a time that is still to come are older, whatever they say.
        """
        seen = {0}
        for folder in self._answers(slide_id, model_id):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # damage is said when read
                about = attributes(folder)
                ahead = datetime.fromisoformat(about["at"]) > datetime.now(UTC)
                seen.add(int(about.get("clock", 0)) + ahead)
        return max(seen)

    def save_prediction(self, prediction: Prediction) -> None:
        """Keep an answer with all its maps; an earlier answer of the same key is replaced."""
        p = prediction
        about = {
            "slide_id": p.slide_id,
            "grid_id": p.grid_id,
            "model_id": p.model_id,
            "scope": p.scope,
            "probabilities": [[float(v) for v in level] for level in p.probabilities],
            "hazards": None if p.hazards is None else [float(v) for v in p.hazards],
            "calibrated": p.calibrated,
            "heads": p.heads,
            "at": p.at.isoformat(),
            "clock": self._clock(p.slide_id, p.model_id),
            "maps": [
                {
                    "name": m.name,
                    "kind": m.kind,
                    "span": m.span and [float(v) for v in m.span],
                    "legend": {str(code): words for code, words in m.legend.items()},
                    "note": m.note,
                }
                for m in p.maps
            ],
        }
        kinds = sorted({str(m.kind) for m in p.maps})
        arrays = {kind: np.stack([m.values for m in p.maps if m.kind == kind]) for kind in kinds}
        with whole(self.folder, self._answer_folder(p.slide_id, p.grid_id, p.model_id, p.scope)) as folder:
            write_arrays(folder, about, arrays, rows=1)

    def save_model(
        self, card: ModelCard, weights: bytes, *, extra: Mapping[str, bytes] | None = None
    ) -> None:
        """Keep a model: card, weights, and further files (a recorded run). A model is never overwritten; when
        it is trained again to the same weights, further files that it lacks are put beside it.
        """
        folder = self.folder / "models" / name_of(card.id)
        files = {WEIGHTS: weights, "card.json": card.to_json().encode(), **(extra or {})}
        sums = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
        if folder.exists():
            known = json.loads((folder / "checksums.json").read_bytes())
            if known[WEIGHTS] != sums[WEIGHTS]:
                raise ProjectError(
                    f"The project has another model {card.id!r} already; models are never overwritten, "
                    "give the new one an id of its own."
                )
            with said(self.folder, "written"):
                for name in sorted(set(files) - set(known)):
                    put(folder / name, files[name])
                    known[name] = sums[name]
                    put(folder / "checksums.json", json.dumps(known, indent=1).encode())
            return
        files["checksums.json"] = json.dumps(sums, indent=1).encode()
        with whole(self.folder, folder) as place:
            for name, data in files.items():
                (place / name).write_bytes(data)

    def model_bytes(self, model_id: str, name: str = WEIGHTS) -> bytes:
        """A file of a model, by default its weights (safetensors); ModelError naming the models there are."""
        folder = self.folder / "models" / name_of(model_id)
        if not (folder / "card.json").exists():
            known = ", ".join(card.id for card in self.cards()) or "none"
            raise ModelError(f"The project has no model {model_id!r}; it has {known}.")
        with damage(self.folder, folder):
            return checked(folder, name)

    def model_files(self, model_id: str) -> tuple[str, ...]:
        """Names of the files that a model has; () when there is no such model."""
        sums = self.folder / "models" / name_of(model_id) / "checksums.json"
        if not sums.exists():
            return ()
        with damage(self.folder, sums):
            return tuple(json.loads(sums.read_bytes()))

    def cards(self) -> tuple[ModelCard, ...]:
        """The cards of the project's models, oldest first; those that are damaged are left out."""
        found = [card for card in self._read_cards() if isinstance(card, ModelCard)]
        return tuple(sorted(found, key=lambda card: (card.created, card.id)))

    def damaged_cards(self) -> tuple[str, ...]:
        """A sentence for each model whose card cannot be read."""
        return tuple(sorted(said for said in self._read_cards() if isinstance(said, str)))

    def _read_cards(self) -> Iterator[ModelCard | str]:
        for folder in (self.folder / "models").glob("[!.]*"):
            try:
                with damage(self.folder, folder):
                    yield self._card(folder)
            except ProjectError as error:
                yield str(error)

    def _card(self, folder: Path) -> ModelCard:
        """The card of a model, read once until its file changes: five hundred slides ask for every card."""
        files = [(folder / name).stat() for name in ("card.json", "checksums.json")]
        now = [(file.st_mtime_ns, file.st_size) for file in files]
        known = self._cards.get(folder)
        if known is None or known[0] != now:
            known = self._cards[folder] = (now, ModelCard.from_json(checked(folder, "card.json")))
        return known[1]

    @property
    def current(self) -> str | None:
        """Id of the model that was adopted last, or None."""
        adopted = self.ledger.events(kind="adopt")
        return str(adopted[-1].payload["model"]) if adopted else None

    def _tree(self) -> LabelTree:
        with damage(self.folder, self.folder / "labeltree.json"):
            return LabelTree.from_json((self.folder / "labeltree.json").read_bytes())

    def _new_tree(self, tree: LabelTree | Callable[[], LabelTree] | None) -> LabelTree:
        if self.ledger.events():
            raise ProjectError(
                f"The project {self.folder} is damaged: labeltree.json is missing; restore it from a backup."
            )
        if tree is None:
            raise ProjectError(f"{self.folder} is a new project; give it a label tree.")
        made = tree if isinstance(tree, LabelTree) else tree()
        with said(self.folder, "written"):
            put(self.folder / "labeltree.json", made.to_json().encode())
        return made

    def _bag_folder(self, slide_id: str, encoder: str, tile_px: int, mpp: float | None) -> Path:
        scale = "level0" if mpp is None else f"{float(mpp)!r}um"
        return self.folder / "bags" / name_of(slide_id) / f"{name_of(encoder)}-{tile_px}px-{scale}"

    def _answer_folder(self, slide_id: str, grid_id: str, model_id: str, scope: Scope) -> Path:
        return (
            self.folder / "maps" / name_of(slide_id) / name_of(model_id) / f"{scope}-{name_of(grid_id, '')}"
        )


def kept_tiles(store: Store, slide_id: str, encoder: str, tile_px: int, mpp: float | None) -> TileGrid | None:
    """The tiles of `Store.load_bag` without their features, which may be large; None where none are kept."""
    folder = store._bag_folder(slide_id, encoder, tile_px, mpp)  # noqa: SLF001 - of the same module
    if not folder.exists():
        return None
    with damage(store.folder, folder):
        about, arrays = read_arrays(folder, ("cells",))
        return _grid(about["grid"], arrays["cells"])


def _grid(about: Mapping[str, Any], cells: NDArray[Any]) -> TileGrid:
    mpp = about["slide_mpp"]
    cell = about.get("cell_px")  # of montages; older projects know none
    size = (tuple(about["slide_px"]), mpp and tuple(mpp), about["tile_px"], about["mpp"])
    return TileGrid(*size, cells, cell and (cell[0], cell[1]))


def _map(entry: Mapping[str, Any], values: NDArray[Any]) -> TileMap:
    span = entry["span"] and (entry["span"][0], entry["span"][1])
    legend = {int(code): words for code, words in entry["legend"].items()}
    return TileMap(entry["name"], entry["kind"], values, span, legend, entry["note"])


def _prediction(about: Mapping[str, Any], maps: tuple[TileMap, ...]) -> Prediction:
    return Prediction(
        slide_id=about["slide_id"],
        grid_id=about["grid_id"],
        model_id=about["model_id"],
        scope=about["scope"],
        probabilities=tuple(np.array(level, np.float32) for level in about["probabilities"]),
        hazards=None if about.get("hazards") is None else np.array(about["hazards"], np.float32),
        maps=maps,
        calibrated=about["calibrated"],
        heads=about.get("heads", False),  # of answers kept by an earlier version their maps tell
        at=datetime.fromisoformat(about["at"]),
    )
