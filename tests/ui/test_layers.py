"""Nouns become layer tuples; sync makes a viewer match them."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from napari.components import ViewerModel
from napari.layers._layer_actions import _duplicate_layer
from PIL import Image
from slidefiles import picture, write_pyramid

from napari_mil.grid import TileGrid
from napari_mil.prediction import TileMap
from napari_mil.slides import open_slide
from napari_mil.tissue import lattice
from napari_mil.ui import ramps
from napari_mil.ui.hover import TileReader
from napari_mil.ui.layers import (
    OURS,
    colours_of,
    corrections_layer,
    corrections_outlines,
    find,
    key_of,
    map_layer,
    map_outlines,
    remove,
    slide_layer,
    sync,
    title_of,
)
from napari_mil.ui.legends import corrections_legend, legend
from napari_mil.ui.state import State, around


def score(n=30, name="attention", seed=1):
    return TileMap(name, "score", np.random.default_rng(seed).random(n))


def test_map_layer_places_every_cell_over_its_tile(grid, tree):
    data, options, kind = map_layer(score(), grid, tree)
    assert kind == "image"
    assert data.shape == grid.shape
    row, col = grid.cells[7]
    centre = np.array([row, col]) * options["scale"] + options["translate"]
    y0, x0, y1, x1 = grid.boxes_px[7]
    # corner-based pixels; napari puts pixel centres on integers, hence half a pixel less
    assert centre == pytest.approx([((y0 + y1) / 2 - 0.5) * 0.5, ((x0 + x1) / 2 - 0.5) * 0.5])
    assert data[row, col] == score().values[7]
    assert np.isnan(data).sum() == data.size - 30


def test_map_layer_of_groups_keeps_code_zero_visible(grid, tree):
    roles = TileMap("hidden", "groups", np.arange(30) % 3, legend={0: "left", 1: "hidden", 2: "recycled"})
    data, options, kind = map_layer(roles, grid, tree)
    assert kind == "labels"
    row, col = grid.cells[0]
    assert data[row, col] == 1
    assert options["colormap"][1] != "transparent"
    assert options["colormap"][0] == "transparent"


def test_groups_that_are_there_are_told_apart_by_their_colours():
    codes = [5, 6, 11, 18, 19, 20, 25, 26, 35]  # of 36 clusters
    clusters = TileMap("cluster", "groups", np.array(codes), legend={n: f"cluster {n}" for n in range(36)})
    assert list(colours_of(clusters, None)) == codes
    assert len(set(colours_of(clusters, None).values())) == len(codes)
    every = colours_of(TileMap("cluster", "groups", np.arange(36)), None)
    assert len(set(every.values())) == 36
    assert all(re.fullmatch("#[0-9A-F]{6}", colour) for colour in every.values())


def test_map_layer_of_nodes_needs_the_tree(grid):
    with pytest.raises(ValueError, match="needs the label tree"):
        map_layer(TileMap("class/fine", "nodes", np.zeros(30)), grid)


@given(st.lists(st.integers(0, 5), min_size=2, max_size=40))
@settings(max_examples=30, deadline=None)
def test_ranks_keep_order_and_share_ties(values):
    ranked = ramps.ranks(np.array(values, np.float32))
    assert ((ranked >= 0) & (ranked <= 1)).all()
    for i, a in enumerate(values):
        for j, b in enumerate(values):
            assert (ranked[i] < ranked[j]) == (a < b)


def test_limits_are_never_empty(grid):
    low, high = ramps.limits_of(TileMap("flat", "score", np.full(30, 0.25)))
    assert low == 0.25
    assert high > low
    assert ramps.limits_of(TileMap("p", "score", np.full(30, 0.25), span=(0, 1))) == (0, 1)


def test_what_scores_low_leaves_the_tissue_visible_and_the_legend_shows_the_same(grid, tree):
    _, options, _ = map_layer(score(), grid, tree)
    ramp = options["colormap"]["colors"]
    opacity = [colour[3] for colour in ramp]
    assert opacity[0] == 0
    assert opacity == sorted(opacity)
    assert opacity[-1] == 1
    assert legend(score()).ramp == ramp == legend(score(), style="rank").ramp


def test_what_speaks_for_and_against_fades_at_zero_in_the_middle(grid, tree):
    evidence = TileMap("evidence/fine/ADH", "score", np.linspace(-0.2, 0.6, 30))
    _, options, _ = map_layer(evidence, grid, tree)
    assert options["contrast_limits"] == pytest.approx((-0.6, 0.6))
    ramp = options["colormap"]["colors"]
    assert ramp[len(ramp) // 2][3] == 0
    assert ramp[0][3] == ramp[-1][3] == 1
    against = TileMap("evidence/risk", "score", np.linspace(-0.4, -0.3, 30))  # the least against is not for
    _, options, _ = map_layer(against, grid, tree)
    assert options["contrast_limits"] == pytest.approx((-0.4, 0.4))
    assert (legend(against).low, legend(against).high) == ("−0.4 against", "0.4 for")
    nothing = TileMap("evidence/risk", "score", np.zeros(30))
    assert map_layer(nothing, grid, tree)[1]["contrast_limits"][0] < 0
    made = legend(evidence)
    assert (made.low, made.high, made.ramp) == ("−0.6 against", "0.6 for", ramp)
    _, options, _ = map_layer(evidence, grid, tree, style="rank")
    assert options["contrast_limits"] == (0, 1)
    assert options["colormap"]["colors"][0][3] == 0


def test_a_map_that_says_the_same_of_every_tile_says_so():
    """As mean pooling's attention does, which would look as if all of the slide were important."""
    even = TileMap("attention", "score", np.full(30, 1 / 30, np.float32), note="this region only")
    for style in ("raw", "rank"):
        assert legend(even, style=style).note == "this region only; the same for every tile"
    for values in ([0.5, 0.50001], [0.5]):
        assert legend(TileMap("attention", "score", np.array(values))).note == ""


