"""Runs as figures: mean ± deviation over seeds, and paired differences with intervals by case."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from measured import SETS
from tables import table

from napari_mil.evaluate import c_index, figures
from napari_mil.labeltree import LabelTree

Row = Mapping[str, Any]
Told = Sequence[Mapping[str, Any]]
Weigh = np.ndarray  #: (1 + R, n) weights of n answers


def column(told: Told, name: str) -> np.ndarray:
    return np.array([t[name] for t in told])


def slide_auc(told: Told, w: Weigh, tree: Any) -> np.ndarray:
    """Lesion against normal; where no leaf is normal, the second against the first."""
    normal = tree.normal_classes()
    normal[0] |= not normal.any()
    return figures.auc(~normal[column(told, "y")], 1 - column(told, "fine")[:, normal].sum(1), w)


def fine_auc(told: Told, w: Weigh, tree: Any) -> np.ndarray:  # noqa: ARG001
    return figures.macro_auc(column(told, "y"), column(told, "fine"), w)


def counts(told: Told, w: Weigh, truth: str, said: str) -> np.ndarray:
    p = column(told, said)
    return figures.confusion(column(told, truth), p.argmax(1), p.shape[1], w)


def accuracy(told: Told, w: Weigh, tree: Any) -> np.ndarray:  # noqa: ARG001
    return w @ (column(told, "fine").argmax(1) == column(told, "y")) / w.sum(1)


def fine_f1(told: Told, w: Weigh, tree: Any) -> np.ndarray:  # noqa: ARG001
    return figures.macro_f1(counts(told, w, "y", "fine"))


def coarse_f1(told: Told, w: Weigh, tree: Any) -> np.ndarray:  # noqa: ARG001
    return figures.macro_f1(counts(told, w, "coarse_y", "coarse"))


def consistency(told: Told, w: Weigh, tree: Any) -> np.ndarray:
    """Share of answers whose best leaf lies under the best class of the level above."""
    leaf = np.array(tree.leaves)[column(told, "fine").argmax(1)]
    above = np.array(tree.nodes_at(tree.levels - 2))[column(told, "coarse").argmax(1)]
    return w @ (np.array(tree.parent)[leaf] == above) / w.sum(1)


def tile_auc(told: Told, w: Weigh, tree: Any) -> np.ndarray:  # noqa: ARG001
    areas = np.array([np.nan if t["area"] is None else t["area"] for t in told])
    mixed = np.isfinite(areas)
    return (w[:, mixed] * areas[mixed]).sum(1) / w[:, mixed].sum(1)


def moved(told: Told, w: Weigh, tree: Any) -> np.ndarray:  # noqa: ARG001
    return w @ column(told, "moved") / w.sum(1)


def concordance(told: Told, w: Weigh, tree: Any) -> np.ndarray:  # noqa: ARG001
    return c_index(column(told, "time"), column(told, "event"), column(told, "risk"), w)


#: name → figure, and whether the answers of all folds of a seed are taken together; scores of different
#: models are not compared with each other, so of areas the mean over the folds is taken
FIGURES: dict[str, tuple[Callable[[Told, Weigh, Any], np.ndarray], bool]] = {
    "slide AUC": (slide_auc, False),
    "fine AUC": (fine_auc, False),
    "c-index": (concordance, False),
    "tile AUC": (tile_auc, True),
    "accuracy": (accuracy, True),
    "fine macro F1": (fine_f1, True),
    "coarse macro F1": (coarse_f1, True),
    "consistency": (consistency, True),
    "moved": (moved, True),
}


@dataclass(frozen=True, slots=True, eq=False)
class Figured:
    """(S, 1 + R) a figure of each seed, as it is and under every resampling of the cases."""

    seeds: np.ndarray

    def __str__(self) -> str:
        each = self.seeds[:, 0]
        return f"{each.mean():.3f} ± {each.std(ddof=1) if len(each) > 1 else 0:.3f}"

    def beside(self, base: Figured) -> str:
        """The paired difference: mean over the seeds, its interval, and in how many seeds it is positive.

        Every resampling of the cases also draws the seeds anew: a difference that one seed makes alone is
        not sure.
        """
        apart = self.seeds - base.seeds
        drawn = np.random.default_rng(0).integers(len(apart), size=apart.shape)
        drawn[:, 0] = np.arange(len(apart))
        value, low, high = figures.interval(np.take_along_axis(apart, drawn, 0).mean(0))
        return f"{value:+.3f} ({low:+.3f} to {high:+.3f}), {(apart[:, 0] > 0).sum()} of {len(apart)}"


def figured(
    rows: Iterable[Row], names: Sequence[str], tree: LabelTree | None, resamples: int = 1000
) -> dict[str, dict[str, Figured]]:
    """Arm → figure → its values; every arm is weighed by the same resamplings."""
    rows = list(rows)
    ids = sorted({case for row in rows for case in row["cases"]})
    weights = figures.case_weights(ids, resamples=resamples)
    order = {case: i for i, case in enumerate(ids)}
    found: dict[str, dict[str, Figured]] = {}
    for arm in dict.fromkeys(row["arm"] for row in rows):
        mine = [row for row in rows if row["arm"] == arm]
        found[arm] = {}
        for name in names:
            seeds = [
                one_seed(name, [r for r in mine if r["seed"] == s], weights, order, tree)
                for s in sorted({r["seed"] for r in mine})
            ]
            found[arm][name] = Figured(np.stack(seeds))
    return found


def one_seed(
    name: str, folds: Sequence[Row], weights: Weigh, order: Mapping[str, int], tree: LabelTree | None
) -> np.ndarray:
    """(1 + R,) a figure of one seed."""
    figure, together = FIGURES[name]
    parts = [dict(row["cases"]) for row in folds]
    if together:
        parts = [{case: told for part in parts for case, told in part.items()}]
    values = np.stack(
        [figure(list(part.values()), weights[:, [order[c] for c in part]], tree) for part in parts]
    )
    known = np.isfinite(values)  # a resampled fold may lack a class
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0).sum(0) / known.sum(0)


def section(name: str, rows: Sequence[Row]) -> str:
    """A set's table."""
    known = SETS[name]
    mine = [row for row in rows if row["arm"] in known.arms]
    found = figured(mine, known.figures, known.tree)
    return f"### {known.title}\n\n{known.about}\n\n" + compared(
        found, [a for a in known.arms if a in found], known.against, seconds_of(rows)
    )


