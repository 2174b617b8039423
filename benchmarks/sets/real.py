"""Real sets where they are: lung cancer (HIPT features), musk1, elephant."""

from __future__ import annotations

import csv
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import torch
from scipy.io import loadmat

from napari_mil.correction import Target
from napari_mil.evaluate import TrainingCase, folds_by_case, stratum
from napari_mil.labeltree import LabelTree
from sets import NARROW, Arm, Drawn, Set, case

LUNG = LabelTree.from_paths(["LUAD", "LUSC"])
BINARY = LabelTree.from_paths(["negative", "positive"])
FOLDS = 5


def folded(cases: dict[str, TrainingCase], seed: int, folds: int) -> Drawn:
    """Every case is left out once."""
    labels = {name: stratum(c.target, survival=c.target.event is not None) for name, c in cases.items()}
    return Drawn(cases, folds_by_case(labels, folds=folds, seed=seed))


@cache
def lung(folder: Path, *, survival: bool) -> dict[str, TrainingCase]:
    """One slide per patient, 1–120 regions of 4096 px, 192 numbers each."""
    cases = {}
    with (folder / "labels.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            features = torch.load(folder / "lung" / f"{row['slide_id']}.pt", weights_only=True).numpy()
            target = Target(LUNG.node(row["label"]))
            if survival:  # censorship 1: the patient was alive when last seen
                target = Target(time=float(row["survival_months"]), event=float(row["censorship"]) == 0)
            cases[row["case_id"]] = case(row["case_id"], features, target)
    return cases


def grouped(bags: np.ndarray, labels: np.ndarray, features: np.ndarray) -> dict[str, TrainingCase]:
    """Rows of bags as cases; a bag is positive where its rows say so."""
    cases = {}
    for k in np.unique(bags):
        rows = bags == k
        node = BINARY.leaves[int(labels[rows].max() > 0)]
        cases[f"{k:03.0f}"] = case(f"{k:03.0f}", features[rows].astype(np.float32), Target(node))
    return cases


@cache
def musk1(file: Path) -> dict[str, TrainingCase]:
    """Rows: label, bag, 166 numbers."""
    rows = np.loadtxt(file, delimiter=",")
    return grouped(rows[:, 1], rows[:, 0], rows[:, 2:])


@cache
def elephant(file: Path) -> dict[str, TrainingCase]:
    told = loadmat(file)
    labels = np.asarray(told["labels"].todense() if hasattr(told["labels"], "todense") else told["labels"])
    return grouped(told["bag_ids"].ravel(), labels.ravel(), told["features"].toarray())


def reader(
    load: Callable[[Path], dict[str, TrainingCase]], where: str, folds: int = FOLDS
) -> Callable[[int, Path | None], Drawn]:
    def draw(seed: int, data: Path | None = None) -> Drawn:
        assert data is not None  # quality.py passes over sets whose data are not there
        return folded(load(data / where), seed, folds)

    return draw


#: enough for 120 cases
TEN = {"epochs": 10, "stage1_epochs": 5, "lr": 1e-3}
MHIM = {
    "mhim (attn)": {},
    "mhim (attn), init_student=none": {"init_student": "none"},
}
COMMON = {
    "mean": Arm("mean", NARROW, TEN),
    "pure (attn)": Arm("mhim", {**NARROW, "pure": True}, TEN),
    **{name: Arm("mhim", {**NARROW, **config}, TEN) for name, config in MHIM.items()},
}
#: MHIM on the encoder of TransMIL, and whether bfloat16 keeps its figures
SELFATTENTION = {
    "pure (selfattn)": Arm("mhim", {**NARROW, "encoder": "selfattn", "pure": True}, TEN),
    "mhim (selfattn)": Arm("mhim", {**NARROW, "encoder": "selfattn"}, TEN),
    "mhim (selfattn), bf16": Arm("mhim", {**NARROW, "encoder": "selfattn"}, TEN | {"precision": "bf16"}),
}
#: as many clusters as suit a patient's regions, of which the smallest have few
MICRO = {
    "micromil": Arm("micromil", {"clusters": 8}, TEN | {"epochs": 30}),
    "micromil, lr=1e-4": Arm("micromil", {"clusters": 8}, TEN | {"epochs": 30, "lr": 1e-4}),
}
AGAINST = {
    "pure (attn)": ("mean",),
    "mhim (attn)": ("pure (attn)", "mhim (attn), init_student=none"),
    "mhim (attn), init_student=none": ("pure (attn)",),
    "micromil": ("mean", "micromil, lr=1e-4"),
    "mhim (selfattn)": ("pure (selfattn)",),
    "mhim (selfattn), bf16": ("mhim (selfattn)",),
}
#: as long as small bags need, and more decay, since 166 numbers of 66 molecules are soon known by heart
CLASSIC = {"epochs": 20, "stage1_epochs": 8, "weight_decay": 5e-3, "lr": 5e-4}
FOLDED = f"{FOLDS} folds by case, a validation part in every fold."
HIPT = "mil/tcga_lung_hipt"
STANDARD = "Features are standardised by the tiles of each fold's training part."


def classic(**config: object) -> Arm:
    return Arm("mhim", {**NARROW, **config}, CLASSIC)


def classical(name: str, load: Callable[[Path], dict[str, TrainingCase]], file: str, about: str) -> Set:
    arms = {
        "abmil": Arm("abmil", NARROW, CLASSIC),
        "pure (attn)": classic(pure=True),
        "mhim (attn)": classic(),
    }
    return Set(
        title=name,
        about=f"{about} {STANDARD} {FOLDED}",
        draw=reader(load, file),
        tree=BINARY,
        arms=arms,
        against=AGAINST,
        figures=("accuracy", "slide AUC"),
        folds=FOLDS,
        standardise=True,
        needs=file,
    )


SETS = {
    "lung": Set(
        title="Lung cancer: LUAD or LUSC",
        about="120 patients, one slide each, 1–120 regions of 4096 px, features of HIPT (192 numbers). "
        f"{STANDARD} {FOLDED} The logistic regression sees the mean of the features alone, and learns "
        "from the validation part as well; 0.912 was told of it.",
        draw=reader(lambda where: lung(where, survival=False), HIPT),
        tree=LUNG,
        arms={"logistic on the mean": Arm("logistic on the mean"), **COMMON, **MICRO, **SELFATTENTION},
        against=AGAINST,
        figures=("slide AUC",),
        folds=FOLDS,
        standardise=True,
        needs=HIPT,
    ),
    "survival (lung)": Set(
        title="Lung cancer: survival",
        about=f"The same patients; months until death or last seen alive. {STANDARD} 3 folds by case.",
        draw=reader(lambda where: lung(where, survival=True), HIPT, 3),
        tree=None,
        arms={k: v for k, v in COMMON.items() if k != "mhim (attn), init_student=none"},
        against=AGAINST,
        figures=("c-index",),
        folds=3,
        standardise=True,
        needs=HIPT,
    ),
    "musk1": classical(
        "musk1",
        musk1,
        "mil/classics/musk1.csv",
        "92 molecules, 166 numbers per shape. Published accuracy: attention 0.892 ± 0.040, gated attention "
        "0.900 ± 0.050 (Ilse et al. 2018; five times ten folds, a deeper network, longer training).",
    ),
    "elephant": classical(
        "elephant",
        elephant,
        "mil/classics/elephant.mat",
        "200 pictures, 230 numbers per segment. Published accuracy: attention 0.868 ± 0.022, gated attention "
        "0.857 ± 0.027 (Ilse et al. 2018, as above).",
    ),
}
