"""The workbench on a real study: slides, models, maps, hidden tiles, corrections, export."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication, QLabel

from napari_mil.correction import Cells, Polygon, WholeSlide
from napari_mil.ui import compat, writing
from napari_mil.ui.arrivals import _inside
from napari_mil.ui.canvaslegend import legends
from napari_mil.ui.dialogs import MappingDialog, MppDialog
from napari_mil.ui.hidden import HIDDEN
from napari_mil.ui.labellist import key_of_node
from napari_mil.ui.widgets import LegendView
from napari_mil.workflow import Project, slide_label
from napari_mil.workflow.retrain import Retrained
from tests.ui.test_labelfile import write_file
from tests.ui.test_reader import write_pyramid

pytestmark = pytest.mark.skipif(
    os.environ.get("QT_QPA_PLATFORM") == "offscreen", reason="needs a screen, real or virtual (xvfb-run)"
)


@pytest.fixture
def bench(docked, study_folder):
    """A workbench with a copy of the study open, in a window that is not shown."""
    return docked(study_folder, by="tester")


def use(bench, method):
    bench.model.choose(f"{method}-1")
    assert bench.wait(30)


def run(bench, method, **options):
    use(bench, method)
    job = bench.model.run(**options)
    assert bench.wait(120)
    assert job.error is None
    return bench.desk.state


def paint(bench, cells, label):
    bench.review.choose(label)
    bench.review.paint()
    layer = bench.desk.layer("corrections")
    layer.brush_size = 1
    with layer.block_history():  # one stroke
        for cell in cells:
            layer.paint(cell, layer.selected_label)
    assert bench.wait(10)


def test_the_list_shows_every_slide_and_steps_through_them(bench):
    records = bench.desk.state.project.slides
    assert bench.slides.list.count == len(records)
    assert records[0].label in bench.slides.list.text(0)
    row = bench.slides.list.found.index(0, 0)
    row.data(Qt.ItemDataRole.DecorationRole)  # fetched when somebody looks
    assert bench.wait(60)
    assert not row.data(Qt.ItemDataRole.DecorationRole).isNull()
    bench.slides.step(1)
    assert bench.wait(20)
    assert bench.desk.state.record == records[1]
    bench.slides.step(-2)
    assert bench.wait(20)
    assert bench.desk.state.record == records[-1]
    [slide] = [layer for layer in bench.viewer.layers if layer.name == records[-1].name]
    assert slide.multiscale
    assert tuple(slide.scale) == bench.desk.state.slide.mpp


def test_a_run_shows_attention_over_the_tissue_and_is_kept(bench):
    state = run(bench, "mhim")
    assert state.answer.scope == "slide"
    assert not state.partial
    assert state.shown == ("attention",)
    layer = bench.desk.layer("map/attention")
    assert np.isfinite(layer.data).sum() == len(state.answer_grid)
    kept = state.project.store.load_prediction(state.slide.fingerprint, state.answer_grid.id, state.card.id)
    np.testing.assert_array_equal(kept.map("attention").values, state.answer.map("attention").values)
    best = state.answer.best(state.project.tree)[-1][0]
    assert state.project.tree.path(best) in bench.slides.list.text()


def test_maps_fill_in_while_the_work_goes_on(bench, monkeypatch):
    from napari_mil.encode import encode_steps
    from napari_mil.workflow import analyse

    monkeypatch.setitem(encode_steps.__kwdefaults__, "batch", 16)
    use(bench, "mhim")
    shutil.rmtree(bench.desk.state.project.path / "bags")
    shutil.rmtree(bench.desk.state.project.path / "maps", ignore_errors=True)
    monkeypatch.setattr(analyse, "REFRESH_S", 0.0)
    seen = []
    bench.desk.changed.connect(lambda _b, s: s.partial and seen.append(len(s.answer_grid)))
    run(bench, "mhim")
    assert seen == sorted(seen)
    assert seen[0] < len(bench.desk.state.answer_grid)


def test_a_regions_answer_is_marked_and_never_becomes_the_slides(bench):
    use(bench, "hmil")
    camera = compat.camera(bench.viewer)
    camera.zoom = 4 * camera.zoom
    state = run(bench, "hmil", region=True)
    assert state.answer.scope == "region"
    assert state.partial is False
    assert all("this region only" in m.note for m in state.answer.maps)
    labels = [w.text() for w in bench.model.answer.findChildren(type(bench.model.card))]
    assert any("This region only" in words for words in labels)
    bench.slides.step(1)
    bench.slides.step(-1)
    assert bench.wait(20)
    answer = bench.desk.state.answer
    assert answer is None or answer.scope == "slide"


def test_cancel_leaves_the_window_as_it_was(bench):
    use(bench, "mhim")
    before = bench.desk.state.answer
    job = bench.model.run()
    bench.desk.jobs.cancel()
    job.cancel()
    assert bench.wait(60)
    assert job.result is None
    assert bench.desk.state.answer is before
    assert not bench.jobs.isVisible()


def test_maps_are_one_click_with_a_legend(bench):
    run(bench, "hmil")
    bench.instances.show_map("probability/fine/ADH")
    [chosen] = bench.instances.list.selectedItems()
    assert chosen.parent().isExpanded()
    bench.instances.show_map("class/fine without the slide's answer")
    assert bench.wait(10)
    assert bench.desk.layer("map/attention") is None
    layer = bench.desk.layer("map/class/fine without the slide's answer")
    assert bench.viewer.layers.selection.active is layer
    [chosen] = bench.instances.list.selectedItems()
    assert chosen.text(0) == "fine without the slide's answer"
    assert bench.instances.list.visualItemRect(chosen).intersects(bench.instances.list.viewport().rect())
    [legend] = legends(bench.desk.state)
    assert sum(count for _, _, count in legend.entries) == len(bench.desk.state.answer_grid)
    bench.instances.show_map("attention", alone=False)
    assert len(bench.desk.state.shown) == 2
    bench.instances.rank.setChecked(True)
    assert bench.desk.layer("map/attention").contrast_limits == [0, 1]


def test_hidden_tiles_follow_the_sliders_and_say_that_they_are_simulated(bench):
    run(bench, "mhim")
    hidden = bench.instances.hidden
    hidden.on.setChecked(True)
    hidden.mask_ratio.setValue(0.1)
    hidden.mask_ratio.setValue(0.3)
    assert bench.wait(20)
    [simulated] = bench.desk.state.simulated
    tiles = len(bench.desk.state.bag)
    assert simulated.legend[1].startswith("hidden")
    assert 0 < (simulated.values == 1).sum() <= np.ceil(0.3 * tiles)
    assert "Simulated" in simulated.note
    recycled, left = (simulated.values == 2).sum(), tiles - (simulated.values == 1).sum()
    assert f"{recycled} recycled (a random {recycled / left:.0%} of those left)" in hidden.counts.text()
    assert bench.desk.layer(f"map/{HIDDEN}") is not None
    hidden.on.setChecked(False)
    assert bench.desk.layer(f"map/{HIDDEN}") is None
    use(bench, "hmil")
    assert hidden.isHidden()


def test_the_legend_of_what_is_on_show_lies_on_the_canvas(bench):
    run(bench, "mhim")
    bench.unfold("Slides")  # whichever section is folded out
    assert bench.wait(5)
    assert bench.legend.parent() is compat.canvas_widget(bench.viewer)
    assert [made.title for made in legends(bench.desk.state)] == ["Attention"]
    paint(bench, [(2, 3)], "Atypical/ADH")
    titles = [view.legend.title for view in bench.legend.findChildren(LegendView) if not view.isHidden()]
    assert titles == ["Attention", "Corrections"]
    assert not bench.legend.isHidden()
    bench.desk.keys["Alt+O"].activated.emit()
    assert bench.legend.isHidden()
    bench.desk.keys["Alt+O"].activated.emit()
    assert not bench.legend.isHidden()
    bench.review.undo()
    bench.instances.show_map("attention")
    assert bench.wait(5)
    assert bench.legend.isHidden()


def test_a_legend_on_the_canvas_makes_room_for_longer_counts(bench, qtbot):
    run(bench, "mhim")
    bench.instances.hidden.on.setChecked(True)
    assert bench.wait(20)
    [simulated] = bench.desk.state.simulated

    def hide(n):
        values = np.where(np.arange(len(simulated.values)) < n, 1, 0).astype(simulated.values.dtype)
        bench.desk.apply(simulated=(replace(simulated, values=values),))
        words = f"{n} tile" if n == 1 else f"{n} tiles"
        qtbot.waitUntil(lambda: words in [label.text() for label in bench.legend.findChildren(QLabel)])
        assert bench.wait(5)
        return bench.legend.width()

    hide(1)
    recounted = hide(20)
    bench.legend.switch(on=False)
    bench.legend.switch(on=True)  # made anew
    assert recounted == bench.legend.width()


def test_the_status_bar_tells_about_the_tile_under_the_cursor(bench):
    state = run(bench, "mhim")
    best = int(np.argmax(state.answer.map("attention").values))
    y0, x0, y1, x1 = state.answer_grid.boxes_px[best]
    mpp = state.slide.mpp
    layer = bench.desk.layer("slide")
    bench.viewer.mouse_over_canvas = bench._pointer.moved = True
    status = layer.get_status(((y0 + y1) / 2 * mpp[0], (x0 + x1) / 2 * mpp[1]), world=True)
    bench.viewer.mouse_over_canvas = False
    row, col = state.answer_grid.cells[best]
    assert f"tile {row}, {col}" in status["coordinates"]
    assert f"(rank 1 of {len(state.answer_grid):,})" in status["coordinates"]
    chances = status["coordinates"].split(" · ")[2].split(", ")
    leaves = {state.project.tree.names[leaf] for leaf in state.project.tree.leaves}
    assert len(chances) == 3
    assert {words.split(" ")[0] for words in chances} <= leaves
    here = {tuple(cell) for cell in state.answer_grid.cells.tolist()}
    row0, col0 = next(cell for cell in np.ndindex(*state.lattice.shape) if cell not in here)
    pitch = np.array(state.lattice.pitch_px) * mpp
    assert "not analysed (no tissue, pen or fold)" in bench._read_tile(*((row0 + 0.5, col0 + 0.5) * pitch))
    paint(bench, [(row, col)], "Atypical/ADH")
    assert "you said Atypical/ADH" in bench._read_tile((y0 + 1) * mpp[0], (x0 + 1) * mpp[1])


def test_the_status_bar_says_nothing_of_a_slide_that_is_no_longer_in_front(bench):
    bench.viewer.status = f"{bench.desk.state.record.name} [3 4]"
    bench.desk.keys["PgDown"].activated.emit()
    assert bench.wait(20)
    assert bench.viewer.status == "Ready"


def test_a_stroke_is_one_correction_and_can_be_undone_and_redone(bench, study_folder):
    paint(bench, [(2, 3), (2, 4), (3, 3)], "Atypical/ADH")
    [said] = bench.desk.state.corrections
    assert isinstance(said.place, Cells)
    assert said.place.cells.tolist() == [[2, 3], [2, 4], [3, 3]]
    assert (said.label, said.by, said.tool) == ("Atypical/ADH", "tester", "paint")
    layer = bench.desk.layer("corrections")
    node = bench.desk.state.project.tree.node("Atypical/ADH")
    assert layer.data[2, 3] == node
    bench.review.undo()
    assert bench.wait(10)
    assert not layer.data.any()
    assert bench.desk.state.corrections == ()
    bench.review.redo()
    assert bench.wait(10)
    assert (layer.data == node).sum() == 3
    with Project(study_folder) as again:  # what another program, or this one after a restart, would see
        assert len(again.ledger.corrections()) == 1


def test_corrections_are_outlined_and_filled_only_while_one_paints(bench):
    assert bench.desk.layer("outlines/corrections") is None
    paint(bench, [(2, 3)], "Atypical/ADH")
    corrections, outlines = bench.desk.layer("corrections"), bench.desk.layer("outlines/corrections")
    assert corrections.opacity > 0
    bench.review.look()
    assert corrections.opacity == 0
    assert len(outlines.data) == 8
    corrections.visible = False
    assert not outlines.visible
    corrections.visible = True
    wide = outlines.edge_width
    compat.camera(bench.viewer).zoom *= 16
    QTest.qWait(400)
    assert outlines.edge_width < wide
    bench.review.undo()
    assert bench.wait(10)
    assert bench.desk.layer("outlines/corrections") is None


def test_taking_labels_away_is_a_correction_too(bench):
    paint(bench, [(2, 3), (2, 4)], "Atypical/ADH")
    paint(bench, [(2, 3)], 0)
    assert [c.label for c in bench.desk.state.corrections] == ["Atypical/ADH", None]
    assert np.argwhere(bench.desk.layer("corrections").data).tolist() == [[2, 4]]


def test_a_drawn_region_is_kept_as_drawn(bench):
    bench.review.choose("Malignant/DCIS")
    bench.review.draw()
    pen = bench.review._pen
    points = np.array([[300.0, 300.0], [300.0, 900.0], [900.0, 900.0], [900.0, 300.0]])
    pen.layer.add_polygons(points)
    assert bench.wait(10)
    [said] = bench.desk.state.corrections
    assert isinstance(said.place, Polygon)
    np.testing.assert_allclose(said.place.rings[0], points + 0.5)  # corner-based pixels
    np.testing.assert_allclose(bench.desk.layer("regions").data[0], points)
    assert (bench.desk.layer("corrections").data > 0).sum() >= 4
    assert len(pen.layer.data) == 0
    bench.review.look()
    assert pen.layer is None


def test_slide_label_confirmation_and_contradiction(bench):
    state = run(bench, "mhim")
    bench.review.confirm()
    said = bench.desk.state.corrections[-1]
    best = state.project.tree.path(state.answer.best(state.project.tree)[-1][0])
    assert isinstance(said.place, WholeSlide)
    assert (said.label, said.model_said, said.tool) == (best, best, "confirm")
    assert said.visible == ("attention",)
    bench.desk.layer("map/attention").visible = False
    bench.review.confirm()
    assert bench.desk.state.corrections[-1].visible == ()  # on show, and its eye is shut
    bench.review.undo()
    assert bench.wait(10)
    paint(bench, [(1, 1)], "Malignant/IC")
    bench.review.choose("Benign/N")
    bench.review.label_slide()
    assert "Benign/N" in bench.review.slide_label.text()
    assert bench.wait(10)
    [found] = bench.review.contradictions.found
    assert found.words == ("1 tile is labelled Malignant/IC by tester, but the slide Benign/N by tester")
    assert "Benign/N · 3 corrections" in bench.slides.list.text()


def test_reading_blind_hides_the_model_until_the_first_label(bench):
    run(bench, "mhim")
    bench.review.blind.setChecked(True)
    assert bench.wait(5)
    assert bench.desk.layer("map/attention") is None
    assert bench.legend.isHidden()
    assert "read blind" in bench.instances.empty.text()
    [words] = [w.text() for w in bench.model.answer.findChildren(type(bench.model.card)) if not w.isHidden()]
    assert "hidden until" in words
    known = bench.desk.state.record.label
    assert known
    assert "label hidden" in bench.slides.list.text()
    assert "model: hidden" in bench.slides.list.text()
    assert known not in bench.slides.list.text() + bench.review.slide_label.text()
    cell = bench.desk.state.answer_grid.cells[0]
    mpp, pitch = bench.desk.state.slide.mpp, bench.desk.state.lattice.pitch_px
    assert bench._read_tile(*((cell + 0.5) * pitch * mpp)) == f"tile {cell[0]}, {cell[1]}"
    bench.review.confirm()
    assert "give your own label first" in bench.said.text()
    bench.review.choose("Benign/N")
    bench.review.label_slide()
    [said] = bench.desk.state.corrections
    assert said.visible == ()
    assert said.model_said
    assert bench.desk.layer("map/attention") is not None
    assert "model: hidden" not in bench.slides.list.text()
    assert "labelled <b>Benign/N" in bench.review.slide_label.text()
    paint(bench, [(2, 3)], "Atypical/ADH")
    assert bench.desk.state.corrections[-1].visible == ("attention",)
    bench.slides.step(1)
    assert bench.wait(20)
    assert bench.desk.state.veiled  # the next slide is read blind as well
    bench.review.blind.setChecked(False)
    assert not bench.desk.state.veiled


def test_keys_choose_labels(bench):
    bench.desk.keys["Alt+3"].activated.emit()
    assert bench.desk.state.node == 3
    assert bench.review.tree.currentItem().data(0, Qt.ItemDataRole.UserRole) == 3


def test_labels_beyond_the_ninth_have_a_key_and_show_it(bench):
    tree, shown = bench.desk.state.project.tree, bench.review.tree
    assert len(tree) == 11
    bench.desk.keys["Alt+Shift+1"].activated.emit()
    assert bench.desk.state.node == 10
    assert (shown.currentItem().text(0), shown.currentItem().text(1)) == (tree.names[10], "Alt+Shift+1")
    bench.desk.keys["Alt+Shift+5"].activated.emit()  # there is no such label
    assert bench.desk.state.node == 10
    assert [key_of_node(n) for n in (0, 9, 10, 18, 19)] == [
        "Alt+0", "Alt+9", "Alt+Shift+1", "Alt+Shift+9", "",
    ]  # fmt: skip


def test_without_a_chosen_label_nothing_is_painted_and_it_is_said(bench):
    assert bench.review.tree.currentItem() is None
    acts = {"paint": bench.review.paint, "draw": bench.review.draw, "label": bench.review.label_slide}
    for act in acts.values():
        bench._say("")
        act()
        assert "Choose a label first" in bench.said.text()
        assert bench.desk.layer("corrections").mode == "pan_zoom"
    assert bench.review._pen.layer is None
    bench._say("")
    bench.desk.layer("corrections").mode = "paint"  # napari's own button
    assert "Choose a label first" in bench.said.text()
    assert bench.desk.state.corrections == ()


def test_a_slides_label_can_be_taken_away(bench):
    project, record = bench.desk.state.project, bench.desk.state.record
    assert record.label
    bench.review.choose(0)
    bench.review.label_slide()
    assert bench.wait(10)
    assert slide_label(project, record) is None
    assert "nothing yet" in bench.review.slide_label.text()
    assert "no label · 1 correction" in bench.slides.list.text()
    bench.review.label_slide()
    assert "no label to take away" in bench.said.text()
    bench.review.undo()
    assert bench.wait(10)
    assert slide_label(project, record) == record.label


def test_a_drawn_region_can_take_labels_away(bench):
    paint(bench, [(2, 3), (2, 4)], "Atypical/ADH")
    bench.review.choose(0)
    bench.review.draw()
    (y0, x0), (y1, x1) = (np.array(cell) * bench.desk.state.lattice.pitch_px for cell in ((2, 3), (3, 4)))
    bench.review._pen.layer.add_polygons(np.array([[y0, x0], [y0, x1], [y1, x1], [y1, x0]]))
    assert bench.wait(10)
    assert bench.desk.state.corrections[-1].label is None
    assert np.argwhere(bench.desk.layer("corrections").data).tolist() == [[2, 4]]
    bench.review.look()


def test_no_key_is_taken_from_napari(bench):
    actions = {action for widget in QApplication.allWidgets() for action in widget.actions()}
    taken = {key.toString() for action in actions for key in action.shortcuts()}
    menus = [action.text() for action in compat.main_window(bench.viewer).menuBar().actions()]
    taken |= {f"Alt+{text[text.index('&') + 1].upper()}" for text in menus if "&" in text}
    assert {"Alt+S", "Alt+F"} <= taken  # what is looked for is found
    assert not taken & {key.key().toString() for key in bench.desk.keys.values()}


def test_export_and_import_give_the_same_state(bench, tmp_path):
    paint(bench, [(2, 3), (2, 4)], "Atypical/ADH")
    bench.export.what.setCurrentIndex(0)
    assert "Atypical/ADH" in bench.export.preview.text()
    target = tmp_path / "labels.geojson"
    bench.export.write(target)
    assert bench.wait(20)
    assert json.loads(target.read_text())["features"]
    before = bench.desk.layer("corrections").data.copy()
    bench.review.undo()
    bench.export.read(target)
    assert bench.wait(20)
    np.testing.assert_array_equal(bench.desk.layer("corrections").data, before)
    bench.export.what.setCurrentText("Labels of all slides as a table (CSV)")
    bench.export.write(tmp_path / "all.csv")
    assert bench.wait(20)
    assert (tmp_path / "all.csv").stat().st_size > 0


def test_an_export_that_fails_says_so_where_it_stays(bench, tmp_path):
    bench.export.done.setText("Written as soon as everything that you said is kept.")
    bench.export.write(tmp_path / "no folder" / "labels.geojson")
    assert bench.wait(30)
    assert bench.export.done.text() == ""
    assert "no folder" in bench.said.text()


def test_unknown_classes_of_a_file_are_asked_for(bench, tmp_path):
    path = write_file(tmp_path / "qupath.geojson", {"name": "Tumor"}, {"name": "adh"}, {"name": "Stroma"})
    bench.export.read(path)
    assert bench.wait(20)
    [dialog] = [w for w in QApplication.topLevelWidgets() if type(w) is MappingDialog and w.isVisible()]
    assert dialog.value() == {"Tumor": None, "adh": "Atypical/ADH", "Stroma": None}
    dialog.choices["Tumor"].setCurrentText("Malignant/IC")
    dialog.accept()
    assert bench.wait(20)
    assert sorted(c.label for c in bench.desk.state.corrections) == ["Atypical/ADH", "Malignant/IC"]
    assert "2 regions read from qupath.geojson, which label " in bench.export.done.text()
    nodes = bench.desk.state.nodes
    assert f"which label {np.count_nonzero(nodes)} tiles" in bench.export.done.text()
    assert "left aside" in bench.export.done.text()


def retrained(bench, name):
    """What a retraining might have brought: a model that is there already."""
    project = bench.desk.state.project
    card = next(c for c in project.cards if c.name == name)
    figures = {"fine/auc": (0.9, 0.8, 1.0), "fine/balanced_accuracy": (0.7, 0.6, 0.8)}
    flipped = ((project.slides[0].case, "Benign/N", project.slides[0].label),)
    return Retrained(card, figures, figures, {}, flipped, (5, 5))


def test_loss_and_score_have_a_plot_each(bench):
    plot = bench.retrain.plot
    plot.begin()
    assert plot.isHidden()  # axes without a curve say nothing
    for epoch in (1, 2):
        plot.add({"epoch": epoch, "loss": 1.5, "validation/score": 0.9})
    QTest.qWait(400)
    for name, value in (("loss", 1.5), ("validation score", 0.9)):
        [line] = plot.plots[name].listDataItems()
        assert line.getData()[1].tolist() == [value, value]
    assert not plot.isHidden()


def test_curves_are_of_the_stage_that_goes_on(bench):
    """MHIM's baseline counts its epochs from 1, and so does the training after it, whose loss is another."""
    plot = bench.retrain.plot
    plot.begin()
    for stage, loss in (("baseline", 2.0), ("training", 9.0)):
        for epoch in (1, 2):
            plot.add({"stage": stage, "epoch": epoch, "loss": loss})
    assert plot.points["loss"] == [(1, 9.0), (2, 9.0)]


