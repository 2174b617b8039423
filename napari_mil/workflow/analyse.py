"""From a slide to an answer: tissue, tiles, features, maps, each computed once and kept."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from napari_mil.bag import Bag
from napari_mil.errors import MILError, TissueError
from napari_mil.grid import TileGrid
from napari_mil.ledger import SlideRecord
from napari_mil.prediction import Prediction
from napari_mil.steps import ASIDE, Progress, Steps, told_as
from napari_mil.store import kept_tiles
from napari_mil.workflow.encoding import find_encoder
from napari_mil.workflow.project import Box, Project, find_card

if TYPE_CHECKING:
    from napari_mil.encoders import Encoder
    from napari_mil.slides import Slide
    from napari_mil.store.parts import Parts

T = TypeVar("T", Bag, TileGrid)

#: Seconds between two answers from the tiles done so far.
REFRESH_S = 1.0
#: Seconds between two times that features of an unfinished slide are kept; a killed program loses no more.
KEEP_S = 20.0


@dataclass(frozen=True, slots=True, eq=False)
class PartialAnswer:
    """An answer from the tiles done so far, on a grid of its own."""

    grid: TileGrid
    prediction: Prediction


def bag_steps(
    project: Project,
    slide: Slide,
    *,
    encoder: str = "builtin",
    region: Box | None = None,
    view: Box | None = None,
) -> Steps[Bag]:
    """Features of the slide's tissue tiles, from the project where they are kept, else computed and kept.

    Parameters
    ----------
    encoder : name, or id of one whose weights the project keeps (`add_encoder`)
    region : only tiles that overlap this box (y0, x0, y1, x1, level-0 px); a region's features are not kept
    view : tiles in this box are done first, from its middle outwards

    Yields Progress of the stages "tissue" and "features"; the latter's payload is a Bag of the tiles done
    so far.
    """
    from napari_mil.encode import features_id
    from napari_mil.tissue import tissue_grid

    _check_region(region)
    machine = find_encoder(project, encoder)
    mpp = None if slide.mpp is None else machine.mpp
    kept = project.store.load_bag(slide.fingerprint, features_id(machine, slide), machine.tile_px, mpp)
    if kept is not None and kept.grid.slide_mpp == slide.mpp:
        yield Progress("features", len(kept), len(kept), "from the project")
        return kept if region is None else _some_tissue(kept.crop(region))
    yield Progress("tissue", 0, 1)
    grid = tissue_grid(slide, tile_px=machine.tile_px, mpp=machine.mpp)
    if region is not None:
        grid = _some_tissue(grid.crop(region))
    things = "tiles" if slide.montage is None else "photographs"
    yield Progress("tissue", 1, 1, f"{len(grid):,} {things}")
    if region is not None:
        return (yield from _encode(slide, grid, machine, view, None))
    parts = project.store.parts(slide.fingerprint, features_id(machine, slide), grid)
    bag = yield from _encode(slide, grid, machine, view, parts)
    project.store.save_bag(bag)
    parts.clear()
    return bag


def _check_region(region: Box | None) -> None:
    try:
        y0, x0, y1, x1 = map(float, (0, 0, 1, 1) if region is None else region)
        possible = y0 < y1 and x0 < x1
    except (TypeError, ValueError):
        possible = False
    if not possible:
        raise TissueError(
            f"{region!r} is no region; give y0, x0, y1, x1 in level-0 pixels, the smaller ones first."
        )


def _some_tissue(part: T) -> T:
    """What a region holds, when it holds anything."""
    if not len(part):
        raise TissueError(
            "There is no tissue in this region; move the view over tissue, or run the whole slide."
        )
    return part


def kept_bag(
    project: Project, record: SlideRecord, *, encoder: str = "builtin", mapped: bool = False
) -> Bag | None:
    """The features that the project keeps of a slide, or None; the slide's file is not looked at. With
    `mapped` they stay on disk, see `store.arrays.read_arrays`.
    """
    found = (project.store.load_bag(*key, mapped=mapped) for key in _bag_keys(project, record, encoder))
    return next((kept for kept in found if kept is not None and kept.grid.slide_mpp == record.mpp), None)


def kept_grid(project: Project, record: SlideRecord, *, encoder: str = "builtin") -> TileGrid | None:
    """The tiles of `kept_bag`, or None; their features are not looked at."""
    found = (kept_tiles(project.store, *key) for key in _bag_keys(project, record, encoder))
    return next((grid for grid in found if grid is not None and grid.slide_mpp == record.mpp), None)


def _bag_keys(
    project: Project, record: SlideRecord, encoder: str
) -> Iterator[tuple[str, str, int, float | None]]:
    """What the features of a slide may be kept under: of slides, and of folders of photographs."""
    from napari_mil.bag import PHOTOGRAPH, SRGB
    from napari_mil.workflow.colours import converts

    machine = find_encoder(project, encoder)
    mpp = None if record.mpp is None else machine.mpp
    colours = SRGB if converts(project) else ""
    for made_by in (machine.id + colours, machine.id + PHOTOGRAPH + colours):
        yield record.id, made_by, machine.tile_px, mpp


def slide_bag_steps(
    project: Project, record: SlideRecord, *, encoder: str = "builtin", mapped: bool = False
) -> Steps[Bag]:
    """`bag_steps` of a slide that the project knows; features that are kept need no file, unless the µm per
    pixel were said since. With `mapped` they stay on disk, as in `kept_bag`.
    """
    from napari_mil.slides.mpp import said_mpp

    kept = kept_bag(project, record, encoder=encoder, mapped=mapped)
    if kept is not None and (record.mpp is not None or said_mpp(record.id) is None):
        yield Progress("features", len(kept), len(kept), "from the project")
        return kept
    made = yield from bag_steps(project, project.slide(record), encoder=encoder)
    return (mapped and kept_bag(project, record, encoder=encoder, mapped=True)) or made


def _encode(
    slide: Slide, grid: TileGrid, machine: Encoder, view: Box | None, parts: Parts | None
) -> Steps[Bag]:
    """Drive the encoder; payloads grow into bags of the tiles done so far. With `parts`, what is done is kept
    now and then, and when the work ends early; and not done again.
    """
    from napari_mil.encode import encode_steps, features_id

    known = None if parts is None else parts.load(machine.width)
    done, features = ([], []) if known is None else ([known[0]], [known[1]])
    shown = kept_at = time.monotonic()
    kept = len(done)

    def keep() -> None:
        nonlocal kept, kept_at
        if parts is not None and len(done) > kept:
            parts.add(np.concatenate(done[kept:]), np.concatenate(features[kept:]))
            kept, kept_at = len(done), time.monotonic()

    def retell(now: Progress) -> Progress:
        nonlocal shown
        partial = None
        if now.payload is not None:
            done.append(np.asarray(now.payload[0]))
            features.append(np.asarray(now.payload[1], np.float16))
            if time.monotonic() - kept_at > KEEP_S:
                keep()
            if time.monotonic() - shown > REFRESH_S:
                shown = time.monotonic()
                so_far = grid.with_cells(grid.cells[np.concatenate(done)])
                made = np.concatenate(features)
                partial = Bag(slide.fingerprint, so_far, made, features_id(machine, slide))
        return replace(now, payload=partial)

    first = None if view is None else _from_the_middle(grid, view)
    try:
        return (yield from told_as(encode_steps(slide, grid, machine, first=first, known=known), retell))
    except BaseException:  # cancelled, interrupted, a tile that cannot be read
        with contextlib.suppress(MILError):
            keep()
        raise


def _from_the_middle(grid: TileGrid, view: Box) -> NDArray[np.int64]:
    """Indices of the tiles in view, nearest to its middle first."""
    inside = np.flatnonzero(grid.inside(view))
    boxes = grid.boxes_px[inside]
    middle = np.array([(view[0] + view[2]) / 2, (view[1] + view[3]) / 2])
    distance = np.linalg.norm((boxes[:, :2] + boxes[:, 2:]) / 2 - middle, axis=1)
    return inside[np.argsort(distance, kind="stable")]


def analyse_steps(
    project: Project,
    slide: Slide | SlideRecord,
    *,
    model: str,
    region: Box | None = None,
    view: Box | None = None,
    again: bool = False,
    watched: Callable[[], bool] = lambda: True,
) -> Steps[Prediction]:
    """A model's answer for a slide, or for a region of it, with every map. Of a record the file is not opened
    where the features of the whole slide are kept.

    While tiles are being embedded, Progress carries a PartialAnswer about once a second, as long as somebody
    is there to see it (`watched`); the last one is whole. A slide's answer is kept in the project, and given
    from there unless it is asked for `again`; a region's is marked and is not. Progress of the stage ASIDE
    says when memory was short for the answer. ModelError when the model does not fit the slide's tiles.
    """
    from napari_mil.device import watching_memory
    from napari_mil.infer import predict

    card = find_card(project, model)
    network = project.model(card.id)

    def ask(bag: Bag, scope: Literal["slide", "region"]) -> Prediction:
        return predict(
            network,
            bag,
            model_id=card.id,
            scope=scope,
            temperature=card.temperature,
            calibrated=card.calibrated,
        )

    def retell(now: Progress) -> Progress:
        if not isinstance(now.payload, Bag):
            return replace(now, payload=None)
        card.check(now.payload)
        if not watched():
            return replace(now, payload=None)
        return replace(now, payload=PartialAnswer(now.payload.grid, ask(now.payload, "region")))

    if isinstance(slide, SlideRecord) and region is None:
        slide_id, asked = slide.id, slide_bag_steps(project, slide, encoder=card.encoder)
    else:
        opened = project.slide(slide)
        slide_id = opened.fingerprint
        asked = bag_steps(project, opened, encoder=card.encoder, region=region, view=view)
    bag = yield from told_as(asked, retell)
    card.check(bag)
    if region is None and not again:
        kept = project.store.load_prediction(slide_id, bag.grid.id, card.id)
        if kept is not None:
            yield Progress("answer", 1, 1, "from the project", PartialAnswer(bag.grid, kept))
            return kept
    yield Progress("answer", 0, 1)
    with watching_memory() as memory:
        prediction = ask(bag, "slide" if region is None else "region")
    if region is None:
        project.store.save_prediction(prediction)
    if memory.note:
        yield Progress(ASIDE, 1, 1, f"{slide.name}: {memory.note}.")
    yield Progress("answer", 1, 1, "", PartialAnswer(bag.grid, prediction))
    return prediction
