"""The sample project: synthetic slides, a cohort to learn from again, and trained models, ready to be looked
at.
"""

from __future__ import annotations

import csv
import dataclasses
from importlib.resources import files
from pathlib import Path
from typing import Any

from napari_mil.card import ModelCard
from napari_mil.steps import Progress, Steps
from napari_mil.workflow.analyse import bag_steps
from napari_mil.workflow.project import Project

#: The cohort of the sample project, which the sample models were judged on and retraining meets again.
COHORT = {"slides": 120, "seed": 0}
#: Seeds of further cohorts that the sample models learned from: one has five training cases of each lesion,
#: too few for hmil to tell seven leaves apart.
FURTHER = (1, 2)
#: methods of the sample models, with options and recipe. mhim: half the published width, so that the package
#: stays small. hmil: presence, or its classes may look at each other's tiles; few epochs, since classes crowd
#: onto the same tiles again once every training slide is answered (docs/methods.md)
SAMPLE_METHODS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "mhim": ({"hidden": 256}, {}),
    "hmil": ({"presence_weight": 1.0}, {"lr": 2e-4, "epochs": 6, "min_epochs": 6, "patience": 6}),
}
_DONE = "sample.txt"


def sample_project_steps(folder: str | Path, *, cohort: int = COHORT["slides"]) -> Steps[Path]:
    """Make the sample project in `folder`, or find it there; returns the folder.

    It holds the sample slides, the cohort with its labels, every bag, and the trained models with their
    cards. What a run that was cancelled has made is kept and not made again.
    """
    from napari_mil.samples import SAMPLE_SLIDES, SAMPLE_TREE, make_cohort, make_sample_slide

    folder = Path(folder)
    if (folder / _DONE).exists():
        yield Progress("sample project", 1, 1, "already there")
        return folder
    manifest = yield from make_cohort(folder / "slides" / "cohort", slides=cohort, seed=COHORT["seed"])
    with Project(folder, tree=SAMPLE_TREE, by="sample") as project:
        for n, sample in enumerate(SAMPLE_SLIDES):
            yield Progress("sample slides", n, len(SAMPLE_SLIDES), sample.name)
            path = folder / "slides" / f"{sample.name}.tif"
            truth = folder / "slides" / "truth" / f"{sample.name}.npz"
            if not truth.exists():
                make_sample_slide(path, sample).save(truth)
            project.add(path, case=sample.name, label=sample.label)
        with manifest.open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        for n, row in enumerate(rows):
            yield Progress("adding slides", n, len(rows), row["slide"])
            project.add(manifest.parent / row["slide"], case=row["case"], label=row["label"])
        for card, weights in packaged_models():
            project.store.save_model(_at_home(card, project), weights)
        for n, record in enumerate(project.slides):
            yield Progress("features", n, len(project.slides), record.name)
            yield from bag_steps(project, project.slide(record))
    (folder / _DONE).write_text("The sample project of napari-mil is complete.\n", encoding="utf-8")
    return folder


def packaged_models() -> list[tuple[ModelCard, bytes]]:
    """Cards and weights of the models that travel in the package; their cards name slides of the cohort."""
    found = []
    for folder in sorted(files("napari_mil").joinpath("sample_models").iterdir(), key=lambda f: f.name):
        if folder.is_dir() and folder.joinpath("card.json").is_file():
            card = ModelCard.from_json(folder.joinpath("card.json").read_bytes())
            found.append((card, folder.joinpath("weights.safetensors").read_bytes()))
    return found


def _at_home(card: ModelCard, project: Project) -> ModelCard:
    """The card with the names of cohort slides replaced by the ids they have on this machine."""
    ids = {record.name: record.id for record in project.slides}
    parts = {part: tuple(ids[n] for n in names if n in ids) for part, names in card.slides.items()}
    return dataclasses.replace(card, slides=parts)


def work_folder(seed: int) -> str:
    """Name of the folder that holds the cohort of a seed."""
    return f"cohort-{seed}"


def sample_models_steps(work: Path, into: Path) -> Steps[list[ModelCard]]:
    """Train the models that travel in the package, and write them to `into`.

    They learn from the sample cohort and from further ones; which cases decide and report is drawn from the
    sample cohort alone.

    work : folder for cohorts and project, kept between runs
    into : each model becomes `into/<name>/` with card.json and weights.safetensors (half precision)
    """
    from napari_mil.evaluate import split_by_case
    from napari_mil.samples import SAMPLE_TREE, make_cohort
    from napari_mil.workflow.learn import train_model_steps

    with Project(work / "project", tree=SAMPLE_TREE, by="sample") as project:
        for seed in (COHORT["seed"], *FURTHER):
            folder = work / work_folder(seed)
            manifest = yield from make_cohort(folder, slides=COHORT["slides"], seed=seed)
            with manifest.open(newline="", encoding="utf-8") as stream:
                rows = list(csv.DictReader(stream))
            split = split_by_case({r["case"]: SAMPLE_TREE.node(r["label"]) for r in rows}, seed=0)
            part = {case: name for name in ("validation", "test") for case in getattr(split, name)}
            for row in rows:
                case, own = row["case"], seed == COHORT["seed"]
                where = part.get(case, "train") if own else "train"
                name = case if own else f"{case}-{seed}"
                project.add(folder / row["slide"], case=name, label=row["label"], split=where)
        made = []
        for method, (config, recipe) in SAMPLE_METHODS.items():
            card = yield from train_model_steps(
                project, method, config=config, recipe=recipe, name=f"{method}-sample"
            )
            made.append(_packed(project, card, into / card.name))
    return made


def _packed(project: Project, card: ModelCard, folder: Path) -> ModelCard:
    """Write a model with half-precision weights; its card names slides instead of this machine's ids."""
    from napari_mil.workflow.models import model_id, weight_bytes

    own = work_folder(COHORT["seed"])
    names = {record.id: record.name for record in project.slides if own in Path(record.path).parts}
    weights = weight_bytes(project.model(card.id), half=True)
    named = {part: tuple(names[i] for i in ids if i in names) for part, ids in card.slides.items()}
    more = len(card.slides["train"]) - len(named["train"])
    note = (
        f"trained on synthetic slides: {len(named['train'])} of the sample cohort, named here, and {more} of "
        f"{len(FURTHER)} further cohorts; weights kept in half precision"
    )
    card = dataclasses.replace(
        card,
        id=model_id(weights, card.method),
        slides=named,
        ledger_head=None,
        note=note,
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "weights.safetensors").write_bytes(weights)
    (folder / "card.json").write_text(card.to_json(), encoding="utf-8")
    return card
