"""How well the methods work, 5 seeds, on every set that is at hand: one command.

    python benchmarks/quality.py --work FOLDER [--sets sample planted hazard lung …] [--sweep]

Every finished run is a line of FOLDER/quality.jsonl (the sample cohort) or FOLDER/sets.jsonl, so the command
resumes run by run. At the end it writes the tables to docs/benchmarks.md between their markers. Real sets are
read from $NAPARI_MIL_TEST_DATA and passed over, with a word, where they are not. --sweep asks further options
of MHIM where it is compared with its baseline, and writes their table alone. Exits with 1 if a target of the
sample cohort is missed.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one run per core

import measured
import runs
import sample_quality
import summary
from tables import surroundings, write_section


def chosen(sets: Sequence[str], data: Path | None) -> list[str]:
    """The sets that names stand for (`planted`: all of them), less those whose data are not here."""
    names = []
    for name, known in measured.SETS.items():
        if sets and not any(name == s or name.startswith(f"{s} ") for s in sets):
            continue
        if known.needs and not (data and (data / known.needs).exists()):
            print(f"{name}: passed over, {known.needs} is not in $NAPARI_MIL_TEST_DATA")
            continue
        names.append(name)
    return names


def rows_of(given: argparse.Namespace, names: Sequence[str]) -> dict[str, list[runs.Row]]:
    """Set → its runs; those not kept yet are done."""
    file = given.work / "sets.jsonl"
    done = {(row["set"], row["arm"], row["seed"], row["fold"]): row for row in runs.kept(file, _fits)}
    wanted = [
        (name, arm, seed, fold)
        for name in names
        for seed in range(given.first, given.first + given.seeds)
        for fold in range(measured.SETS[name].folds)
        for arm in (summary.swept(name) if given.sweep else measured.SETS[name].arms)
        if not given.arms or arm in given.arms
    ]
    jobs = [measured.Job(*run, given.data) for run in wanted if run not in done]
    print(f"sets: {len(wanted)} runs, {len(wanted) - len(jobs)} of them done already", flush=True)
    for row in runs.finish(measured.do, jobs, file, given.jobs):
        done[row["set"], row["arm"], row["seed"], row["fold"]] = row
    return {name: [done[run] for run in wanted if run[0] == name] for name in names}


def _fits(row: runs.Row) -> bool:
    known = measured.SETS.get(row["set"])
    return (
        known is not None
        and row["arm"] in {**known.arms, **known.tried}
        and row["settings"] == measured.settings(row["set"], row["arm"])
    )


def _seeds(given: argparse.Namespace) -> str:
    return f"seeds {given.first}–{given.first + given.seeds - 1}"


def heading(given: argparse.Namespace, names: Sequence[str], found: dict[str, list[runs.Row]]) -> str:
    spent = sum(row["seconds"] for rows in found.values() for row in rows) / 60
    return (
        "## Quality on planted and real sets\n\n"
        f"`python benchmarks/quality.py --sets {' '.join(dict.fromkeys(n.split()[0] for n in names))}`, "
        f"{surroundings()}; {_seeds(given)}, {spent:.0f} CPU minutes in all. Narrow networks "
        "(`hidden` 128) and short trainings (15 epochs at 1e-3, 6 of stage 1), the same for all methods "
        "where the arm or the set does not say otherwise. ± is the standard deviation over the seeds. "
        "Differences are paired by seed and fold: mean over the seeds, 95 % interval from 1000 resamplings "
        "of the cases left out and of the seeds, and in how many seeds the method is above its baseline.\n\n"
    )


def about_sweep(given: argparse.Namespace, names: Sequence[str]) -> str:
    return (
        "## What decides whether MHIM beats its baseline\n\n"
        f"`python benchmarks/quality.py --sets {' '.join(dict.fromkeys(n.split()[0] for n in names))} "
        f"--sweep --seeds {given.seeds}`, {surroundings()}; {_seeds(given)}.\n\n"
    )


def measure(given: argparse.Namespace, names: Sequence[str]) -> None:
    if given.sweep:
        names = [n for n in names if measured.SETS[n].tried]
    found = rows_of(given, names)
    if given.sweep:
        section, text = "quality-sweep", about_sweep(given, names)
        text += "\n\n".join(summary.tried(n, found[n]) for n in names)
    else:
        section, text = "quality-sets", heading(given, names, found)
        text += "\n\n".join(summary.section(n, found[n]) for n in names)
    print(text)
    if not given.no_docs:
        write_section(given.docs, section, text)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    data = os.environ.get("NAPARI_MIL_TEST_DATA")
    words = {"sample", "bf16", *(n for name in measured.SETS for n in (name, name.split()[0]))}
    parser.add_argument(
        "--sets", nargs="*", default=[], choices=sorted(words), help="all where none is named"
    )
    parser.add_argument("--sweep", action="store_true", help="try further options of MHIM")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "napari-mil-quality")
    parser.add_argument("--data", type=Path, default=Path(data) if data else None)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=0, help="the first seed, not of the sample cohort")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--arms", nargs="*", default=[], help="all where none is named")
    parser.add_argument("--docs", type=Path, default=Path(__file__).parents[1] / "docs" / "benchmarks.md")
    parser.add_argument("--no-docs", action="store_true")
    alone = parser.add_argument_group("the sample cohort")
    alone.add_argument("--folds", type=int, nargs="*", default=list(range(sample_quality.FOLDS)))
    alone.add_argument("--slides", type=int, default=120)
    alone.add_argument("--cohort", type=int, default=0, help="the seed it is drawn from; 0, unless to check")
    alone.add_argument("--recipe", nargs="*", default=[], metavar="KEY=VALUE", help="to try another recipe")
    given = parser.parse_args(argv)
    if names := chosen(given.sets, given.data):
        measure(given, names)
    if not given.sets or "bf16" in given.sets:
        sample_quality.measure_bf16(given)
    return int(bool(sample_quality.measure(given))) if not given.sets or "sample" in given.sets else 0


if __name__ == "__main__":
    sys.exit(main())
