"""What lies in front of one viewer's user, and the one way to change it: `apply`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QObject, QTimer, Signal

from napari_mil.correction import Correction, Polygon, WholeSlide
from napari_mil.grid import TileGrid
from napari_mil.prediction import TileMap
from napari_mil.ui import compat
from napari_mil.ui.job import AskLane, Job, JobLane
from napari_mil.ui.layers import (
    OUTLINED_PX,
    OUTLINES,
    LayerData,
    Near,
    corrections_layer,
    corrections_outlines,
    find,
    key_of,
    map_layer,
    map_outlines,
    regions_layer,
    slide_layer,
    sync,
)
from napari_mil.ui.slicing import place_levels

if TYPE_CHECKING:
    from napari_mil.bag import Bag
    from napari_mil.card import ModelCard
    from napari_mil.ledger import SlideRecord
    from napari_mil.prediction import Prediction
    from napari_mil.slides import Slide
    from napari_mil.workflow import Project


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """Everything that is on the table. None and empty say that it is not there yet.

    Attributes
    ----------
    project : the open project
    record, slide : the slide in front
    card : the model that was chosen
    answer, answer_grid : what the model said, and the grid of its tiles; partial while tiles are still on
    their way
    bag : the slide's features, where they are kept
    simulated : maps that were simulated here (hidden tiles), over `bag.grid`
    shown : names of the maps on show
    style : "raw" values of score maps, or their "rank"
    lattice : every cell of the slide, for painting
    corrections : in force on this slide, in the order they were said
    nodes : (cells of the lattice,) int32 node that people gave each cell, 0 = nothing said
    node : the label to give next; 0 takes labels away, None: nothing was chosen yet
    blind : maps and answer stay hidden until the slide in front has its first label from a person
    tile_screen_px : width of a tile on screen, to the nearest power of two; lines are drawn for it
    near : cells of a large lattice that lines are drawn for: those in view and some around; None: all
    changed_models : counts up when models come or are adopted
    heard : number of the ledger's last event that is on show
    """

    project: Project | None = None
    record: SlideRecord | None = None
    slide: Slide | None = None
    card: ModelCard | None = None
    answer: Prediction | None = None
    answer_grid: TileGrid | None = None
    partial: bool = False
    bag: Bag | None = None
    simulated: tuple[TileMap, ...] = ()
    shown: tuple[str, ...] = ()
    style: str = "raw"
    lattice: TileGrid | None = None
    corrections: tuple[Correction, ...] = ()
    nodes: NDArray[np.int32] | None = None
    node: int | None = None
    blind: bool = False
    tile_screen_px: float = 64.0
    near: Near = None
    changed_models: int = 0
    heard: int = 0

    @property
    def veiled(self) -> bool:
        """Whether what the model says of this slide must not be seen yet."""
        return self.blind and not self.corrections

    @property
    def coarse(self) -> bool:
        """Whether tiles are so small on screen that what people said is filled, not outlined."""
        return self.tile_screen_px < OUTLINED_PX

    @property
    def slide_label(self) -> str | None:
        """Label text of the slide in front: what was said last, else what the manifest gave."""
        said = [c.label for c in self.corrections if isinstance(c.place, WholeSlide)]
        return said[-1] if said else self.record.label if self.record else None

    @property
    def seen(self) -> tuple[str, ...]:
        """Names of the maps on show that may be seen."""
        return () if self.veiled else self.shown

    @property
    def maps(self) -> tuple[TileMap, ...]:
        """Every map there is: the model's, then the simulated ones."""
        return (*(self.answer.maps if self.answer else ()), *self.simulated)

    def map(self, name: str) -> tuple[TileMap, TileGrid] | None:
        """A map and the grid it lies on, or None."""
        for found in self.simulated:
            if found.name == name and self.bag is not None:
                return found, self.bag.grid
        for found in self.answer.maps if self.answer else ():
            if found.name == name and self.answer_grid is not None:
                return found, self.answer_grid
        return None


#: A tile that the view went to is at least so wide on screen.
FLOWN_PX = 220
#: Lattices of so many cells have their lines drawn at once, larger ones where the view is.
SMALL = 250 * 250
#: Lines are drawn anew when the view has rested for so long.
ZOOM_MS = 150
#: A change of one of these is a change of the picture.
_DRAWN = (
    "slide", "answer", "answer_grid", "simulated", "shown", "style", "nodes", "corrections", "bag",
    "tile_screen_px", "near", "blind",
)  # fmt: skip


