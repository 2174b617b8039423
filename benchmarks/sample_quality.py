"""The sample cohort: slide and tile figures of every method, 5 seeds × 5 folds, beside random weights, and
the targets that they must meet. A set of `quality.py`.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one run per core

import numpy as np
import runs
import sample_cohort
import summary as quality_summary
import torch
from tables import surroundings, verdict, write_section

from napari_mil import samples
from napari_mil.evaluate import Figure, TileRecord, figures, folds_by_case, tiles
from napari_mil.infer import answer
from napari_mil.mil import MILModel
from napari_mil.steps import drain
from napari_mil.train import Training, recipe_for

TREE = sample_cohort.TREE
FOLDS = 5
#: arm → method, configuration, recipe
ARMS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "abmil": ("abmil", {}, {}),
    "gabmil": ("gabmil", {}, {}),
    "mhim (attn)": ("mhim", {"encoder": "attn"}, {}),
    "mhim (gated)": ("mhim", {"encoder": "gated"}, {}),
    # a contrast that looks at the true class alone keeps the classes apart on tiles (methods.md: scl_views)
    "hmil": ("hmil", {"scl_views": "true_class", "presence_weight": 1.0}, {"epochs": 15}),
    "hmil (no presence)": ("hmil", {"scl_views": "true_class"}, {}),
    "pure (attn)": ("mhim", {"encoder": "attn", "pure": True}, {}),
    "pure (gated)": ("mhim", {"encoder": "gated", "pure": True}, {}),
}
BASELINE = {"mhim (attn)": "pure (attn)", "mhim (gated)": "pure (gated)", "hmil": "hmil (no presence)"}
FLAT = ("abmil", "gabmil", "hmil")  #: compared in how they use the tree
HALF = ("abmil", "gabmil", "mhim (attn)", "mhim (gated)")  #: compared with their training in bfloat16
CALLS = (
    *("calls/lesion", "calls/right_leaf", "calls/normal_negative", "calls/normal_positive"),
    *("groups/lesion", "groups/right", "groups/normal_negative", "groups/normal_positive"),
)
Run = tuple[str, int, int]  #: arm, seed, fold


@dataclasses.dataclass(frozen=True)
class Job:
    """One run to do: which, on which cohort, where it is kept, after how much training."""

    run: Run
    work: Path
    slides: int
    cohort: int
    recipe: dict[str, Any]


def settings(arm: str, recipe: dict[str, Any], slides: int, seed: int) -> str:
    """What a kept run must agree on to count."""
    method, config, own = ARMS[arm.removeprefix("random ")]
    asked = dataclasses.asdict(recipe_for(method, {**own, **recipe}))
    parts = (method, config, asked, slides, seed, samples.cohort.EDITION)
    return hashlib.sha256(
        json.dumps([*parts, dataclasses.asdict(samples.Difficulty())]).encode()
    ).hexdigest()[:12]


@cache
def cohort(work: Path, slides: int, seed: int) -> sample_cohort.Cohort:
    return sample_cohort.load(work, slides=slides, seed=seed)


def do(job: Job) -> dict[str, Any]:
    """Train one arm on one fold of one seed, and ask it about the cases left out."""
    torch.set_num_threads(1)
    arm, seed, fold = job.run
    known = cohort(job.work, job.slides, job.cohort)
    method, config, own = ARMS[arm.removeprefix("random ")]
    split = folds_by_case(known.labels, folds=FOLDS, seed=seed)[fold]
    recipe = recipe_for(method, {**own, **job.recipe, "seed": seed * 100 + fold})
    began = time.process_time()  # of one thread; the machine may be busy with other runs
    training = Training(
        list(known.cases.values()),
        split,
        method=method,
        config=config,
        recipe=recipe,
        tree=TREE,
        device="cpu",
    )
    model, epochs = training.model, 0
    if not arm.startswith("random"):
        made = drain(training.steps())
        model, epochs = made.model, len(made.history)
    seconds = time.process_time() - began
    told = {case: told_of(model, known, case) for case in split.test}
    row = {
        "arm": arm,
        "seed": seed,
        "fold": fold,
        "settings": settings(arm, job.recipe, job.slides, job.cohort),
    }
    return row | {"seconds": round(seconds, 2), "epochs": epochs, "cases": told}


def told_of(model: MILModel, known: sample_cohort.Cohort, case: str) -> dict[str, Any]:
    """What the table needs of one case left out: answers, tile AUCs, counts of calls."""
    features, cells, target = known.cases[case].joined()
    said = answer(model, features, cells)
    record = TileRecord.of(case, said, known.truth[case], TREE)
    kind = np.array([figures.lesion_of(TREE, node) for node in range(len(TREE))])
    lesion = kind[record.truth]
    sure = lesion >= 0
    mixed = (lesion == 1).any() and (lesion == 0).any()
    areas = [
        figures.auc(lesion[sure] == 1, v[sure])[0] if mixed else None
        for v in (record.score, record.attention)
    ]
    return {
        "node": target.slide,
        "coarse": [round(float(p), 5) for p in said.probabilities[0]],
        "fine": [round(float(p), 5) for p in said.probabilities[-1]],
        "areas": [None if a is None else round(float(a), 5) for a in areas],
        "calls": [
            *tiles.call_counts(record, lesion, kind, TREE),
            *tiles.group_counts(record, lesion, kind, TREE),
        ],
    }


def summary(
    rows: Sequence[dict[str, Any]], weights: np.ndarray, order: dict[str, int]
) -> dict[str, np.ndarray]:
    """Figure → (1 + R,) mean over an arm's runs under every weighting of the cases (1 + R, cases)."""
    sums: dict[str, list[np.ndarray]] = {}
    counts = np.zeros((len(weights), 2 * len(CALLS)))
    for row in rows:
        told = row["cases"]
        w = weights[:, [order[c] for c in told]]
        nodes = [t["node"] for t in told.values()]
        for level, name in enumerate(("coarse", "fine")):
            truth = np.array([TREE.class_index(n, level) for n in nodes])
            p = np.array([t[name] for t in told.values()])
            table = figures.confusion(truth, p.argmax(1), p.shape[1], w)
            sums.setdefault(f"{name} AUC", []).append(figures.macro_auc(truth, p, w))
            sums.setdefault(f"{name} balanced accuracy", []).append(figures.balanced_accuracy(table))
        lesion = np.array([figures.lesion_of(TREE, n) for n in nodes]) == 1
        score = 1 - p[:, TREE.normal_classes()].sum(1)
        sums.setdefault("slide AUC", []).append(figures.auc(lesion, score, w))
        for k, name in enumerate(("tile AUC", "tile AUC, attention")):
            areas = np.array([np.nan if t["areas"][k] is None else t["areas"][k] for t in told.values()])
            mixed = np.isfinite(areas)
            sums.setdefault(name, []).append((w[:, mixed] * areas[mixed]).sum(1) / w[:, mixed].sum(1))
        counts += w @ np.array([t["calls"] for t in told.values()], float)
    found = {name: np.nanmean(np.stack(values), 0) for name, values in sums.items()}
    with np.errstate(invalid="ignore", divide="ignore"):
        return found | {name: counts[:, 2 * k] / counts[:, 2 * k + 1] for k, name in enumerate(CALLS)}


