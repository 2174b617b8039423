"""Small widgets that the sections share."""

from __future__ import annotations

from dataclasses import replace

import pytest
from qtpy.QtGui import QColor, QIcon

from napari_mil.card import ModelCard
from napari_mil.labeltree import LabelTree
from napari_mil.ui.figuretable import FigureTable
from napari_mil.ui.ramps import TISSUE
from napari_mil.ui.widgets import colour_icon, swatch
from napari_mil.workflow import Retrained

TREE = LabelTree.from_paths(["Benign/N", "Malignant/IC"])


def colours(drawn):
    """Colours of a label's or an icon's corner, of its middle, and of places 1 and 3 px inside it."""
    image = (drawn.pixmap(14, 14) if isinstance(drawn, QIcon) else drawn.pixmap()).toImage()
    side = image.width()
    return [QColor(image.pixel(x, y)).name() for x, y in (
        (0, 0), (side // 2, side // 2), (1, side // 2), (3, side // 2),
    )]  # fmt: skip


def test_a_legends_colour_looks_as_over_tissue(qtbot):
    border, middle, *_ = colours(swatch("#1a1a1a"))
    assert border == "#9a9a9a"
    assert middle not in ("#1a1a1a", TISSUE)  # neither the theme's own dark, nor nothing
    assert colours(swatch(""))[1] == TISSUE  # no call: tissue as it is
    faint, full = (QColor(colours(swatch(c))[1]).blue() for c in ("#00000040", "#000000"))
    assert full < faint < QColor(TISSUE).blue()


@pytest.mark.parametrize(("colour", "beside"), [("#a50026", "#ffffff"), ("#f0e442", "#000000")])
def test_an_outlined_colour_has_a_line_that_reads_beside_it(qtbot, colour, beside):
    _, middle, outer, inner = colours(swatch(colour, outlined=True))
    assert (outer, middle, inner) == (colour, TISSUE, beside)


def test_a_lists_colour_is_itself_with_a_border(qtbot):
    border, middle, *_ = colours(colour_icon("#1a1a1a"))
    assert (border, middle) == ("#9a9a9a", "#1a1a1a")


@pytest.mark.parametrize("cases", [3, 30])
def test_a_table_of_figures_fills_its_width(qtbot, cases):
    table = FigureTable()
    qtbot.addWidget(table)
    table.resize(324, 200)
    figures = {"fine/auc": (0.9, 0.8, 1.0)}
    card = ModelCard("m", "m+1", "mean", {}, "e", 4, 256, 0.5, TREE)
    done = Retrained(card, figures, figures, {"fine/auc": (-0.2, -0.3, -0.1)}, (), (0, 0), held=cases)
    table.fill(done)
    qtbot.waitUntil(lambda: table.horizontalHeader().length() == table.viewport().width())
    table.fill(replace(done, changes={}))
    qtbot.waitUntil(lambda: table.horizontalHeader().length() == table.viewport().width())