def test_what_a_retraining_changed_is_told_beside_the_labels(bench):
    bench.retrain.decision.fill(retrained(bench, "hmil-1"))
    table = bench.retrain.decision.table
    words = {table.item(i, 0).text().replace("\n", " ") for i in range(table.rowCount())}
    assert words == {"AUC fine", "balanced accuracy"}
    assert table.item(0, 1).text() == "0.90\n→ 0.90"  # on too few cases for an interval
    assert "1 case is answered differently</b>: 1 right now" in bench.retrain.decision.verdict.text()


def test_an_adopted_model_answers_at_once_where_features_are_kept(bench):
    run(bench, "mhim")
    bench.retrain.decision.fill(retrained(bench, "hmil-1"))
    bench.retrain.decision.adopt()
    assert bench.wait(60)
    assert bench.desk.state.answer.model_id == bench.retrain.decision.result.card.id
    assert bench.desk.state.shown == ("attention",)
    assert bench.retrain.decision.run_button.isHidden()


def test_an_adopted_model_offers_to_run_where_no_features_are_kept(bench):
    shutil.rmtree(bench.desk.state.project.path / "bags")
    bench.retrain.decision.fill(retrained(bench, "hmil-1"))
    bench.retrain.decision.adopt()
    assert bench.wait(60)
    assert bench.desk.state.answer is None
    assert not bench.retrain.decision.run_button.isHidden()
    bench.retrain.decision.run_button.click()
    assert bench.wait(120)
    assert bench.desk.state.answer.model_id == bench.retrain.decision.result.card.id
    assert bench.retrain.decision.run_button.isHidden()