def seconds_of(rows: Sequence[Row]) -> dict[str, float]:
    arms = dict.fromkeys(row["arm"] for row in rows)
    return {arm: float(np.mean([r["seconds"] for r in rows if r["arm"] == arm])) for arm in arms}


def compared(
    found: Mapping[str, Mapping[str, Figured]],
    arms: Sequence[str],
    against: Mapping[str, tuple[str, ...]],
    seconds: Mapping[str, float],
) -> str:
    """Arms in order, each with its figures, and against its baseline in the first of them."""
    names = list(found[arms[0]])
    heads = ["method", *names, f"{names[0]}, paired difference, seeds above", "CPU s per run"]
    lines = []
    for arm in arms:
        bases = [base for base in against.get(arm, ()) if base in found]
        first = found[arm][names[0]]
        apart = "; ".join(f"− {base}: {first.beside(found[base][names[0]])}" for base in bases)
        lines.append([arm, *(str(f) for f in found[arm].values()), apart, f"{seconds[arm]:.1f}"])
    return table(heads, lines)


#: what a sweep compares everything with, and arms of every table that it names anew
BASE, NAMED = (
    "pure (attn)",
    {"mhim (attn)": "as by default", "mhim (attn), init_student=none": "init_student=none"},
)


def swept(name: str) -> list[str]:
    """The arms that a sweep runs."""
    return [BASE, *NAMED, *SETS[name].tried]


def tried(name: str, rows: Sequence[Row]) -> str:
    """What a sweep tried, each against the baseline of the first MHIM."""
    known = SETS[name]
    first = known.figures[0]
    found = figured(rows, [first], known.tree)
    lines = [
        [NAMED.get(arm, arm), str(found[arm][first]), found[arm][first].beside(found[BASE][first])]
        for arm in swept(name)[1:]
        if arm in found
    ]
    lines.insert(0, [BASE, str(found[BASE][first]), ""])
    return f"### {known.title}\n\n" + table(["MHIM", first, f"less {BASE}, seeds above"], lines)
