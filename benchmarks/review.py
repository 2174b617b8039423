"""Does the review queue save labels? A scripted reader answers it, and answers places in random order.

    python benchmarks/review.py [--work FOLDER] [--seeds 20] [--jobs 1]

Cohorts are planted: slides that are labelled wrongly, or lesion tiles that nobody has marked. Round by round
the reader answers some more places, rightly, and a model is trained from scratch on all that is known then,
until its AUC on held-out slides has come most of the way from the poor labels to the right ones. Told is how
many labels the queue needed of those that random order needed. Finished seeds are kept in
FOLDER/review.jsonl. Prints the table, writes it to docs/benchmarks.md between its markers, and exits with 1
when a target is missed.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one run per core

import numpy as np
import runs
import torch
from sets import noise
from tables import surroundings, table, verdict, write_section

from napari_mil.correction import Target
from napari_mil.evaluate import Split, TrainingCase, figures
from napari_mil.infer import answer, predict
from napari_mil.mil import MILModel
from napari_mil.review import Places, Seen, queue, shortlist
from napari_mil.steps import drain
from napari_mil.train import Training, recipe_for

TREE = noise.TREE
METHOD, CONFIG = "abmil", {"hidden": 64, "attention_width": 32}
#: no validation part: the last epoch counts, for every arm
RECIPE = {"epochs": 12, "lr": 1e-3, "min_epochs": 12}
#: the target lies this share of the way from the AUC with poor labels to that with all labels right
WAY = 0.8
#: the queue may need this share of the labels that random order needs
WANTED = 0.6


@dataclass(frozen=True, slots=True)
class Study:
    """A cohort, what is asked of it, and after how many labels a model is trained.

    `kind` is "slide" or "tile". The schedule is the same for every arm.
    """

    title: str
    about: str
    noise: noise.Noise
    kind: str
    schedule: tuple[int, ...]


STUDIES = {
    "slides": Study(
        "Slides that are labelled wrongly",
        "60 slides to learn from, 25 % of them labelled wrongly; the reader is asked for labels of slides.",
        noise.Noise(train=60, test=200, wrong=0.25, share=0.15, far=5.0),
        "slide",
        tuple(range(6, 61, 6)),
    ),
    "tiles": Study(
        "Lesion tiles that nobody has marked",
        "40 slides, half of them with a lesion, all labelled rightly; the reader is asked for tiles.",
        noise.Noise(train=40, test=200, wrong=0.0, share=0.1, far=4.0, alike=0.1),
        "tile",
        (6, 12, 24, 48, 96, 192),
    ),
}


@dataclass(frozen=True)
class Job:
    study: str
    seed: int


class Reader:
    """Knows the truth and says it of places that it is asked about; what it said so far."""

    def __init__(self, cohort: noise.Cohort) -> None:
        self.cohort = cohort
        self.slides: dict[str, int] = {}
        self.tiles = {c.case: np.zeros(noise.TILES, np.int32) for c in cohort.train}

    @property
    def answered(self) -> int:
        return len(self.slides) + sum(int((t > 0).sum()) for t in self.tiles.values())

    def say(self, name: str, tile: int | None) -> None:
        """Answer for a slide, or for one of its tiles."""
        if tile is None:
            self.slides[name] = self.cohort.right(name)
        else:
            self.tiles[name][tile] = self.cohort.truth[name][tile]

    def cases(self) -> list[TrainingCase]:
        """What training reads now."""
        made = []
        for c in self.cohort.train:
            node = self.slides.get(c.case, self.cohort.given[c.case])
            tiles = self.tiles[c.case]
            made.append(TrainingCase(c.case, c.bags, Target(node), (tiles,) if tiles.any() else ()))
        return made


Place = tuple[str, int | None]
Asked = Callable[[Reader, MILModel, str, int, int], list[Place]]


def in_random_order(reader: Reader, model: MILModel, kind: str, n: int, seed: int) -> list[Place]:  # noqa: ARG001
    """Slides in random order; or tiles, of the slides that are labelled with a lesion: nobody looks for one
    elsewhere.
    """
    rng = np.random.default_rng([seed, reader.answered, 3])
    given = reader.cohort.given
    names = [s for s in given if kind == "slide" or given[s] == TREE.leaves[1]]
    if kind == "slide":
        return [(str(s), None) for s in rng.permutation([s for s in names if s not in reader.slides])[:n]]
    open_ = [(s, int(i)) for s in names for i in np.flatnonzero(reader.tiles[s] == 0)]
    return [open_[i] for i in rng.permutation(len(open_))[:n]]


def by_queue(reader: Reader, model: MILModel, kind: str, n: int, seed: int) -> list[Place]:
    """What the queue asks, from the model's answers."""
    parts = []
    for c in reader.cohort.train:
        said = reader.slides.get(c.case)
        given = reader.cohort.given[c.case] if said is None else said
        answered = predict(model, c.bags[0], model_id="model")
        confirmed = said is not None or kind == "tile"
        parts.append(
            shortlist(Seen(answered, c.bags[0], reader.tiles[c.case], given, confirmed), TREE, seed=seed)
        )
    places = Places.join(parts)
    items = queue(places.take(places.whole == (kind == "slide")), TREE, n, seed=seed)
    rows = {
        c.case: {tuple(cell): i for i, cell in enumerate(c.bags[0].grid.cells.tolist())}
        for c in reader.cohort.train
    }
    return [
        (name, None if item.cell is None else rows[name][item.cell])
        for item in items
        for name in [item.slide_id.rsplit("/", 1)[0]]
    ]