def test_the_gallery_shows_the_top_tiles_and_flies_to_them(bench):
    state = run(bench, "mhim")
    assert bench.wait(30)
    gallery, card = bench.instances.gallery, bench.card
    order = np.argsort(-state.answer.map("attention").values, kind="stable")
    cells = [tuple(state.answer_grid.cells[i].tolist()) for i in order[:2]]
    assert [gallery.list.item(i).data(Qt.ItemDataRole.UserRole) for i in (0, 1)] == cells
    assert not gallery.list.item(0).icon().isNull()
    for cell in cells:
        bench.desk.keys["Alt+Right"].activated.emit()
        assert compat.camera(bench.viewer).center[-2:] == pytest.approx(bench.desk.middle_of(cell))
        assert card.cell == cell
    bench.desk.keys["Alt+Left"].activated.emit()
    assert card.cell == cells[0]
    assert bench.wait(20)
    assert card.heading.text() == f"<b>tile {cells[0][0]}, {cells[0][1]}</b>"
    assert "rank 1 of" in card.words.text()
    assert not card.picture.pixmap().isNull()
    bench.review.blind.setChecked(True)
    assert bench.wait(30)
    assert gallery.isHidden()
    assert card.words.text() == ""
    bench.review.blind.setChecked(False)
    bench.slides.step(1)
    assert bench.wait(30)
    assert card.isHidden()


