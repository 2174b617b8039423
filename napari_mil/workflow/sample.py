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

#: The cohort that the sample models were trained on; the project holds all of it, so that retraining meets
#: it again.
COHORT = {"slides": 120, "seed": 0}
#: methods of the sample models, with options; half the published width, so that the package stays small
SAMPLE_METHODS: dict[str, dict[str, Any]] = {
    "mhim": {"hidden": 256, "init_student": "all"},
    "hmil": {"compat": "paper"},
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


def sample_models_steps(work: Path, into: Path) -> Steps[list[ModelCard]]:
    """Train the models that travel in the package, on the cohort, and write them to `into`.

    work : folder for cohort and project, kept between runs
    into : each model becomes `into/<name>/` with card.json and weights.safetensors (half precision)
    """
    from napari_mil.samples import SAMPLE_TREE, make_cohort
    from napari_mil.workflow.learn import train_model_steps

    manifest = yield from make_cohort(work / "cohort", slides=COHORT["slides"], seed=COHORT["seed"])
    made = []
    with Project(work / "project", tree=SAMPLE_TREE, by="sample") as project:
        with manifest.open(newline="", encoding="utf-8") as stream:
            for row in csv.DictReader(stream):
                project.add(manifest.parent / row["slide"], case=row["case"], label=row["label"])
        for method, config in SAMPLE_METHODS.items():
            card = yield from train_model_steps(project, method, config=config, name=f"{method}-sample")
            made.append(_packed(project, card, into / card.name))
    return made


def _packed(project: Project, card: ModelCard, folder: Path) -> ModelCard:
    """Write a model with half-precision weights; its card names slides instead of this machine's ids."""
    from napari_mil.workflow.models import model_id, weight_bytes

    names = {record.id: record.name for record in project.slides}
    weights = weight_bytes(project.model(card.id), half=True)
    card = dataclasses.replace(
        card,
        id=model_id(weights, card.method),
        slides={part: tuple(names[i] for i in ids) for part, ids in card.slides.items()},
        ledger_head=None,
        note="trained on the synthetic sample cohort; weights kept in half precision",
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "weights.safetensors").write_bytes(weights)
    (folder / "card.json").write_text(card.to_json(), encoding="utf-8")
    return card