ARMS: dict[str, Asked] = {"random": in_random_order, "queue": by_queue}


def train(cases: Sequence[TrainingCase], seed: int) -> MILModel:
    split = Split(tuple(c.case for c in cases))
    recipe = recipe_for(METHOD, {**RECIPE, "seed": seed})
    run = Training(cases, split, method=METHOD, config=CONFIG, recipe=recipe, tree=TREE, device="cpu")
    return drain(run.steps()).model


def area(model: MILModel, cohort: noise.Cohort) -> float:
    """AUC of the slides held out."""
    lesion = TREE.leaves[1]
    said = np.array([answer(model, c.bags[0].features).probabilities[-1][1] for c in cohort.test])
    return float(figures.auc(np.array([c.target.slide == lesion for c in cohort.test]), said)[0])


def labels_until(target: float, counts: Sequence[int], areas: Sequence[float]) -> float:
    """How many labels it took, by straight lines between the rounds; all of them where it was not reached."""
    if areas[0] >= target:
        return 0.0
    for i in range(1, len(areas)):
        if areas[i] >= target:
            rise = (target - areas[i - 1]) / (areas[i] - areas[i - 1])
            return counts[i - 1] + rise * (counts[i] - counts[i - 1])
    return float(counts[-1])


def do(job: Job) -> dict[str, Any]:
    """All arms of a seed."""
    torch.set_num_threads(1)
    began, study = time.process_time(), STUDIES[job.study]
    cohort = noise.draw(study.noise, job.seed)
    told = Reader(cohort)
    first = train(told.cases(), job.seed)
    for c in cohort.train:
        told.say(c.case, None)
        if study.kind == "tile":
            told.tiles[c.case][:] = cohort.truth[c.case]
    ends = [area(first, cohort), area(train(told.cases(), job.seed), cohort)]
    target = ends[0] + WAY * (ends[1] - ends[0])
    made: dict[str, Any] = {}
    for arm, asked in ARMS.items():
        reader, model, areas, counts = Reader(cohort), first, [ends[0]], [0]
        for count in study.schedule:
            for place in asked(reader, model, study.kind, count - reader.answered, job.seed):
                reader.say(*place)
            model = train(reader.cases(), job.seed)
            areas.append(area(model, cohort))
            counts.append(reader.answered)
            if areas[-1] >= target:
                break
        made[arm] = {
            "labels": labels_until(target, counts, areas),
            "reached": areas[-1] >= target,
            "areas": [round(a, 4) for a in areas],
        }
    row = {"study": job.study, "arm": job.study, "seed": job.seed, "fold": 0, "settings": settings(job.study)}
    seconds = round(time.process_time() - began, 1)
    return row | {"poor": ends[0], "right": ends[1], "target": target, "arms": made, "seconds": seconds}


