"""Does a retrained model do what it was told, and nothing else? On the sample cohort.

    python benchmarks/obey.py --work FOLDER

A parent model is trained on two thirds of the cohort; the rest is held out. On a fresh sample slide a person
labels half of the lesion tiles; the other half, and five more fresh slides with the same lesion, show whether
the lesson carries over. Then calls of the parent are confirmed instead: that must not change more than
retraining without corrections does. Every retraining has another seed and corrects another of the six slides,
since one slide has less than ten tiles to judge by. Prints the table, writes it to docs/benchmarks.md between
its markers, and exits with 1 when a target is missed.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one run per core

import numpy as np
import sample_cohort
import sample_quality
import torch
from tables import processor, verdict, write_section

from napari_mil import samples
from napari_mil.evaluate import Split, TrainingCase, evaluate, obeyed, split_by_case
from napari_mil.infer import answer, call
from napari_mil.mil import MILModel
from napari_mil.steps import drain
from napari_mil.train import Trained, Training, recipe_for, retrain_recipe

TREE = sample_cohort.TREE
SEEDS = 5
ARMS = ("abmil", "mhim (attn)", "hmil")
#: enough lesion on the fresh slides that half of it says something, much of it weak: a reason to correct
FRESH = samples.Difficulty(lesion_fraction=(0.14, 0.20), hard_slides=0.0, hard_tiles=0.6)
FRESH_ID = hashlib.sha256(repr(FRESH).encode()).hexdigest()[:6]


@dataclass(frozen=True)
class Job:
    """Retrain one arm on one kind of corrections of one slide, `seed` telling which slide and the seed."""

    arm: str
    work: Path
    label: str
    kind: str  #: "none", "corrected" or "confirmed"
    seed: int


@cache
def cohort(work: Path) -> sample_cohort.Cohort:
    return sample_cohort.load(work)


@cache
def fresh(work: Path, label: str) -> list[tuple[TrainingCase, np.ndarray]]:
    """Six slides that no model has seen, with the truth per tile."""
    made = []
    for i in range(6):
        path = work / "fresh" / f"{label}-{i}-{FRESH_ID}.tif"
        truth = path.with_suffix(".npz")
        if not truth.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            told = samples.make_slide(path, seed=70_000 + i, label=label, difficulty=FRESH, hard=False)
            told.save(truth)
        made.append(sample_cohort.one(path, truth, work, path.stem, TREE.node(label)))
    return made


def taught_first(work: Path, label: str, seed: int) -> list[tuple[TrainingCase, np.ndarray]]:
    """The fresh slides, that which this retraining corrects first."""
    made = fresh(work, label)
    return [made[seed], *made[:seed], *made[seed + 1 :]]


def split_of(work: Path) -> Split:
    return split_by_case(cohort(work).labels, test=1 / 3, validation=0.15, seed=0)


def parent(arm: str, work: Path) -> Trained:
    """The model to be corrected."""
    method, config, own = sample_quality.ARMS[arm]
    cases = list(cohort(work).cases.values())
    return drain(
        Training(
            cases,
            split_of(work),
            method=method,
            config=config,
            recipe=recipe_for(method, own),
            tree=TREE,
            device="cpu",
        ).steps()
    )


def kept_parent(arm: str, work: Path) -> MILModel:
    """The parent, trained once and kept as weights."""
    method, config, _ = sample_quality.ARMS[arm]
    file = work / "obey" / f"{arm}-{sample_quality.settings(arm, {}, 120, 0)}.pt"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(f".{os.getpid()}.tmp")
        torch.save(parent(arm, work).model.state_dict(), part)
        part.replace(file)
    made = Training(
        list(cohort(work).cases.values()),
        split_of(work),
        method=method,
        config=config,
        tree=TREE,
        device="cpu",
    ).model
    made.load_state_dict(torch.load(file, weights_only=True))
    return made


def corrections(kind: str, said: np.ndarray, best: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(N,) what a person says of the sample slide, 0 = nothing.

    `said` (N,) is what the parent called, `best` (N,) the most likely leaf of each tile: half of the lesion
    tiles that it gets wrong and half of those that it gets right are labelled.
    """
    rng = np.random.default_rng(0)
    kinds = np.array([sample_cohort.lesion(node) for node in range(len(TREE))])
    lesion = np.flatnonzero(kinds[truth] == 1)
    halves = [rng.permutation(lesion[(best == truth)[lesion] == sure]) for sure in (False, True)]
    some = np.concatenate([half[: (len(half) + 1) // 2] for half in halves])
    labels = np.zeros(len(truth), np.int32)
    if kind == "corrected":
        labels[some] = truth[some]
    elif kind == "confirmed":
        known = rng.permutation(np.flatnonzero(said))[: len(some)]
        labels[known] = said[known]
    return labels


def leaves(model: MILModel, case: TrainingCase) -> np.ndarray:
    """(N,) the leaf that t_i answers for every tile."""
    said = answer(model, case.joined()[0], case.joined()[1])
    return np.array(TREE.leaves, np.int32)[said.tile_probability.argmax(1)]


def figures_of(model: MILModel, job: Job, labels: np.ndarray, base: MILModel) -> dict[str, float]:
    """What the table needs of a model."""
    known, slides = cohort(job.work), taught_first(job.work, job.label, job.seed)
    sample, truth = slides[0]
    held = [known.cases[c] for c in split_of(job.work).test]
    calls = [np.concatenate([call(answer(m, *c.joined()[:2]), TREE) for c in held]) for m in (base, model)]
    free = (truth == TREE.node(job.label)) & (labels == 0)
    others = [(leaves(model, c), t) for c, t in slides[1:]]
    right = [(said == t)[t == TREE.node(job.label)] for said, t in others]
    probability = answer(model, *sample.joined()[:2]).tile_probability
    return {
        "auc": evaluate(model, held, resamples=1)["lesion/auc"][0],
        "changed": float((calls[0] != calls[1]).mean()),
        "obeyed": float(obeyed(probability, labels, TREE).mean()) if labels.any() else float("nan"),
        "here": float((leaves(model, sample) == truth)[free].mean()),
        "there": float(np.concatenate(right).mean()),
        "corrections": float((labels > 0).sum()),
    }


def do(job: Job) -> tuple[Job, dict[str, float], dict[str, float]]:
    """Figures of the parent and of its child."""
    torch.set_num_threads(1)
    base = kept_parent(job.arm, job.work)
    sample, truth = taught_first(job.work, job.label, job.seed)[0]
    called = call(answer(base, *sample.joined()[:2]), TREE)
    labels = corrections(job.kind, called, leaves(base, sample), truth)
    taught = replace(sample, tiles=(labels,)) if labels.any() else sample
    method, config, own = sample_quality.ARMS[job.arm]
    split = split_of(job.work)
    run = Training(
        [*cohort(job.work).cases.values(), taught],
        replace(split, train=(*split.train, taught.case)),
        method=method,
        config=config,
        recipe=retrain_recipe(recipe_for(method, own), seed=job.seed),
        tree=TREE,
        device="cpu",
        start=base.state_dict(),
    )
    child = drain(run.steps()).model
    return job, figures_of(base, job, labels, base), figures_of(child, job, labels, base)


HEADS = (
    "method", "corrections", "obeyed before", "obeyed after", "tile accuracy, same slide",
    "tile accuracy, five others",
    "held-out slide AUC", "confirming: AUC", "confirming: calls changed",
)  # fmt: skip


def row(arm: str, found: dict[str, list[tuple[dict[str, float], dict[str, float]]]]) -> tuple[str, list[str]]:
    """One line of the table, and the targets that are missed."""

    def after(kind: str, name: str) -> np.ndarray:
        return np.array([child[name] for _, child in found[kind]])

    before = {
        name: float(np.mean([b[name] for b, _ in found["corrected"]])) for name in found["corrected"][0][0]
    }
    wrong = []
    auc, none, same = (after(kind, "auc") for kind in ("corrected", "none", "confirmed"))
    if after("corrected", "obeyed").min() < 0.9:
        wrong.append(
            f"{arm} obeys {after('corrected', 'obeyed').min():.2f} of the corrections; 0.9 are asked for"
        )
    for where, words in (("here", "the same slide"), ("there", "five others")):
        if after("corrected", where).mean() <= before[where]:
            wrong.append(f"{arm}: tile accuracy on {words} does not rise")
    if auc.mean() < before["auc"] - 0.02:
        wrong.append(f"{arm}: held-out AUC falls from {before['auc']:.3f} to {auc.mean():.3f}")
    spread = {name: after("none", name).std(ddof=1) for name in ("auc", "changed")}
    if abs(same.mean() - none.mean()) > 2 * spread["auc"] + 1e-9:
        wrong.append(
            f"{arm}: confirming moves the AUC by {same.mean() - none.mean():+.3f}, 2 sd are "
            f"{2 * spread['auc']:.3f}"
        )
    changed, usual = after("confirmed", "changed"), after("none", "changed")
    if changed.mean() > usual.mean() + 2 * spread["changed"] + 1e-9:
        wrong.append(
            f"{arm}: confirming changes {changed.mean():.3f} of the calls, without it {usual.mean():.3f}"
        )
    cells = (
        arm, f"{before['corrections']:.0f}", f"{before['obeyed']:.2f}",
        f"{after('corrected', 'obeyed').mean():.2f} (least {after('corrected', 'obeyed').min():.2f})",
        f"{before['here']:.2f} → {after('corrected', 'here').mean():.2f}",
        f"{before['there']:.2f} → {after('corrected', 'there').mean():.2f}",
        f"{before['auc']:.3f} → {auc.mean():.3f}",
        f"{same.mean():.3f} against {none.mean():.3f} ± {spread['auc']:.3f}",
        f"{changed.mean():.4f} against {usual.mean():.4f} ± {spread['changed']:.4f}",
    )  # fmt: skip
    return "| " + " | ".join(cells) + " |", wrong


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "napari-mil-quality")
    parser.add_argument("--label", default="Benign/UDH")
    parser.add_argument("--arms", nargs="*", default=list(ARMS), choices=list(sample_quality.ARMS))
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--docs", type=Path, default=Path(__file__).parents[1] / "docs" / "benchmarks.md")
    parser.add_argument("--no-docs", action="store_true")
    given = parser.parse_args(argv)
    label = TREE.names[TREE.node(given.label)]
    cohort(given.work)
    fresh(given.work, label)
    found: dict[str, dict[str, list[Any]]] = {
        a: {"none": [], "corrected": [], "confirmed": []} for a in given.arms
    }
    with ProcessPoolExecutor(given.jobs, get_context("spawn")) as pool:
        list(pool.map(_warm, [(arm, given.work) for arm in given.arms]))
        jobs = [
            Job(a, given.work, label, kind, seed)
            for a in given.arms
            for kind in found[a]
            for seed in range(SEEDS)
        ]
        for job, before, after in pool.map(do, jobs):
            found[job.arm][job.kind].append((before, after))
            print(job.arm, job.kind, job.seed, {k: round(v, 3) for k, v in after.items()}, flush=True)
    made = [row(arm, found[arm]) for arm in given.arms]
    wrong = [line for _, lines in made for line in lines]
    table = ["| " + " | ".join(HEADS) + " |", "|" + "---|" * len(HEADS), *(line for line, _ in made)]
    text = heading(label) + "\n".join(table) + "\n\n" + verdict(wrong)
    print(text)
    if not given.no_docs:
        write_section(given.docs, "obey", text)
    return int(bool(wrong))


def _warm(what: tuple[str, Path]) -> None:
    torch.set_num_threads(1)
    kept_parent(*what)


def heading(label: str) -> str:
    when = datetime.now(UTC).date().isoformat()
    return (
        "## Corrections are obeyed\n\n"
        f"`python benchmarks/obey.py --work FOLDER`, {when}, {processor()}. Half of the {label} "
        "tiles of a fresh sample slide are labelled, of those the parent got wrong and those it got right; "
        "accuracy is that of the other tiles of the same truth, on that slide and on five others that nobody "
        f"labelled. Means of {SEEDS} retrainings, each of another seed and of corrections on another slide, "
        "answers from the new weights alone; ± is the standard deviation of retrainings without "
        "corrections.\n\n"
    )


if __name__ == "__main__":
    sys.exit(main())
