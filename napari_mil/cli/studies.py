"""Folds, seeds and grids on the command line."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from napari_mil.cli.running import opened, settings, show
from napari_mil.errors import MILError


def numbers(text: str) -> tuple[int, ...]:
    """Seeds such as "0,1,2"; MILError when they are none, or one stands twice."""
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or min(found) < 0 or len(set(found)) < len(found):
        raise MILError(f"{text!r} are no seeds; write different whole numbers, such as 0,1,2.")
    return found


def grid_of(method: str, words: Sequence[str]) -> Mapping[str, Sequence[Any]]:
    """The grid that --grid words ask for: the method's own (`published`), with OPTION=[VALUES] put in."""
    from napari_mil.train import published_grid

    grid: dict[str, Sequence[Any]] = dict(published_grid(method)) if "published" in words else {}
    for key, values in settings([word for word in words if word != "published"]).items():
        grid[key] = values if isinstance(values, list) else [values]
    return grid


def study(
    project: Path,
    method: str,
    folds: int,
    seeds: Sequence[int] | None,
    grid: Sequence[str] | None,
    *,
    as_json: bool,
    **shared: Any,
) -> None:
    """Cross-validate and print the table."""
    from napari_mil.workflow import cross_validate_steps

    wanted = grid_of(method, grid) if grid else None
    with opened(project) as p:
        steps = cross_validate_steps(p, method, folds=folds, seeds=seeds, grid=wanted, **shared)
        made = show(steps, as_json=as_json)
    if as_json:
        table = {name: dataclasses.asdict(line) for name, line in made.table().items()}
        print(json.dumps({"result": {"method": method, "runs": len(made.runs), "table": table}}), flush=True)
    else:
        print(made.in_words())