COLUMNS = (
    "slide AUC",
    "fine AUC",
    "coarse AUC",
    "fine balanced accuracy",
    "tile AUC",
    "tile AUC, attention",
    *CALLS,
)
HEADS = (
    "method", "slide AUC (lesion or none)", "seven leaves, macro AUC", "three groups, macro AUC",
    "leaf, balanced accuracy",
    "tile AUC", "tile AUC, attention alone", "lesion tiles called", "right leaf of those",
    "normal tiles called, negative slides", "normal tiles called, positive slides",
    "lesion tiles called a group", "right group of those",
    "normal tiles called a group of lesions, negative slides", "the same, positive slides",
    "CPU seconds per run",
)  # fmt: skip


def cell(values: np.ndarray) -> str:
    value, low, high = figures.interval(values)
    return f"{value:.3f} ({low:.3f}–{high:.3f})" if np.isfinite(value) else "–"


def report(
    rows: Iterable[dict[str, Any]], cases: Sequence[str], resamples: int = 1000
) -> tuple[str, list[str]]:
    """The markdown of the table, and the targets that are missed."""
    order = {case: i for i, case in enumerate(sorted(cases))}
    weights = figures.case_weights(list(order), resamples=resamples)
    by_arm: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_arm.setdefault(row["arm"], []).append(row)
    arms = [a for a in (*ARMS, *(f"random {a}" for a in ARMS)) if a in by_arm]
    found = {arm: summary(by_arm[arm], weights, order) for arm in arms}
    lines = ["| " + " | ".join(HEADS) + " |", "|" + "---|" * len(HEADS)]
    for arm in arms:
        seconds = np.mean([row["seconds"] for row in by_arm[arm]])
        cells = [cell(found[arm][c]) for c in COLUMNS]
        lines.append(
            "| " + " | ".join([arm, *cells, "" if arm.startswith("random") else f"{seconds:.1f}"]) + " |"
        )
    lines.append("")
    differences: dict[str, Figure] = {}
    for arm, base in BASELINE.items():
        if arm in found and base in found:
            difference = found[arm]["slide AUC"] - found[base]["slide AUC"]
            differences[arm] = figures.interval(difference)
            lines.append(
                f"Paired difference of slide AUC, {arm} − {base}, same seeds and folds: {cell(difference)}."
            )
    return "\n".join(lines), missed(found, differences, by_arm)