def test_a_click_shows_the_card_of_a_tile_and_one_beside_the_slide_takes_it_away(bench):
    y, x = bench.desk.middle_of((2, 3))
    bench.card.show_at(y, x)
    assert bench.card.cell == (2, 3)
    assert not bench.card.isHidden()
    paint(bench, [(2, 3)], "Atypical/ADH")
    assert "you said Atypical/ADH" in bench.card.words.text()
    bench.card.show_at(-10, x)
    assert bench.card.isHidden()


def test_magnifications_are_those_of_a_microscope(bench):
    bench.magnification.buttons[20].click()
    assert compat.camera(bench.viewer).zoom == pytest.approx(1 / 0.5)  # 0.5 µm per pixel of the screen
    QTest.qWait(200)
    assert bench.magnification.now.text() == "20×"
    bench.magnification.fit.click()
    QTest.qWait(200)
    assert float(bench.magnification.now.text().rstrip("×")) < 20


def test_without_a_pixel_size_there_is_no_magnification(bench, tmp_path):
    bench.slides.add([write_pyramid(tmp_path / "nameless.tif", mpp=None)])
    assert bench.wait(20)
    [dialog] = [w for w in QApplication.topLevelWidgets() if type(w) is MppDialog and w.isVisible()]
    dialog.reject()
    assert bench.wait(20)
    assert bench.desk.state.slide.mpp is None
    assert not bench.magnification.buttons[20].isEnabled()
    assert "µm" in bench.magnification.buttons[20].toolTip()
    assert bench.magnification.fit.isEnabled()


