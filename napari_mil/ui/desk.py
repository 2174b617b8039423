"""What lies in front of one viewer's user, and the one way to change it: `apply`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from qtpy.QtCore import QObject, Signal

from napari_mil.correction import Cells, Place, Polygon
from napari_mil.errors import MILError
from napari_mil.ledger.conflicts import bounds_px
from napari_mil.ui import compat
from napari_mil.ui.front import side_by_side
from napari_mil.ui.job import NO_ANSWER_S, AskLane, Job, JobLane, Pauses, WriteLane
from napari_mil.ui.layers import (
    OUTLINES,
    LayerData,
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
from napari_mil.ui.state import State, around, cell_at, inside
from napari_mil.ui.views import Views

#: A tile that the view went to is at least so wide on screen, and a place at most this share of the canvas.
FLOWN_PX, FLOWN_SHARE = 220, 0.7
#: Lines are drawn anew when the view has rested for so long.
ZOOM_MS = 150
#: A change of one of these is a change of the picture.
_DRAWN = (
    "slide", "answer", "answer_grid", "simulated", "shown", "style", "nodes", "corrections", "bag",
    "tile_screen_px", "near", "blind", "second", "beside",
)  # fmt: skip


class Desk(QObject):
    """The state in front of one viewer's user.

    `changed(before, after)` is emitted after every `apply` that changed something; `before` and `after` are
    States. `answered(slide id, what)` tells what a model said of a slide, in front or not: a Prediction, or a
    sentence why there is none.
    """

    changed = Signal(object, object)
    answered = Signal(str, object)
    said = Signal(str)
    layer_added = Signal(object)
    theme_changed = Signal()

    def __init__(self, viewer: Any, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.viewer = viewer
        self.state = State()
        self.jobs = JobLane(self)
        self.files = JobLane(self)  # what is written to files waits for no model
        self.asks = AskLane(self)
        self.openings, self.news = AskLane(self, "napari-mil openings"), AskLane(self, "napari-mil news")
        for lane in (self.asks, self.openings, self.news):
            lane.tell = self._told
        self.writes = WriteLane(self)
        self.writes.stuck.connect(self._unkept)
        self.writes.freed.connect(self._kept)
        self.pauses = Pauses(self)
        self.views = Views(viewer, self)
        self._fit: float | None = None
        self.keys: dict[str, Any] = {}
        compat.slice_before_painting(viewer)
        compat.watch_layers(viewer, place_levels)
        self._ends = [
            compat.watch_layers(viewer, self._layer_added),
            compat.watch_theme(viewer, self.theme_changed.emit),
            compat.watch_camera(viewer, self.pauses.after(ZOOM_MS, self._measure_tiles)),
        ]

    @property
    def busy(self) -> bool:
        """Whether anything runs, waits, or follows in a moment."""
        lanes = (self.jobs, self.files, self.asks, self.openings, self.news, self.writes, self.pauses)
        return any(lane.busy for lane in lanes)

    def apply(self, **changes: Any) -> State:
        """Change the state: the viewer's layers follow, then everybody who listens is told."""
        before = self.state
        differing = {k: v for k, v in changes.items() if getattr(before, k) is not v}
        if not differing:
            return before
        if "slide" in differing:
            self.views.keep()
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
        """Show the slide in front where one looked last: at the zoom the person chose for the one before,
        else at the one there was; all of it when one never did.
        """
        camera = compat.camera(self.viewer)
        chosen = camera.zoom if self._fit is not None and camera.zoom != self._fit else None
        self.viewer.reset_view()
        self._fit = camera.zoom
        self.views.bring_back(zoom=chosen is None)
        if chosen is not None:
            camera.zoom = max(chosen, camera.zoom)

    def go_to(self, place: Place | tuple[int, int]) -> None:
        """Have a place of the slide in front, or a cell of the lattice, at hand, and in the middle of the
        view: as a whole, and large enough to be looked at.
        """
        lattice = self.state.lattice
        if isinstance(place, tuple) and lattice is not None:
            place = Cells(np.array([place], np.int32), lattice.pitch_px)
        if not isinstance(place, Cells | Polygon) or lattice is None:
            self.look_at_slide()
            self.apply(cell=None)
            return
        camera, mpp = compat.camera(self.viewer), np.array(lattice.slide_mpp or (1.0, 1.0))
        box = bounds_px(place).reshape(2, 2)
        camera.center = (*camera.center[:-2], *((box.mean(0) - 0.5) * mpp))
        fits = FLOWN_SHARE * np.array(compat.canvas_size(self.viewer)) / ((box[1] - box[0]) * mpp)
        large = max(camera.zoom, FLOWN_PX / (mpp[0] * lattice.pitch_px[0]))
        camera.zoom = float(min(large, *fits))
        self.apply(cell=self.cell_at(*((inside(place) - 0.5) * mpp)))

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
        lane: JobLane | None = None,
    ) -> Job:
        """Queue a long verb in a job lane (None: that of the models); its errors are told."""
        job = Job(title, make)
        for signal, act in ((job.progressed, progressed), (job.returned, returned), (job.finished, finished)):
            if act is not None:
                signal.connect(act)
        job.failed.connect(self.tell)
        return (lane or self.jobs).start(job)

    def key(self, key: str, act: Callable[[], Any], words: str) -> None:
        """Let a key do an act, wherever the focus is in the window; `words` say what it does."""
        self.keys[key] = compat.shortcut(self.viewer, key, act)
        self.keys[key].setWhatsThis(words)

    def tell(self, what: BaseException | str) -> None:
        """Say a sentence: in the workbench, and as napari's notification."""
        self.said.emit(str(what))
        compat.tell(what)

    def _told(self, error: BaseException) -> None:
        self.tell(error)

    def _unkept(self, error: BaseException) -> None:
        self.tell(MILError(f"{error} What you say stays on screen, and is kept as soon as that is possible."))

    def _kept(self) -> None:
        self.said.emit("Everything that you said is kept now.")

    def close(self) -> None:
        """End the lanes (running work is cancelled) and the project; everything is kept already."""
        self.jobs.close()
        self.files.close()
        for waiting in (self.openings, self.news):
            waiting.close(NO_ANSWER_S)
        self.asks.close()
        self.writes.close()
        self.pauses.end()
        self.views.stop()
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
    made: list[LayerData | None] = [slide_layer(state.slide), *side_by_side(state.slide, state.beside)]
    for name in state.seen:
        found = state.map(name)
        if found is not None:
            made.append(map_layer(*found, tree, style=state.style))
            made.append(map_outlines(*found, tree, tile_screen_px=state.tile_screen_px))
    if state.second:
        return [layer for layer in made if layer is not None]
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
