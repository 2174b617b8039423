"""What the status bar says of a place."""

from __future__ import annotations

from napari_mil.grid import TileGrid
from napari_mil.ui.hover import TileReader
from napari_mil.ui.state import State


def test_tiles_that_reach_over_the_edge_say_so():
    lattice = TileGrid.full((1501, 2011), (0.5, 0.5), tile_px=256, mpp=0.5)
    read = TileReader(State(lattice=lattice)).text
    assert read(1500 / 2, 100) == "tile 5, 0"
    assert read(1502 / 2, 100) == "tile 5, 0 reaches over the slide's edge; there is nothing here"
    assert read(100, 2013 / 2).startswith("tile 0, 7 reaches over")
    assert read(1600 / 2, 100) == ""
    assert read(-1, 100) == ""