def test_a_slide_without_pixel_size_is_asked_for_once_and_kept(bench, tmp_path):
    path = write_pyramid(tmp_path / "nameless.tif", mpp=None)
    bench.slides.add([path])
    assert bench.wait(20)
    [dialog] = [
        w for w in QApplication.topLevelWidgets() if type(w).__name__ == "MppDialog" and w.isVisible()
    ]
    dialog._check()  # Enter says nothing that nobody typed
    assert dialog.isVisible()
    dialog.field.setText("nonsense")
    dialog._check()
    assert "0.05 to 20" in dialog.wrong.text()
    dialog.field.setText("0.5")
    dialog._check()
    assert bench.wait(20)
    assert bench.desk.state.record.name == "nameless"
    assert bench.desk.state.slide.mpp == (0.5, 0.5)
    assert bench.desk.state.record.mpp == (0.5, 0.5)


def test_a_file_that_is_no_slide_is_one_sentence(bench, tmp_path):
    (tmp_path / "notes.svs").write_text("no slide")
    before = bench.desk.state.record
    bench.slides.add([tmp_path / "notes.svs"])
    assert bench.wait(20)
    assert "notes.svs" in bench.said.text()
    assert bench.desk.state.record is before


def test_slides_that_napari_opens_are_taken_into_the_project(bench, tmp_path, monkeypatch):
    path = write_pyramid(tmp_path / "dropped.tif")
    monkeypatch.setattr(compat, "current_viewer", lambda: bench.viewer)
    assert bench.viewer.open(str(path), plugin="napari-mil") == []
    assert bench.wait(20)
    assert bench.desk.state.record.name == "dropped"
    assert [layer.name for layer in bench.viewer.layers].count("dropped") == 1