class Desk(QObject):
    """The state in front of one viewer's user.

    `changed(before, after)` is emitted after every `apply` that changed something; `before` and `after` are
    States. `flown(cell)` is emitted when the view went to a tile.
    """

    changed = Signal(object, object)
    said = Signal(str)
    layer_added = Signal(object)
    theme_changed = Signal()
    flown = Signal(object)

    def __init__(self, viewer: Any, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.viewer = viewer
        self.state = State()
        self.jobs = JobLane(self)
        self.asks = AskLane(self)
        self._fit: float | None = None
        self.keys: dict[str, Any] = {}
        compat.watch_layers(viewer, place_levels)
        self._settled = QTimer(self)
        self._settled.setSingleShot(True)
        self._settled.setInterval(ZOOM_MS)
        self._settled.timeout.connect(self._measure_tiles)
        self._ends = [
            compat.watch_layers(viewer, self._layer_added),
            compat.watch_theme(viewer, self.theme_changed.emit),
            compat.watch_camera(viewer, self._settled.start),
        ]

    def apply(self, **changes: Any) -> State:
        """Change the state: the viewer's layers follow, then everybody who listens is told."""
        before = self.state
        differing = {k: v for k, v in changes.items() if getattr(before, k) is not v}
        if not differing:
            return before
        self.state = replace(before, **differing)
        if any(name in differing for name in _DRAWN):
            self.draw(new_map="shown" in differing)
        self.changed.emit(before, self.state)
        return self.state

    def draw(self, *, new_map: bool = False) -> None:
        """Make the viewer show the state.

        The layer that was selected stays selected; where it is gone, or another map was chosen while nobody
        paints, the map on show is selected, else the slide.
        """
        layers = self.viewer.layers
        active = layers.selection.active
        sync(self.viewer, wanted(self.state))
        self._pair()
        if active not in layers or (new_map and active.mode == "pan_zoom"):
            shown = [self.layer(f"map/{name}") for name in reversed(self.state.shown)]
            active = next((layer for layer in (*shown, self.layer("slide")) if layer is not None), None)
        if active is not None:
            layers.selection.active = active

    def _layer_added(self, layer: Any) -> None:
        if key_of(layer) is not None:
            layer.events.visible.connect(self._pair)
        self.layer_added.emit(layer)

    def _pair(self, _event: Any = None) -> None:
        """Outlines are seen as long as what they outline is."""
        for layer in self.viewer.layers:
            key = key_of(layer) or ""
            leader = self.layer(key.removeprefix(OUTLINES)) if key.startswith(OUTLINES) else None
            if leader is not None and layer.visible != leader.visible:
                layer.visible = leader.visible

    def _measure_tiles(self) -> None:
        """Lines keep about the same width on screen at every zoom."""
        lattice = self.state.lattice
        if lattice is None:
            return
        mpp = (lattice.slide_mpp or (1.0, 1.0))[0]
        wide = max(compat.camera(self.viewer).zoom * mpp * lattice.pitch_px[0], 1.0)
        was = self.state.coarse
        box = self.view_box_px()
        near = None if box is None else around(box, lattice, self.state.near)
        self.apply(tile_screen_px=2.0 ** round(math.log2(wide)), near=near)
        layer = self.layer("corrections")
        if layer is not None and was != self.state.coarse:
            layer.events.mode(mode=str(layer.mode))  # how opaque it is depends on both

    def layer(self, key: str) -> Any:
        """The viewer's layer with our key, or None."""
        return find(self.viewer, key)

    def look_at_slide(self) -> None:
        """Show the slide in front: at the zoom the person chose for the one before, else all of it."""
        camera = compat.camera(self.viewer)
        chosen = camera.zoom if self._fit is not None and camera.zoom != self._fit else None
        self.viewer.reset_view()
        self._fit = camera.zoom
        if chosen is not None:
            camera.zoom = max(chosen, camera.zoom)

    def fly_to(self, cell: tuple[int, int]) -> None:
        """Bring a cell of the lattice into the middle of the view, large enough to be looked at."""
        if (lattice := self.state.lattice) is None:
            return
        camera = compat.camera(self.viewer)
        camera.center = (*camera.center[:-2], *self.middle_of(cell))
        wide = (lattice.slide_mpp or (1.0, 1.0))[0] * lattice.pitch_px[0]
        camera.zoom = max(camera.zoom, FLOWN_PX / wide)
        self.flown.emit(tuple(cell))

    def middle_of(self, cell: tuple[int, int]) -> tuple[float, float]:
        """World position of the middle of a cell of the lattice."""
        scale, translate = self.state.lattice.placement()
        return cell[0] * scale[0] + translate[0], cell[1] * scale[1] + translate[1]

    def cell_at(self, y: float, x: float) -> tuple[int, int] | None:
        """The cell of the lattice at a world position, or None beside it."""
        return None if self.state.lattice is None else cell_at(self.state.lattice, y, x)

    def view_box_px(self) -> tuple[float, float, float, float] | None:
        """What the canvas shows, cut to the slide, in level-0 pixels; None without a slide or when it is
        off screen.
        """
        slide = self.state.slide
        if slide is None:
            return None
        mpp = np.array(slide.mpp or (1.0, 1.0))
        box = np.array(compat.visible_box(self.viewer))
        low = np.maximum(box[:2] / mpp + 0.5, 0)
        high = np.minimum(box[2:] / mpp + 0.5, slide.shape_px)
        return None if (high <= low).any() else (*low.tolist(), *high.tolist())

    def run(
        self,
        title: str,
        make: Callable[[], Any],
        *,
        progressed: Callable[[Any], None] | None = None,
        returned: Callable[[Any], None] | None = None,
        finished: Callable[[], None] | None = None,
    ) -> Job:
        """Queue a long verb in the job lane; its errors are told."""
        job = Job(title, make)
        for signal, act in ((job.progressed, progressed), (job.returned, returned), (job.finished, finished)):
            if act is not None:
                signal.connect(act)
        job.failed.connect(self.tell)
        return self.jobs.start(job)

    def key(self, key: str, act: Callable[[], Any]) -> None:
        """Let a key do an act, wherever the focus is in the window."""
        self.keys[key] = compat.shortcut(self.viewer, key, act)

    def tell(self, what: BaseException | str) -> None:
        """Say a sentence: in the workbench, and as napari's notification."""
        self.said.emit(str(what))
        compat.tell(what)

    def close(self) -> None:
        """End the lanes (running work is cancelled) and the project; everything is kept already."""
        self.jobs.close()
        self.asks.close()
        for end in self._ends:
            end()
        for key in self.keys.values():
            key.setEnabled(False)
            key.deleteLater()
        self._ends, self.keys = [], {}
        project = self.state.project
        self.state = State()
        sync(self.viewer, [])  # a layer must not outlive its slide: the next drawing would read from it
        if project is not None:
            project.close()


def wanted(state: State) -> list[LayerData]:
    """The layers that a state asks for, bottom first."""
    if state.slide is None or state.project is None:
        return []
    tree = state.project.tree
    made: list[LayerData | None] = [slide_layer(state.slide)]
    for name in state.seen:
        found = state.map(name)
        if found is not None:
            made.append(map_layer(*found, tree, style=state.style))
            made.append(map_outlines(*found, tree, tile_screen_px=state.tile_screen_px))
    if state.lattice is not None and state.nodes is not None:
        made.append(corrections_layer(state.nodes, state.lattice, tree))
        made.append(corrections_outlines(state.nodes, state.lattice, tree, state.tile_screen_px, state.near))
    regions = [
        (c.place, c.label) for c in state.corrections if isinstance(c.place, Polygon) and c.label is not None
    ]
    if regions:
        colours = {tree.path(node): tree.colours[node] for node in range(1, len(tree))}
        made.append(regions_layer(regions, state.slide, colours=colours))
    return [layer for layer in made if layer is not None]


def around(box_px: tuple[float, ...], lattice: TileGrid, known: Near) -> Near:
    """The cells of a large lattice that a view shows, with as much again on every side; the known ones as
    long as they hold the view and are not far larger. None for a small lattice: all cells.
    """
    if lattice.shape[0] * lattice.shape[1] <= SMALL:
        return None
    box = np.array(box_px).reshape(2, 2) / lattice.pitch_px
    if known is not None:
        top, left, bottom, right = known
        inside = (box[0] >= (top, left)).all() and (box[1] <= (bottom, right)).all()
        if inside and (bottom - top) * (right - left) <= 36 * np.prod(box[1] - box[0]):
            return known
    size = box[1] - box[0]
    low = np.clip(np.floor(box[0] - size), 0, lattice.shape).astype(int)
    high = np.clip(np.ceil(box[1] + size), 0, lattice.shape).astype(int)
    return (int(low[0]), int(low[1]), int(high[0]), int(high[1]))


def cell_at(lattice: TileGrid, y: float, x: float) -> tuple[int, int] | None:
    """The cell at a world position (µm, or pixels when µm are unknown), or None beside the lattice."""
    mpp = lattice.slide_mpp or (1.0, 1.0)
    row = int((y / mpp[0] + 0.5) // lattice.pitch_px[0])
    col = int((x / mpp[1] + 0.5) // lattice.pitch_px[1])
    return (row, col) if 0 <= row < lattice.shape[0] and 0 <= col < lattice.shape[1] else None


def fresh(state: State) -> dict[str, Any]:
    """Changes that clear everything that belongs to one slide."""
    kept = ("project", "card", "shown", "style", "node", "blind", "tile_screen_px", "changed_models", "heard")
    empty = State()
    return {f.name: getattr(empty, f.name) for f in fields(state) if f.name not in kept}
