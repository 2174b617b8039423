"""Where one looks: overview, read-out, measures, slides side by side, and the view that is remembered."""

from __future__ import annotations

import os
from types import SimpleNamespace

import numpy as np
import pytest
from qtpy.QtCore import QPoint, Qt
from qtpy.QtTest import QTest

from napari_mil.slides import open_slide
from napari_mil.ui import acts, compat, pixelsize
from napari_mil.ui.dialogs import MppDialog
from napari_mil.ui.front import front, slides
from napari_mil.ui.layers import OPENED, key_of, slide_layer
from napari_mil.ui.measure import measure
from napari_mil.ui.views import MOST, keep_view, kept_view
from napari_mil.ui.workbench import WIDTH_PX
from tests.ui.test_reader import write_pyramid

pytestmark = pytest.mark.skipif(
    os.environ.get("QT_QPA_PLATFORM") == "offscreen", reason="needs a screen, real or virtual (xvfb-run)"
)


def camera(bench):
    return compat.camera(bench.viewer)


def test_a_slide_comes_back_where_one_left_it_also_after_a_restart(quick_bench, docked):
    first, second = quick_bench.desk.state.project.slides
    here = front(quick_bench.viewer).world(100.0, 60.0)
    camera(quick_bench).center, camera(quick_bench).zoom = (0, *here), 3.0
    acts.open_slide(quick_bench.desk, second)
    assert quick_bench.wait(20)
    assert camera(quick_bench).zoom == 3.0  # the zoom one chose stays, from slide to slide
    assert not np.allclose(camera(quick_bench).center[-2:], here)
    acts.open_slide(quick_bench.desk, first)
    assert quick_bench.wait(20)
    assert np.allclose(camera(quick_bench).center[-2:], here)
    folder = quick_bench.desk.state.project.path
    quick_bench.shut()
    camera(quick_bench).center, camera(quick_bench).zoom = (0, 0, 0), 1.0
    other = docked(folder, by="ann")
    assert np.allclose(camera(other).center[-2:], here)
    assert camera(other).zoom == pytest.approx(3.0)


def test_of_slides_side_by_side_each_keeps_the_view_that_was_of_it(quick_bench):
    desk, views = quick_bench.desk, quick_bench.desk.views
    first, second = desk.state.project.slides
    acts.show_beside(desk, second)
    assert quick_bench.wait(20)
    mine, other = slides(quick_bench.viewer)

    def look(shown, at, zoom):
        camera(quick_bench).center, camera(quick_bench).zoom = (0, *shown.world(*at)), zoom
        views.keep()

    def kept():
        return [pytest.approx(kept_view(one.fingerprint), abs=1e-6) for one in (mine, other)]

    look(mine, (100.0, 60.0), 20.0)
    look(other, (200.0, 310.0), 30.0)
    closely = [(100.0, 60.0, 20.0 * mine.scale[1]), (200.0, 310.0, 30.0 * other.scale[1])]
    assert kept() == closely
    quick_bench.viewer.reset_view()
    for shown in (mine, other):  # all of both is seen, whichever the middle lies on
        look(shown, (150.0, 200.0), camera(quick_bench).zoom)
    gap = (mine.world(0, mine.levels[0].shape_px[1]) + other.world(0, 0)) / 2
    look(mine, mine.px(*gap), 20.0)  # nearest to both, and on neither
    assert kept() == closely
    acts.open_slide(desk, second)
    assert quick_bench.wait(20)
    assert np.allclose(front(quick_bench.viewer).px(*camera(quick_bench).center[-2:]), (200.0, 310.0))
    acts.open_slide(desk, first)
    assert quick_bench.wait(20)
    assert np.allclose(front(quick_bench.viewer).px(*camera(quick_bench).center[-2:]), (100.0, 60.0))


def test_views_are_small_files_of_which_the_oldest_go(own_home, monkeypatch):
    assert kept_view("abc") is None
    keep_view("abc", (1.0, 2.5, 0.25))
    assert kept_view("abc") == (1.0, 2.5, 0.25)
    file = own_home / "views" / "abc.json"
    for damage in ("", "[1, 2]", "[1, 2, NaN]", '{"a": 1}', "[1, 2, 0]"):
        file.write_text(damage)
        assert kept_view("abc") is None
    monkeypatch.setattr("napari_mil.ui.views.MOST", 3)
    for i in range(5):
        keep_view(f"s{i}", (0.0, 0.0, 1.0 + i))
        os.utime(own_home / "views" / f"s{i}.json", (i, i + 1_000_000))
    assert kept_view("s4") == (0.0, 0.0, 5.0)
    assert kept_view("s0") is None
    assert len(list((own_home / "views").iterdir())) == 3 < MOST