def test_a_model_of_survival_shows_its_curve_and_its_risk(bench):
    from napari_mil.steps import drain
    from napari_mil.ui.curves import HalvesPlot, SurvivalPlot
    from napari_mil.workflow import train_model_steps

    project = bench.desk.state.project
    cases = sorted({record.case for record in project.slides})
    for record in project.slides:
        i = cases.index(record.case)
        project.add(record.path, survival=(3.0 + i, i % 3 != 0))
    short = {"epochs": 2, "min_epochs": 1}
    card = drain(train_model_steps(project, "abmil", recipe=short, survival=True, bins=2, name="life"))
    bench.desk.apply(changed_models=bench.desk.state.changed_models + 1)
    bench.model.choose(card.id)
    assert bench.wait(30)
    assert bench.model.run().error is None
    assert bench.wait(120)
    state = bench.desk.state
    [plot] = bench.model.answer.findChildren(SurvivalPlot)
    assert plot.survival[0] == 1
    assert plot.survival[1:] == pytest.approx(state.answer.survival)
    [halves] = bench.model.held_out.findChildren(HalvesPlot)
    cases = [card.survival[half]["cases"] for half in ("lower", "higher")]
    assert [int(name.split()[-2]) for name in halves.names] == cases
    assert all(name in halves.getPlotItem().titleLabel.text for name in halves.names)
    assert halves.getPlotItem().legend is None  # it would lie on the curves
    assert halves.listDataItems()[0].yData.tolist()[1:] == card.survival["lower"]["survival"]
    assert "risk" in bench.slides.list.text()
    assert {"risk", "evidence/risk"} <= set(bench.instances.names)
    bench.instances.show_map("risk")
    assert bench.desk.layer("map/risk") is not None
    bench.review.confirm()  # says that there is no label to confirm, and does nothing
    assert not state.project.ledger.corrections(state.record.id)
    paint(bench, [tuple(state.answer_grid.cells[0])], "ADH")
    assert state.project.ledger.corrections(state.record.id)[-1].model_said is None