def test_ramps_are_told_apart_by_brightness_alone():
    for colours in (ramps.SCORE, ramps.SIGNED):
        luma = [0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b in map(ramps.rgb, colours)]
        assert luma == sorted(luma)
    assert ramps.rgb("#56B4E966") == ramps.rgb("#56B4E9")  # an opacity may follow


def test_legend_counts_tiles_and_says_no_call(tree):
    nodes = np.zeros(30, int)
    nodes[:4] = tree.node("ADH")
    made = legend(TileMap("class/fine", "nodes", nodes, note="this region only"), tree)
    assert [(words, count) for _, words, count in made.entries] == [("Atypical/ADH", 4), ("no call", 26)]
    assert made.note == "this region only"


def test_a_map_without_calls_says_so(tree):
    made = legend(TileMap("class/fine", "nodes", np.zeros(30), note="approximate"), tree)
    assert made.entries == (("", "no call", 30),)
    assert made.note.startswith("approximate No tile is called")


def test_the_legend_of_corrections_counts_what_people_said(tree):
    nodes = np.zeros(30, np.int32)
    nodes[:3], nodes[5] = tree.node("IC"), tree.node("Benign")
    made = corrections_legend(nodes, tree)
    assert made.outlined
    assert [(words, count) for _, words, count in made.entries] == [("Benign", 1), ("Malignant/IC", 3)]


def test_titles_are_words():
    assert title_of("attention/fine/ADH") == "Attention · fine · ADH"


def test_layers_are_removed_with_one_garbage_collection(make_napari_viewer, monkeypatch):
    viewer = make_napari_viewer()
    layers = [viewer.add_image(np.zeros((4, 4))) for _ in range(3)]
    runs = []
    monkeypatch.setattr("gc.collect", lambda *_: runs.append(1))
    remove(viewer, layers[:2])
    assert list(viewer.layers) == layers[2:]
    if hasattr(viewer.layers, "batched_update"):
        assert len(runs) == 1
    runs.clear()
    remove(viewer, [])
    assert runs == []