def over_seeds(rows: Sequence[dict[str, Any]]) -> str:
    """The figures that tell methods apart: mean ± deviation over the seeds, and paired differences."""
    told = [classed(row) for row in rows if not row["arm"].startswith("random")]
    seconds = quality_summary.seconds_of(told)
    found = quality_summary.figured(told, ("slide AUC",), TREE)
    against = {arm: (base,) for arm, base in BASELINE.items()}
    parts = [quality_summary.compared(found, [a for a in ARMS if a in found], against, seconds)]
    names = ("fine macro F1", "coarse macro F1", "consistency")
    flat = [row for row in told if row["arm"] in FLAT]
    if flat:
        found = quality_summary.figured(flat, names, TREE)
        against = {"hmil": ("abmil", "gabmil"), "gabmil": ("abmil",)}
        parts.append(quality_summary.compared(found, [a for a in FLAT if a in found], against, seconds))
    about = (
        "Mean ± standard deviation over the seeds; differences are paired by seed and fold, with 95 % "
        "intervals from 1000 resamplings of cases and seeds, and the number of seeds in which they are "
        "positive. *Consistency*: share of answers whose best leaf lies under the best group."
    )
    return "\n\n".join((about, *parts))


def classed(row: dict[str, Any]) -> dict[str, Any]:
    """A run with what the summary reads of its cases."""

    def one(told: dict[str, Any]) -> dict[str, Any]:
        truth = {name: TREE.class_index(told["node"], level) for level, name in enumerate(("coarse_y", "y"))}
        return {"fine": told["fine"], "coarse": told["coarse"], **truth}

    return row | {"cases": {case: one(told) for case, told in row["cases"].items()}}


def missed(
    found: dict[str, dict[str, np.ndarray]],
    differences: dict[str, Figure],
    by_arm: dict[str, list[dict[str, Any]]],
) -> list[str]:
    """The targets that the figures miss, in words."""
    wrong = []

    def need(what: str, value: float, low: float = -np.inf, high: float = np.inf) -> None:
        if not low <= value <= high:
            wrong.append(f"{what} is {value:.3f}; it should lie in [{low}, {high}]")

    if "abmil" in found:
        need("abmil: slide AUC", found["abmil"]["slide AUC"][0], 0.80, 0.95)
    for arm in [a for a in found if not a.startswith("random") and a not in BASELINE.values()]:
        value = {name: figure[0] for name, figure in found[arm].items()}
        need(f"{arm}: share of lesion tiles called", value["calls/lesion"], 0.15 if arm == "hmil" else 0.25)
        need(f"{arm}: right leaf of the called", value["calls/right_leaf"], 0.60)
        for where in ("negative", "positive"):
            need(f"{arm}: normal tiles called on {where} slides", value[f"calls/normal_{where}"], high=0.05)
        if arm in BASELINE:
            need(f"{arm}: tile AUC", value["tile AUC"], 0.85)
        need(f"{arm}: slowest run, CPU seconds", max(r["seconds"] for r in by_arm[arm]), high=30)
    for arm, (value, _, _) in differences.items():
        need(f"{arm} − its baseline", value, -0.005)
    return wrong


def kept_rows(file: Path, recipe: dict[str, Any], slides: int, seed: int) -> dict[Run, dict[str, Any]]:
    """Finished runs of a file that were done with today's settings."""

    def fits(row: dict[str, Any]) -> bool:
        arm = row["arm"].removeprefix("random ")
        return arm in ARMS and row["settings"] == settings(arm, recipe, slides, seed)

    return {(row["arm"], row["seed"], row["fold"]): row for row in runs.kept(file, fits)}