@pytest.mark.slow
def test_a_recorded_training_is_replayed_by_its_epochs(bench):
    from napari_mil.steps import drain
    from napari_mil.workflow import recordings, train_model_steps

    project = bench.desk.state.project
    name = bench.desk.state.record.name
    short = {"epochs": 3, "stage1_epochs": 1, "min_epochs": 1, "record": name}
    config = {"mask_ratio": 0.2}
    card = drain(train_model_steps(project, "mhim", config=config, recipe=short, name="told"))
    told = recordings(project, "told")[bench.desk.state.record.id]
    run(bench, "mhim")
    hidden = bench.instances.hidden
    assert hidden.replay.isHidden()  # mhim-1 was not recorded
    bench.desk.apply(changed_models=bench.desk.state.changed_models + 1)
    bench.model.choose(card.id)
    assert bench.wait(30)
    bench.model.run()
    assert bench.wait(120)
    hidden.on.setChecked(True)
    assert bench.wait(20)
    assert not hidden.replay.isHidden()
    assert "Simulated" in bench.desk.state.simulated[0].note
    for epoch in (1, 3):
        hidden.replay.slider.setValue(epoch)
        assert bench.wait(20)
        [shown] = bench.desk.state.simulated
        assert (shown.values == told.roles[epoch - 1]).all()
        assert shown.note.startswith(f"Recorded, epoch {epoch} of the training")
        assert f"{told.hidden[epoch - 1].sum()} of" in hidden.counts.text()
        assert not hidden.sliders.isEnabled()
    hidden.replay.slider.setValue(0)
    assert bench.wait(20)
    assert "Simulated" in bench.desk.state.simulated[0].note
    hidden.on.setChecked(False)