def test_sync_adds_updates_and_removes_by_key(grid, tree):
    viewer = ViewerModel()
    theirs = viewer.add_image(np.zeros((4, 4)), name="attention")
    one, corrections = map_layer(score(), grid, tree), corrections_layer(np.zeros(30, int), grid, tree)
    sync(viewer, [one, corrections])
    layer = find(viewer, "map/attention")
    layer.name, layer.opacity, layer.visible = "renamed", 0.3, False
    sync(viewer, [map_layer(score(seed=2), grid, tree), corrections])
    assert find(viewer, "map/attention") is layer
    assert (layer.name, layer.opacity, layer.visible) == ("renamed", 0.3, False)
    assert np.nanmax(layer.data) == score(seed=2).values.max()
    assert layer.contrast_limits == pytest.approx(ramps.limits_of(score(seed=2)))
    sync(viewer, [])
    assert list(viewer.layers) == [theirs]


def test_a_slide_that_stays_is_not_sliced_anew(grid, tree, tmp_path):
    viewer, told = ViewerModel(), []
    with open_slide(write_pyramid(tmp_path / "s.tif", picture(900, 1300), "zlib", levels=2)) as slide:
        sync(viewer, [slide_layer(slide)])
        layer = viewer.layers[0]
        layer.events.data.connect(told.append)
        levels = list(layer.data)
        sync(viewer, [slide_layer(slide), map_layer(score(), grid, tree)])
        assert viewer.layers[0] is layer
        assert all(a is b for a, b in zip(layer.data, levels, strict=True))
        assert not told
        sync(viewer, [])


def test_a_layer_that_a_person_duplicates_is_the_same_slide_and_goes_with_it(grid, tree, tmp_path):
    viewer, paths = (
        ViewerModel(),
        [write_pyramid(tmp_path / f"{i}.tif", picture(900, 1300, i)) for i in (1, 2)],
    )
    with open_slide(paths[0]) as slide, open_slide(paths[1]) as other:
        ours = [map_layer(score(), grid, tree)]
        sync(viewer, [slide_layer(slide), *ours])
        viewer.layers.selection = set(viewer.layers)
        _duplicate_layer(viewer.layers)
        first, copy = (layer for layer in viewer.layers if layer.rgb)
        assert copy is not first
        assert all(a is b for a, b in zip(copy.data, first.data, strict=True))
        sync(viewer, [slide_layer(slide), *ours])
        assert len(viewer.layers) == 4
        sync(viewer, [slide_layer(other), *ours])
        assert list(viewer.layers) == [find(viewer, "slide"), find(viewer, "map/attention")]
        assert find(viewer, "slide").data[0] == other.levels[0]
        sync(viewer, [])


def test_the_next_map_takes_over_the_layer_of_the_last(grid, tree):
    viewer = ViewerModel()
    sync(viewer, [map_layer(score(), grid, tree)])
    layer = viewer.layers[0]
    layer.visible, layer.name = False, "renamed"
    sync(viewer, [map_layer(score(name="lesion", seed=3), grid, tree, style="rank")])
    assert list(viewer.layers) == [layer]
    assert (key_of(layer), layer.name, layer.visible) == ("map/lesion", "Lesion", True)
    assert layer.contrast_limits == [0, 1]
    sync(viewer, [map_layer(TileMap("class/fine", "nodes", np.ones(30)), grid, tree)])
    assert [type(layer).__name__ for layer in viewer.layers] == ["Labels"]


