"""What is known of the tile under the cursor, as one line for the status bar. Pure: read from a thread of
napari's.
"""

from __future__ import annotations

import numpy as np

from napari_mil.correction import WholeSlide
from napari_mil.ui.ramps import ranks
from napari_mil.ui.state import State, cell_at
from napari_mil.ui.words import percent


class TileReader:
    """Answers for one State; built anew when the state changes. Ranks are computed when first asked for."""

    def __init__(self, state: State) -> None:
        self.state = state
        self._ranks: dict[str, np.ndarray] = {}
        grid = state.answer_grid
        self._lookup = None if grid is None else grid.lookup()
        montage = None if state.slide is None else state.slide.montage
        self._photographs = {} if montage is None else {p.cell: p.name for p in montage.photographs}
        self._roles = None if state.bag is None or not state.simulated else state.bag.grid.lookup()

    def text(self, y: float, x: float) -> str:
        """The tile's line for a world position (µm, or pixels when µm are unknown); "" outside the slide."""
        lattice = self.state.lattice
        if lattice is None:
            return ""
        mpp = lattice.slide_mpp or (1.0, 1.0)
        row, col = cell_at(lattice, y, x) or (-1, -1)
        if row < 0:
            return ""
        if self._photographs and (row, col) not in self._photographs:
            return ""
        what = self._photographs.get((row, col), f"tile {row}, {col}")
        height, width = lattice.slide_px
        if y / mpp[0] > height - 0.5 or x / mpp[1] > width - 0.5:
            return f"{what} reaches over the slide's edge; there is nothing here"
        parts = [what, *self._model(row, col), *self._role(row, col), *self._said(row, col)]
        return " · ".join(parts)

    def _model(self, row: int, col: int) -> list[str]:
        state = self.state
        answer = None if state.veiled else state.answer
        if (
            answer is None
            or self._lookup is None
            or self._lookup.shape <= (row, col)
            or state.project is None
        ):
            return []
        i = int(self._lookup[row, col])
        if i < 0:
            return [_not_analysed(state)]
        parts = []
        maps = {m.name: m for m in answer.maps}
        if (attention := maps.get("attention")) is not None:
            rank = round((1 - float(self._rank("attention")[i])) * (len(attention.values) - 1)) + 1
            parts.append(f"attention {attention.values[i]:.2g} (rank {rank:,} of {len(attention.values):,})")
        finest = state.project.tree.levels - 1
        every = [name for name in maps if name.startswith("probability/")]
        fine = [name for name in every if name.startswith("probability/fine/")] or every
        chances = [(maps[name].values[i], name) for name in fine]
        best = sorted(chances, reverse=True)[:3]
        parts += [", ".join(f"{name.rsplit('/', 1)[-1]} {percent(p)}" for p, name in best)] if best else []
        called = maps.get("class/fine") if finest >= 0 else None
        if called is not None:
            parts.append("called " + (state.project.tree.path(int(called.values[i])) or "nothing"))
        return parts

    def _rank(self, name: str) -> np.ndarray:
        if name not in self._ranks and self.state.answer is not None:
            self._ranks[name] = ranks(self.state.answer.map(name).values)
        return self._ranks[name]

    def _role(self, row: int, col: int) -> list[str]:
        if self.state.veiled or self._roles is None or (i := int(self._roles[row, col])) < 0:
            return []
        return [
            f"{m.legend.get(int(m.values[i]), '')} ({m.note.split(',')[0].lower()})"
            for m in self.state.simulated
            if m.kind == "groups"
        ]

    def _said(self, row: int, col: int) -> list[str]:
        state = self.state
        if state.nodes is None or state.lattice is None or state.project is None or state.second:
            return []
        node = int(state.nodes[row * state.lattice.shape[1] + col])
        slide = [c.label for c in state.corrections if isinstance(c.place, WholeSlide)]
        parts = [f"{self._who(row, col)} said {state.project.tree.path(node)}"] if node else []
        return parts + ([f"slide: {slide[-1]}"] if slide and slide[-1] else [])

    def _who(self, row: int, col: int) -> str:
        """Who said what counts of a tile."""
        counts = next((c for _, c in self.state.said_of((row, col))), None)
        mine = counts is None or counts.by in ("", getattr(self.state.project, "by", ""))
        return "you" if mine or counts is None else counts.by


def _not_analysed(state: State) -> str:
    if state.partial:
        return "not analysed yet, or no tissue"
    if state.answer is not None and state.answer.scope == "region":
        return "not analysed (outside the region, or no tissue)"
    return "not analysed (no tissue, pen or fold)"