def test_a_folder_of_photographs_is_one_slide(bench, tmp_path):
    folder = tmp_path / "patient"
    folder.mkdir()
    for name in "abc":
        Image.fromarray(np.full((120, 170, 3), 200, np.uint8)).save(folder / f"{name}.png")
    assert _inside(tmp_path) == [folder]
    bench.slides.add([folder])
    assert bench.wait(20)
    [dialog] = [
        w for w in QApplication.topLevelWidgets() if type(w).__name__ == "MppDialog" and w.isVisible()
    ]
    assert any("scale bar" in label.text() for label in dialog.findChildren(QLabel))
    dialog.reject()
    assert bench.wait(20)
    state = bench.desk.state
    assert (state.record.name, state.slide.mpp) == ("patient", None)
    assert state.lattice.pitch_px == tuple(map(float, state.slide.montage.cell_px))
    assert any("positions mean nothing" in layer.name for layer in bench.viewer.layers)
    writing.correct(bench.desk, Cells([[0, 1]], state.lattice.pitch_px), "Malignant", tool="paint")
    node = state.project.tree.node("Malignant")
    assert bench.desk.state.nodes.tolist() == [0, node, 0, 0]


def worse(bench):
    """A retraining whose child is worse, stored in the project."""
    project = bench.desk.state.project
    good = next(c for c in project.cards if c.name == "hmil-1")
    sentence = "fine/auc on held-out cases fell from 0.900 to 0.700; better keep the parent."
    card = replace(good, id="hmil-spoilt", name="spoilt", worse=sentence)
    project.store.save_model(card, project.store.model_bytes(good.id))
    figures = {"fine/auc": (0.9, 0.8, 1.0)}, {"fine/auc": (0.7, 0.6, 0.8)}, {"fine/auc": (-0.2, -0.3, -0.1)}
    return Retrained(card, *figures, (), (5, 5), held=22, left_out=("case 'a' was left out.",))


def test_a_worse_model_is_adopted_at_the_second_click_and_one_click_goes_back(bench):
    bench.retrain.decision.fill(retrained(bench, "hmil-1"))
    bench.retrain.decision.adopt()
    assert bench.wait(60)
    decision = bench.retrain.decision
    assert decision.back_button.isHidden()
    decision.fill(worse(bench))
    assert "Worse on slides held out" in decision.verdict.text()
    assert "case 'a' was left out." in decision.verdict.text()
    assert decision.table.item(0, 2).text() == "−0.20\n[−0.30, −0.10]"
    decision.adopt_button.click()
    assert bench.desk.state.card.name == "hmil-1"
    assert decision.adopt_button.text() == "Yes, adopt the worse model"
    decision.adopt_button.click()
    assert bench.wait(60)
    assert bench.desk.state.card.name == "spoilt"
    assert decision.back_button.text() == "Back to hmil-1"
    decision.back_button.click()
    assert bench.wait(60)
    assert bench.desk.state.card.name == "hmil-1"
    assert decision.back_button.isHidden()


def test_the_difference_to_the_new_model_is_a_map(bench):
    run(bench, "mhim")
    state = bench.desk.state
    bench.retrain.decision.fill(retrained(bench, "hmil-1"))
    bench.retrain.decision.difference_button.click()
    assert bench.wait(120)
    assert bench.desk.state.shown == ("difference/calls",)
    assert bench.desk.state.card is state.card  # nothing is adopted by looking
    assert "difference/probability/fine/IC" in bench.instances.names
    assert bench.desk.state.map("difference/calls")[0].note == f"hmil-1 less {state.card.name}"