def test_corrections_and_maps_of_codes_get_outlines_where_they_lie(grid, tree):
    nodes = np.zeros(30, int)
    assert corrections_outlines(nodes, grid, tree, 64) is None
    nodes[7] = tree.node("IC")
    lines, options, kind = corrections_outlines(nodes, grid, tree, 64)
    assert kind == "vectors"
    ends = np.concatenate([lines[:, 0], lines.sum(1)]) * options["scale"] + options["translate"]
    y0, x0, y1, x1 = np.array(grid.boxes_px[7]) * 0.5
    assert (ends > [y0 - 0.5, x0 - 0.5]).all()
    assert (ends < [y1, x1]).all()
    assert len(map_outlines(TileMap("class/fine", "nodes", nodes), grid, tree, tile_screen_px=64)[0]) == 4
    assert map_outlines(score(), grid, tree, tile_screen_px=64) is None


def test_outlines_that_would_be_a_texture_are_left_out(tree):
    wide = TileGrid.full((30_000, 30_000), (0.5, 0.5), tile_px=256, mpp=0.5)
    nodes = np.indices(wide.shape).sum(0).ravel() % 2 + 1
    assert len(wide) > 10_000
    assert map_outlines(TileMap("class/fine", "nodes", nodes), wide, tree, tile_screen_px=4) is None


def test_tiles_that_are_tiny_on_screen_are_filled_and_not_outlined(grid, tree):
    nodes = np.full(30, tree.node("IC"))
    assert corrections_outlines(nodes, grid, tree, 2) is None
    assert corrections_outlines(nodes, grid, tree, 4) is not None


def test_lines_are_drawn_for_the_cells_near_the_view(tree):
    wide = TileGrid.full((300 * 256, 300 * 256), (0.5, 0.5), tile_px=256, mpp=0.5)
    raster = np.zeros(wide.shape, np.int32)
    raster[10, 10] = raster[200, 210] = tree.node("IC")
    box = (150, 160, 250, 260)
    lines, _, _ = corrections_outlines(raster.ravel(), wide, tree, 64, box)
    everywhere, _, _ = corrections_outlines(raster.ravel(), wide, tree, 64)
    there = everywhere[(everywhere[:, 0] > 100).all(1)]
    np.testing.assert_allclose(np.sort(lines, 0), np.sort(there, 0))


def test_the_cells_near_a_view_stay_while_the_view_is_among_them():
    wide = TileGrid.full((300 * 256, 300 * 256), (0.5, 0.5), tile_px=256, mpp=0.5)

    def view(top, left, rows, cols):
        return tuple(256.0 * n for n in (top, left, top + rows, left + cols))

    near = around(view(100, 110, 20, 30), wide, None)
    assert near == (80, 80, 140, 170)
    assert around(view(115, 130, 20, 30), wide, near) is near
    assert around(view(130, 110, 20, 30), wide, near) == (110, 80, 170, 170)
    assert around(view(100, 110, 2, 3), wide, near) == (98, 107, 104, 116)  # far larger than needed
    assert around(view(0, 0, 300, 300), wide, near) == (0, 0, 300, 300)
    small = TileGrid.full((2560, 2560), (0.5, 0.5), tile_px=256, mpp=0.5)
    assert around(view(0, 0, 5, 5), small, near) is None


def test_a_few_cells_of_labels_are_mended_and_their_layer_keeps_its_array(tree):
    viewer = ViewerModel()
    wide = TileGrid.full((2560, 2560), (0.5, 0.5), tile_px=256, mpp=0.5)
    nodes, heard = np.zeros(100, np.int32), []
    sync(viewer, [corrections_layer(nodes, wide, tree)])
    layer = find(viewer, "corrections")
    layer.events.paint.connect(heard.append)
    held = layer.data
    for changed in ([3, 4], [3], [70]):
        nodes = nodes.copy()
        nodes[changed] = (nodes[changed] + 1) % 3
        nodes[changed[0]] = 2
        sync(viewer, [corrections_layer(nodes, wide, tree)])
        assert layer.data is held
        np.testing.assert_array_equal(layer.data.ravel(), nodes)
    sync(viewer, [corrections_layer(np.ones(100, np.int32), wide, tree)])
    assert layer.data.all()
    assert heard == []  # nobody painted


