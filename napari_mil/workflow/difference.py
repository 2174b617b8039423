"""What one model says of a slide that another one does not: maps of the difference."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from napari_mil.labeltree import level_names
from napari_mil.prediction import Prediction, TileMap
from napari_mil.steps import Steps
from napari_mil.workflow.analyse import analyse_steps, bag_steps
from napari_mil.workflow.project import Project, find_card

if TYPE_CHECKING:
    from napari_mil.bag import Bag
    from napari_mil.labeltree import LabelTree
    from napari_mil.slides import Slide

#: maps whose values may be subtracted from each other: parts of names
_COMPARED = ("probability", "risk")


def difference_steps(project: Project, slide: Slide, one: str, other: str) -> Steps[tuple[Bag, Prediction]]:
    """What `other` says of a slide beyond `one`: the slide's bag, and the answer of `one` with further maps.

    `difference/calls` are the tiles that `other` calls otherwise; `difference/probability/<level>/<label>`
    (`difference/risk` where the task is time) is the value of `other` less that of `one`. Both models must
    read the same features.
    """
    before, after = find_card(project, one), find_card(project, other)
    bag = yield from bag_steps(project, slide, encoder=before.encoder)
    after.check(bag)
    was = yield from analyse_steps(project, slide, model=before.id)
    now = yield from analyse_steps(project, slide, model=after.id)
    maps = difference_maps(was, now, before.tree, note=f"{after.name} less {before.name}")
    return bag, replace(was, maps=(*was.maps, *maps))


def difference_maps(
    was: Prediction, now: Prediction, tree: LabelTree, *, note: str = ""
) -> tuple[TileMap, ...]:
    """Maps of the difference of two answers on the same grid, see `difference_steps`."""
    known = {m.name: m for m in now.maps}
    made = []
    name = f"class/{level_names(tree)[-1]}"
    called = [m for m in was.maps if m.name == name and name in known]
    for one in called:
        differ = np.asarray(one.values != known[name].values)
        made.append(TileMap("difference/calls", "mask", differ, legend={1: "called otherwise"}, note=note))
    for one in was.maps:
        if one.name.split("/")[0] in _COMPARED and one.name in known:
            change = np.asarray(known[one.name].values - one.values, np.float32)
            most = max(float(np.abs(change).max(initial=0)), 1e-6)
            made.append(TileMap(f"difference/{one.name}", "score", change, (-most, most), note=note))
    return tuple(made)