def settings(name: str) -> str:
    """What a kept seed must agree on to count."""
    study = STUDIES[name]
    told = (
        astuple(study.noise),
        noise.TILES,
        noise.WIDTH,
        study.kind,
        study.schedule,
        METHOD,
        CONFIG,
        RECIPE,
        WAY,
    )
    return hashlib.sha256(repr(told).encode()).hexdigest()[:12]


def section(name: str, rows: Sequence[dict[str, Any]]) -> tuple[str, list[str]]:
    """The table of a study, and the targets that are missed."""
    study, lines, wrong = STUDIES[name], [], []
    base = np.array([row["arms"]["random"]["labels"] for row in rows])
    draws = np.random.default_rng(0).integers(len(rows), size=(1000, len(rows)))
    draws[0] = np.arange(len(rows))
    for arm in rows[0]["arms"]:
        labels = np.array([row["arms"][arm]["labels"] for row in rows])
        missed = sum(not row["arms"][arm]["reached"] for row in rows)
        with np.errstate(invalid="ignore", divide="ignore"):
            share, low, high = figures.interval(labels[draws].mean(1) / base[draws].mean(1))
        beside = "" if arm == "random" else f"{share:.2f} ({low:.2f} to {high:.2f})"
        fewer = "" if arm == "random" else f"{(labels < base).sum()} of {len(rows)}"
        lines.append([arm, f"{labels.mean():.1f} ± {labels.std(ddof=1):.1f}", beside, fewer, str(missed)])
        if arm == "queue" and share > WANTED:
            wrong.append(
                f"{study.title}: the queue needs {share:.2f} of random's labels; {WANTED} are asked for"
            )
    poor, right = (np.mean([row[key] for row in rows]) for key in ("poor", "right"))
    heads = [
        "order",
        "labels to the target",
        "of random's, 95 % interval",
        "seeds with fewer",
        "never reached",
    ]
    about = (
        f"{study.about} Held-out AUC {poor:.3f} with the poor labels, {right:.3f} with all of them right; "
        f"the target of each seed lies {WAY:.0%} of the way. At most {study.schedule[-1]} labels."
    )
    return f"### {study.title}\n\n{about}\n\n" + table(heads, lines), wrong


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "napari-mil-review")
    parser.add_argument("--studies", nargs="*", default=list(STUDIES), choices=list(STUDIES))
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument(
        "--first", type=int, default=20, help="the first seed; those from 100 on were tuned on"
    )
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--docs", type=Path, default=Path(__file__).parents[1] / "docs" / "benchmarks.md")
    parser.add_argument("--no-docs", action="store_true")
    given = parser.parse_args(argv)
    file = given.work / "review.jsonl"
    kept = runs.kept(file, lambda row: row["settings"] == settings(row["study"]))
    done = {(row["study"], row["seed"]): row for row in kept}
    wanted = [(s, seed) for s in given.studies for seed in range(given.first, given.first + given.seeds)]
    for row in runs.finish(do, [Job(*key) for key in wanted if key not in done], file, given.jobs):
        done[row["study"], row["seed"]] = row
    parts = [section(s, [done[key] for key in wanted if key[0] == s]) for s in given.studies]
    wrong = [line for _, lines in parts for line in lines]
    some = "" if given.studies == list(STUDIES) else " ".join(["", "--studies", *given.studies])
    minutes = sum(done[key]["seconds"] for key in wanted) / 60
    text = (
        f"## The review queue\n\n`python benchmarks/review.py{some}`, {surroundings()}; seeds {given.first} "
        f"to {given.first + given.seeds - 1}, {minutes:.0f} CPU minutes in all. A scripted reader answers "
        f"rightly; {METHOD} is trained from scratch after every round. Intervals are of 1000 resamplings of "
        "the seeds.\n\n"
    )
    text += "\n\n".join(part for part, _ in parts) + "\n\n" + verdict(wrong)
    print(text)
    if not given.no_docs:
        write_section(given.docs, "review", text)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