def finished(given: argparse.Namespace, recipe: dict[str, Any], names: Sequence[str]) -> list[dict[str, Any]]:
    """The runs of arms over seeds and folds; those not kept yet are done."""
    file = given.work / "quality.jsonl"
    done = kept_rows(file, recipe, given.slides, given.cohort)
    wanted = [(a, s, f) for s in range(given.seeds) for f in given.folds for a in names]
    jobs = [Job(run, given.work, given.slides, given.cohort, recipe) for run in wanted if run not in done]
    print(f"sample: {len(wanted)} runs, {len(wanted) - len(jobs)} of them done already", flush=True)
    for row in runs.finish(do, jobs, file, given.jobs):
        done[row["arm"], row["seed"], row["fold"]] = row
    return [done[run] for run in wanted]


def measure(given: argparse.Namespace) -> list[str]:
    """Do what is missing, write the section; the targets that are missed."""
    recipe = {k: json.loads(v) for k, v in (pair.split("=", 1) for pair in given.recipe)}
    chosen = [a for a in ARMS if a in (given.arms or ARMS)]
    randoms = [f"random {a}" for a in chosen if a not in BASELINE.values()]
    known = cohort(given.work, given.slides, given.cohort)
    rows = finished(given, recipe, [*chosen, *randoms])
    table, wrong = report(rows, list(known.cases))
    text = "\n\n".join((heading(given, known) + table, over_seeds(rows), verdict(wrong)))
    print(text)
    if not given.no_docs:
        write_section(given.docs, "quality" if not given.cohort else f"quality-{given.cohort}", text)
    return wrong


def beside_bf16(rows: Iterable[dict[str, Any]]) -> tuple[str, list[str]]:
    """Trainings in float32 and (arms that end in `, bf16`) in bfloat16: table, and the targets missed."""
    told = [classed(row) for row in rows]
    found = quality_summary.figured(told, ("slide AUC", "fine AUC"), TREE)
    arms = [name for a in HALF if a in found for name in (a, f"{a}, bf16")]
    against = {f"{a}, bf16": (a,) for a in HALF}
    wrong = []
    for arm, (base,) in against.items():
        if arm in found:
            apart = (found[arm]["slide AUC"].seeds - found[base]["slide AUC"].seeds)[:, 0].mean()
            if abs(apart) > 0.005:
                wrong.append(f"{arm}: slide AUC differs by {apart:+.3f}; 0.005 at most was asked for")
    return quality_summary.compared(found, arms, against, quality_summary.seconds_of(told)), wrong


def measure_bf16(given: argparse.Namespace) -> None:
    """Train in bfloat16 too what keeps its AUC there, and write the section."""
    arms = [a for a in HALF if a in (given.arms or HALF)]
    rows = finished(given, {}, arms)
    half = finished(given, {"precision": "bf16"}, arms)
    table, wrong = beside_bf16([*rows, *(row | {"arm": f"{row['arm']}, bf16"} for row in half)])
    about = (
        "## Training in bfloat16\n\n"
        f"`python benchmarks/quality.py --sets bf16 --seeds {given.seeds} --work FOLDER`, {surroundings()}. "
        "The same runs as above with `precision=bf16`: projections and attention in bfloat16, weights, "
        "losses and answers in float32; same first weights, draws and folds.\n\n"
    )
    text = about + table + "\n\n" + verdict(wrong)
    print(text)
    if not given.no_docs:
        write_section(given.docs, "quality-bf16", text)


def heading(given: argparse.Namespace, known: sample_cohort.Cohort) -> str:
    title, option = "the sample cohort", ""
    if given.cohort:
        title, option = "a cohort that nothing was chosen on", f" --cohort {given.cohort}"
    option += f" --seeds {given.seeds}"
    return (
        f"## Quality on {title}\n\n"
        f"`python benchmarks/quality.py --sets sample{option} --work FOLDER`, {surroundings()}. "
        f"{given.slides} synthetic slides of {len(known.cases)} cases, {given.seeds} seeds × "
        f"{len(given.folds)} folds by case, a validation part in every fold for early stopping. Means over "
        "the runs; in brackets 95 % intervals from 1000 resamplings of the cases. Tile figures are of slides "
        "left out.\n\n"
    )