def test_sync_brings_painted_labels_back_to_what_is_wanted(grid, tree):
    viewer = ViewerModel()
    wanted = corrections_layer(np.zeros(30, int), grid, tree)
    sync(viewer, [wanted])
    layer = find(viewer, "corrections")
    layer.data[tuple(grid.cells[3])] = 2
    sync(viewer, [corrections_layer(np.zeros(30, int), grid, tree)])
    assert not layer.data.any()


def test_what_was_there_before_does_not_come_back_by_naparis_undo(grid, tree):
    viewer = ViewerModel()
    nodes = np.zeros(30, int)
    nodes[3] = tree.node("IC")
    sync(viewer, [corrections_layer(nodes, grid, tree)])
    layer = find(viewer, "corrections")
    with layer.block_history():
        layer.paint((0, 0), 2)
        sync(viewer, [corrections_layer(np.zeros(30, int), grid, tree)])
    assert find(viewer, "corrections") is layer
    layer.undo()
    assert not layer.data.any()


def test_layers_in_another_unit_are_made_anew(grid, tree):
    viewer = ViewerModel()
    sync(viewer, [map_layer(score(), grid, tree)])
    there = find(viewer, "map/attention")
    unknown = TileGrid.full((1501, 2011), None, tile_px=256, mpp=None)
    sync(viewer, [map_layer(score(len(unknown)), unknown, tree)])
    layer = find(viewer, "map/attention")
    assert layer is not there
    assert {str(unit) for unit in layer.units} == {"pixel"}


def test_sync_redraws_outlines_of_another_number_of_lines(grid, tree):
    viewer, nodes = ViewerModel(), np.zeros(30, int)
    nodes[3] = tree.node("IC")
    sync(viewer, [corrections_outlines(nodes, grid, tree, 64)])
    layer = find(viewer, "outlines/corrections")
    nodes[9] = nodes[20] = tree.node("ADH")
    for size in (64, 512):
        lines, options, kind = corrections_outlines(nodes, grid, tree, size)
        sync(viewer, [(lines, options, kind)])
        assert find(viewer, "outlines/corrections") is layer
        np.testing.assert_array_equal(layer.data, lines)
        np.testing.assert_allclose(layer.edge_color, options["edge_color"])
        assert layer.edge_width == options["edge_width"]


def test_sync_orders_ours_and_replaces_a_lattice_of_another_shape(grid, tree):
    viewer = ViewerModel()
    corrections = corrections_layer(np.zeros(30, int), grid, tree)
    sync(viewer, [corrections])
    sync(viewer, [map_layer(score(), grid, tree), corrections])
    assert [key_of(layer) for layer in viewer.layers] == ["map/attention", "corrections"]
    wider = type(grid).full((3000, 3000), (0.5, 0.5), tile_px=256, mpp=0.5)
    there = find(viewer, "map/attention")
    sync(viewer, [map_layer(score(len(wider)), wider, tree)])
    assert find(viewer, "map/attention") is there
    assert find(viewer, "map/attention").data.shape == wider.shape
    assert find(viewer, "map/attention").metadata[OURS]["grid"] == wider.id


def test_a_montage_says_that_its_positions_mean_nothing(tmp_path, tree):
    for name in ("a", "b", "c"):
        Image.fromarray(np.full((60, 90, 3), 200, np.uint8)).save(tmp_path / f"{name}.png")
    with open_slide(tmp_path) as slide:
        _, options, _ = slide_layer(slide)
        assert options["name"] == f"{tmp_path.name} · 3 photographs, positions mean nothing"
        reader = TileReader(State(slide=slide, lattice=lattice(slide)))
        for photograph in slide.montage.photographs:
            y0, x0, y1, x1 = photograph.box_px
            assert reader.text((y0 + y1) / 2, (x0 + x1) / 2) == photograph.name
        rows, cols = lattice(slide).shape
        assert rows * cols == 4
        assert reader.text(slide.shape_px[0] - 9, slide.shape_px[1] - 9) == ""  # an empty cell