def test_a_view_that_cannot_be_kept_is_no_matter(own_home):
    own_home.write_text("a file in the place of the folder")
    keep_view("abc", (1.0, 2.0, 3.0))
    assert kept_view("abc") is None


def test_the_overview_shows_the_box_and_a_click_goes_there(quick_bench):
    map_, shown = quick_bench.overview, front(quick_bench.viewer)
    map_.follow()
    assert quick_bench.wait(20)
    h, w = shown.levels[0].shape_px
    assert map_.width() / map_.height() == pytest.approx(w / h, rel=0.05)
    camera(quick_bench).center = (0, *shown.world(h / 2, w / 2))
    camera(quick_bench).zoom *= 8
    QTest.qWait(150)
    box = map_.box()
    y0, _, y1, _ = compat.visible_box(quick_bench.viewer)
    seen = (y1 - y0) / (h * shown.scale[0]) * map_.height()
    assert box.height() == pytest.approx(seen, abs=3)
    at = QPoint(map_.width() // 4, map_.height() // 4)
    QTest.mouseClick(map_, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier, at)
    assert np.allclose(shown.px(*camera(quick_bench).center[-2:]), (h / 4, w / 4), atol=h / 40)
    assert map_.box().center().x() == pytest.approx(at.x(), abs=2)
    quick_bench.magnification.map.click()
    assert map_.isHidden()


def test_the_read_out_says_level_and_place(quick_bench):
    made, shown = quick_bench.magnification, front(quick_bench.viewer)
    assert list(made.buttons) == [1, 2.5, 5, 10, 20, 40]
    quick_bench.viewer.cursor.position = tuple(shown.world(64.0, 32.0))
    quick_bench.viewer.mouse_over_canvas = True
    made._pointer.moved = True
    made._say()
    y, x = np.array([64.0, 32.0]) * shown.scale
    assert made.where.text() == f"level {shown.layer.data_level} · x {x:,.0f} y {y:,.0f} µm"
    assert "µm per pixel" in made.where.toolTip()
    made.resize(WIDTH_PX, made.height())
    made.layout().activate()
    room = made.where.fontMetrics().horizontalAdvance("level 2 · x 23,456 y 12,345 µm")
    assert made.where.width() >= room
    quick_bench.viewer.cursor.position = (-1e6, -1e6)
    made._say()
    assert made.where.text() == f"level {shown.layer.data_level}"


def test_what_is_drawn_from_a_copy_says_so(quick_bench, monkeypatch):
    made, shown = quick_bench.magnification, front(quick_bench.viewer)
    made._say()
    assert "copy" not in made.where.toolTip()
    engine = shown.levels[0].engine
    with monkeypatch.context() as patch:
        patch.setattr(engine, "sketch", SimpleNamespace(has=lambda _level: True))
        made._say()
    assert made.where.text() == f"≈ level {shown.layer.data_level}"
    assert "a copy on this disk (JPEG of quality 90)" in made.where.toolTip()


def test_ruler_and_area_measure_in_micrometres(quick_bench):
    bar, mpp = quick_bench.magnification, quick_bench.desk.state.slide.mpp[0]
    bar.tools["ruler"].click()
    layer = bar.measures.layer
    assert str(layer.mode) == "add_line"
    layer.add_lines([[[0, 0], [300, 400]]])
    bar.tools["area"].click()
    assert str(layer.mode) == "add_polygon"
    assert not bar.tools["ruler"].isChecked()
    layer.add_polygons([[[0, 0], [0, 100], [100, 100], [100, 0]]])
    assert bar.measures.words() == [f"{500 * mpp:.0f} µm", f"{1e4 * mpp**2:,.0f} µm²"]
    assert layer.features["measure"].tolist() == bar.measures.words()
    assert [str(text) for text in layer.text.values] == bar.measures.words()
    bar.tools["area"].click()
    assert str(layer.mode) == "pan_zoom"
    acts.step_slide(quick_bench.desk, 1)
    assert quick_bench.wait(20)
    assert "measures" not in [one.name for one in quick_bench.viewer.layers]


def test_measures_of_a_slide_that_napari_opened_follow_its_pixels_size_and_go_with_it(docked, tmp_path):
    bench = docked()
    bar, viewer = bench.magnification, bench.viewer
    with open_slide(write_pyramid(tmp_path / "silent.tif", mpp=None)) as slide:
        levels, options, _ = slide_layer(slide, key=OPENED)
        shown = viewer.add_image(levels, **options)
        QTest.qWait(150)
        bar.tools["ruler"].click()
        layer = bar.measures.layer
        layer.add_lines([[[0, 0], [300, 400]]])
        assert layer.features["measure"].tolist() == ["500 px"]
        pixelsize.show_in_um(viewer, [shown], 0.5)
        bar._say()
        assert layer.features["measure"].tolist() == ["250 µm"]
        assert np.allclose(layer.data_to_world((300, 400)), shown.data_to_world((300, 400)))
        viewer.layers.remove(shown)
        QTest.qWait(150)
        assert layer not in viewer.layers


@pytest.mark.parametrize(
    ("kind", "points", "unit", "words"),
    [
        ("line", [[0, 0], [0, 12.34]], "µm", "12.3 µm"),
        ("path", [[0, 0], [0, 900], [1200, 900]], "µm", "2.10 mm"),
        ("polygon", [[0, 0], [0, 10], [10, 0]], "px", "50 px²"),
        ("rectangle", [[0, 0], [0, 500], [400, 500], [400, 0]], "µm", "0.200 mm²"),
        ("ellipse", [[0, 0], [0, 2000], [1000, 2000], [1000, 0]], "µm", "1.57 mm²"),
    ],
)
def test_measures_in_words(kind, points, unit, words):
    assert measure(kind, np.array(points, float), unit) == words


def test_another_slide_lies_beside_the_one_in_front(quick_bench, tmp_path):
    desk, listed = quick_bench.desk, quick_bench.slides.list
    first, second = desk.state.project.slides
    index = listed.found.index(1, 0)
    menu = listed.menu(index)
    act, colours = menu.actions()
    assert colours.isCheckable()
    assert not colours.isChecked()
    assert act.isEnabled()
    act.trigger()
    assert quick_bench.wait(20)
    assert [one.fingerprint for one in slides(quick_bench.viewer)] == [first.id, second.id]
    mine, other = slides(quick_bench.viewer)
    gap = other.world(0, 0)[1] - mine.world(0, mine.levels[0].shape_px[1])[1]
    assert 0 < gap < 0.1 * mine.levels[0].shape_px[1] * mine.scale[1]
    assert front(quick_bench.viewer).fingerprint == first.id
    camera(quick_bench).center = (0, *other.world(50, 50))
    assert front(quick_bench.viewer).fingerprint == second.id
    assert "Take away" in listed.menu(index).actions()[0].text()
    listed.show_beside(second.id)
    assert quick_bench.wait(20)
    assert len(slides(quick_bench.viewer)) == 1
    listed.show_beside(second.id)
    acts.open_slide(desk, second)
    assert quick_bench.wait(20)
    assert [key_of(one.layer) for one in slides(quick_bench.viewer)] == ["slide"]
    quick_bench.slides.add([write_pyramid(tmp_path / "nameless.tif", mpp=None)])
    assert quick_bench.wait(20)
    nameless = desk.state.project.slides[-1]
    acts.show_beside(desk, nameless)
    assert quick_bench.wait(20)
    assert "cannot lie beside" in quick_bench.told[-1]


def test_a_pixel_size_that_is_said_in_a_project_is_kept_there_and_for_the_person(quick_bench, tmp_path):
    desk, silent = quick_bench.desk, write_pyramid(tmp_path / "silent.tif", mpp=None)

    def answer(dialog, text):
        dialog.field.setText(text)
        dialog.accept()
        assert quick_bench.wait(20)
        return desk.state.record.mpp, desk.state.slide.mpp, front(quick_bench.viewer).scale.tolist()

    quick_bench.slides.add([silent])
    assert quick_bench.wait(20)
    *_, dialog = compat.main_window(quick_bench.viewer).findChildren(MppDialog)
    assert answer(dialog, "0.5") == ((0.5, 0.5), (0.5, 0.5), [0.5, 0.5])
    quick_bench.magnification._say()
    assert " µm per pixel, said in this project" in quick_bench.magnification.where.toolTip()
    assert answer(pixelsize.ask(quick_bench.viewer), "0.25") == ((0.25, 0.25), (0.25, 0.25), [0.25, 0.25])
    with open_slide(silent) as slide:
        assert slide.mpp == (0.25, 0.25)
    acts.step_slide(desk, -1)
    assert quick_bench.wait(20)
    quick_bench.magnification._say()
    assert "said" not in quick_bench.magnification.where.toolTip()
